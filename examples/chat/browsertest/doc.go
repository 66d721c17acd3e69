// Package browsertest drives the chat example as people do: three Chromiums at once
// on the real gateway, which is killed and started again below them, with
// mosquitto_pub, mosquitto_sub and the PHP scripts of the example in the same room.
// It is tests only. It needs the npm packages of integration/node, Chromium at
// CHROMIUM or /usr/bin/chromium, mosquitto-clients and php-cli.
//
// With SCREENSHOTS=DIR it leaves pictures there, for people to look at.
package browsertest
