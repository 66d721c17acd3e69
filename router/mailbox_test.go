package router

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

func (h *harness) box(queue string) *Mailbox {
	h.t.Helper()
	b, err := h.existing(dest(h.t, queue))
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *harness) fill(queue string, n int) {
	h.t.Helper()
	s := h.session()
	to := dest(h.t, queue)
	var left sync.WaitGroup
	for i := range n {
		left.Add(1)
		if _, err := s.Publish(context.Background(), &Message{To: to, Body: fmt.Append(nil, i)}, nil, func(_ Stored, err error, _ *outbox.Batch) {
			if err != nil {
				h.t.Error(err)
			}
			left.Done()
		}); err != nil {
			h.t.Fatal(err)
		}
	}
	left.Wait()
	s.Close()
	if _, err := h.queue(context.Background(), to); err != nil {
		h.t.Fatal(err)
	}
}

func waitFor(t testing.TB, in *inbox, n int) []*Delivery {
	t.Helper()
	eventually(t, func() error {
		if got := len(in.got()); got < n {
			return fmt.Errorf("%d of %d messages", got, n)
		}
		return nil
	})
	return in.got()
}

func TestDetachDuringAReadLosesNothing(t *testing.T) {
	h, store := startTampered(t, nil)
	const n = 1200
	h.fill("/queue/a", n)
	reading, goOn := make(chan struct{}), make(chan struct{})
	var reads atomic.Int64
	store.set(func() {
		store.read = func(l Log, _ MailboxID, from uint64, k, size int) ([]Entry, error) {
			entries, err := l.Read(context.Background(), from, k, size)
			if reads.Add(1) == 2 {
				close(reading)
				<-goOn
			}
			return entries, err
		}
	})
	dying := h.session()
	_, in := consume(t, dying, "/queue/a", 2)
	<-reading // 512 are loaded, the next 512 were read
	waitFor(t, in, 2)
	dying.Close()
	close(goOn)
	_, all := consume(t, h.session(), "/queue/a", n)
	for i, d := range waitFor(t, all, n) {
		if string(d.Message.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, d.Message.Body)
		}
	}
}

func TestAnAppendDuringAnEmptyReadIsNotLost(t *testing.T) {
	h, store := startTampered(t, nil)
	h.fill("/queue/a", 3)
	_, in := consume(t, h.session(), "/queue/a", 3)
	got := waitFor(t, in, 3)
	ack(t, got[1])
	ack(t, got[2])
	h.restart()
	reading, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	store.set(func() {
		store.read = func(l Log, _ MailboxID, from uint64, _, size int) ([]Entry, error) {
			entries, err := l.Read(context.Background(), from, 1, size) // so that the settled ones are skipped
			if len(entries) == 0 {
				once.Do(func() { close(reading); <-goOn })
			}
			return entries, err
		}
	})
	_, in = consume(t, h.session(), "/queue/a", 5)
	<-reading // nothing is stored behind what is known
	mustPublish(t, h.session(), "/queue/a", "new")
	close(goOn)
	in.wait(t, "0", "new")
}

func TestUnansweredAppendIsDeliveredWithTheNext(t *testing.T) {
	for _, retry := range []bool{false, true} {
		h, store := startTampered(t, nil)
		_, in := consume(t, h.session(), "/queue/a", 10)
		s := h.session()
		mustPublish(t, s, "/queue/a", "1")
		in.wait(t, "1")
		store.set(func() {
			store.append = func(l Log, _ MailboxID, e []byte, dedup string, done Done) {
				l.Append(e, dedup, func(_ Stored, _ error, w *outbox.Batch) { done(Stored{}, errBroken, w) })
			}
		})
		lost := &Message{To: dest(t, "/queue/a"), Body: []byte("unsure"), DedupID: "7"}
		if err := publish(t, s, lost); ClassOf(err) != Unavailable {
			t.Fatal(err)
		}
		store.set(func() { store.append = nil })
		if retry {
			// The store knows the id, and says so: it must not be confirmed and forgotten.
			if err := publish(t, s, &Message{To: dest(t, "/queue/a"), Body: []byte("unsure"), DedupID: "7"}); err != nil {
				t.Fatal(err)
			}
			in.wait(t, "1", "unsure")
			continue
		}
		mustPublish(t, s, "/queue/a", "2")
		got := in.wait(t, "1", "unsure", "2")
		for _, d := range got {
			ack(t, d)
		}
		h.waitDepth("/queue/a", 0)
	}
}

func TestDamagedMessagesGoToTheDeadLetterQueueOnce(t *testing.T) {
	for _, target := range []string{"dead", ""} {
		h := start(t, func(o *Options) {
			o.QueuePolicy = func(a Address) Policy {
				if a.Name() == "dead" {
					return Policy{}
				}
				return Policy{DeadLetter: target}
			}
		})
		h.fill("/queue/dead", 0)
		h.fill("/queue/a", 3)
		l := h.store.logs[MailboxID{KindQueueBox, "/", "a"}]
		l.mu.Lock()
		l.entries[1].Envelope = append([]byte(nil), l.entries[1].Envelope...)
		l.entries[1].Envelope[9] ^= 1
		l.mu.Unlock()
		_, in := consume(t, h.session(), "/queue/a", 10)
		in.wait(t, "0", "2")
		h.waitDepth("/queue/a", 2)
		if target == "" {
			if n := h.Stats.Dropped()[DropRejected]; n != 1 {
				t.Errorf("%d drops counted", n)
			}
			continue
		}
		h.waitDepth("/queue/dead", 1)
		_, dead := consume(t, h.session(), "/queue/dead", 1)
		if reason, _ := waitFor(t, dead, 1)[0].Message.Header(HeaderDeadLetterReason); reason != ReasonDamaged {
			t.Errorf("reason %q", reason)
		}
	}
}

// far has the log skip sequences, as an inbox that shares a busy log does.
func far(l Log, _ MailboxID, e []byte, dedup string, done Done) {
	m := l.(*memoryLog)
	m.mu.Lock()
	m.last += 3 * reserveAhead
	m.mu.Unlock()
	l.Append(e, dedup, done)
}

func TestSequencesFarApartAreDeliveredWhileTheFirstIsHeld(t *testing.T) {
	h, store := startTampered(t, nil)
	s := h.session()
	_, in := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a"), Durable: "d", Credit: 10})
	store.set(func() { store.append = far })
	for i := range 5 {
		mustPublish(t, s, "/topic/a", fmt.Sprint(i))
	}
	in.wait(t, "0", "1", "2", "3", "4")
}

func TestIdleQueueForgetsItsConsumers(t *testing.T) {
	h := start(t, nil)
	h.fill("/queue/a", 0)
	for range 100 {
		s := h.session()
		consume(t, s, "/queue/a", 1)
		s.Close()
	}
	b := h.box("/queue/a")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hungry.len() != 0 || len(b.subs) != 0 {
		t.Errorf("%d hungry, %d attached", b.hungry.len(), len(b.subs))
	}
}

func TestAlarmsHoldAMailboxOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		_, in := consume(t, s, "/queue/a", 1000)
		for i := range 50 {
			if err := publish(t, s, &Message{To: dest(t, "/queue/a"), ExpiresUnixMs: time.Now().Add(time.Hour).UnixMilli()}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := in.got()[i].Ack(nil, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * saveEveryMs * time.Millisecond)
		}
		h.alarms.mu.Lock()
		n := len(h.alarms.heap)
		h.alarms.mu.Unlock()
		if n != 1 {
			t.Errorf("%d alarms for one mailbox", n)
		}
		h.stop()
	})
}

func TestExpiriesOfSettledMessagesAreForgotten(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	c := &counter{t: t, next: make(chan *Delivery, 1)}
	sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/queue/a"), Receiver: c, Credit: 1})
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	for range 5000 {
		if err := publish(t, s, &Message{To: dest(t, "/queue/a"), ExpiresUnixMs: time.Now().Add(24 * time.Hour).UnixMilli()}); err != nil {
			t.Fatal(err)
		}
		if err := (<-c.next).Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	b := h.box("/queue/a")
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.expiries); n > 1100 {
		t.Errorf("%d expiries are kept of an empty queue", n)
	}
}

func TestExpiryWithoutConsumersLetsTheLogBeTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{Expiry: time.Minute} } })
		h.fill("/queue/a", 100)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		b, l := h.box("/queue/a"), h.store.logs[MailboxID{KindQueueBox, "/", "a"}]
		b.mu.Lock()
		if b.ledger.count != 0 || len(b.ledger.skip) != 0 || b.ledger.floor() != 100 {
			t.Errorf("count %d, skip %d, floor %d", b.ledger.count, len(b.ledger.skip), b.ledger.floor())
		}
		b.mu.Unlock()
		l.mu.Lock()
		if len(l.entries) != 0 {
			t.Errorf("%d expired messages are still stored", len(l.entries))
		}
		l.mu.Unlock()
		h.stop()
	})
}

func TestExpiryScanAfterARestartDoesNotCountSettledOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		_, in := consume(t, s, "/queue/a", 10)
		for range 4 {
			if err := publish(t, s, &Message{To: dest(t, "/queue/a"), ExpiresUnixMs: time.Now().Add(time.Minute).UnixMilli()}); err != nil {
				t.Fatal(err)
			}
		}
		mustPublish(t, s, "/queue/a", "keeps")
		synctest.Wait()
		ack(t, in.got()[1])
		ack(t, in.got()[2])
		h.restart()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := h.depth("/queue/a"); got != 1 {
			t.Errorf("depth %d, want 1", got)
		}
		if n := h.Stats.Dropped()[DropExpired]; n != 2 {
			t.Errorf("%d expired, want 2", n)
		}
		_, in = consume(t, h.session(), "/queue/a", 10)
		synctest.Wait()
		if got := in.bodies(); len(got) != 1 || got[0] != "keeps" {
			t.Errorf("got %v", got)
		}
		h.stop()
	})
}

func TestARestartKeepsToTheDeliveriesThatAreAllowed(t *testing.T) {
	h := start(t, func(o *Options) {
		o.QueuePolicy = func(Address) Policy { return Policy{MaxDeliveries: 1, DeadLetter: "dead"} }
	})
	h.fill("/queue/a", 1)
	_, in := consume(t, h.session(), "/queue/a", 1)
	waitFor(t, in, 1)
	b := h.box("/queue/a")
	b.mu.Lock()
	b.save(nil) // the delivery is counted, and the process dies
	b.mu.Unlock()
	eventually(t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.saving {
			return fmt.Errorf("saving")
		}
		return nil
	})
	h.crash()
	h.fill("/queue/dead", 0)
	_, in = consume(t, h.session(), "/queue/a", 1)
	h.waitDepth("/queue/dead", 1)
	h.waitDepth("/queue/a", 0)
	if n := len(in.got()); n != 0 {
		t.Errorf("delivered %d times more than allowed", n)
	}
}

func TestByteLimitCountsWhatIsUnderWay(t *testing.T) {
	h, store := startTampered(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{MaxBytes: 1500} } })
	h.fill("/queue/a", 0)
	var held []func()
	store.set(func() {
		store.append = func(l Log, _ MailboxID, e []byte, dedup string, done Done) {
			held = append(held, func() { l.Append(e, dedup, done) })
		}
	})
	s := h.session()
	send := func() error {
		_, err := s.Publish(context.Background(), &Message{To: dest(t, "/queue/a"), Body: make([]byte, 800)}, nil, ignoreDone)
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if err := send(); ClassOf(err) != Full {
		t.Errorf("a second one while the first is under way: %v", err)
	}
	for _, f := range held {
		f()
	}
	h.waitDepth("/queue/a", 1)
}

func TestAQueueThatIsDeletedAndUsedAgainIsNew(t *testing.T) {
	h, store := startTampered(t, nil)
	h.fill("/queue/a", 3)
	removing, goOn := make(chan struct{}), make(chan struct{})
	store.set(func() {
		store.remove = func(Log, MailboxID) error { close(removing); <-goOn; return nil }
	})
	deleted := make(chan error, 1)
	go func() { deleted <- h.DeleteQueue(context.Background(), anyone, dest(t, "/queue/a")) }()
	<-removing
	published := make(chan error, 1)
	go func() {
		published <- publish(t, h.session(), &Message{To: dest(t, "/queue/a"), Body: []byte("new")})
	}()
	select {
	case err := <-published:
		t.Fatalf("published into a queue that is being removed: %v", err)
	case <-time.After(20 * time.Millisecond): // it cannot be seen to wait otherwise
	}
	close(goOn)
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	store.set(func() { store.remove = nil })
	h.crash()
	_, in := consume(t, h.session(), "/queue/a", 5)
	in.wait(t, "new")
}

func TestDeleteIsRefusedWhileThereAreConsumers(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	h.fill("/queue/a", 1)
	sub, _ := consume(t, s, "/queue/a", 1)
	if err := h.DeleteQueue(context.Background(), anyone, dest(t, "/queue/a")); ClassOf(err) != Conflict || !strings.Contains(TextOf(err), "1 consumers") {
		t.Errorf("delete: %v", err)
	}
	sub.Close(nil)
	if err := h.DeleteQueue(context.Background(), anyone, dest(t, "/queue/a")); err != nil {
		t.Error(err)
	}
	if h.Queues() != 0 {
		t.Errorf("%d queues", h.Queues())
	}
}

func TestPurgeBesideAReadAndAHeldMessage(t *testing.T) {
	h, store := startTampered(t, nil)
	h.fill("/queue/a", 1200)
	reading, goOn := make(chan struct{}), make(chan struct{})
	var reads atomic.Int64
	store.set(func() {
		store.read = func(l Log, _ MailboxID, from uint64, k, size int) ([]Entry, error) {
			entries, err := l.Read(context.Background(), from, k, size)
			if reads.Add(1) == 2 {
				close(reading)
				<-goOn
			}
			return entries, err
		}
	})
	_, in := consume(t, h.session(), "/queue/a", 1)
	<-reading
	first := waitFor(t, in, 1)[0]
	n, err := h.Purge(context.Background(), anyone, dest(t, "/queue/a"))
	if err != nil || n != 1199 {
		t.Fatalf("purged %d, %v", n, err)
	}
	close(goOn)
	mustPublish(t, h.session(), "/queue/a", "new")
	ack(t, first)
	in.wait(t, "0", "new")
	h.crash()
	if n := h.depth("/queue/a"); n != 1 {
		t.Errorf("depth %d after a crash, want 1", n)
	}
}

func TestMessagesThatCannotBeReadBackAreCounted(t *testing.T) {
	h := start(t, nil)
	const n = 2000
	h.fill("/queue/a", n)
	l := h.store.logs[MailboxID{KindQueueBox, "/", "a"}]
	l.mu.Lock()
	l.entries = append(l.entries[:5:5], l.entries[7:]...)
	l.mu.Unlock()
	_, in := consume(t, h.session(), "/queue/a", 10)
	waitFor(t, in, 10)
	if lost, depth := h.Stats.Damaged.Load(), h.depth("/queue/a"); lost != 2 || depth != n-2 {
		t.Errorf("%d counted as damaged, depth %d", lost, depth)
	}
}

func TestWhatADeadConsumerHasInHandsSettlesNothing(t *testing.T) {
	h := start(t, nil)
	mustPublish(t, h.session(), "/queue/a", "x")
	dying := h.session()
	_, first := consume(t, dying, "/queue/a", 1)
	old := first.wait(t, "x")[0]
	dying.Close()
	_, second := consume(t, h.session(), "/queue/a", 1)
	d := second.wait(t, "x")[0]
	for name, settle := range map[string]func() error{
		"ack":       func() error { return old.Ack(nil, nil) },
		"ack up to": func() error { return old.AckUpTo(nil, nil) },
		"nack":      func() error { return old.Nack(0, "", nil, nil) },
		"reject":    func() error { return old.Reject("", nil, nil) },
		"undeliver": func() error { return old.Undeliver(nil) },
	} {
		if err := settle(); ClassOf(err) != NotFound {
			t.Errorf("%s of what another holds now: %v", name, err)
		}
	}
	if old.Count != 1 || d.Count != 2 || old.Redelivered() || !d.Redelivered() {
		t.Errorf("counts %d and %d, marks %v and %v", old.Count, d.Count, old.Redelivered(), d.Redelivered())
	}
	h.waitDepth("/queue/a", 1)
	if err := d.Nack(0, "", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if len(second.got()) != 2 {
			return fmt.Errorf("not redelivered")
		}
		return nil
	})
	if err := d.Ack(nil, nil); ClassOf(err) != NotFound {
		t.Errorf("ack of a delivery that was given back: %v", err)
	}
	ack(t, second.got()[1])
	h.waitDepth("/queue/a", 0)
}
