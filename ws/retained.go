package ws

import "github.com/mqgate/mqgate/router"

// offerRetained sends the retained messages that match a subscription. The reader
// waits for room: who asks for a million messages is not read from until it has
// taken them.
func (s *subscription) offerRetained() {
	messages, err := s.client.session.Retained(s.source.Filter())
	if err != nil {
		messages = nil // the subscription itself was authorised; rights do not change
	}
	if s.offer.Load().Send(messages, s.retained, s.client.room) {
		s.offer.Store(nil)
	} // else the socket is gone
}

// retained appends one retained message; false means that there is no room.
func (s *subscription) retained(m *router.Message) bool {
	_, ok := s.put(m, &s.client.batch, []byte(`"retained":true,`))
	return ok
}

// room is for before an append that may be refused: it returns what waits until the
// outbox was drained since, and false if the socket is gone. Only the reader may wait.
func (c *client) room() (wait func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.drained
	return func() bool { return c.awaitPeer(func() bool { return c.drained != seen }) }
}
