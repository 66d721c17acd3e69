package router

import (
	"sync"
	"sync/atomic"
)

// Stats are the counters of a router since its start.
type Stats struct {
	Published    atomic.Uint64 // accepted from publishers
	Delivered    atomic.Uint64 // handed to a connection's buffer
	Settled      atomic.Uint64 // settled by a consumer
	Redelivered  atomic.Uint64 // delivered again
	DeadLettered atomic.Uint64 // stored in a dead-letter queue
	Refused      atomic.Uint64 // publishes answered with an error
	Damaged      atomic.Uint64 // stored messages that could not be read back
	// SessionsExpired counts durable sessions that ended since their client stayed away.
	SessionsExpired atomic.Uint64

	mu      sync.Mutex
	dropped map[string]*atomic.Uint64
}

// Drop reasons.
const (
	DropSlowConsumer = "slow_consumer"   // a live subscriber's buffer was full
	DropInboxFull    = "inbox_full"      // a durable subscription's inbox was at its limit
	DropExpired      = "expired"         // past its expiry, and the policy drops those
	DropRejected     = "rejected"        // rejected by its consumer, and no dead-letter queue is set
	DropMaxDelivered = "max_deliveries"  // delivered too often, and no dead-letter queue is set
	DropNoMember     = "no_member"       // unacknowledged when its member of a shared group left, and no other took it
	DropDenied       = "delivery_denied" // the subscriber may not read that topic
	// DropUnpublishable counts scheduled messages and wills that could not be published when they were due.
	DropUnpublishable = "unpublishable"
	DropTooLarge      = "too_large" // larger than the subscriber takes, and no dead-letter queue is set
	// DropNodeBacklog counts what other nodes sent faster than this one took it, once for each filter of its subscribers.
	DropNodeBacklog = "node_backlog"
)

// DropReasons are all of them.
var DropReasons = []string{DropSlowConsumer, DropInboxFull, DropExpired, DropRejected, DropMaxDelivered, DropNoMember, DropDenied, DropUnpublishable,
	DropTooLarge, DropNodeBacklog}

// Drop counts n dropped messages.
func (s *Stats) Drop(reason string, n int) {
	s.mu.Lock()
	c := s.dropped[reason]
	if c == nil {
		if s.dropped == nil {
			s.dropped = map[string]*atomic.Uint64{}
		}
		c = &atomic.Uint64{}
		s.dropped[reason] = c
	}
	s.mu.Unlock()
	c.Add(uint64(n))
}

// Dropped returns the counts by reason, also of those for which nothing was dropped, with what the carrier dropped.
func (r *Router) Dropped() map[string]uint64 {
	out := r.Stats.Dropped()
	for _, reason := range DropReasons {
		out[reason] += 0
	}
	if r.opt.Carrier != nil {
		out[DropNodeBacklog] += r.opt.Carrier.Dropped()
	}
	return out
}

// Dropped returns the counts by reason.
func (s *Stats) Dropped() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]uint64, len(s.dropped))
	for k, v := range s.dropped {
		out[k] = v.Load()
	}
	return out
}
