package router

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// A connection of a client without a session ended while its node had no leader, and the client has a session since, elsewhere: what
// the node says late of the old connection does not end that.
func TestClusterLateWordsLeaveALaterSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		s := c.edges[0].client("dev")
		claim(t, s, ClaimOptions{Clean: true, Will: lastWill(t)})
		c.wires.setCut("n0", true)
		c.waitLinked(c.edges[0], false)
		s.Close()
		time.Sleep(2 * leaderPatience) // the leader publishes the will: it cannot know
		s2 := c.edges[1].client("dev")
		d, _ := claim(t, s2, ClaimOptions{Expiry: time.Hour})
		s2.Close()
		if err := d.Leave(t.Context(), LeaveOptions{Expiry: time.Hour, State: []byte("kept")}); err != nil {
			t.Fatal(err)
		}
		c.wires.setCut("n0", false)
		c.waitLinked(c.edges[0], true)
		time.Sleep(time.Second)
		if d, present := claim(t, c.edges[1].client("dev"), ClaimOptions{Expiry: time.Hour}); !present || string(d.State()) != "kept" {
			t.Errorf("the session is lost: present %v", present)
		}
	})
}

// A connection says again, to another leader, that it owns its session, and is taken over before that is looked at: it does not get the
// session, for which the new owner would have to wait until the old one's node has given it up.
func TestClusterOldOwnerThatIsTakenOverClaimsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		old := h.client("dev")
		x, _ := claim(t, old, ClaimOptions{Expiry: time.Hour})
		old.Close()
		if err := x.Leave(t.Context(), LeaveOptions{Expiry: time.Hour}); err != nil {
			t.Fatal(err)
		}
		again, err := h.Connect(SessionOptions{Principal: anyone, ClientID: "dev", ID: old.ID, Since: old.Since, Again: true, Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // no two connections begin at the same time
		now := h.client("dev")
		if _, _, err := again.Claim(t.Context(), ClaimOptions{Expiry: time.Hour, Again: true}); !errors.Is(err, ErrTakenOver) {
			t.Errorf("the old owner's claim says %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := now.Claim(ctx, ClaimOptions{Expiry: time.Hour}); err != nil {
			t.Errorf("the new owner waits for it: %v", err)
		}
	})
}

// A claim that is made again does not wait for the owner that came after it, which is about to begin.
func TestClusterOldOwnerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := startTampered(t, nil)
		old := h.client("dev")
		x, _ := claim(t, old, ClaimOptions{Expiry: time.Hour, Will: &Will{Message: lastWill(t).Message, Delay: time.Minute}})
		leave(t, old, x, time.Hour)
		again, err := h.Connect(SessionOptions{Principal: anyone, ClientID: "dev", ID: old.ID, Since: old.Since, Again: true, Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		now := &Session{Principal: anyone, Vhost: DefaultVhost, Since: time.Now(), router: h.Router, client: old.client, kick: func(error) {}}
		store.set(func() { store.append = func(Log, MailboxID, []byte, string, Done) {} }) // its clean start publishes the will, for a while
		ended := make(chan struct{})
		go func() { // ends with the claim
			defer close(ended)
			_, _, _ = now.Claim(t.Context(), ClaimOptions{Clean: true, Expiry: time.Hour})
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := again.Claim(ctx, ClaimOptions{Expiry: time.Hour, Again: true}); !errors.Is(err, ErrTakenOver) {
			t.Errorf("it waited: %v", err)
		}
		<-ended
		store.set(func() { store.append = nil })
	})
}

// A transaction that waits for the next leader settles what its client has in hands since before that one led.
func TestClusterTransactionSettlesWhatAnEarlierLeaderGave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		s := c.edges[0].session()
		_, in := consume(t, s, "/queue/in", 1)
		mustPublish(t, s, "/queue/in", "job")
		mustPublish(t, s, "/queue/in", "next")
		d := in.wait(t, "job")[0]
		c.crash()
		answer := make(chan error, 1)
		ms := []*Message{{To: dest(t, "/queue/out"), Body: []byte("done")}}
		if err := s.Commit(t.Context(), ms, []*Delivery{d}, nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
			t.Fatal(err)
		}
		c.succeed()
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		in.wait(t, "job", "next")
		if n := c.core.depth("/queue/in"); n != 1 {
			t.Errorf("%d messages are left, want 1", n)
		}
	})
}

// What a transaction that is refused was to settle is in its client's hands still.
func TestClusterTransactionThatIsRefusedSettlesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{MaxLength: 1} } })
		s := c.edges[0].session()
		_, in := consume(t, s, "/queue/in", 1)
		mustPublish(t, s, "/queue/in", "job")
		mustPublish(t, s, "/queue/out", "full")
		d := in.wait(t, "job")[0]
		answer := make(chan error, 1)
		ms := []*Message{{To: dest(t, "/queue/out"), Body: []byte("done")}}
		if err := s.Commit(t.Context(), ms, []*Delivery{d}, nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; ClassOf(err) != Full {
			t.Fatalf("the transaction: %v", err)
		}
		ack(t, d)
		c.core.waitDepth("/queue/in", 0)
	})
}

// TestClusterNextLeaderKnowsWhoHadWhat: what only one client may work on stays that client's when the leader dies: the messages of a
// group, a queue that a consumer has alone, and what a member of a shared group has in hands.
func TestClusterNextLeaderKnowsWhoHadWhat(t *testing.T) {
	c := startCluster(t, 2, nil)
	first, second := c.edges[1].session(), c.edges[0].session()
	p := c.edges[0].session()

	grouped := func(body string) {
		t.Helper()
		m := &Message{To: dest(t, "/queue/groups"), Body: []byte(body), Headers: []Header{{Name: HeaderGroup, Value: "g"}}}
		if err := publish(t, p, m); err != nil {
			t.Fatal(err)
		}
	}
	_, owner := consume(t, first, "/queue/groups", 10)
	grouped("0")
	owner.wait(t, "0")
	_, other := consume(t, second, "/queue/groups", 10)

	// One queue for each order in which the next leader may hear of the consumers.
	alone := func(s *Session, queue string) *inbox {
		_, in := subscribe(t, s, SubscribeOptions{Filter: filter(t, queue), Credit: 10, Exclusive: true})
		return in
	}
	soles := map[string]*inbox{"/queue/alone.1": alone(first, "/queue/alone.1"), "/queue/alone.2": alone(second, "/queue/alone.2")}
	for queue, sole := range soles {
		mustPublish(t, p, queue, "0")
		sole.wait(t, "0")
	}
	spares := []*inbox{alone(second, "/queue/alone.1"), alone(first, "/queue/alone.2")}

	f := mqttFilter(t, "s/+")
	var members []*inbox
	for i, e := range c.edges {
		s, err := e.Connect(SessionOptions{Principal: anyone, ClientID: fmt.Sprint("member ", i), Kick: func(cause error) { t.Error(cause) }})
		if err != nil {
			t.Fatal(err)
		}
		x, _ := claim(t, s, ClaimOptions{Expiry: time.Hour})
		if err := x.BindShared(context.Background(), "g", f); err != nil {
			t.Fatal(err)
		}
		in := &inbox{}
		sub, err := s.SubscribeShared("g", SubscribeOptions{Filter: f, Receiver: in, Credit: 1})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
		members = append(members, in)
	}
	for i := range 3 {
		mustPublish(t, p, "/topic/s/1", fmt.Sprint(i))
	}
	hold := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if got := append(members[0].bodies(), members[1].bodies()...); len(got) != want {
				return fmt.Errorf("%v were given, want %d", got, want)
			}
			return nil
		})
	}
	hold(2)

	c.crash()
	c.succeed()
	grouped("1")
	owner.wait(t, "0", "1")
	for queue, sole := range soles {
		mustPublish(t, p, queue, "1")
		sole.wait(t, "0", "1")
	}
	ack(t, members[0].got()[0])
	hold(3)
	if len(members[0].got()) != 2 {
		t.Errorf("the members have %v and %v", members[0].bodies(), members[1].bodies())
	}
	other.wait(t)
	spares[0].wait(t)
	spares[1].wait(t)
}

// TestClusterTakeoverWaitsForTheOlderConnection: a client that comes on another node is connected when its older connection has ended.
func TestClusterTakeoverWaitsForTheOlderConnection(t *testing.T) {
	c := startCluster(t, 2, nil)
	connect := func(e *harness, kick func(error)) *Session {
		s, err := e.Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: kick})
		if err != nil {
			t.Error(err)
		}
		return s
	}
	kicked, connected := make(chan error, 1), make(chan struct{})
	old := connect(c.edges[0], func(cause error) { kicked <- cause })
	go func() { connect(c.edges[1], func(error) {}); close(connected) }()
	if cause := <-kicked; !errors.Is(cause, ErrTakenOver) {
		t.Errorf("kicked for %v", cause)
	}
	select {
	case <-connected:
		t.Error("connected while the older connection is there")
	case <-time.After(50 * time.Millisecond):
	}
	old.Close()
	<-connected
}

// An attempt to connect waits for a leader, and its client gives up and connects by another node. Whichever node has the next leader
// first, the later connection stays; also if it had an earlier leader, and with those that follow.
func TestClusterOlderAttemptTakesNothingFromALaterConnection(t *testing.T) {
	for _, x := range []struct {
		hadLeader bool   // the later one
		late      string // node to link
		refused   bool
	}{{false, "n0", true}, {false, "n1", false}, {true, "n0", true}, {true, "n1", false}} {
		t.Run(fmt.Sprint("hadLeader=", x.hadLeader, " late=", x.late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startCluster(t, 2, nil)
				for _, e := range c.edges {
					e.Hold(20 * time.Second)
				}
				attempt := func(e *harness, kick func(error)) chan error {
					out := make(chan error, 1)
					go func() { // ends when it has an answer
						_, err := e.Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: kick})
						out <- err
					}()
					time.Sleep(time.Second)
					return out
				}
				c.wires.setCut("n0", true)
				c.waitLinked(c.edges[0], false)
				if !x.hadLeader {
					c.crash()
				}
				older := attempt(c.edges[0], func(error) {})
				kicked := make(chan error, 1)
				later := attempt(c.edges[1], func(cause error) { kicked <- cause })
				if x.hadLeader {
					c.crash()
				}
				c.wires.setCut("n0", false)
				c.wires.setCut(x.late, true)
				c.succeed()
				time.Sleep(time.Second)
				c.wires.setCut(x.late, false)
				if err := <-later; err != nil {
					t.Errorf("the later connection: %v", err)
				}
				if err := <-older; errors.Is(err, ErrTakenOver) != x.refused {
					t.Errorf("the older attempt hears %v", err)
				}
				time.Sleep(2 * takeoverPatience)
				c.crash()
				c.succeed()
				time.Sleep(2 * takeoverPatience)
				select {
				case cause := <-kicked:
					t.Errorf("the later connection is ended: %v", cause)
				default:
				}
			})
		})
	}
}

// The leader keeps nothing of a connection that it refused.
func TestClusterRefusedConnectionLeavesNothing(t *testing.T) {
	c := startCluster(t, 1, nil)
	owner := c.edges[0].client("dev")
	other := NewPrincipal("other", "dev", false, nil)
	if _, err := c.edges[0].Connect(SessionOptions{Principal: other, ClientID: "dev", Kick: func(error) {}}); ClassOf(err) != Conflict {
		t.Fatalf("another user's connection: %v", err)
	}
	owner.Close()
	eventually(t, func() error {
		left := 0
		for _, l := range c.leader.allLinks() {
			c.leader.mu.Lock()
			left += len(l.shadows)
			c.leader.mu.Unlock()
		}
		if left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
}
