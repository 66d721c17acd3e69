package stomp

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/mqgate/mqgate/stomp/frame"
)

// ackModel is what a client in a client ack mode should see of one queue: which messages are unsettled, which of them are
// in its hands, and what its transaction has claimed.
type ackModel struct {
	c          *client
	cumulative bool
	prefetch   int

	subscribed bool
	next       int
	place      map[int]int      // of a message in the queue, once it is there
	ready      []int            // in the queue, in order of delivery
	hands      []int            // given to the client, in order
	ids        map[int]received // the last MESSAGE of each
	claimed    []int
	inTx       bool
	buffered   []int
}

// TestAckModel drives a connection by random steps and compares what it is given with the model after each.
func TestAckModel(t *testing.T) {
	fx := start(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		queue := fmt.Sprint("model-", run)
		m := &ackModel{
			c: fx.login(t, ActiveMQ, frame.V12), cumulative: rapid.Bool().Draw(rt, "cumulative"),
			prefetch: rapid.IntRange(1, 4).Draw(rt, "prefetch"), ids: map[int]received{}, place: map[int]int{},
		}
		defer m.c.conn.Close()
		m.send(queue)
		pick := func(rt *rapid.T) int {
			var free []int
			for _, n := range m.hands {
				if !slices.Contains(m.claimed, n) {
					free = append(free, n)
				}
			}
			if len(free) == 0 {
				rt.Skip("nothing to settle")
			}
			return rapid.SampledFrom(free).Draw(rt, "message")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(*rapid.T) { m.send(queue) },
			"send in transaction": func(rt *rapid.T) {
				if !m.inTx {
					rt.Skip()
				}
				m.c.frame("SEND", fmt.Sprint(m.next), "destination:/queue/"+queue, "transaction:t")
				m.buffered = append(m.buffered, m.next)
				m.next++
			},
			"subscribe": func(rt *rapid.T) {
				if m.subscribed {
					rt.Skip()
				}
				mode := map[bool]string{true: "client", false: "client-individual"}[m.cumulative]
				m.c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/"+queue, "ack:"+mode, fmt.Sprint("activemq.prefetchSize:", m.prefetch))
				m.subscribed = true
			},
			"unsubscribe": func(rt *rapid.T) {
				if !m.subscribed || len(m.claimed) > 0 {
					rt.Skip()
				}
				m.c.frame("UNSUBSCRIBE", "", "id:1")
				m.subscribed = false
				m.giveBack(m.hands)
			},
			"ack": func(rt *rapid.T) {
				n := pick(rt)
				m.c.frame("ACK", "", "id:"+m.ids[n].header("ack"))
				m.settle(m.covered(n))
			},
			"ack again": func(rt *rapid.T) {
				if m.next == 0 {
					rt.Skip()
				}
				n := rapid.IntRange(0, m.next-1).Draw(rt, "message")
				if _, seen := m.ids[n]; !seen || slices.Contains(m.hands, n) {
					rt.Skip()
				}
				m.c.frame("ACK", "", "id:"+m.ids[n].header("ack"))
				m.c.fails("Unexpected ACK")
			},
			"requeue": func(rt *rapid.T) {
				n := pick(rt)
				m.c.frame("NACK", "", "id:"+m.ids[n].header("ack"), "requeue:true")
				m.giveBack([]int{n})
			},
			"reject": func(rt *rapid.T) {
				n := pick(rt)
				m.c.frame("NACK", "", "id:"+m.ids[n].header("ack"))
				m.settle([]int{n})
			},
			"begin": func(rt *rapid.T) {
				if m.inTx {
					rt.Skip()
				}
				m.c.frame("BEGIN", "", "transaction:t")
				m.inTx = true
			},
			"ack in transaction": func(rt *rapid.T) {
				if !m.inTx {
					rt.Skip()
				}
				n := pick(rt)
				m.c.frame("ACK", "", "id:"+m.ids[n].header("ack"), "transaction:t")
				m.claimed = append(m.claimed, m.covered(n)...)
			},
			"commit": func(rt *rapid.T) {
				if !m.inTx {
					rt.Skip()
				}
				m.c.frame("COMMIT", "", "transaction:t")
				m.settle(m.claimed)
				m.arrive(m.buffered...)
				m.inTx, m.claimed, m.buffered = false, nil, nil
			},
			"abort": func(rt *rapid.T) {
				if !m.inTx {
					rt.Skip()
				}
				m.c.frame("ABORT", "", "transaction:t")
				m.inTx, m.claimed, m.buffered = false, nil, nil
			},
			"": func(rt *rapid.T) { m.check(rt) },
		})
		fx.depth(t, queue, len(m.ready)+len(m.hands), len(m.hands))
	})
}

func (m *ackModel) send(queue string) {
	m.c.frame("SEND", fmt.Sprint(m.next), "destination:/queue/"+queue)
	m.arrive(m.next)
	m.next++
}

func (m *ackModel) arrive(ns ...int) {
	for _, n := range ns {
		m.place[n] = len(m.place)
		m.ready = append(m.ready, n)
	}
}

// covered is what an acknowledgement of n settles, besides what the transaction has claimed.
func (m *ackModel) covered(n int) []int {
	if !m.cumulative {
		return []int{n}
	}
	var out []int
	for _, x := range m.hands {
		if !slices.Contains(m.claimed, x) {
			out = append(out, x)
		}
		if x == n {
			break
		}
	}
	return out
}

func (m *ackModel) settle(ns []int) {
	gone := slices.Clone(ns)
	m.hands = slices.DeleteFunc(m.hands, func(n int) bool { return slices.Contains(gone, n) })
}

func (m *ackModel) giveBack(ns []int) {
	ns = slices.Clone(ns)
	m.settle(ns)
	m.ready = append(m.ready, ns...)
	slices.SortFunc(m.ready, func(a, b int) int { return m.place[a] - m.place[b] }) // the head of the queue first
}

// check reads what the model says must come, and proves that no more comes.
func (m *ackModel) check(rt *rapid.T) {
	for m.subscribed && len(m.ready) > 0 && len(m.hands) < m.prefetch {
		f, err := m.c.read()
		if err != nil || f.command != frame.MESSAGE {
			rt.Fatalf("waiting for one of %v: got %v, %v", m.ready, f, err)
		}
		var n int
		if _, err := fmt.Sscan(f.body, &n); err != nil {
			rt.Fatal(err)
		}
		if n != m.ready[0] {
			rt.Fatalf("got %d, want %d: ready %v, in hands %v", n, m.ready[0], m.ready, m.hands)
		}
		_, before := m.ids[n]
		if (f.header("redelivered") == "true") != before {
			rt.Fatalf("message %d: redelivered:%s, delivered before: %v", n, f.header("redelivered"), before)
		}
		m.ready = m.ready[1:]
		m.hands = append(m.hands, n)
		m.ids[n] = f
	}
	m.c.nothing()
}
