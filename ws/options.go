package ws

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router"
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

	// MaxMessageBytes bounds a message of the JSON protocol, and a frame of the
	// others; default 1 MiB. Before the login it is 8 KiB for the JSON protocol.
	MaxMessageBytes int
	// MaxConnections bounds the connections of the server; default 10,000.
	MaxConnections int
	// LoginTimeout is the time from the handshake to the login; default 10 s.
	LoginTimeout time.Duration
	// WriteTimeout is how long a peer may take nothing of what waits for it; default 10 s.
	WriteTimeout time.Duration
	// PingInterval is after how long a silence a peer is pinged; default 25 s. A JSON
	// client that is silent for as long again is given up.
	PingInterval time.Duration
	// RequestsPerSecond bounds what is read from one JSON client, with bursts of
	// twice that; it is slowed down, not refused. Default 1000.
	RequestsPerSecond int
	// OutboundBytes bounds what waits to be written to one JSON client; default 1 MiB.
	OutboundBytes int
	// MaxSubscriptions bounds the subscriptions of a connection; default 100.
	MaxSubscriptions int
	// MaxUnconfirmed and MaxUnconfirmedBytes bound the publishes of a connection that
	// the store has not confirmed; then nothing more is read from it. Defaults 1024
	// and 4 MiB.
	MaxUnconfirmed, MaxUnconfirmedBytes int
	// DropSlow drops live messages, counted, that the buffer of a JSON client has no
	// room for. By default such a client is closed and may resume where it was.
	DropSlow bool
}

// Stats are a server's counters.
type Stats struct {
	Accepted       atomic.Uint64 // handshakes
	Refused        atomic.Uint64 // handshakes refused: origin, subprotocol, limit
	ProtocolErrors atomic.Uint64 // connections ended for bad frames
	LoginFailures  atomic.Uint64
	LoginTimeouts  atomic.Uint64
	SlowClosed     atomic.Uint64
	Errors         atomic.Uint64 // error replies of the JSON protocol
	Panics         atomic.Uint64
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
	for _, d := range [...]struct {
		v   *int
		def int
	}{
		{&o.MaxMessageBytes, 1 << 20}, {&o.MaxConnections, 10_000}, {&o.RequestsPerSecond, 1000}, {&o.OutboundBytes, 1 << 20},
		{&o.MaxSubscriptions, 100}, {&o.MaxUnconfirmed, 1024}, {&o.MaxUnconfirmedBytes, 4 << 20},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	for _, d := range [...]struct {
		v   *time.Duration
		def time.Duration
	}{{&o.LoginTimeout, 10 * time.Second}, {&o.WriteTimeout, 10 * time.Second}, {&o.PingInterval, 25 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return o
}
