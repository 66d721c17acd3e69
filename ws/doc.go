// Package ws is the WebSocket front-end: one HTTP handler that carries STOMP, MQTT
// and mqgate's own JSON protocol (PROTOCOL.md, protocol.schema.json) to browsers
// and others, and serves the JavaScript client of the latter.
//
// # What it is
//
// The handshake is gorilla/websocket's; the frames are read and written here. A
// STOMP or MQTT server reads with deadlines after which it goes on, which
// gorilla's reader does not allow (its errors are final), and one coalescing
// writer (package outbox) needs to put many frames in one write. The reader
// decodes in place in its caller's buffer, so that an idle connection holds
// none, and the handler returns after the handshake, so that it holds no HTTP
// state either.
//
// # What it guarantees
//
//   - A page of another origin gets no connection unless its origin is allowed.
//     Cookies are never looked at.
//   - Frames, messages, unconfirmed publishes, subscriptions, control frames and
//     everything else that a peer may send are bounded; nothing is allocated from
//     a length that a frame claims.
//   - Replies of the JSON protocol leave in the order of the requests, after the
//     store confirmed what they confirm.
//   - Close codes tell whether to come back: those from 4400 to 4499 and the ones
//     that blame the client (1002, 1003, 1007 to 1010) say no, all others yes.
//   - A panic ends the connection that caused it and is counted.
//
// # What it never does
//
// It compresses nothing (a shared dictionary leaks secrets, and a bomb costs
// memory), opens no port, knows no STOMP or MQTT, and stores nothing.
//
// It imports router and router/outbox only, and is imported by package gateway.
package ws
