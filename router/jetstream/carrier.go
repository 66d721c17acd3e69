package jetstream

import (
	"fmt"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"

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
	conn    *nats.Conn
	asks    *asks
	shards  [interestShards]interests
	dropped atomic.Uint64 // of interests that ended
	end     chan struct{}
	group   sync.WaitGroup // the shards' readers

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
	return newCarrier(conn, n)
}

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

// interestShards are how many readers share the interests of a node: there may be
// a hundred thousand, so none has a goroutine or a channel of its own.
const interestShards = 4

// interests are those whose messages one reader hands out.
type interests struct {
	messages chan *nats.Msg
	mu       sync.RWMutex
	of       map[*nats.Subscription]*interest
}

type interest struct {
	filter router.Filter
	arrive func(*router.Message, *outbox.Batch)
}

// interestBacklog is how many messages may wait for one reader.
const interestBacklog = 16 << 10

func newCarrier(conn *nats.Conn, n *Node) (*Carrier, error) {
	c := &Carrier{conn: conn, end: make(chan struct{})}
	var err error
	if c.asks, err = newAsks(conn, n, c.end, &c.group); err != nil {
		conn.Close()
		return nil, err
	}
	for i := range c.shards {
		in := &c.shards[i]
		in.messages, in.of = make(chan *nats.Msg, interestBacklog), map[*nats.Subscription]*interest{}
		c.group.Go(func() { in.read(c.end) })
	}
	return c, nil
}

// Interest subscribes to a filter. All that arrives for it goes through one
// reader, which keeps the order.
func (c *Carrier) Interest(f router.Filter, arrive func(*router.Message, *outbox.Batch)) (func(), <-chan struct{}, error) {
	subject := topicSubject(f.Vhost(), f.Levels(), true)
	in := &c.shards[maphash.String(interestSeed, subject)%interestShards]
	in.mu.Lock() // the reader waits until it can know whose the first message is
	defer in.mu.Unlock()
	sub, err := c.conn.ChanSubscribe(subject, in.messages)
	if err != nil {
		return nil, nil, fmt.Errorf("subscribe to other nodes' messages: %w", err)
	}
	in.of[sub] = &interest{f, arrive}
	return func() {
		in.mu.Lock() // at once, for Dropped
		delete(in.of, sub)
		if n, err := sub.Dropped(); err == nil {
			c.dropped.Add(uint64(n))
		}
		in.mu.Unlock()
		_ = sub.Unsubscribe() // the connection may be closed
	}, c.asks.join(), nil
}

var interestSeed = maphash.MakeSeed()

func (in *interests) read(end <-chan struct{}) {
	var w outbox.Batch
	for {
		select {
		case m := <-in.messages:
			in.mu.RLock()
			i := in.of[m.Sub]
			in.mu.RUnlock()
			if i != nil {
				if msg, err := router.ParseEnvelope(m.Data); err == nil && i.filter.Matches(msg.To) {
					i.arrive(msg, &w)
				}
			}
			if len(in.messages) == 0 {
				runtime.Gosched() // whoever brings more may be about to: what comes together leaves in one write to each subscriber
			}
			if len(in.messages) == 0 {
				w.Flush()
			}
		case <-end:
			return
		}
	}
}

// Dropped counts the messages of other nodes that this one did not take in time.
func (c *Carrier) Dropped() uint64 {
	n := c.dropped.Load()
	for i := range c.shards {
		in := &c.shards[i]
		in.mu.RLock()
		for sub := range in.of {
			if d, err := sub.Dropped(); err == nil {
				n += uint64(d)
			}
		}
		in.mu.RUnlock()
	}
	return n
}

// Close ends the connection, after every interest was stopped.
func (c *Carrier) Close() {
	c.conn.Close()
	close(c.end)
	c.group.Wait()
}
