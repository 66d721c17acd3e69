// Package ws is the front-end for browsers and scripts: one HTTP handler that
// carries STOMP, MQTT and mqgate's own JSON protocol (PROTOCOL.md,
// protocol.schema.json) over WebSocket, takes and gives messages over plain HTTP and
// as server-sent events (HTTP.md), and serves a JavaScript client.
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
//   - A page of another origin gets no connection and no answer unless its origin is
//     allowed; one whose host is a name that anyone could have made to resolve here
//     gets no more than who logs in. Cookies are never looked at.
//   - A message that was taken over HTTP is settled by its taker, or goes back when
//     its lease ends or the server stops.
//   - Compression is off unless asked for by the operator and the client; a message
//     inflates to no more than the limit of a plain one, and states are borrowed.
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
// It opens no port, knows no STOMP or MQTT, stores nothing, and answers nothing that
// a browser would show as a page: what users wrote is JSON or text.
//
// Of the product it imports router, router/door and router/outbox only, besides it
// gorilla/websocket and x/time/rate; it is imported by package gateway.
package ws
