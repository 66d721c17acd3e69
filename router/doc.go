// Package router is the core of mqgate: it decides who gets which message and
// keeps what must be kept until it is settled.
//
// # What it is
//
// A Router owns addresses (address.go), the matcher (match.go), sessions,
// subscriptions, mailboxes and bindings. Clients exist here as a Session: the
// only way in. Every operation of a session asks one Authorizer.
//
// Two paths carry a message. The live path hands a topic message to the bounded
// buffers of the subscribers that are connected now. The stored path appends a
// copy to each matching Mailbox (a queue, or the inbox of one durable
// subscriber) and calls the publisher's done function once every copy is stored.
//
// In a queue, consumers compete. Who is passed over and why is in selective.go and
// sticky.go: selectors, exclusive consumers and message groups. What is to be
// published later waits in a queue of its own (schedule.go).
//
// A topic may also keep a history (history.go), which followers read from any
// point and then go on live.
//
// # What it guarantees
//
//   - A publisher hears success only after every stored copy is stored.
//   - A stored message leaves its mailbox only when a consumer settled it, when
//     it expired, or when an operator removed it; a dead letter is stored in its
//     new place before it leaves the old one.
//   - While a consumer's session lives, what it holds is not given to another.
//   - Messages of one publisher to one address keep their order; what is
//     redelivered goes out first, lowest sequence first, and is marked.
//   - A message that may have been delivered before a crash is marked redelivered.
//   - Nothing is dropped without a counter that names the reason.
//
// # What it never does
//
// It knows no frame, packet or socket, and no NATS type: front-ends translate,
// and storage is behind the small interfaces of store.go. It never blocks on a
// consumer: deliveries go into bounded buffers that answer "full".
//
// # Standard fields
//
// The fields of a Message translate between protocols as follows; all other
// headers are user headers and travel as they are, in order.
//
//	Message         STOMP             MQTT 5                    JSON
//	ContentType     content-type      Content Type              contentType
//	ReplyTo         reply-to          Response Topic            replyTo
//	CorrelationID   correlation-id    Correlation Data          correlationId
//	ExpiresUnixMs   expires           Message Expiry Interval   expiresMs
//	Priority        priority          user property "priority"  priority
//	Persistent      persistent        QoS > 0                   persistent
//	TimestampMs     timestamp         user property "timestamp" timeMs
//	Headers         other headers     User Property             headers
package router
