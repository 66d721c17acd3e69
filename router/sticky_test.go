package router

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func group(id string) Header { return Header{HeaderGroup, id} }

func TestAnExclusiveConsumerHasTheQueueAlone(t *testing.T) {
	h := start(t, nil)
	s, first, second := h.session(), h.session(), h.session()
	_, other := consume(t, s, "/queue/a", 10)
	exclusive := SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 2, Exclusive: true}
	_, a := subscribe(t, first, exclusive)
	_, b := subscribe(t, second, exclusive)
	for i := range 4 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	got := a.wait(t, "0", "1")
	if n := len(b.got()) + len(other.got()); n != 0 {
		t.Fatalf("others got %d messages", n)
	}
	info, err := h.QueueInfo(anyone, dest(t, "/queue/a"))
	if err != nil || len(info.Holders) != 3 || info.Holders[0].Exclusive || !info.Holders[1].Exclusive || info.Holders[2].Exclusive {
		t.Errorf("holders %+v, %v", info.Holders, err)
	}
	ack(t, got[0])
	a.wait(t, "0", "1", "2")
	// The next one that asked for it takes over, with what was not settled first.
	first.Close()
	b.wait(t, "1", "2")
	second.Close()
	other.wait(t, "1", "2", "3")
}

func TestExclusiveIsForQueues(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, a := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a"), Exclusive: true})
	_, b := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a")})
	mustPublish(t, s, "/topic/a", "x")
	a.wait(t, "x")
	b.wait(t, "x")
}

func TestAGroupStaysWithItsConsumer(t *testing.T) {
	h := start(t, nil)
	s, x, y := h.session(), h.session(), h.session()
	_, a := consume(t, x, "/queue/a", 1)
	_, b := consume(t, y, "/queue/a", 1)
	publishWith(t, s, "/queue/a", "g1", group("g"))
	publishWith(t, s, "/queue/a", "h1", group("h"))
	publishWith(t, s, "/queue/a", "g2", group("g"))
	publishWith(t, s, "/queue/a", "g3", group("g"))
	publishWith(t, s, "/queue/a", "h2", group("h"))
	publishWith(t, s, "/queue/a", "none")
	g := a.wait(t, "g1")
	// While the consumer of g is busy, the other one passes over its messages.
	ack(t, b.wait(t, "h1")[0])
	ack(t, b.wait(t, "h1", "h2")[1])
	b.wait(t, "h1", "h2", "none")
	ack(t, g[0])
	g = a.wait(t, "g1", "g2")
	// The consumer dies: its group goes on elsewhere, in order.
	x.Close()
	ack(t, b.got()[2])
	ack(t, b.wait(t, "h1", "h2", "none", "g2")[3])
	b.wait(t, "h1", "h2", "none", "g2", "g3")
	if err := g[1].Ack(nil, nil); ClassOf(err) != NotFound {
		t.Errorf("the dead consumer settled a message: %v", err)
	}
}

func TestTheGroupOfAConsumerThatTookNothingIsFreed(t *testing.T) {
	h := start(t, nil)
	s, slow := h.session(), h.session()
	_, a := consume(t, slow, "/queue/a", 1)
	publishWith(t, s, "/queue/a", "1", group("g"))
	ack(t, a.wait(t, "1")[0])
	a.setRefuse(true) // its connection is stuck
	_, b := consume(t, s, "/queue/a", 1)
	publishWith(t, s, "/queue/a", "2", group("g"))
	publishWith(t, s, "/queue/a", "other")
	b.wait(t, "other") // it has passed over 2
	slow.Close()
	ack(t, b.got()[0])
	b.wait(t, "other", "2")
}

func TestANegativeSequenceEndsTheGroup(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, a := consume(t, s, "/queue/a", 1)
	_, b := consume(t, s, "/queue/a", 1)
	publishWith(t, s, "/queue/a", "1", group("g"))
	a.wait(t, "1")
	publishWith(t, s, "/queue/a", "2", group("g"), Header{HeaderGroupSeq, "-1"})
	publishWith(t, s, "/queue/a", "3", group("g"))
	ack(t, a.got()[0])
	a.wait(t, "1", "2")
	b.wait(t, "3")
}

func TestGroupsWithSelectorsAndExclusiveConsumers(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, eu := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 9, Selector: selecting(t, "region = 'eu'")})
	publishWith(t, s, "/queue/a", "eu1", group("g"), region("eu"))
	eu.wait(t, "eu1")
	_, all := consume(t, s, "/queue/a", 9)
	publishWith(t, s, "/queue/a", "us", group("g"), region("us")) // its group's consumer does not want it
	publishWith(t, s, "/queue/a", "eu2", group("g"), region("eu"))
	all.wait(t, "us")
	eu.wait(t, "eu1", "eu2")
	_, sole := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 9, Exclusive: true})
	publishWith(t, s, "/queue/a", "x", group("g"), region("eu"))
	sole.wait(t, "x")
}

// A group stays with its consumer whatever node that is on, and goes on elsewhere, in order, when that node is lost.
func TestClusterGroups(t *testing.T) {
	c := startCluster(t, 2, nil)
	s := c.edges[1].session()
	_, a := consume(t, c.edges[0].session(), "/queue/q", 1)
	publishWith(t, s, "/queue/q", "g1", group("g"))
	g := a.wait(t, "g1")
	_, b := consume(t, c.edges[1].session(), "/queue/q", 1)
	for _, body := range []string{"g2", "h1", "g3", "h2"} {
		publishWith(t, s, "/queue/q", body, group(body[:1]))
	}
	ack(t, b.wait(t, "h1")[0]) // the messages of g wait for their consumer, which is busy
	h := b.wait(t, "h1", "h2")
	ack(t, g[0])
	a.wait(t, "g1", "g2")
	c.wires.setCut("n0", true)
	ack(t, h[1])
	h = b.wait(t, "h1", "h2", "g2")
	if !h[2].Redelivered() {
		t.Error("not marked")
	}
	ack(t, h[2])
	b.wait(t, "h1", "h2", "g2", "g3")
	if got := a.bodies(); len(got) != 2 {
		t.Errorf("the node that was lost has %v", got)
	}
}

func TestAnOperatorMovesWhatOthersAreBoundTo(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, in := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 1, Exclusive: true})
	for i := range 5 {
		publishWith(t, s, "/queue/a", fmt.Sprint(i), group("g"))
	}
	in.wait(t, "0")
	if n, err := h.Move(context.Background(), anyone, dest(t, "/queue/a"), dest(t, "/queue/b"), 0); err != nil || n != 4 {
		t.Fatalf("moved %d, %v", n, err)
	}
}

func TestIdleGroupsAreForgotten(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, a := consume(t, s, "/queue/a", 1)
	publishWith(t, s, "/queue/a", "kept", group("kept"))
	held := a.wait(t, "kept")[0]
	_, b := consume(t, s, "/queue/a", 1)
	box, err := h.existing(dest(t, "/queue/a"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxIdleGroups + 10 {
		publishWith(t, s, "/queue/a", fmt.Sprint(i), group(fmt.Sprint(i)))
		eventually(t, func() error {
			if got := b.got(); len(got) != i+1 {
				return fmt.Errorf("%d messages, want %d", len(got), i+1)
			}
			return nil
		})
		if err := b.got()[i].Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	box.mu.Lock()
	n, keptBy := len(box.groups.owners), box.groups.owners["kept"]
	box.mu.Unlock()
	if n > maxIdleGroups+1 || keptBy != held.sub {
		t.Errorf("%d groups are remembered, the held one by %v", n, keptBy)
	}
}

// TestGroupsAreWorkedOnInOrder: whatever consumers come, go, settle and give back, no
// two of them hold messages of one group, what each gets of a group ascends but for
// what was given back, and each message is settled once.
func TestGroupsAreWorkedOnInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := start(t, nil)
		defer h.stop()
		s := h.session()
		n := rapid.IntRange(1, 40).Draw(rt, "messages")
		type worker struct {
			session *Session
			in      *inbox
			done    int
		}
		var workers []*worker
		hire := func() {
			x := h.session()
			_, in := consume(t, x, "/queue/q", rapid.IntRange(1, 3).Draw(rt, "credit"))
			workers = append(workers, &worker{session: x, in: in})
		}
		hire()
		hire()
		for i := range n {
			var headers []Header
			if g := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(rt, "group"); g != "" {
				headers = append(headers, group(g))
			}
			publishWith(t, s, "/queue/q", fmt.Sprintf("%03d", i), headers...)
		}
		settled := map[string]int{}
		last := map[string]string{} // the group's last settled body
		eventually(t, func() error {
			checkHolders(rt, h)
			for _, w := range slices.Clone(workers) {
				for got := w.in.got(); w.done < len(got); w.done++ {
					d := got[w.done]
					switch rapid.IntRange(0, 5).Draw(rt, "act") {
					case 0:
						_ = d.Nack(0, "", nil, nil)
						continue
					case 1:
						w.session.Close()
						workers = slices.DeleteFunc(workers, func(x *worker) bool { return x == w })
						hire()
						return fmt.Errorf("a worker was replaced")
					}
					if err := d.Ack(nil, nil); err != nil {
						rt.Fatal(err)
					}
					body, g := string(d.Message.Body), groupOf(d.Message)
					settled[body]++
					if d.Count == 1 && g != "" && strings.Compare(last[g], body) > 0 && !d.Redelivered() {
						rt.Fatalf("group %s: %s came after %s", g, body, last[g])
					}
					last[g] = max(last[g], body)
				}
			}
			if len(settled) != n {
				return fmt.Errorf("%d of %d settled", len(settled), n)
			}
			return nil
		})
		for body, times := range settled {
			if times != 1 {
				rt.Fatalf("message %s was settled %d times", body, times)
			}
		}
	})
}

// checkHolders fails if two consumers hold messages of one group.
func checkHolders(rt *rapid.T, h *harness) {
	box, err := h.existing(dest(h.t, "/queue/q"))
	if err != nil {
		rt.Fatal(err)
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	holder := map[string]*Subscription{}
	for _, s := range box.subs {
		for d := s.held.head; d != nil; d = d.heldNext {
			g := groupOf(d.Message)
			if g == "" {
				continue
			}
			if holder[g] != nil && holder[g] != s {
				rt.Fatalf("two consumers hold messages of group %s", g)
			}
			holder[g] = s
		}
	}
}
