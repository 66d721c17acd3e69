// Package integration has no code of its own: its tests run the real gateway
// binary with real clients (php-stomp, stomp.py, the Ruby gem, go-stomp and bare
// sockets), kill both sides, and check the layout of the repository.
//
// make test installs what they need. In CI a missing client is a failure, never a
// skip.
package integration
