package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
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

// BringsData reports whether this node has data that is to move into the cluster.
func (n *Node) BringsData() bool { return n.aside }

// Carrier returns a carrier of the store's node.
func (s *Store) Carrier() (*Carrier, error) { return s.node.Carrier() }

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

// RunOut stops JetStream as the server does when the disk has no byte left.
func (n *Node) RunOut() error { return n.server.ShutdownJetStream() }

// QueueStream is the name of a queue's stream.
func QueueStream(id router.MailboxID) string { return "Q_" + mailboxHash(id) }

// HearCramped has the node hear for an hour that another has no room; it takes no part in an election.
func (n *Node) HearCramped(node string) {
	n.peers.Store(&peers{full: map[string]time.Time{node: time.Now().Add(time.Hour)}})
}

// LeaveHalf makes the stream that is left when a snapshot of it broke off.
func (n *Node) LeaveHalf(ctx context.Context, name, subject string) error {
	c, err := n.dial("half")
	if err != nil {
		return err
	}
	defer c.Close()
	js, err := jetstream.New(c)
	if err != nil {
		return err
	}
	if err := n.waitForming(ctx, c); err != nil {
		return err
	}
	for {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, MaxMsgsPerSubject: 1, Replicas: n.replicas()})
		if err == nil || !mayPass(err) || !pause(ctx, formingPoll) {
			return err
		}
	}
}
