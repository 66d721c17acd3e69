// Package browsertest drives the WebSocket front-end with the JavaScript clients that
// users have: mqgate's own, stompjs and mqtt.js. It is tests only. It needs the npm
// packages of integration/node. The chat in Chromium is in examples/chat/browsertest.
package browsertest
