package stomp

import "sync/atomic"

// Stats are the counters of a Server since its start. Messages are counted by the router.
type Stats struct {
	Accepted       atomic.Uint64 // connections
	OverLimit      atomic.Uint64 // connections refused for want of a seat
	AcceptErrors   atomic.Uint64 // failures of the listening socket, such as no file descriptors
	LoginFailures  atomic.Uint64 // wrong credentials, vhost or version
	LoginTimeouts  atomic.Uint64 // connections that sent no CONNECT in time
	ProtocolErrors atomic.Uint64 // connections closed for what cannot be read as STOMP
	Errors         atomic.Uint64 // ERROR frames for mistakes after which the connection goes on
	Silent         atomic.Uint64 // connections closed for missed heart-beats
	SlowClosed     atomic.Uint64 // connections closed since they did not read
	Panics         atomic.Uint64 // connections ended by a fault of ours
}
