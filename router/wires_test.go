package router

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// wires is a Transport and Carrier in memory, with faults.
type wires struct {
	mu        sync.Mutex
	receivers map[string]chan []byte
	cut       map[string]bool // addresses that get nothing and, by prefix of their sends, send nothing
	interests map[*wireInterest]struct{}
	heard     func(address string) // is called after each receiver's chunk
	group     sync.WaitGroup
}

type wireInterest struct {
	owner  *wireCarrier
	filter Filter
	arrive func(*Message, *outbox.Batch)
}

func newWires() *wires {
	return &wires{receivers: map[string]chan []byte{}, cut: map[string]bool{}, interests: map[*wireInterest]struct{}{}}
}

// port is one node's end.
type port struct {
	w    *wires
	node string
}

func (p port) Send(to string, b []byte) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if c := p.w.receivers[to]; c != nil && !p.w.cut[p.node] && !p.w.cut[to] {
		c <- b
	}
	return nil
}

func (p port) Listen(address string, receive func([]byte)) (func(), error) {
	c := make(chan []byte, 1<<16)
	p.w.mu.Lock()
	p.w.receivers[address] = c
	p.w.mu.Unlock()
	p.w.group.Go(func() {
		for b := range c {
			receive(b)
			p.w.mu.Lock()
			heard := p.w.heard
			p.w.mu.Unlock()
			if heard != nil {
				heard(address)
			}
		}
	})
	return func() {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		delete(p.w.receivers, address)
		close(c)
	}, nil
}

func (w *wires) setCut(name string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[name] = cut
}

func (w *wires) isCut(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[name]
}

type wireCarrier struct{ w *wires }

func (c *wireCarrier) Dropped() uint64 { return 3 }

func (c *wireCarrier) Carry(m *Message) {
	b := m.AppendEnvelope(nil)
	c.w.mu.Lock()
	var all []*wireInterest
	for i := range c.w.interests {
		if i.owner != c && i.filter.Matches(m.To) {
			all = append(all, i)
		}
	}
	c.w.mu.Unlock()
	for _, i := range all {
		if m, err := ParseEnvelope(b); err == nil {
			i.arrive(m, nil)
		}
	}
}

func (c *wireCarrier) Interest(f Filter, arrive func(*Message, *outbox.Batch)) (func(), <-chan struct{}, error) {
	i := &wireInterest{c, f, arrive}
	known, stopped := make(chan struct{}), false
	c.w.group.Go(func() {
		time.Sleep(100 * time.Microsecond) // the others hear of it a moment later
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		if !stopped {
			c.w.interests[i] = struct{}{}
		}
		close(known)
	})
	return func() {
		c.w.mu.Lock()
		stopped = true
		delete(c.w.interests, i)
		c.w.mu.Unlock()
	}, known, nil
}

// testCluster is a leader on a memory store and edges, in one process.
type testCluster struct {
	t      *testing.T
	wires  *wires
	core   *harness
	valid  atomic.Bool
	terms  int
	leader *Leader
	edges  []*harness
}

func startCluster(t *testing.T, nodes int, change func(*Options)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, wires: newWires()}
	t.Cleanup(c.wires.group.Wait)
	c.core = start(t, func(o *Options) {
		o.Carrier = &wireCarrier{c.wires}
		if change != nil {
			change(o)
		}
	})
	for i := range nodes {
		e := &harness{t: t}
		e.opt = Options{Authorize: c.core.opt.Authorize, Log: quiet(), Carrier: &wireCarrier{c.wires}, History: c.core.opt.History,
			Edge: &EdgeOptions{Transport: port{c.wires, fmt.Sprintf("n%d", i)}, Node: fmt.Sprintf("n%d", i), Hold: 500 * time.Millisecond}}
		e.open()
		t.Cleanup(e.stop)
		c.edges = append(c.edges, e)
	}
	c.lead()
	return c
}

// lead has the core serve the edges.
func (c *testCluster) lead() {
	c.t.Helper()
	c.terms++
	c.valid.Store(true)
	address := fmt.Sprintf("core.%d", c.terms)
	var err error
	c.leader, err = c.core.Lead(LeaderOptions{Nodes: func() int { return len(c.edges) }, Transport: port{c.wires, "core"}, Address: address, Valid: c.valid.Load,
		Principal: func(i Identity) (*Principal, error) {
			if i.Token {
				return NewTokenPrincipal(i.User, i.ClientID, nil), nil
			}
			return NewPrincipal(i.User, i.ClientID, i.User == "anyone", nil), nil
		},
		Answer: func(_ context.Context, q []byte) ([]byte, error) { return append([]byte("re: "), q...), nil },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range c.edges {
		e.FollowLeader(address)
	}
	for _, e := range c.edges {
		if !c.wires.isCut(e.opt.Edge.Node) {
			c.waitLinked(e, true)
		}
	}
}

func (c *testCluster) waitLinked(e *harness, want bool) {
	c.t.Helper()
	eventually(c.t, func() error {
		if e.Linked() != want {
			return fmt.Errorf("linked is %v", !want)
		}
		return nil
	})
}

// crash has the leader vanish with all that is in memory only.
func (c *testCluster) crash() {
	c.valid.Store(false)
	c.core.Abandon()
	c.core.Router = nil
	for _, e := range c.edges {
		e.FollowLeader("")
	}
}

// stepDown has the leader give up with all its last words said.
func (c *testCluster) stepDown() {
	c.leader.HandOver()
	c.core.stop()
	for _, e := range c.edges {
		e.FollowLeader("")
	}
}

// succeed starts a leader on what is stored.
func (c *testCluster) succeed() {
	c.core.opt.Gather = true
	c.core.open()
	c.lead()
}
