package stomp

import (
	"github.com/mqgate/mqgate/router"
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

// openOffers is for before the deliveries start.
func (s *subscription) openOffers() {
	for _, fd := range s.feeds {
		fd.offer.Store(router.NewOffer())
	}
}

// offerRetained sends the retained messages that match a subscription. The reader waits for room: who asks for a million
// messages is not read from until it has taken them. It returns false if the socket is gone.
func (s *subscription) offerRetained() bool {
	for _, fd := range s.feeds {
		messages, err := s.conn.session.Retained(fd.filter)
		if err != nil {
			messages = nil // the subscription itself was authorised; rights do not change
		}
		if !fd.offer.Load().Send(messages, fd.retained, s.conn.room) {
			return false
		}
		fd.offer.Store(nil)
	}
	return true
}

// retained appends one retained message; false means that there is no room.
func (fd *feed) retained(m *router.Message) bool {
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
	return true
}

// room is for before an append that may be refused: it returns what waits until the outbox was drained since, and false if
// the connection ends. Only the reader may wait.
func (c *conn) room() (wait func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.drained
	return func() bool { return c.awaitPeer(func() bool { return c.drained != seen }) }
}
