package ws

import (
	"sync"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// offer is the retained messages that a subscription is still to be sent. It is
// opened before the deliveries start and filled afterwards, so nothing is missed in
// between; a newer value of a topic that comes meanwhile takes the older one's
// place, which would come behind it otherwise.
type offer struct {
	mu    sync.Mutex
	newer map[router.Address]*router.Message // nil: it was delivered
	ended bool
}

// live is put while retained messages are offered. One that finds no room waits in
// the offer: it is in memory anyway.
func (o *offer) live(s *subscription, m *router.Message, w *outbox.Batch) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := s.put(m, w, nil); ok {
		o.newer[m.To] = nil
		return true
	}
	if o.ended {
		return false
	}
	o.newer[m.To] = m
	return true
}

// rest gives the newer values that wait to be sent. Without any the offer has ended.
func (o *offer) rest() (messages []*router.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.newer {
		if m != nil {
			messages = append(messages, m)
		}
	}
	o.ended = len(messages) == 0
	return messages
}

// offerRetained sends the retained messages that match a subscription. The reader
// waits for room: who asks for a million messages is not read from until it has
// taken them.
func (s *subscription) offerRetained() {
	c, o := s.client, s.offer.Load()
	messages, err := c.session.Retained(s.source.Filter())
	if err != nil {
		messages = nil // the subscription itself was authorised; rights do not change
	}
	for len(messages) > 0 {
		for _, m := range messages {
			for seen := c.drainedSoFar(); !s.retained(m, o); seen = c.drainedSoFar() {
				if !c.await(func() bool { return c.drained != seen }) {
					return // the socket is gone
				}
			}
		}
		messages = o.rest()
	}
	s.offer.Store(nil)
}

// retained appends one retained message, or the newer one that came meanwhile;
// false means that there is no room.
func (s *subscription) retained(m *router.Message, o *offer) bool {
	o.mu.Lock() // until the bytes are in the outbox: what is delivered later comes behind them
	defer o.mu.Unlock()
	if newer, known := o.newer[m.To]; known {
		m = newer
	}
	if m == nil {
		return true
	}
	if _, ok := s.put(m, &s.client.batch, []byte(`"retained":true,`)); !ok {
		return false
	}
	o.newer[m.To] = nil
	return true
}

// drainedSoFar is for before an append that may be refused.
func (c *client) drainedSoFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drained
}
