package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mqgate/mqgate/router/outbox"
)

// deny refuses to read topics below a prefix, and all that its principal's name
// does not own.
type deny struct{ prefix string }

func (d deny) Authorize(p *Principal, a Action, addr Address) error {
	if a == ActionRead && strings.HasPrefix(addr.Name(), d.prefix) || a == ActionWrite && addr.Name() == "readonly" {
		return &Error{Op: a.String(), Class: Denied, Text: "not yours"}
	}
	return nil
}

func (d deny) AuthorizeFilter(p *Principal, a Action, f Filter) error {
	if strings.HasPrefix(f.Name(), d.prefix) {
		return &Error{Op: a.String(), Class: Denied, Text: "not yours"}
	}
	return nil
}

func (h *harness) sessionOf(user string) *Session {
	h.t.Helper()
	s, err := h.Connect(SessionOptions{Principal: NewPrincipal(user, "", false, nil), Kick: func(error) {}})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func TestLiveMessagesReachEveryMatchingSubscription(t *testing.T) {
	h := start(t, nil)
	p, s := h.session(), h.session()
	var ins []*inbox
	for _, f := range []string{"/topic/a.b", "/topic/a.*", "/topic/>", "/topic/a.b.>", "/topic/c", "/topic/*.c"} {
		_, in := consume(t, s, f, 1)
		ins = append(ins, in)
	}
	mustPublish(t, p, "/topic/a.b", "x")
	for i, want := range []int{1, 1, 1, 1, 0, 0} {
		if got := len(ins[i].bodies()); got != want {
			t.Errorf("subscription %d got %d, want %d", i, got, want)
		}
	}
	if got := h.Stats.Delivered.Load(); got != 4 {
		t.Errorf("%d deliveries counted", got)
	}
}

func TestNoLocalLeavesOutOnlyTheOwnMessages(t *testing.T) {
	h := start(t, nil)
	own, other := h.session(), h.session()
	_, in := subscribe(t, own, SubscribeOptions{Filter: filter(t, "/topic/a"), NoLocal: true})
	mustPublish(t, own, "/topic/a", "own")
	mustPublish(t, other, "/topic/a", "other")
	in.wait(t, "other")
}

func TestAPublishAfterStartArrivesThoughItsRouteIsCached(t *testing.T) {
	h := start(t, nil)
	p := h.session()
	for i := range 200 {
		s := h.session()
		f := []string{"/topic/a.b", "/topic/a.*", "/topic/>"}[i%3]
		sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, f), Receiver: &inbox{}})
		if err != nil {
			t.Fatal(err)
		}
		in := sub.receiver.(*inbox)
		mustPublish(t, p, "/topic/a.b", "early")
		if len(in.bodies()) != 0 {
			t.Fatal("a message came before Start")
		}
		sub.Start(nil)
		sub.Start(nil) // once is enough, twice no harm
		mustPublish(t, p, "/topic/a.b", "x")
		if got := in.bodies(); !slices.Equal(got, []string{"early", "x"}) {
			t.Fatalf("round %d: got %v", i, got)
		}
		if i%2 == 0 {
			sub.Close(nil)
		} else {
			s.Close()
		}
		mustPublish(t, p, "/topic/a.b", "late")
		if got := in.bodies(); len(got) != 2 {
			t.Fatalf("round %d: after the end got %v", i, got)
		}
	}
	if n := h.subs.len(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}

// TestSubscribeDuringPublishes is the same with publishers that never pause.
func TestSubscribeDuringPublishes(t *testing.T) {
	h := start(t, nil)
	var published atomic.Uint64
	var stop atomic.Bool
	var group sync.WaitGroup
	to := dest(t, "/topic/a.b")
	for range 2 {
		p := h.session()
		group.Go(func() {
			for !stop.Load() {
				n := published.Add(1)
				if _, err := p.Publish(context.Background(), &Message{To: to, Body: fmt.Append(nil, n)}, nil, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 100 {
		s := h.session()
		sub, in := consume(t, s, "/topic/a.*", 1)
		from := published.Load()
		for published.Load() < from+20 {
			if len(in.bodies()) > 10000 {
				break
			}
		}
		sub.Close(nil)
		s.Close()
		if got := len(in.bodies()); got < 15 {
			t.Fatalf("%d of at least 15 messages that were published after Start", got)
		}
	}
	stop.Store(true)
	group.Wait()
}

func TestStartOfAClosedSubscriptionLeavesNothing(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Receiver: &inbox{}})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	sub.Start(nil)
	if n := h.subs.len(); n != 0 {
		t.Errorf("%d subscriptions of a dead session", n)
	}
	if _, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Receiver: &inbox{}}); ClassOf(err) != Conflict {
		t.Errorf("subscribe on a closed session: %v", err)
	}
}

func TestDeliveryIsAuthorizedForEachTopic(t *testing.T) {
	h := start(t, func(o *Options) { o.Authorize = deny{"secret"} })
	p, s := h.session(), h.sessionOf("eve")
	_, live := consume(t, s, "/topic/>", 1)
	_, durable := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/>"), Durable: "d", Credit: 10})
	for _, to := range []string{"/topic/secret.x", "/topic/open", "/topic/secret.y"} {
		mustPublish(t, p, to, to)
	}
	live.wait(t, "/topic/open")
	durable.wait(t, "/topic/open")
	eventually(t, func() error {
		if n := h.Stats.Dropped()[DropDenied]; n != 2 {
			return fmt.Errorf("%d denied deliveries counted, want 2", n)
		}
		return nil
	})
	if _, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/secret.*"), Receiver: &inbox{}}); ClassOf(err) != Denied {
		t.Errorf("a filter of denied topics only: %v", err)
	}
	if err := publish(t, s, &Message{To: dest(t, "/topic/readonly")}); ClassOf(err) != Denied {
		t.Errorf("publish without the right: %v", err)
	}
	if err := s.Commit(context.Background(), []*Message{{To: dest(t, "/topic/open")}, {To: dest(t, "/topic/readonly")}}, nil, nil, ignoreDone); ClassOf(err) != Denied {
		t.Errorf("commit with a denied publish: %v", err)
	}
}

func TestClientsDoNotPublishToReservedTopics(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	a, err := ParseMQTTTopic("", "$SYS/x")
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t, s, &Message{To: a}); ClassOf(err) != Denied {
		t.Errorf("publish to $SYS: %v", err)
	}
	if err := s.Commit(context.Background(), []*Message{{To: a}}, nil, nil, ignoreDone); ClassOf(err) != Denied {
		t.Errorf("commit to $SYS: %v", err)
	}
}

func TestSlowLiveSubscribersAreCounted(t *testing.T) {
	h := start(t, nil)
	_, in := consume(t, h.session(), "/topic/a", 1)
	in.setRefuse(true)
	mustPublish(t, h.session(), "/topic/a", "x")
	if n := h.Stats.Dropped()[DropSlowConsumer]; n != 1 {
		t.Errorf("%d drops counted", n)
	}
}

// TestExpiredLiveMessagesReachNobody, on the publisher's node and on another.
func TestExpiredLiveMessagesReachNobody(t *testing.T) {
	c := startCluster(t, 2, nil)
	var ins []*inbox
	for _, e := range c.edges {
		_, in := consume(t, e.session(), "/topic/a", 1)
		ins = append(ins, in)
	}
	s := c.edges[0].session()
	if err := publish(t, s, &Message{To: dest(t, "/topic/a"), Body: []byte("late"), ExpiresUnixMs: 1}); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, s, &Message{To: dest(t, "/topic/a"), Body: []byte("in time"), ExpiresUnixMs: 1 << 50}); err != nil {
		t.Fatal(err)
	}
	for i, in := range ins {
		in.wait(t, "in time")
		if n := c.edges[i].Stats.Dropped()[DropExpired]; n != 1 {
			t.Errorf("node %d counts %d expired", i, n)
		}
	}
}

func TestTheSameClientAgainTakesOver(t *testing.T) {
	h := start(t, nil)
	var kicked []error
	connect := func(user string) (*Session, error) {
		return h.Connect(SessionOptions{Principal: NewPrincipal(user, "c1", false, nil), ClientID: "c1", Kick: func(err error) { kicked = append(kicked, err) }})
	}
	first, err := connect("ann")
	if err != nil {
		t.Fatal(err)
	}
	_, old := consume(t, first, "/queue/a", 5)
	mustPublish(t, first, "/queue/a", "x")
	old.wait(t, "x")
	if _, err := connect("bob"); ClassOf(err) != Conflict || len(kicked) != 0 {
		t.Fatalf("another user with the same client id: %v, kicked %v", err, kicked)
	}
	second, err := connect("ann")
	if err != nil {
		t.Fatal(err)
	}
	if len(kicked) != 1 || !errors.Is(kicked[0], ErrTakenOver) {
		t.Fatalf("kicked %v", kicked)
	}
	_, in := consume(t, second, "/queue/a", 5)
	if d := in.wait(t, "x")[0]; !d.Redelivered() {
		t.Error("what the old session held is not marked")
	}
	first.Close() // again, by its own connection's end
	if _, err := connect("bob"); ClassOf(err) != Conflict {
		t.Errorf("the end of the old session freed the new one's client id: %v", err)
	}
	second.Close()
	if _, err := connect("bob"); err != nil {
		t.Errorf("after all left: %v", err)
	}
	if other, err := h.Connect(SessionOptions{Principal: anyone, ClientID: "c1", Vhost: "tenant"}); err != nil {
		t.Errorf("the same client id in another vhost: %v", err)
	} else {
		other.Close()
	}
}

func TestConcurrentTakeoversLeaveOneSession(t *testing.T) {
	h := start(t, nil)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			var s *Session
			var err error
			s, err = h.Connect(SessionOptions{Principal: anyone, ClientID: "c", Kick: func(error) {}})
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/queue/a"), Receiver: &inbox{}, Credit: 1})
		})
	}
	group.Wait()
	if n := len(h.Sessions()); n != 1 {
		t.Errorf("%d sessions of one client", n)
	}
	if info, err := h.QueueInfo(anyone, dest(t, "/queue/a")); err == nil && info.Consumers > 1 {
		t.Errorf("%d consumers of one client", info.Consumers)
	}
}

func TestNothingBeginsWhileTheRouterStops(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	mustPublish(t, s, "/queue/a", "x")
	r := h.Router
	h.stop()
	if _, err := r.Connect(SessionOptions{Principal: anyone}); ClassOf(err) != Unavailable {
		t.Errorf("connect: %v", err)
	}
	if err := publish(t, s, &Message{To: dest(t, "/queue/a")}); ClassOf(err) != Unavailable {
		t.Errorf("publish: %v", err)
	}
	if _, err := r.Purge(context.Background(), anyone, dest(t, "/queue/a")); ClassOf(err) != Unavailable {
		t.Errorf("purge: %v", err)
	}
}

func TestAnswersToAGoneTemporaryQueueAreRefused(t *testing.T) {
	h := start(t, nil)
	owner, other := h.session(), h.session()
	a, err := owner.TemporaryQueue("replies")
	if err != nil {
		t.Fatal(err)
	}
	owner.Close()
	if err := publish(t, other, &Message{To: a}); ClassOf(err) != NotFound {
		t.Errorf("an answer after the requester left: %v", err)
	}
	if n := h.Queues(); n != 0 {
		t.Errorf("%d queues", n)
	}
	for _, name := range []string{"temp.x", "temp.a.b", "temp.-.x", "temporary"} {
		mustPublish(t, other, "/queue/"+name, "") // not of that form
	}
}

func TestTemporaryQueueWithItsConsumerLeavesNothing(t *testing.T) {
	h := start(t, nil)
	owner := h.session()
	a, err := owner.TemporaryQueue("r")
	if err != nil {
		t.Fatal(err)
	}
	_, in := subscribe(t, owner, SubscribeOptions{Filter: FilterOf(a), Credit: 1})
	for range 3 {
		if err := publish(t, h.session(), &Message{To: a}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if len(in.got()) != 1 {
			return fmt.Errorf("%d deliveries", len(in.got()))
		}
		return nil
	})
	d := in.got()[0]
	owner.Close()
	if err := d.Ack(nil, nil); ClassOf(err) != NotFound {
		t.Errorf("ack after the end: %v", err)
	}
	if h.Queues() != 0 || len(h.mailboxes()) != 0 {
		t.Errorf("%d queues, %d mailboxes", h.Queues(), len(h.mailboxes()))
	}
}

func TestMemoryLogForgetsOldDedupIDs(t *testing.T) {
	l := newMemoryLog()
	answers := make(chan Stored, 1)
	add := func(id string) Stored {
		l.Append(nil, id, func(s Stored, _ error, _ *outbox.Batch) { answers <- s })
		return <-answers
	}
	add("first")
	if !add("first").Duplicate {
		t.Error("a known id is stored twice")
	}
	for i := range memoryDedup {
		add(fmt.Sprint(i))
	}
	if len(l.dedup) > memoryDedup {
		t.Errorf("remembers %d ids", len(l.dedup))
	}
	if add("first").Duplicate {
		t.Error("an id is remembered for ever")
	}
}

// behind is a subscriber that falls behind and says so.
type behind struct {
	patient bool // it has caught up already
	held    []func(*outbox.Batch)
}

func (b *behind) Live(_ *Message, w *outbox.Batch) bool { w.Slow(b); return true }
func (b *behind) Stored(*Delivery, *outbox.Batch) bool  { return true }
func (b *behind) Hold(confirm func(*outbox.Batch)) bool {
	if b.patient {
		return false
	}
	b.held = append(b.held, confirm)
	return true
}

// A publish is confirmed when every subscriber that must lose nothing has caught up.
func TestAPublisherWaitsForWhoFallsBehind(t *testing.T) {
	h := start(t, nil)
	p, s := h.session(), h.session()
	slow := []*behind{{}, {}, {patient: true}}
	for _, b := range slow {
		sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Receiver: b})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
	}
	var w outbox.Batch
	confirmed := 0
	done := func(_ Stored, err error, _ *outbox.Batch) {
		if confirmed++; err != nil {
			t.Error(err)
		}
	}
	a, _ := filter(t, "/topic/a").Address()
	if pending, err := p.Publish(context.Background(), &Message{To: a}, &w, done); err != nil || !pending {
		t.Fatalf("pending %v, %v", pending, err)
	}
	for i, b := range slow[:2] {
		if confirmed != 0 || len(b.held) != 1 {
			t.Fatalf("subscriber %d: confirmed %d times, %d held", i, confirmed, len(b.held))
		}
		b.held[0](&w)
	}
	if confirmed != 1 {
		t.Errorf("confirmed %d times", confirmed)
	}
	slow[0].patient, slow[1].patient = true, true
	if pending, err := p.Publish(context.Background(), &Message{To: a}, &w, done); err != nil || pending && confirmed != 2 {
		t.Errorf("nobody is behind any more: pending %v, confirmed %d times, %v", pending, confirmed, err)
	}
	if pending, err := p.Publish(context.Background(), &Message{To: a}, &w, nil); err != nil || pending {
		t.Errorf("nobody waits for the confirmation: pending %v, %v", pending, err)
	}
}
