package router

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mqgate/mqgate/router/outbox"
)

func durable(t testing.TB, s *Session, f string, change ...func(*SubscribeOptions)) (*Subscription, *inbox) {
	t.Helper()
	o := SubscribeOptions{Filter: filter(t, f), Durable: "d", Credit: 100}
	for _, c := range change {
		c(&o)
	}
	return subscribe(t, s, o)
}

func trySubscribe(s *Session, o SubscribeOptions) error {
	o.Receiver = &inbox{}
	_, err := s.Subscribe(context.Background(), o)
	return err
}

func TestDurableSubscriptionKeepsWhatCameWhileAway(t *testing.T) {
	h := start(t, nil)
	p, s := h.session(), h.session()
	_, in := durable(t, s, "/topic/a.*")
	mustPublish(t, p, "/topic/a.1", "1")
	ack(t, in.wait(t, "1")[0])
	s.Close()
	mustPublish(t, p, "/topic/a.2", "2")
	mustPublish(t, p, "/topic/b", "other")
	h.restart()
	p = h.session()
	mustPublish(t, p, "/topic/a.3", "3")
	_, in = durable(t, h.session(), "/topic/a.*")
	mustPublish(t, p, "/topic/a.4", "4")
	for _, d := range in.wait(t, "2", "3", "4") {
		if d.Redelivered() {
			t.Errorf("%s is marked, but was never delivered", d.Message.Body)
		}
		if d.Message.To != dest(t, "/topic/a."+string(d.Message.Body)) {
			t.Errorf("%s is for %v", d.Message.Body, d.Message.To)
		}
	}
}

func TestDurableSubscriptionHasOneUserAndOneConsumer(t *testing.T) {
	h := start(t, nil)
	ann, eve := h.sessionOf("ann"), h.sessionOf("eve")
	durable(t, ann, "/topic/a")
	o := SubscribeOptions{Filter: filter(t, "/topic/a"), Durable: "d", Credit: 1}
	if err := trySubscribe(eve, o); ClassOf(err) != Denied {
		t.Errorf("another user's durable subscription: %v", err)
	}
	if err := trySubscribe(h.sessionOf("ann"), o); ClassOf(err) != Conflict {
		t.Errorf("the same user's second connection: %v", err)
	}
	if err := eve.Unbind(context.Background(), "d", nil); ClassOf(err) != Denied {
		t.Errorf("delete another user's: %v", err)
	}
	if err := h.sessionOf("ann").Unbind(context.Background(), "d", nil); ClassOf(err) != Conflict {
		t.Errorf("delete while another connection uses it: %v", err)
	}
	if err := ann.Unbind(context.Background(), "nothing", nil); ClassOf(err) != NotFound {
		t.Errorf("delete what does not exist: %v", err)
	}
	if err := ann.Unbind(context.Background(), "d", nil); err != nil {
		t.Errorf("delete the own: %v", err)
	}
	if err := trySubscribe(ann, SubscribeOptions{Filter: filter(t, "/queue/a"), Durable: "d"}); ClassOf(err) != Invalid {
		t.Errorf("a durable subscription to a queue: %v", err)
	}
}

func TestDurableSubscriptionWithAnotherFilterIsNew(t *testing.T) {
	h := start(t, nil)
	p, s := h.session(), h.session()
	durable(t, s, "/topic/a")
	s.Close()
	mustPublish(t, p, "/topic/a", "old")
	_, in := durable(t, h.session(), "/topic/b")
	mustPublish(t, p, "/topic/a", "old too")
	mustPublish(t, p, "/topic/b", "new")
	in.wait(t, "new")
	h.restart()
	if n := len(h.bindings); n != 1 {
		t.Errorf("%d bindings after the restart", n)
	}
}

func TestUnboundSubscriptionIsGoneForGood(t *testing.T) {
	h := start(t, nil)
	p, s := h.session(), h.session()
	durable(t, s, "/topic/a")
	mustPublish(t, p, "/topic/a", "old")
	if err := s.Unbind(context.Background(), "d", nil); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, p, "/topic/a", "nobody wants it")
	h.crash()
	if n := len(h.mailboxes()); n != 0 {
		t.Errorf("%d mailboxes are left", n)
	}
	_, in := durable(t, h.session(), "/topic/a")
	mustPublish(t, h.session(), "/topic/a", "new")
	in.wait(t, "new")
}

func TestDurableNoLocal(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, in := durable(t, s, "/topic/a", func(o *SubscribeOptions) { o.NoLocal = true })
	mustPublish(t, s, "/topic/a", "own")
	mustPublish(t, h.session(), "/topic/a", "other")
	if err := s.Commit(context.Background(), []*Message{{To: dest(t, "/topic/a"), Body: []byte("own in a transaction")}}, nil, nil, ignoreDone); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, h.session(), "/topic/a", "last")
	in.wait(t, "other", "last")
}

func TestFullInboxDoesNotStopThePublisher(t *testing.T) {
	h := start(t, func(o *Options) { o.InboxPolicy = Policy{MaxLength: 2} })
	s := h.session()
	durable(t, s, "/topic/a")
	s.Close()
	for i := range 5 {
		mustPublish(t, h.session(), "/topic/a", fmt.Sprint(i))
	}
	if n := h.Stats.Dropped()[DropInboxFull]; n != 3 {
		t.Errorf("%d drops counted, want 3", n)
	}
	_, in := durable(t, h.session(), "/topic/a")
	in.wait(t, "0", "1")
}

func TestBoundQueueGetsOneCopyOfEachMessage(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	ctx := context.Background()
	for range 2 { // again is no error
		for _, f := range []string{"/topic/a.*", "/topic/>", "/topic/a.b"} {
			if err := s.BindQueue(ctx, filter(t, f), dest(t, "/queue/v")); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustPublish(t, s, "/topic/a.b", "1")
	h.restart()
	s = h.session()
	mustPublish(t, s, "/topic/a.b", "2")
	_, one := consume(t, s, "/queue/v", 1)
	_, two := consume(t, h.session(), "/queue/v", 1)
	one.wait(t, "1")
	two.wait(t, "2")
	h.waitDepth("/queue/v", 2)
}

func TestDeletedQueueIsUnbound(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	ctx := context.Background()
	if err := s.BindQueue(ctx, filter(t, "/topic/a"), dest(t, "/queue/v")); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, s, "/topic/a", "1")
	if err := h.DeleteQueue(ctx, anyone, dest(t, "/queue/v")); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, s, "/topic/a", "2")
	h.restart()
	if h.Queues() != 0 || len(h.bindings) != 0 {
		t.Errorf("%d queues, %d bindings after the restart", h.Queues(), len(h.bindings))
	}
}

func TestAFailedUnbindLeavesTheSubscriptionAsItWas(t *testing.T) {
	h, store := startTampered(t, nil)
	s := h.session()
	sub, _ := durable(t, s, "/topic/a")
	store.set(func() { store.bind = func(string, []byte) error { return errBroken } })
	if err := s.Unbind(context.Background(), "d", nil); ClassOf(err) != Unavailable {
		t.Fatalf("unbind while the store is broken: %v", err)
	}
	if err := trySubscribe(s, SubscribeOptions{Filter: filter(t, "/topic/b"), Durable: "e"}); ClassOf(err) != Unavailable {
		t.Fatalf("bind while the store is broken: %v", err)
	}
	store.set(func() { store.bind = nil })
	mustPublish(t, s, "/topic/a", "x")
	sub.Close(nil) // the unbind closed it, and no harm is done again
	_, in := durable(t, s, "/topic/a")
	in.wait(t, "x")
	h.crash()
	for _, b := range h.mailboxes() {
		if !strings.HasSuffix(b.id.Name, "d") {
			t.Errorf("an inbox that nothing feeds was kept: %v", b.id)
		}
	}
}

func TestPublishBesideAnUnbindSucceeds(t *testing.T) {
	h := start(t, nil)
	var stop atomic.Bool
	var published atomic.Int64
	var group sync.WaitGroup
	group.Go(func() {
		p := h.session()
		for !stop.Load() {
			if err := publish(t, p, &Message{To: dest(t, "/topic/a")}); err != nil {
				t.Errorf("a publisher hears of a subscriber's end: %v", err)
				return
			}
			published.Add(1)
		}
	})
	// Not before as much was published: on a busy machine the publisher may have begun late.
	for i := 0; (i < 200 || published.Load() < 200) && !t.Failed(); i++ {
		s := h.session()
		durable(t, s, "/topic/a")
		if err := s.Unbind(context.Background(), "d", nil); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	stop.Store(true)
	group.Wait()
}

func TestDoneWaitsForEveryCopy(t *testing.T) {
	h, store := startTampered(t, nil)
	s := h.session()
	for _, name := range []string{"one", "two", "three"} {
		if err := s.BindQueue(context.Background(), filter(t, "/topic/a"), dest(t, "/queue/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, fails := range []bool{false, true} {
		held := make(chan func(), 1)
		store.set(func() {
			store.append = func(l Log, id MailboxID, e []byte, dedup string, done Done) {
				switch {
				case id.Name != "two":
					l.Append(e, dedup, done)
				case fails:
					held <- func() { answer(done, Stored{}, errBroken) }
				default:
					held <- func() { l.Append(e, dedup, done) }
				}
			}
		})
		var answers atomic.Int64
		got := make(chan error, 3)
		if pending, err := s.Publish(context.Background(), &Message{To: dest(t, "/topic/a")}, nil, func(_ Stored, err error, _ *outbox.Batch) {
			answers.Add(1)
			got <- err
		}); !pending || err != nil {
			t.Fatal(pending, err)
		}
		want := 1
		if fails {
			want = 2
		}
		h.waitDepth("/queue/one", want)
		h.waitDepth("/queue/three", want)
		if answers.Load() != 0 {
			t.Fatal("answered before every copy was stored")
		}
		(<-held)()
		if err := <-got; (err != nil) != fails {
			t.Errorf("answered %v, one copy fails: %v", err, fails)
		}
		if answers.Load() != 1 {
			t.Errorf("%d answers", answers.Load())
		}
	}
}
