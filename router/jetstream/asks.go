package jetstream

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	askSubject = "mqgate.known"
	// askPatience is how long a node is waited for that is in touch and does not answer.
	askPatience = 3 * time.Second
)

// asks tell when the other nodes know of an interest. A question to them goes the way that the interest went, by the same
// connections and behind it: who answers has the interest. One question serves all interests that came before it.
type asks struct {
	conn   *nats.Conn
	node   *Node
	inbox  string
	end    <-chan struct{}
	group  *sync.WaitGroup
	answer chan *nats.Msg

	mu      sync.Mutex
	waiting []chan struct{}
	asking  bool
	number  uint64 // of the last question; the asking goroutine's
}

func newAsks(conn *nats.Conn, n *Node, end <-chan struct{}, group *sync.WaitGroup) (*asks, error) {
	a := &asks{conn: conn, node: n, inbox: nats.NewInbox() + ".", end: end, group: group, answer: make(chan *nats.Msg, 256)}
	name := []byte(n.opt.NodeName)
	// The connection does not hear what it sends itself.
	if _, err := conn.Subscribe(askSubject, func(m *nats.Msg) { _ = m.Respond(name) }); err != nil {
		return nil, fmt.Errorf("listen for questions of other nodes: %w", err)
	}
	if _, err := conn.ChanSubscribe(a.inbox+"*", a.answer); err != nil {
		return nil, fmt.Errorf("listen for answers of other nodes: %w", err)
	}
	return a, nil
}

// join returns what is closed when all nodes that are in touch know what this node has subscribed to so far.
func (a *asks) join() <-chan struct{} {
	known := make(chan struct{})
	if len(a.node.inTouch()) == 0 {
		close(known)
		return known
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, known)
	if !a.asking {
		a.asking = true
		a.group.Go(a.run) // ends when nobody waits
	}
	return known
}

// run asks until nobody waits.
func (a *asks) run() {
	for {
		a.mu.Lock()
		waiting := a.waiting
		a.waiting = nil
		a.asking = len(waiting) > 0
		a.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		a.ask()
		for _, known := range waiting {
			close(known)
		}
	}
}

// ask returns when every node has answered that is in touch.
func (a *asks) ask() {
	a.number++
	number := strconv.FormatUint(a.number, 10)
	if a.conn.PublishRequest(askSubject, a.inbox+number, nil) != nil {
		return // the node stops
	}
	answered := map[string]bool{}
	patience, look := time.NewTimer(askPatience), time.NewTicker(lookEvery)
	defer patience.Stop()
	defer look.Stop()
	for !answeredBy(a.node.inTouch(), answered) {
		select {
		case m := <-a.answer:
			if strings.TrimPrefix(m.Subject, a.inbox) == number {
				answered[string(m.Data)] = true
			}
		case <-look.C: // one may not be in touch any more
		case <-patience.C:
			a.node.log.Warn("a node does not say that it knows of new subscriptions; they may miss its messages for a moment", "answers", len(answered))
			return
		case <-a.end:
			return
		}
	}
}

func answeredBy(nodes []string, answered map[string]bool) bool {
	for _, n := range nodes {
		if !answered[n] {
			return false
		}
	}
	return true
}
