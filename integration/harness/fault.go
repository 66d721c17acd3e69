package harness

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Network stands between the nodes of a cluster: each has a proxy before its route
// port, whose address the others use. What passes between two nodes can be held up,
// in one direction or both, as a network does that is cut: no connection is closed,
// no byte is lost.
type Network struct {
	t     testing.TB
	group sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	blocked map[[2]string]bool // from, to
	carried map[[2]string]int  // bytes
	conns   map[net.Conn]struct{}
	doors   []net.Listener
	over    bool
}

// NewNetwork makes a network in which everything passes.
func NewNetwork(t testing.TB) *Network {
	n := &Network{t: t, blocked: map[[2]string]bool{}, carried: map[[2]string]int{}, conns: map[net.Conn]struct{}{}}
	n.changed = sync.NewCond(&n.mu)
	t.Cleanup(n.close)
	return n
}

// Door makes the proxy before a node's route port, target, and returns its address.
func (n *Network) Door(node, target string) string {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.doors = append(n.doors, l)
	n.mu.Unlock()
	n.group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.group.Go(func() { n.pass(c, node, target) })
		}
	})
	return l.Addr().String()
}

// Cut holds up what goes from one node to another.
func (n *Network) Cut(from, to string) { n.set(from, to, true) }

// Isolate cuts a node off from the others, in both directions.
func (n *Network) Isolate(node string, others ...string) {
	for _, o := range others {
		n.Cut(node, o)
		n.Cut(o, node)
	}
}

// Heal has everything pass again.
func (n *Network) Heal() {
	n.mu.Lock()
	clear(n.blocked)
	n.changed.Broadcast()
	n.mu.Unlock()
}

func (n *Network) set(from, to string, blocked bool) {
	n.mu.Lock()
	n.blocked[[2]string{from, to}] = blocked
	n.changed.Broadcast()
	n.mu.Unlock()
}

// Carried is how many bytes went from one node to another.
func (n *Network) Carried(from, to string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.carried[[2]string{from, to}]
}

// await returns when bytes may pass from one node to another, and counts them; false: the test is over.
func (n *Network) await(from, to string, bytes int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.blocked[[2]string{from, to}] && !n.over {
		n.changed.Wait()
	}
	n.carried[[2]string{from, to}] += bytes
	return !n.over
}

// keep notes a connection to be closed at the end.
func (n *Network) keep(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over {
		c.Close()
		return false
	}
	n.conns[c] = struct{}{}
	return true
}

func (n *Network) drop(c net.Conn) {
	c.Close()
	n.mu.Lock()
	delete(n.conns, c)
	n.mu.Unlock()
}

// pass carries one connection to a node.
func (n *Network) pass(dialer net.Conn, node, target string) {
	if !n.keep(dialer) {
		return
	}
	defer n.drop(dialer)
	server, err := net.DialTimeout("tcp", target, time.Second)
	if err != nil || !n.keep(server) {
		return // the node is down: its port is closed, so the dialer sees that
	}
	defer n.drop(server)
	r := &routeEnds{node: node}
	var both sync.WaitGroup
	both.Go(func() {
		n.forward(dialer, server, func(b []byte) (string, string) { r.learn(b); return r.dialer(), node })
	})
	both.Go(func() { n.forward(server, dialer, func([]byte) (string, string) { return node, r.dialer() }) })
	both.Wait()
}

// routeEnds knows who speaks on a connection: a dialer tells its name in the first
// lines that it sends. Until then nothing is held up, which is less than a handshake.
type routeEnds struct {
	node string
	head []byte
	name atomic.Pointer[string]
}

func (r *routeEnds) dialer() string {
	if s := r.name.Load(); s != nil {
		return *s
	}
	return ""
}

// nameKey stands before a node's name.
var nameKey = []byte(`"server_name":"`)

func (r *routeEnds) learn(b []byte) {
	if r.name.Load() != nil || len(r.head) > 64<<10 {
		return
	}
	r.head = append(r.head, b...)
	_, rest, ok := bytes.Cut(r.head, nameKey)
	if !ok {
		return
	}
	if name, _, ok := bytes.Cut(rest, []byte(`"`)); ok {
		s := string(name)
		r.name.Store(&s)
		r.head = nil
	}
}

// forward copies until an end fails; ends tells from the bytes who speaks to whom.
func (n *Network) forward(from, to net.Conn, ends func([]byte) (string, string)) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		k, err := from.Read(buf)
		if k > 0 {
			a, b := ends(buf[:k])
			if !n.await(a, b, k) {
				return
			}
			if _, err := to.Write(buf[:k]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (n *Network) close() {
	n.mu.Lock()
	n.over = true
	n.changed.Broadcast()
	for _, l := range n.doors {
		l.Close()
	}
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.group.Wait()
}
