package bench

import (
	"math"
	"sync/atomic"
)

// credit bounds the deliveries that are on their way from one publisher to all its subscribers: the end-to-end closed loop.
// It is what finds the rate a broker sustains where nothing is confirmed.
type credit struct {
	limit    int64        // deliveries allowed on their way
	arrived  atomic.Int64 // deliveries that came, or will not come because the broker refused the message
	need     atomic.Int64 // arrived must reach this before the publisher goes on; nobody waits at MaxInt64
	wake     chan struct{}
	forgiven int64 // the publisher's: deliveries it no longer waits for
}

func newCredit(limit int64) *credit {
	c := &credit{limit: limit, wake: make(chan struct{}, 1)}
	c.need.Store(math.MaxInt64)
	return c
}

// arrive counts n deliveries and wakes the publisher when it has waited for them.
func (c *credit) arrive(n int64) {
	if c.arrived.Add(n) >= c.need.Load() {
		signal(c.wake)
	}
}

// exhausted reports whether a publisher that has caused due deliveries must wait.
func (c *credit) exhausted(due int64) bool {
	return due-c.arrived.Load()-c.forgiven >= c.limit
}

// enough asks whether half of the limit is free again, and if not, has wake tell when it is: waiting for half makes the
// publisher send in batches instead of one message for each that arrives.
func (c *credit) enough(due int64) bool {
	need := due - c.forgiven - c.limit/2
	c.need.Store(need)
	if c.arrived.Load() < need {
		return false
	}
	c.need.Store(math.MaxInt64)
	return true
}

// forgive gives up on everything that is on its way.
func (c *credit) forgive(due int64) {
	c.need.Store(math.MaxInt64)
	c.forgiven = due - c.arrived.Load()
}
