package mqtt

import (
	"log/slog"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// Options of a Server. Zero values stand for the defaults that are given; Router and Authenticate have none.
type Options struct {
	Router       *router.Router
	Authenticate router.Authenticator
	Log          *slog.Logger // default: none

	// MaxPacketBytes bounds a packet of a client that is logged in, without its fixed header; default 1 MiB, at most
	// 268,435,455.
	MaxPacketBytes int
	// LoginTimeout is the time from the accept to the CONNACK; default 10 s.
	LoginTimeout time.Duration
	// FlushTimeout is how long a connection that ends waits for its peer to take the last words; default 10 s. One that does not
	// end waits for ever: a worker reads nothing while it works.
	FlushTimeout time.Duration
	// OutboundBytes bounds what waits to be written to one client; default 4 MiB.
	OutboundBytes int
	// Seats bounds the connections, together with those of other servers that have the same; default: 10,000 of its own.
	Seats *door.Seats
	// MaxSubscriptions bounds the subscriptions of a client; default 1000.
	MaxSubscriptions int
	// ReceiveMaximum bounds the QoS 1 and 2 publishes of a connection that are not confirmed: an MQTT 5 client is told, an
	// older one is not read from meanwhile. Default 1024, at most 65,535.
	ReceiveMaximum int
	// MaxUnconfirmedBytes bounds the same in bytes: beyond it nothing more is read from the client. Default 16 MiB.
	MaxUnconfirmedBytes int
	// MaxInflight bounds the QoS 1 and 2 messages that a client has not acknowledged, also where it names no receive
	// maximum; default 256, at most 65,535.
	MaxInflight int
	// MaxQueued and MaxQueuedBytes bound the QoS 1 and 2 messages of clean sessions that wait for a place among those:
	// beyond either, new ones are dropped and counted. Publishers' confirmations wait long before that, while the client
	// keeps up (brake.go). Defaults 10,000 and 8 MiB.
	MaxQueued, MaxQueuedBytes int
	// TopicAliases is how many topic aliases a client may set, and at most are used towards it; default 32.
	TopicAliases int
	// MaxSessionExpiry bounds how long sessions outlive their connection, and is the expiry of MQTT 3 sessions that are not
	// clean; default 7 days.
	MaxSessionExpiry time.Duration
}

const (
	// loginBytes bounds the CONNECT packet, its will included.
	loginBytes = 8 << 10
	// maxRemaining is the largest packet that four length bytes can announce.
	maxRemaining = 268_435_455
	// controlReserve is the room for acknowledgements above Options.OutboundBytes.
	controlReserve = 256 << 10
	// operationTimeout bounds the store's answer to SUBSCRIBE, UNSUBSCRIBE and a session's begin.
	operationTimeout = 30 * time.Second
	// closeTimeout bounds the wait for confirmations and the flush of the last packets.
	closeTimeout = 5 * time.Second
	// answersTimeout bounds the wait for the outcome of QoS 2 publishes when the connection of a durable session ends. It is longer
	// than an edge keeps them for the next leader (router.EdgeOptions.Hold; ten seconds in package gateway).
	answersTimeout = 15 * time.Second
	// lingerTimeout bounds the wait for the peer to close after the last packet.
	lingerTimeout = time.Second
	// lingerBytes is how much of a peer's unread input is thrown away meanwhile.
	lingerBytes = 1 << 20
	// maxTopics bounds a connection's cache of topic names.
	maxTopics = 64
)

// defaultSeats is how many connections a server has that shares its seats with none.
const defaultSeats = 10_000

// withDefaults fills in what is zero and cuts what is out of range.
func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Seats == nil {
		o.Seats = door.NewSeats(defaultSeats, 0)
	}
	orDuration(&o.LoginTimeout, 10*time.Second)
	orDuration(&o.FlushTimeout, 10*time.Second)
	orDuration(&o.MaxSessionExpiry, 7*24*time.Hour)
	orNumber(&o.MaxPacketBytes, 1<<20, maxRemaining)
	orNumber(&o.OutboundBytes, 4<<20, 1<<40)
	orNumber(&o.MaxSubscriptions, 1000, 1<<40)
	orNumber(&o.ReceiveMaximum, 1024, 65_535)
	orNumber(&o.MaxUnconfirmedBytes, 16<<20, 1<<40)
	orNumber(&o.MaxInflight, 256, 65_535)
	orNumber(&o.MaxQueued, 10_000, 1<<40)
	orNumber(&o.MaxQueuedBytes, 8<<20, 1<<40)
	orNumber(&o.TopicAliases, 32, 65_535)
	return o
}

func orNumber(n *int, def, highest int) {
	if *n <= 0 {
		*n = def
	}
	*n = min(*n, highest)
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}
