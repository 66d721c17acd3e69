package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

func (f *followed) Kept(m *Message, _ uint64, _ *outbox.Batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return false
	}
	f.got = append(f.got, string(m.Body))
	return true
}

// relink has an edge begin another link, as if something had been lost on the way.
func (e *edge) relink() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disconnect(errLinkGap)
	e.connect()
}

// A link breaks behind the answer that opened a subscription, before its asker has heard it: the next leader is asked for it as for
// any other.
func TestClusterSubscriptionOutlivesTheLinkThatOpenedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, nil)
		e := c.edges[0].edge
		opens := func() bool { // a subscription was asked for, and that is answered
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, x := range e.calls {
				if method(x.payload[0]) == methodSubscribe {
					return false
				}
			}
			for _, rs := range e.sessions {
				if len(rs.subs) > 0 {
					return true
				}
			}
			return false
		}
		for range 100 {
			s := c.edges[0].session()
			relinked := false
			c.wires.mu.Lock()
			c.wires.heard = func(address string) {
				if address == e.address && !relinked && opens() {
					relinked = true
					e.relink()
				}
			}
			c.wires.mu.Unlock()
			_, in := consume(t, s, "/queue/q", 1)
			c.wires.mu.Lock()
			c.wires.heard = nil
			c.wires.mu.Unlock()
			c.waitLinked(c.edges[0], true)
			mustPublish(t, s, "/queue/q", "x")
			ack(t, in.wait(t, "x")[0])
			s.Close()
		}
	})
}

// Who gives up waiting for its subscription does not have it: it may ask again.
func TestClusterSubscriptionInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		c.wires.setCut("n1", true) // it does not say that it knows of the subscription, until the leader takes it for lost
		s := c.edges[0].session()
		o := SubscribeOptions{Filter: filter(t, "/topic/t"), Durable: "d", Credit: 1, Receiver: &inbox{}}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.Subscribe(ctx, o); ClassOf(err) != Unavailable {
			t.Fatalf("subscribed: %v", err)
		}
		if _, err := s.Subscribe(t.Context(), o); err != nil {
			t.Error(err)
		}
	})
}

// A node that has no leader gives its clients nothing more of what it has from an earlier one: that is given to others.
func TestClusterNodeWithoutALeaderGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		sub, in := consume(t, c.edges[0].session(), "/queue/q", 1)
		in.setRefuse(true)
		p := c.edges[1].session()
		mustPublish(t, p, "/queue/q", "x")
		synctest.Wait()
		c.edges[0].FollowLeader("")
		_, other := consume(t, p, "/queue/q", 1)
		other.wait(t, "x")
		in.setRefuse(false)
		sub.Resume(nil)
		if got := in.bodies(); len(got) != 0 {
			t.Errorf("it gives %v", got)
		}
	})
}

// A node that was paused takes nothing of what lay in its buffers: the leader has given it to others.
func TestClusterPausedNodeTakesNothingLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		_, in := consume(t, c.edges[0].session(), "/queue/q", 1)
		e := c.edges[0].edge
		e.echoedMs.Store(time.Now().Add(-time.Minute).UnixMilli())
		mustPublish(t, c.edges[1].session(), "/queue/q", "x")
		if d := in.wait(t, "x")[0]; !d.Redelivered() {
			t.Error("it came by the link that has ended")
		}
	})
}

// What an earlier leader gave and is on its way still, when the next one was told what the client has in hands, does not reach the client:
// the next one gives it.
func TestClusterLateDeliveryIsTheNextLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, nil)
		s := c.edges[0].session()
		sub, in := consume(t, s, "/queue/q", 1)
		e := c.edges[0].edge
		before := e.link.id
		e.relink()
		b := binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(nil, sub.remote.id), 1), 1)
		m := &Message{To: dest(t, "/queue/q"), Body: []byte("late")}
		s.remote.stored(before, envelopeReader{b: m.AppendEnvelope(append(b, 0))})
		c.waitLinked(c.edges[0], true)
		mustPublish(t, s, "/queue/q", "x")
		in.wait(t, "x")
	})
}

// A publish that looked for its receivers before its node heard of a durable subscription, and is confirmed after that was, is stored.
func TestClusterPublishThatASubscriptionOvertakes(t *testing.T) {
	c := startCluster(t, 2, nil)
	s := c.edges[0].session()
	to := dest(t, "/topic/t")
	rt, err := s.route(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	_, in := subscribe(t, c.edges[1].session(), SubscribeOptions{Filter: filter(t, "/topic/t"), Durable: "d", Credit: 1})
	m := &Message{To: to, Body: []byte("x"), Flags: FlagPersistent}
	s.stamp(m)
	if _, err := s.storeAll(rt, m, nil); err != nil {
		t.Fatal(err)
	}
	in.wait(t, "x")
}

// gated is a receiver that takes a message when it is opened.
type gated struct {
	inbox
	first      sync.Once
	came, open chan struct{}
}

func (g *gated) Stored(d *Delivery, w *outbox.Batch) bool {
	g.first.Do(func() { close(g.came) }) // by the next link it may come again
	<-g.open
	return g.inbox.Stored(d, w)
}

// A front-end takes what it is given under a lock of its own, and tells the router of other things under that lock: where the link
// changes meanwhile, none of them waits for another for ever.
func TestClusterLinkChangesWhileAClientIsGivenSomething(t *testing.T) {
	c := startCluster(t, 1, nil)
	s := c.edges[0].session()
	g := &gated{came: make(chan struct{}), open: make(chan struct{})}
	sub, err := s.Subscribe(t.Context(), SubscribeOptions{Filter: filter(t, "/queue/q"), Receiver: g, Credit: 1})
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	m := &Message{To: dest(t, "/queue/q"), Body: []byte("x")}
	if _, err := s.Publish(t.Context(), m, nil, func(Stored, error, *outbox.Batch) {}); err != nil { // it is answered behind what is given
		t.Fatal(err)
	}
	<-g.came
	e := c.edges[0].edge
	var group sync.WaitGroup
	defer group.Wait()
	over := make(chan struct{})
	group.Go(func() {
		e.relink()
		sub.SetCredit(2, nil) // as the front-end would under its lock
		close(over)
	})
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Error("the link does not change while a client is given something")
	}
	close(g.open)
	eventually(t, func() error {
		if len(g.bodies()) == 0 {
			return errors.New("nothing came")
		}
		return nil
	})
}

// gatedHistory takes a message of a history when it is opened.
type gatedHistory struct {
	followed
	came, open chan struct{}
}

func (g *gatedHistory) Kept(m *Message, seq uint64, w *outbox.Batch) bool {
	close(g.came)
	<-g.open
	return g.followed.Kept(m, seq, w)
}

func TestClusterLinkChangesWhileAFollowerIsGivenSomething(t *testing.T) {
	c := startCluster(t, 1, func(o *Options) { o.History = func(Address) (int, time.Duration) { return 10, 0 } })
	s := c.edges[0].session()
	mustPublish(t, s, "/topic/room", "x")
	g := &gatedHistory{came: make(chan struct{}), open: make(chan struct{})}
	f, _, err := s.Follow(t.Context(), dest(t, "/topic/room"), HistoryStart{Last: 1}, g)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { f.Start(nil) })
	<-g.came
	over := make(chan struct{})
	group.Go(func() {
		c.edges[0].edge.relink()
		close(over)
	})
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Error("the link does not change while a follower is given something")
	}
	close(g.open)
	eventually(t, func() error {
		if got := g.bodies(); len(got) != 1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// A node that begins another link says what its clients have in hands, when the leader knows that it went back by the link before: it does
// not come to another client.
func TestClusterRelinkKeepsWhatIsInHand(t *testing.T) {
	c := startCluster(t, 2, nil)
	s := c.edges[0].session()
	_, in := consume(t, s, "/queue/q", 1)
	mustPublish(t, s, "/queue/q", "x")
	d := in.wait(t, "x")[0]
	for range 100 {
		c.edges[0].edge.relink()
		c.waitLinked(c.edges[0], true)
		mustPublish(t, s, "/queue/other", "the leader has heard of all that went before")
	}
	ack(t, d)
	mustPublish(t, s, "/queue/q", "y")
	in.wait(t, "x", "y")
}
