package ws

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// Options of a Server. Zero values stand for the defaults that are given; Router
// and Authenticate have none.
type Options struct {
	Router       *router.Router
	Authenticate router.Authenticator
	// Token makes a principal of a token; nil: tokens are refused.
	Token func(ctx context.Context, token string, c router.Credentials) (*router.Principal, error)
	Log   *slog.Logger // default: none
	// Version is the gateway's, for the reply to connect.
	Version string
	// ServeSTOMP and ServeMQTT serve a connection, which they close, and return when
	// it has ended; nil: the protocol is refused.
	ServeSTOMP, ServeMQTT func(net.Conn)
	// Origins are allowed besides the page's own, such as "https://example.com"; "*": any.
	Origins []string

	// MaxMessageBytes bounds a message of the JSON protocol, and the body of an HTTP
	// request; default 1 MiB. Before the login it is 8 KiB for the JSON protocol.
	MaxMessageBytes int
	// MaxFrameBytes bounds a WebSocket frame that carries STOMP or MQTT, which have
	// their own limits within; default MaxMessageBytes.
	MaxFrameBytes int
	// Compression offers permessage-deflate, without context takeover, to clients
	// that ask for it.
	Compression bool
	// Seats bounds the connections, together with those of other servers that have
	// the same, and for the JSON protocol and HTTP those of a user; default: 10,000 of
	// its own.
	Seats *door.Seats
	// LoginTimeout is the time from the handshake to the login; default 10 s.
	LoginTimeout time.Duration
	// FlushTimeout is how long a connection that ends waits for its peer to take the last words; default 10 s. One that does not
	// end waits for ever: a worker reads nothing while it works.
	FlushTimeout time.Duration
	// PingInterval is after how long a silence a peer is pinged; default 25 s. One
	// that is silent for as long again is given up.
	PingInterval time.Duration
	// RequestsPerSecond bounds what is read from one WebSocket, and from one user or
	// address over HTTP, with bursts of twice that; default 1000. Acknowledgements over
	// STOMP and MQTT do not count. A client is slowed down, with CloseOverRate closed
	// and told to come back later; over HTTP it is refused.
	RequestsPerSecond int
	CloseOverRate     bool
	// Lease is how long a message that was taken over HTTP waits for its
	// acknowledgement, if the request does not say; default 1 minute. MaxLeases bounds
	// the messages that are taken or waited for at once; default 1000.
	Lease     time.Duration
	MaxLeases int
	// OutboundBytes bounds what waits to be written to one JSON client; default 1 MiB.
	OutboundBytes int
	// MaxSubscriptions bounds the subscriptions of a connection; default 100.
	MaxSubscriptions int
	// MaxUnconfirmed and MaxUnconfirmedBytes bound the publishes of a connection that
	// the store has not confirmed; then nothing more is read from it. Defaults 1024
	// and 4 MiB.
	MaxUnconfirmed, MaxUnconfirmedBytes int
}

// Stats are a server's counters.
type Stats struct {
	Accepted       atomic.Uint64 // handshakes
	Refused        atomic.Uint64 // handshakes refused: origin, subprotocol, limit
	ProtocolErrors atomic.Uint64 // connections ended for bad frames
	LoginFailures  atomic.Uint64
	LoginTimeouts  atomic.Uint64
	SlowClosed     atomic.Uint64
	SilentClosed   atomic.Uint64 // connections ended for pings that nobody answered
	Throttled      atomic.Uint64 // requests over the rate limit: delayed, refused, or the connection closed
	HTTPRequests   atomic.Uint64
	LeasesExpired  atomic.Uint64 // messages taken over HTTP that went back unacknowledged
	Errors         atomic.Uint64 // error replies of the JSON protocol
	Panics         atomic.Uint64
}

// Counts returns the counters by the names that metrics have for them.
func (s *Stats) Counts() map[string]uint64 {
	return map[string]uint64{
		"accepted": s.Accepted.Load(), "refused": s.Refused.Load(), "protocol_error": s.ProtocolErrors.Load(),
		"login_failure": s.LoginFailures.Load(), "login_timeout": s.LoginTimeouts.Load(),
		"slow_closed": s.SlowClosed.Load(), "silent_closed": s.SilentClosed.Load(), "throttled": s.Throttled.Load(),
		"http_request": s.HTTPRequests.Load(), "lease_expired": s.LeasesExpired.Load(),
		"error": s.Errors.Load(), "panic": s.Panics.Load(),
	}
}

const (
	loginMessageBytes = 8 << 10
	// operationTimeout bounds the store's answer to what opens something.
	operationTimeout = 30 * time.Second
	// controlReserve is the room for replies above OutboundBytes.
	controlReserve = 256 << 10
	closeTimeout   = 5 * time.Second
)

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	if o.Seats == nil {
		o.Seats = door.NewSeats(10_000, 0)
	}
	for _, d := range [...]struct {
		v   *int
		def int
	}{
		{&o.MaxMessageBytes, 1 << 20}, {&o.RequestsPerSecond, 1000}, {&o.OutboundBytes, 1 << 20},
		{&o.MaxSubscriptions, 100}, {&o.MaxUnconfirmed, 1024}, {&o.MaxUnconfirmedBytes, 4 << 20}, {&o.MaxLeases, 1000},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.MaxFrameBytes <= 0 {
		o.MaxFrameBytes = o.MaxMessageBytes
	}
	for _, d := range [...]struct {
		v   *time.Duration
		def time.Duration
	}{{&o.LoginTimeout, 10 * time.Second}, {&o.FlushTimeout, 10 * time.Second}, {&o.PingInterval, 25 * time.Second}, {&o.Lease, time.Minute}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return o
}
