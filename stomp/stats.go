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

// Counts returns the counters by the names that metrics have for them.
func (s *Stats) Counts() map[string]uint64 {
	return map[string]uint64{
		"accepted": s.Accepted.Load(), "over_limit": s.OverLimit.Load(), "accept_error": s.AcceptErrors.Load(),
		"login_failure": s.LoginFailures.Load(), "login_timeout": s.LoginTimeouts.Load(),
		"protocol_error": s.ProtocolErrors.Load(), "error": s.Errors.Load(),
		"silent_closed": s.Silent.Load(), "slow_closed": s.SlowClosed.Load(), "panic": s.Panics.Load(),
	}
}
