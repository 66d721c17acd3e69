// Package bench is the load generator behind the verb "mqgate bench": it drives publishers and subscribers against any
// broker whose protocol it speaks (STOMP 1.0 to 1.2, MQTT 3.1.1 and 5, both also over WebSocket, and mqgate's JSON), and
// says both how fast the broker was and whether it was right. Publishers and subscribers may speak different protocols.
//
// Guarantees: every message carries the run, its sender, its number and when it was sent, and every delivery of the whole
// run is checked against what was sent: lost, delivered twice (with or without the broker's redelivered mark), out of a
// sender's order, altered, refused. Rates, latencies and CPU are those of the measured window alone. Batching never holds
// back anything the broker waits for: whatever is buffered leaves before the next blocking read or sleep. All waits have an
// end, all buffers a bound, and every goroutine and connection of a run has ended when Run returns.
//
// It never keeps messages, never writes to the broker's files, and never reads more of the system than /proc.
//
// Only cmd imports it. A protocol is added by implementing protocol and connection (protocol.go); nothing else in the
// package knows one.
package bench
