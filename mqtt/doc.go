// Package mqtt is the MQTT 3.1, 3.1.1 and 5.0 front-end: it turns the packets of a client into operations of a
// router.Session, and what the router delivers into packets.
//
// # What it is
//
// A Server serves any number of listeners and connections. Each connection has one goroutine, its reader; a writer exists
// only while something waits to be written (package outbox). The frequent packets are read and written here; the others by
// the codec of mochi-mqtt, whose panics are contained.
//
// # What it guarantees
//
//   - PUBACK and PUBREC leave after every stored copy is stored, never before, and in the order of the packets that they
//     answer. Where the store failed an MQTT 5 client gets a reason code; an older one is disconnected and sends again.
//   - A session that outlives its connection keeps its subscriptions, what it was sent and has not acknowledged under the
//     same packet identifiers, and both directions of QoS 2: nothing that was acknowledged is published or sent again,
//     whether the client reconnects or the gateway restarts in between.
//   - One connection per client id: the older one ends before the newer one's session begins. A session belongs to the user
//     that began it.
//   - Packet identifiers of the two directions are separate, and the client's receive maximum is exact.
//   - A subscriber that stops reading slows nobody: live messages beyond its bounds are dropped and counted, stored ones
//     stay in their mailbox, and the connection is closed when nothing can be written for WriteTimeout.
//   - Every buffer is bounded. Nothing is allocated from a length that a client merely claims.
//   - A panic ends the connection that caused it and is counted.
//
// # What it never does
//
// It stores nothing, decides no rights (router.Authenticator and the router's Authorizer do), opens no port and knows no
// configuration file.
//
// # Limits that are known
//
//   - A QoS 2 publish whose outcome a crash left unknown is told from its repetition by the store, which remembers for two
//     minutes; a client that comes back later has it published twice if it was stored.
//   - Retained messages and members of shared groups are sent as live messages: what a durable session has not acknowledged
//     of them when its connection ends is not sent again. Members of a group are the connected ones.
//   - There is no enhanced authentication.
//
// # Where the specification is obeyed
//
//	clause                                what                                           where
//	MQTT-1.5.4-1, 1.5.4-2, 1.5.5-1        strings, variable byte integers                packet.go, frame.go
//	MQTT-2.1.3-1, 2.2.1-3, 2.2.1-4        reserved flags, packet identifiers             packet.go, window.go
//	MQTT-3.1.0-1, 3.1.0-2                 CONNECT first and once                         conn.go
//	MQTT-3.1.2-1 to 3.1.2-29              CONNECT flags, keep alive, limits              connect.go, conn.go, window.go
//	MQTT-3.1.3-6, 3.1.3-8, 3.1.3-9        client ids, the will's delay                   connect.go, router/durable.go
//	MQTT-3.1.4-3                          takeover                                       connect.go
//	MQTT-3.2.2-4, 3.2.2-6, 3.2.2-16, -21  CONNACK                                        connect.go, codes.go
//	MQTT-3.3.1-1 to 3.3.1-13              DUP, QoS, RETAIN, retained messages            packet.go, feed.go, subscribe.go, router/retained.go
//	MQTT-3.3.2-1 to 3.3.2-18              topics, aliases, expiry, user properties       publish.go, window.go, encode.go
//	MQTT-3.3.4-2, -3, -6, -9              overlapping subscriptions, receive maximum     session.go, encode.go, packet.go, publish.go
//	MQTT-3.8.3-2, 3.8.3-4, 3.8.4-3, -5    SUBSCRIBE                                      subscribe.go
//	MQTT-3.9.3-1, 3.9.3-2, 3.10.4-1       SUBACK, UNSUBSCRIBE                            subscribe.go
//	MQTT-3.12.4-1, 3.14.2-2, 3.14.4-3     PINGRESP, DISCONNECT                           conn.go
//	MQTT-4.3.3-4, -10, -11                QoS 2                                          window.go, publish.go
//	MQTT-4.4.0-1                          resending                                      session.go
//	MQTT-4.6.0-2, 4.6.0-3                 order of acknowledgements                      replies.go
//	MQTT-4.7.1-2, -3, 4.7.2-1             filters                                        package router
//	MQTT-4.8.2-1, 4.8.2-2                 shared subscriptions                           subscribe.go
//	MQTT-4.12.0-6, 4.13.1-1               AUTH, errors                                   conn.go
//
// It imports the router and the codec only, and is imported by package gateway and, for MQTT over WebSocket, handed
// connections by it.
package mqtt
