package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

func TestClusterQueueIsSharedByAllNodes(t *testing.T) {
	c := startCluster(t, 2, nil)
	a, b := c.edges[0].session(), c.edges[1].session()
	_, in := consume(t, b, "/queue/q", 2)
	for i := range 4 {
		mustPublish(t, a, "/queue/q", fmt.Sprint(i))
	}
	ds := in.wait(t, "0", "1") // as many as the credit allows
	ack(t, ds[0])
	in.wait(t, "0", "1", "2")
	if err := ds[0].Ack(nil, nil); ClassOf(err) != NotFound {
		t.Errorf("acknowledged twice: %v", err)
	}
	if err := ds[1].Nack(0, "no", nil, nil); err != nil {
		t.Fatal(err)
	}
	ds = in.wait(t, "0", "1", "2", "1")
	if d := ds[3]; d.Count != 2 || !d.Redelivered() {
		t.Errorf("count %d, redelivered %v", d.Count, d.Redelivered())
	}
	if err := ds[3].AckUpTo(nil, nil); err != nil {
		t.Fatal(err)
	}
	in.wait(t, "0", "1", "2", "1", "3")
	b.Close() // what it held is given to another
	_, other := consume(t, a, "/queue/q", 10)
	if d := other.wait(t, "3")[0]; !d.Redelivered() {
		t.Error("not marked")
	}
}

func TestClusterConsumerThatIsFullGetsTheRestLater(t *testing.T) {
	c := startCluster(t, 1, nil)
	s := c.edges[0].session()
	sub, in := consume(t, s, "/queue/q", 10)
	in.setRefuse(true)
	for i := range 3 {
		mustPublish(t, s, "/queue/q", fmt.Sprint(i))
	}
	c.core.waitDepth("/queue/q", 3)
	in.setRefuse(false)
	eventually(t, func() error {
		sub.Resume(nil)
		if n := len(in.bodies()); n != 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	in.wait(t, "0", "1", "2")
	in.setRefuse(true)
	mustPublish(t, s, "/queue/q", "3")
	eventually(t, func() error {
		if info, err := c.core.QueueInfo(anyone, dest(t, "/queue/q")); err != nil || info.Unacked != 4 {
			return fmt.Errorf("%+v %v", info, err)
		}
		return nil
	})
	sub.Close(nil)
	_, again := consume(t, s, "/queue/q", 10)
	ds := again.wait(t, "0", "1", "2", "3")
	if ds[0].Count != 2 || ds[3].Redelivered() || ds[3].Count != 1 {
		t.Errorf("what the client never saw counts as delivered: %d %d", ds[0].Count, ds[3].Count)
	}
}

func TestClusterTopicReachesLiveSubscribersOnce(t *testing.T) {
	c := startCluster(t, 3, nil)
	var ins []*inbox
	for _, e := range c.edges {
		for range 2 {
			_, in := consume(t, e.session(), "/topic/a.*", 1)
			ins = append(ins, in)
		}
	}
	mustPublish(t, c.edges[1].session(), "/topic/a.b", "x")
	for _, in := range ins {
		in.wait(t, "x")
	}
}

// A node that dies: what its sessions held goes back, their wills are published, and their clients may come elsewhere.
func TestClusterNodeLoss(t *testing.T) {
	c := startCluster(t, 2, nil)
	s, err := c.edges[0].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	will := &Will{Message: &Message{To: dest(t, "/queue/wills"), Body: []byte("gone"), Priority: DefaultPriority}}
	if x, _ := claim(t, s, ClaimOptions{Expiry: time.Hour, Will: will}); x == nil {
		t.Fatal("no session")
	}
	clean, err := c.edges[0].Connect(SessionOptions{Principal: anyone, ClientID: "clean", Kick: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	will2 := &Will{Message: &Message{To: dest(t, "/queue/wills"), Body: []byte("clean gone"), Priority: DefaultPriority}}
	claim(t, clean, ClaimOptions{Clean: true, Will: will2})
	other := c.edges[1].session()
	_, held := consume(t, c.edges[0].session(), "/queue/q", 1)
	mustPublish(t, other, "/queue/q", "x")
	held.wait(t, "x")
	c.wires.setCut("n0", true)
	_, in := consume(t, other, "/queue/q", 1)
	if d := in.wait(t, "x")[0]; !d.Redelivered() {
		t.Error("not marked")
	}
	if c.edges[0].Linked() {
		t.Error("the lost node took part still when others got what it held")
	}
	_, wills := consume(t, other, "/queue/wills", 10)
	eventually(t, func() error {
		if n := len(wills.bodies()); n != 2 {
			return fmt.Errorf("%v", wills.bodies())
		}
		return nil
	})
	m := &Message{To: dest(t, "/queue/q"), Body: []byte("refused"), Flags: FlagPersistent}
	if err := publish(t, c.edges[0].session(), m); ClassOf(err) != Unavailable || !strings.Contains(err.Error(), "try again, or another node") {
		t.Errorf("cut off, it says %v", err)
	}
	c.wires.setCut("n0", false)
	c.waitLinked(c.edges[0], true)
	mustPublish(t, c.edges[0].session(), "/queue/q2", "again")
}

// TestClusterWillIsForgottenBeforeTheConnectionEnds: who has seen the connection end after DISCONNECT has no will any more, whatever
// becomes of the node.
func TestClusterWillIsForgottenBeforeTheConnectionEnds(t *testing.T) {
	c := startCluster(t, 1, nil)
	for i := range 50 {
		s, err := c.edges[0].Connect(SessionOptions{Principal: anyone, ClientID: fmt.Sprint("left ", i), Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		claim(t, s, ClaimOptions{Clean: true, Will: &Will{Message: &Message{To: dest(t, "/queue/wills"), Body: []byte("never")}}})
		s.Close()
		d := c.core.durables
		d.mu.Lock()
		if n := len(d.all); n != 0 {
			t.Errorf("the leader keeps %d wills", n)
		}
		d.mu.Unlock()
	}
}

func TestClusterTransaction(t *testing.T) {
	c := startCluster(t, 2, nil)
	s := c.edges[0].session()
	_, in := consume(t, s, "/queue/in", 1)
	_, live := consume(t, s, "/topic/t", 1)
	_, far := consume(t, c.edges[1].session(), "/topic/t", 1)
	mustPublish(t, s, "/queue/in", "job")
	d := in.wait(t, "job")[0]
	answer := make(chan error, 1)
	ms := []*Message{{To: dest(t, "/queue/a"), Body: []byte("1")}, {To: dest(t, "/queue/b"), Body: []byte("2")}, {To: dest(t, "/topic/t"), Body: []byte("3")}}
	if err := s.Commit(context.Background(), ms, []*Delivery{d}, nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	for q, want := range map[string]int{"/queue/a": 1, "/queue/b": 1, "/queue/in": 0} {
		if got := c.core.depth(q); got != want {
			t.Errorf("%s has %d, want %d", q, got, want)
		}
	}
	live.wait(t, "3")
	far.wait(t, "3")
}

func TestClusterRetainedSharedTemporaryAndQuestions(t *testing.T) {
	c := startCluster(t, 2, nil)
	a, b := c.edges[0].session(), c.edges[1].session()
	if err := publish(t, a, &Message{To: dest(t, "/topic/r/1"), Body: []byte("kept"), Flags: FlagRetain}); err != nil {
		t.Fatal(err)
	}
	ms, err := b.Retained(mqttFilter(t, "r/+"))
	if err != nil || len(ms) != 1 || string(ms[0].Body) != "kept" {
		t.Fatalf("retained: %v %v", ms, err)
	}
	var members []*inbox
	for _, s := range []*Session{a, b} {
		in := &inbox{}
		sub, err := s.SubscribeShared("g", SubscribeOptions{Filter: mqttFilter(t, "s/+"), Receiver: in})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
		members = append(members, in)
	}
	for i := range 10 {
		mustPublish(t, a, "/topic/s/1", fmt.Sprint(i))
	}
	eventually(t, func() error {
		if n, m := len(members[0].bodies()), len(members[1].bodies()); n != 5 || m != 5 {
			return fmt.Errorf("%d and %d of 10", n, m)
		}
		return nil
	})
	reply, err := a.TemporaryQueue("answers")
	if err != nil {
		t.Fatal(err)
	}
	in := &inbox{}
	sub, err := a.Subscribe(context.Background(), SubscribeOptions{Filter: FilterOf(reply), Receiver: in, Credit: 1})
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	if err := publish(t, b, &Message{To: reply, Body: []byte("answer")}); err != nil {
		t.Fatal(err)
	}
	in.wait(t, "answer")
	if _, err := b.Subscribe(context.Background(), SubscribeOptions{Filter: FilterOf(reply), Receiver: in, Credit: 1}); ClassOf(err) != Denied {
		t.Errorf("another took from it: %v", err)
	}
	if got, err := c.edges[0].Ask(context.Background(), []byte("q")); err != nil || string(got) != "re: q" {
		t.Errorf("%q %v", got, err)
	}
}

// followed keeps what a history gives.
type followed struct {
	mu   sync.Mutex
	got  []string
	full bool
}

func (f *followed) Missed(uint64, *outbox.Batch) {}

func (f *followed) bodies() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.got...)
}

func TestClusterHistoryAndPresence(t *testing.T) {
	c := startCluster(t, 2, func(o *Options) { o.History = func(Address) (int, time.Duration) { return 5000, 0 } })
	a, b := c.edges[0].session(), c.edges[1].session()
	n := 3 * followWindow
	for i := range n {
		mustPublish(t, a, "/topic/room", fmt.Sprint(i))
	}
	rc := &followed{full: true}
	f, p, err := b.Follow(context.Background(), dest(t, "/topic/room"), HistoryStart{Last: n}, rc)
	if err != nil || p.Epoch == 0 || p.First == 0 {
		t.Fatalf("%+v %v", p, err)
	}
	f.Start(nil)
	rc.mu.Lock()
	rc.full = false
	rc.mu.Unlock()
	f.Resume(nil)
	mustPublish(t, a, "/topic/room", "live")
	eventually(t, func() error {
		if got := rc.bodies(); len(got) != n+1 || got[0] != "0" || got[n] != "live" {
			return fmt.Errorf("%d messages", len(got))
		}
		return nil
	})
	consume(t, a, "/topic/*", 1)
	people, err := a.Present(context.Background(), dest(t, "/topic/room"))
	if err != nil || len(people) != 2 {
		t.Fatalf("present: %v %v", people, err)
	}
	people, err = b.Present(context.Background(), dest(t, "/topic/room"))
	if err != nil || len(people) != 2 {
		t.Fatalf("present: %v %v", people, err)
	}
	before := b.router.PresenceRevision()
	a.Close()
	eventually(t, func() error {
		if b.router.PresenceRevision() == before {
			return errors.New("the other node does not notice that someone left")
		}
		return nil
	})
	f.Close()
}

// A chunk that is lost on the way ends the link; the next one begins afresh.
func TestClusterLinkNoticesLoss(t *testing.T) {
	c := startCluster(t, 1, nil)
	s := c.edges[0].session()
	mustPublish(t, s, "/queue/q", "0")
	c.wires.setCut("n0", true)
	_, _ = s.Publish(context.Background(), &Message{To: dest(t, "/queue/q"), Body: []byte("1"), Flags: FlagPersistent}, nil, func(Stored, error, *outbox.Batch) {})
	time.Sleep(10 * time.Millisecond) // it is sent, and lost
	c.wires.setCut("n0", false)
	mustPublish(t, s, "/queue/q", "2")
	_, in := consume(t, s, "/queue/q", 10)
	in.wait(t, "0", "1", "2")
}

func TestClusterBrowseBindAndExclusive(t *testing.T) {
	c := startCluster(t, 2, nil)
	a, b := c.edges[0].session(), c.edges[1].session()
	if err := a.BindQueue(context.Background(), filter(t, "/topic/orders.*"), dest(t, "/queue/bound")); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		m := &Message{To: dest(t, "/topic/orders.new"), Body: []byte(fmt.Sprint(i)), Flags: FlagPersistent}
		if err := publish(t, b, m); err != nil {
			t.Fatal(err)
		}
	}
	look, err := b.Browse(dest(t, "/queue/bound"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for more := true; more; {
		var page []PeekedMessage
		if page, more, err = look.Next(context.Background(), 2); err != nil {
			t.Fatal(err)
		}
		for _, p := range page {
			seen = append(seen, string(p.Message.Body))
		}
	}
	if fmt.Sprint(seen) != "[0 1 2 3 4]" {
		t.Errorf("browsed %v", seen)
	}
	if err := a.UnbindQueue(context.Background(), filter(t, "/topic/orders.*"), dest(t, "/queue/bound")); err != nil {
		t.Fatal(err)
	}
	_, sole := subscribe(t, a, SubscribeOptions{Filter: filter(t, "/queue/x"), Credit: 1, Exclusive: true})
	_, other := subscribe(t, b, SubscribeOptions{Filter: filter(t, "/queue/x"), Credit: 10})
	mustPublish(t, b, "/queue/x", "1")
	mustPublish(t, b, "/queue/x", "2")
	ack(t, sole.wait(t, "1")[0])
	sole.wait(t, "1", "2")
	if got := other.bodies(); len(got) != 0 {
		t.Errorf("an exclusive consumer's queue gave %v to another", got)
	}
	a.Close() // the queue is another's now, wherever that is
	other.wait(t, "2")
}

// TestClusterSharedGroupWaitsForDurableMembers: a group with a durable member has one mailbox for all nodes, and in a live one
// what a member leaves behind goes to a member on another node.
func TestClusterSharedGroupWaitsForDurableMembers(t *testing.T) {
	c := startCluster(t, 2, nil)
	f := mqttFilter(t, "s/+")
	member := func(s *Session) (*inbox, *Subscription) {
		in := &inbox{}
		sub, err := s.SubscribeShared("g", SubscribeOptions{Filter: f, Receiver: in, Credit: 10})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
		return in, sub
	}
	p := c.edges[1].session()
	b, subB := member(c.edges[1].session())
	a, _ := member(c.edges[0].session())
	for i := range 4 {
		mustPublish(t, p, "/topic/s/1", fmt.Sprint(i))
	}
	eventually(t, func() error {
		if len(a.bodies()) != 2 || len(b.bodies()) != 2 {
			return fmt.Errorf("%v and %v", a.bodies(), b.bodies())
		}
		return nil
	})
	b.mu.Lock()
	left := b.live
	b.mu.Unlock()
	subB.CloseAndReturn(left, nil)
	eventually(t, func() error {
		if len(a.bodies()) != 4 {
			return fmt.Errorf("%v", a.bodies())
		}
		return nil
	})

	s, err := c.edges[1].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	x, _ := claim(t, s, ClaimOptions{Expiry: time.Hour})
	if err := x.BindShared(context.Background(), "g", f); err != nil {
		t.Fatal(err)
	}
	d, subD := member(s)
	for i := range 4 {
		mustPublish(t, p, "/topic/s/1", fmt.Sprint("kept ", i))
	}
	eventually(t, func() error {
		if n, m := len(a.got()), len(d.got()); n != 2 || m != 2 {
			return fmt.Errorf("%d and %d of 4 were given", n, m)
		}
		return nil
	})
	if n, m := len(a.bodies()), len(d.bodies()); n != 4+2 || m != 2 { // four came before there was a mailbox
		t.Errorf("what is stored came live as well: %v and %v", a.bodies(), d.bodies())
	}
	subD.Close(nil) // unacknowledged: they go to the other node
	eventually(t, func() error {
		if n := len(a.got()); n != 4 {
			return fmt.Errorf("%d of 4 were given", n)
		}
		return nil
	})
}

// TestClusterPresence: who is present, and what they call themselves, is the same on every node, however they subscribed; who
// was on a node that dies leaves.
func TestClusterPresence(t *testing.T) {
	c := startCluster(t, 2, nil)
	named := func(e *harness, name, protocol string) *Session {
		s, err := e.Connect(SessionOptions{Principal: anyone, Protocol: protocol, Name: name, Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	room := dest(t, "/topic/room.1")
	here := func(e *harness) string {
		t.Helper()
		people, err := e.Present(context.Background(), room)
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, p := range people {
			all = append(all, p.Name+" "+p.Protocol)
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	expect := func(e *harness, want string) {
		t.Helper()
		eventually(t, func() error {
			if got := here(e); got != want {
				return fmt.Errorf("present are %q, not %q", got, want)
			}
			return nil
		})
	}
	a, b := c.edges[0], c.edges[1]
	consume(t, named(a, "Ann", "ws"), "/topic/room.1", 1)
	consume(t, named(b, "Bob", "ws"), "/topic/room.*", 1)
	device := named(b, "", "mqtt")
	subscribe(t, device, SubscribeOptions{Filter: filter(t, "/topic/room.1"), Durable: "device", Credit: 1})
	for _, e := range c.edges {
		expect(e, " mqtt, Ann ws, Bob ws")
	}
	before := a.PresenceRevision()
	device.Close()
	for _, e := range c.edges {
		expect(e, "Ann ws, Bob ws")
	}
	c.wires.setCut("n1", true)
	expect(a, "Ann ws")
	eventually(t, func() error {
		if a.PresenceRevision() == before {
			return errors.New("nobody was told to look")
		}
		return nil
	})
	c.wires.setCut("n1", false)
	for _, e := range c.edges {
		expect(e, "Ann ws, Bob ws")
	}
}
