package jetstream

import (
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// livePrefix begins the subjects of live messages, apart from those of storage.
const livePrefix = "live"

// Carrier takes live messages over core NATS: at most once, in order for each
// publisher, to each node that has a matching filter. Its connection buffers
// what a slow node has not taken up to the server's limits and then drops,
// counted by the server.
type Carrier struct {
	conn *nats.Conn

	group sync.WaitGroup // one reader for each interest

	mu  sync.Mutex
	buf []byte
}

var _ router.Carrier = (*Carrier)(nil)

// Carrier returns a carrier on a connection of its own.
func (n *Node) Carrier() (*Carrier, error) {
	conn, err := n.dial("live", nats.NoEcho()) // its own messages have reached the subscribers of this router
	if err != nil {
		return nil, err
	}
	return &Carrier{conn: conn}, nil
}

// Carrier returns a carrier of the store's node.
func (s *Store) Carrier() (*Carrier, error) { return s.node.Carrier() }

func topicSubject(vhost string, levels []string, filter bool) string {
	// The vhost is one more level in front, escaped like the others.
	return Subject(livePrefix+"."+Subject("v", []string{vhost}, false), levels, filter)
}

// Carry publishes a message for other nodes.
func (c *Carrier) Carry(m *router.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = m.AppendEnvelope(c.buf[:0])
	// It fails only when the connection is closed: the node is stopping.
	_ = c.conn.Publish(topicSubject(m.To.Vhost(), m.To.Levels(), false), c.buf)
	if cap(c.buf) > 1<<20 {
		c.buf = nil
	}
}

// Interest subscribes to a filter.
func (c *Carrier) Interest(f router.Filter, arrive func(*router.Message, *outbox.Batch)) (func(), error) {
	messages := make(chan *nats.Msg, 8192)
	sub, err := c.conn.ChanSubscribe(topicSubject(f.Vhost(), f.Levels(), true), messages)
	if err != nil {
		return nil, fmt.Errorf("subscribe to other nodes' messages: %w", err)
	}
	stopped := make(chan struct{})
	c.group.Go(func() { // until stop
		var w outbox.Batch
		for {
			select {
			case m := <-messages:
				if msg, err := router.ParseEnvelope(m.Data); err == nil && f.Matches(msg.To) {
					arrive(msg, &w)
				}
				if len(messages) == 0 {
					w.Flush()
				}
			case <-stopped:
				return
			}
		}
	})
	return func() {
		_ = sub.Unsubscribe() // the connection may be closed
		close(stopped)
	}, nil
}

// Close ends the connection, after every interest was stopped.
func (c *Carrier) Close() {
	c.conn.Close()
	c.group.Wait()
}
