package bench

import "context"

// newProtocol makes the protocol that Options name.
func newProtocol(name string, o Options) protocol {
	switch name {
	case MQTT, MQTT5:
		return newMQTT(o, name == MQTT5)
	case JSON:
		return newJSON(o)
	}
	return newSTOMP(o)
}

// protocol is one way of talking to a broker. It is a value shared by all connections of a run.
type protocol interface {
	// name is how the report calls it.
	name() string
	// confirms says whether published messages are confirmed one by one; a publisher has a window then.
	confirms() bool
	// destinationPattern is where to send when the user named nothing; shared is true for a queue, false for a topic. What
	// all protocols name is the same place of a gateway that connects them.
	destinationPattern(shared bool) string
	// webPath is where a WebSocket that carries the protocol is looked for when the address names no path.
	webPath() string
	// dial connects and logs in. What the broker says afterwards goes to link.listener, from one goroutine that belongs to
	// the connection. The error says what the broker objected to.
	dial(ctx context.Context, link endpoint) (connection, error)
}

// endpoint is all that distinguishes one connection of a run from the others.
type endpoint struct {
	address   string // host:port
	websocket bool
	path      string // of the WebSocket
	source    string // local IP address; empty leaves it to the system
	name      string // a client id for protocols that want one: no two connections have the same
	clock     clock  // what arrival times are read from
	lull      func() // ahead of every read, if not nil
	listener  listener
}

// connection is one client of the broker. send, flush and ping belong to one goroutine; the rest may be called from any.
type connection interface {
	// server is what the broker calls itself; empty when it does not say.
	server() string
	// subscribe returns once the broker has confirmed the subscription.
	subscribe(ctx context.Context, destination string) error
	// prepare fixes where send goes, and how long each body will be. It returns how many messages the broker allows to be
	// unconfirmed; 0 when it has not said.
	prepare(destination string, bodyBytes int) (mostUnconfirmed int)
	// send buffers one message; id is what confirmed and refused will name. It blocks only when the buffer is full.
	send(id uint64, body []byte) error
	// flush writes what send buffered.
	flush() error
	// ping shows the broker that this side lives.
	ping() error
	// close says goodbye, so that everything buffered or acknowledged counts, waits for the answer a bounded time, and
	// returns when the reader has ended. A second call only waits.
	close()
	// abort closes the socket at once: blocked sends fail, the reader ends.
	abort()
	// ended is closed when the reader has ended; no listener method is called after that.
	ended() <-chan struct{}
}

// listener hears what a connection reads. All calls come from the connection's reader, so it needs no lock of its own for
// what nobody else touches; body is only valid during the call. Times are when the read that brought the data returned.
type listener interface {
	message(body []byte, redelivered bool, arrivedNS int64)
	confirmed(id uint64, arrivedNS int64)
	// refused is the broker's no to one message.
	refused(id uint64, reason error)
	// caughtUp comes before every read that may block: all that has arrived is dealt with.
	caughtUp()
	// failed is an error that concerns no single message.
	failed(err error)
}
