package jetstream

import (
	"context"
	"errors"
	"fmt"
)

// LeadElsewhere has a node take the leadership of all open streams.
func (s *Store) LeadElsewhere(ctx context.Context, node string) error {
	s.mu.Lock()
	var names []string
	for n := range s.streams {
		names = append(names, n)
	}
	s.mu.Unlock()
	var all error
	for _, n := range names {
		body := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, node)
		all = errors.Join(all, s.request(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+n, body))
	}
	return all
}

// Routes counts the connections to other nodes.
func (n *Node) Routes() int { return n.server.NumRoutes() }

// Flush waits until the server knows every interest.
func (c *Carrier) Flush() error { return c.conn.Flush() }

// HasDataAndIsSlow stands for a node that has data of its own and does not answer in time who asks for such.
func (n *Node) HasDataAndIsSlow() error {
	c, err := n.dial("test")
	if err != nil {
		return err
	}
	n.claim = c
	_, err = c.SubscribeSync(adoptAsk)
	return errors.Join(err, c.Flush())
}
