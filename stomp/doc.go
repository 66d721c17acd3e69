// Package stomp is the STOMP 1.0, 1.1 and 1.2 front-end: it turns the frames of a client into operations of a
// router.Session, and what the router delivers into frames.
//
// # What it is
//
// A Server serves any number of listeners and connections. Each connection has one goroutine, its reader; a writer exists
// only while something waits to be written (package outbox). The wire format is package frame. A listener speaks one of two
// dialects, ActiveMQ's or RabbitMQ's: the protocol leaves much open, and clients rely on what their old broker made of it.
//
// # What it guarantees
//
//   - A RECEIPT of SEND, ACK, NACK or COMMIT leaves after the store confirmed, never before, and that of DISCONNECT after it confirmed
//     every ACK before it. Receipts and ERRORs leave in the order of the frames that they answer.
//   - The RECEIPT of SUBSCRIBE leaves before the subscription's first MESSAGE.
//   - What a client in a client ack mode was given is settled only by its ACK or NACK. In auto mode a message is settled
//     once its bytes are with the kernel: what was never written is delivered to someone else.
//   - While a client holds unsettled messages it is not closed for missed heart-beats: a worker that computes for an hour
//     sends none. Its TCP connection decides, with keep-alive.
//   - A frame and the LF behind it are one write, and nothing but whole frames is sent unless heart-beats were asked for.
//   - A mistake that leaves the stream readable is answered by an ERROR, and the connection goes on. Every ERROR has a
//     message header of one line and a body that says what to do.
//   - Every buffer is bounded: the frame, unconfirmed publishes, transactions, subscriptions, what waits to be written.
//   - A panic ends the connection that caused it and is counted.
//
// # What it adds
//
// Headers that neither the protocol nor the two brokers have, or that only one of them has:
//
//   - SEND retain:true (ActiveMQ.Retain) keeps the message as its topic's retained one, and an empty one removes that;
//     SUBSCRIBE retained:true (activemq.retroactive) is given those that match, marked retained:true.
//   - SUBSCRIBE x-bind-topic:/topic/plant.*.temp to a queue has those topics' messages stored in the queue from then on;
//     UNSUBSCRIBE with the same header ends that.
//
// # Where the habits of ActiveMQ's clients are
//
//	destinations, composites, temporary queues, virtual topics   destination.go, subscribe.go
//	selectors, prefetch, durable names, exclusive consumers      subscribe.go
//	message groups (JMSXGroupID)                                 the router, sticky.go
//	browser:true                                                 browse.go
//	AMQ_SCHEDULED_* (x-delay in the RabbitMQ dialect)            schedule.go
//	headers of SEND and of MESSAGE                               send.go, message.go
//	acknowledgement, NACK, transactions                          ack.go, held.go, tx.go
//
// A priority is kept and passed on, and changes no order. Wildcards in names of queues are refused.
//
// # What it never does
//
// It stores nothing, decides no rights (router.Authenticator and the router's Authorizer do), opens no port and knows no
// configuration file. It never drops a header of a SUBSCRIBE that would change who gets which message: what is not
// supported is refused.
//
// It imports router, router/door, router/outbox, router/selector and stomp/frame only, and is imported by package gateway and,
// for STOMP over WebSocket, handed connections by it.
package stomp
