package stomp

import (
	"log/slog"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/stomp/frame"
)

// Options of a Server. Zero values stand for the defaults that are given; Router and Authenticate have none.
type Options struct {
	Router       *router.Router
	Authenticate router.Authenticator
	Log          *slog.Logger // default: none
	// Version is the gateway's, for the server header of CONNECTED.
	Version string
	// Limits bounds a frame of a client that is logged in; default frame.DefaultLimits.
	Limits frame.Limits

	// LoginTimeout is the time from the accept to the CONNECTED frame; default 10 s.
	LoginTimeout time.Duration
	// FlushTimeout is how long a connection that ends waits for its peer to take the last words; default 10 s. One that does not
	// end waits for ever: a worker reads nothing while it works.
	FlushTimeout time.Duration
	// OutboundBytes bounds what waits to be written to one client; default 4 MiB. A message of a live topic for which there is
	// no room is dropped for that subscriber, and counted.
	OutboundBytes int
	// Seats bounds the connections, together with those of other servers that have the same; default: 10,000 of its own.
	Seats *door.Seats
	// MaxSubscriptions bounds the subscriptions, and the temporary destinations, of a connection; default 1000.
	MaxSubscriptions int
	// MaxUnconfirmed and MaxUnconfirmedBytes bound the publishes of a connection that the store has not confirmed: beyond
	// either, nothing more is read from it. Defaults 4096 and 16 MiB.
	MaxUnconfirmed, MaxUnconfirmedBytes int
	// MaxTransactionMessages and MaxTransactionBytes bound the open transactions of a connection together; defaults 1000
	// and 16 MiB.
	MaxTransactionMessages, MaxTransactionBytes int

	// DefaultPrefetch is how many unsettled messages of a queue a client ack mode may hold when the client names no
	// number; default 1, which is fair among workers.
	DefaultPrefetch int
	// DurablePrefetch is the same for durable subscriptions; default 100.
	DurablePrefetch int
	// AutoPrefetch is how many messages may wait to be written in auto mode; default 1000.
	AutoPrefetch int

	// HeartbeatSendMin and HeartbeatReceiveMin are the shortest intervals that are agreed on; default 1 s.
	HeartbeatSendMin, HeartbeatReceiveMin time.Duration
	// HeartbeatGracePercent is how much of its interval a client may be silent, plus one second; default 200.
	HeartbeatGracePercent int
}

const (
	// maxPrefetch bounds the credit that a client may ask for.
	maxPrefetch = 65535
	// maxElements bounds the elements of a composite destination.
	maxElements = 64
	// maxTransactions bounds the open transactions of a connection.
	maxTransactions = 256
	// maxHeartbeat is the longest interval kept; longer ones count as this.
	maxHeartbeat = 24 * time.Hour
	// maxDelay bounds the delay header of NACK.
	maxDelay = 30 * 24 * time.Hour
	// operationTimeout bounds the store's answer to SUBSCRIBE and UNSUBSCRIBE.
	operationTimeout = 30 * time.Second
	// idleAfter is how long a connection keeps its read buffer while nothing arrives.
	idleAfter = 5 * time.Second
	// closeTimeout bounds the flush of the last frames and the wait for the peer to close.
	closeTimeout = 5 * time.Second
	// lingerTimeout bounds the wait for the peer to close after the last frame.
	lingerTimeout = time.Second
	// lingerBytes is how much of a peer's unread input is thrown away meanwhile.
	lingerBytes = 1 << 20
	// controlReserve is the room for receipts and errors above Options.OutboundBytes.
	controlReserve = 256 << 10
)

// defaultSeats is how many connections a server has that shares its seats with none.
const defaultSeats = 10_000

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	if o.Limits == (frame.Limits{}) {
		o.Limits = frame.DefaultLimits()
	}
	if o.Seats == nil {
		o.Seats = door.NewSeats(defaultSeats, 0)
	}
	orDuration(&o.LoginTimeout, 10*time.Second)
	orDuration(&o.FlushTimeout, 10*time.Second)
	orDuration(&o.HeartbeatSendMin, time.Second)
	orDuration(&o.HeartbeatReceiveMin, time.Second)
	orNumber(&o.OutboundBytes, 4<<20)
	orNumber(&o.MaxSubscriptions, 1000)
	orNumber(&o.MaxUnconfirmed, 4096)
	orNumber(&o.MaxUnconfirmedBytes, 16<<20)
	orNumber(&o.MaxTransactionMessages, 1000)
	orNumber(&o.MaxTransactionBytes, 16<<20)
	orNumber(&o.DefaultPrefetch, 1)
	orNumber(&o.DurablePrefetch, 100)
	orNumber(&o.AutoPrefetch, 1000)
	orNumber(&o.HeartbeatGracePercent, 200)
	return o
}

func orNumber(n *int, def int) {
	if *n <= 0 {
		*n = def
	}
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

// FrameLimits returns the limits of a frame whose body has at most so many bytes, and whose headers have at most so many
// together and in number.
func FrameLimits(bodyBytes, headerBytes, headers int) frame.Limits {
	l := frame.DefaultLimits()
	l.Body, l.HeaderBytes, l.Headers = bodyBytes, headerBytes, headers
	l.HeaderLine = min(l.HeaderLine, headerBytes)
	return l
}
