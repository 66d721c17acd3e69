package stomp

import (
	"sync"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// Retained messages are MQTT's: a topic's last value, for those who subscribe later. A STOMP client sets one with the header
// retain:true on SEND, and asks for those that match with retained:true on SUBSCRIBE. ActiveMQ's own names are
// ActiveMQ.Retain and activemq.retroactive.

// asksRetained reports whether a SUBSCRIBE wants the retained messages.
func asksRetained(f *frame.Frame) bool {
	return f.Value("retained") == "true" || f.Value("activemq.retroactive") == "true"
}

// checkRetain refuses what would be retained only in part.
func checkRetain(m *router.Message, tx *transaction, t *target) error {
	if m.Has(router.FlagRetain) && (tx != nil || t.many != nil) {
		return mistake("Send it to one topic, outside a transaction.", "a message cannot be retained by a transaction or a composite destination")
	}
	return nil
}

// offer is the retained messages that a subscription is still to be sent. It is opened before the deliveries start and
// filled afterwards, so nothing is missed in between; a newer value of a topic that comes meanwhile takes the older one's
// place, which would come behind it otherwise.
type offer struct {
	mu    sync.Mutex
	newer map[router.Address]*router.Message // nil: it was delivered
	ended bool
}

// superseded notes that m was delivered, or is about to be.
func (o *offer) superseded(m *router.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newer[m.To] = nil
}

// liveOffered is Live while retained messages are offered. One that is retained finds room in the offer.
func (fd *feed) liveOffered(o *offer, m *router.Message, w *outbox.Batch) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case fd.live(m, w):
		o.newer[m.To] = nil
	case o.ended:
		return fd.overrun()
	default:
		o.newer[m.To] = m // it is in memory anyway
	}
	return true
}

// openOffers is for before the deliveries start.
func (s *subscription) openOffers() {
	for _, fd := range s.feeds {
		fd.offer.Store(&offer{newer: map[router.Address]*router.Message{}})
	}
}

// offerRetained sends the retained messages that match a subscription. The reader waits for room: who asks for a million
// messages is not read from until it has taken them. It returns false if the socket is gone.
func (s *subscription) offerRetained() bool {
	for _, fd := range s.feeds {
		o := fd.offer.Load()
		messages, err := s.conn.session.Retained(fd.filter)
		if err != nil {
			messages = nil // the subscription itself was authorised; rights do not change
		}
		for len(messages) > 0 {
			for _, m := range messages {
				for {
					seen := s.conn.drainedSoFar()
					if fd.retained(m, o) {
						break
					}
					if !s.conn.await(func() bool { return s.conn.drained != seen }) {
						return false
					}
				}
			}
			messages = o.rest()
		}
		fd.offer.Store(nil)
	}
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

// retained appends one retained message, or the newer one that came meanwhile; false means that there is no room.
func (fd *feed) retained(m *router.Message, o *offer) bool {
	o.mu.Lock() // until the bytes are in the outbox: what is delivered later comes behind them
	defer o.mu.Unlock()
	if newer, known := o.newer[m.To]; known {
		m = newer
	}
	if m == nil {
		return true
	}
	c := fd.sub.conn
	tail := fd.tail
	if fd.sub.mode != ackAuto {
		tail |= withoutID
	}
	shared := m.Encoded(tail.key(), tail.build())
	buf, ok := c.out.Begin(len(fd.prefix) + len(shared) + ackBytes)
	if !ok {
		c.out.End(&c.batch, buf)
		return false
	}
	buf = append(buf, fd.prefix...)
	buf = append(buf, "retained:true\n"...)
	if tail&withoutID != 0 {
		buf = appendLiveID(buf, m.ID, c.version)
	}
	c.out.EndShared(&c.batch, buf, shared)
	o.newer[m.To] = nil
	return true
}

// drainedSoFar is for before an append that may be refused.
func (c *conn) drainedSoFar() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drained
}
