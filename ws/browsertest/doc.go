// Package browsertest drives the WebSocket front-end with what users have: the
// chat example in Chromium, mqgate's own JavaScript client, stompjs and mqtt.js.
// It is tests only. It needs the npm packages of integration/node, and Chromium at
// CHROMIUM or /usr/bin/chromium.
package browsertest
