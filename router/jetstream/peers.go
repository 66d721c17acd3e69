package jetstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	aliveSubject = "mqgate.alive"
	greetEvery   = 200 * time.Millisecond
	// peerPatience is how long a silent node counts as reached.
	peerPatience = 1500 * time.Millisecond
	// crampedPatience is how long a node is taken to have no room after it last said so.
	crampedPatience = 10 * time.Second
)

// peers tells whether this node is among the majority of the cluster. Every node
// greets the others a few times a second and names those that it hears, so each
// knows which can also be reached: a connection may work in one direction.
type peers struct {
	conn *nats.Conn
	name string
	size int // nodes of the cluster that store; 0: others than these do

	mu    sync.Mutex
	heard map[string]time.Time // by node: its last greeting
	known map[string]time.Time // by node: when it last said that it hears this one
	full  map[string]time.Time // by node: when it last said that its disk is nearly full
	low   func() bool          // whether this node's is
}

type greeting struct {
	Node  string   `json:"node"`
	Hears []string `json:"hears"`
	Full  bool     `json:"full,omitempty"`
}

func newPeers(n *Node, conn *nats.Conn) (*peers, error) {
	p := &peers{conn: conn, name: n.opt.NodeName, heard: map[string]time.Time{}, known: map[string]time.Time{},
		full: map[string]time.Time{}, low: func() bool { return n.keepsReplicas() && n.DiskLow() }}
	if !n.External() {
		p.size = max(len(n.opt.Cluster.Join), n.replicas())
	}
	if _, err := conn.Subscribe(aliveSubject, p.greeted); err != nil { // until the connection is closed
		return nil, fmt.Errorf("listen for other nodes: %w", err)
	}
	return p, nil
}

func (p *peers) greeted(m *nats.Msg) {
	var g greeting
	if json.Unmarshal(m.Data, &g) != nil || g.Node == p.name {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[g.Node] = now
	if g.Full {
		p.full[g.Node] = now
	}
	if slices.Contains(g.Hears, p.name) {
		p.known[g.Node] = now
	} else {
		delete(p.known, g.Node) // it has waited for a greeting long enough
	}
}

// greet tells the others that this node lives.
func (p *peers) greet() {
	g := greeting{Node: p.name, Full: p.low()}
	p.mu.Lock()
	if g.Full {
		p.full[p.name] = time.Now()
	}
	for n, at := range p.heard {
		if time.Since(at) < peerPatience {
			g.Hears = append(g.Hears, n)
		} else {
			delete(p.heard, n)
			delete(p.known, n)
		}
	}
	p.mu.Unlock()
	b, err := json.Marshal(g)
	if err == nil {
		_ = p.conn.Publish(aliveSubject, b) // it fails when the node stops
	}
}

// cramped reports whether a node said a short while ago that its disk is nearly full.
func (p *peers) cramped(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, said := p.full[node]
	return said && time.Since(at) < crampedPatience
}

// majority reports whether this node and those that it reaches are more than half.
func (p *peers) majority() bool {
	if p.size == 0 {
		return p.conn.IsConnected()
	}
	return p.count() > p.size/2
}

// inTouch are the other nodes that can talk with this one.
func (p *peers) inTouch() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	nodes := make([]string, 0, len(p.known))
	for n, at := range p.known {
		if time.Since(at) < peerPatience {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// inTouch are the other nodes that can talk with this one, as far as it takes part in elections.
func (n *Node) inTouch() []string {
	if p := n.peers.Load(); p != nil {
		return p.inTouch()
	}
	return nil
}

// count is how many nodes can talk with this one, itself included.
func (p *peers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 1
	for _, at := range p.known {
		if time.Since(at) < peerPatience {
			n++
		}
	}
	return n
}
