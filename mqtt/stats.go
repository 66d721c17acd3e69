package mqtt

import "sync/atomic"

// Stats are the counters of a Server since its start. Messages are counted by the router.
type Stats struct {
	Accepted       atomic.Uint64 // connections
	OverLimit      atomic.Uint64 // connections refused for want of a seat
	AcceptErrors   atomic.Uint64 // failures of the listening socket, such as no file descriptors
	LoginFailures  atomic.Uint64 // refused CONNECT packets
	LoginTimeouts  atomic.Uint64 // connections that sent no CONNECT in time
	ProtocolErrors atomic.Uint64 // connections closed for what cannot be read as MQTT or breaks its rules
	Silent         atomic.Uint64 // connections closed for a missed keep alive
	SlowClosed     atomic.Uint64 // connections closed since they did not read
	Panics         atomic.Uint64 // faults of ours or of the codec that were contained
	Duplicates     atomic.Uint64 // QoS 2 messages that came again and were not published again
	Wills          atomic.Uint64 // wills that were published
	BytesReceived  atomic.Uint64
	BytesSent      atomic.Uint64
	WillsRefused   atomic.Uint64 // wills that could not be published when they were due
}

// Counts returns the counters of connections and of what clients asked for, by the names that metrics have for them.
func (s *Stats) Counts() map[string]uint64 {
	return map[string]uint64{
		"accepted": s.Accepted.Load(), "over_limit": s.OverLimit.Load(), "accept_error": s.AcceptErrors.Load(),
		"login_failure": s.LoginFailures.Load(), "login_timeout": s.LoginTimeouts.Load(), "protocol_error": s.ProtocolErrors.Load(),
		"silent_closed": s.Silent.Load(), "slow_closed": s.SlowClosed.Load(), "panic": s.Panics.Load(),
		"duplicate": s.Duplicates.Load(), "will": s.Wills.Load(), "will_refused": s.WillsRefused.Load(),
	}
}
