package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

func TestQueueDeliversInOrderByCredit(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	for i := range 5 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	_, in := consume(t, s, "/queue/a", 2)
	got := in.wait(t, "0", "1")
	ack(t, got[1])
	got = in.wait(t, "0", "1", "2")
	ack(t, got[0])
	ack(t, got[2])
	got = in.wait(t, "0", "1", "2", "3", "4")
	for _, d := range got {
		if d.Redelivered() || d.Count != 1 {
			t.Errorf("message %s: redelivered %v, count %d", d.Message.Body, d.Redelivered(), d.Count)
		}
	}
	h.waitDepth("/queue/a", 2)
}

func TestConsumersCompeteFairly(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, a := consume(t, s, "/queue/a", 3)
	_, b := consume(t, s, "/queue/a", 3)
	for i := range 6 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	eventually(t, func() error {
		if len(a.got()) != 3 || len(b.got()) != 3 {
			return fmt.Errorf("%d and %d messages, want 3 each", len(a.got()), len(b.got()))
		}
		return nil
	})
}

func TestWhatADeadConsumerHeldComesBackFirstInOrderMarked(t *testing.T) {
	h := start(t, nil)
	s, dying := h.session(), h.session()
	_, in := consume(t, dying, "/queue/a", 3)
	for i := range 6 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	in.wait(t, "0", "1", "2")
	dying.Close()
	_, next := consume(t, s, "/queue/a", 10)
	got := next.wait(t, "0", "1", "2", "3", "4", "5")
	for i, d := range got {
		if d.Redelivered() != (i < 3) {
			t.Errorf("message %d: redelivered %v", i, d.Redelivered())
		}
	}
	if got[0].Count != 2 {
		t.Errorf("count %d, want 2", got[0].Count)
	}
}

func TestSettlingTwiceIsAnError(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	mustPublish(t, s, "/queue/a", "x")
	_, in := consume(t, s, "/queue/a", 1)
	d := in.wait(t, "x")[0]
	ack(t, d)
	for name, f := range map[string]func() error{
		"ack":       func() error { return d.Ack(nil, nil) },
		"nack":      func() error { return d.Nack(0, "", nil, nil) },
		"reject":    func() error { return d.Reject("", nil, nil) },
		"undeliver": func() error { return d.Undeliver(nil) },
		"ack up to": func() error { return d.AckUpTo(nil, nil) },
	} {
		if err := f(); ClassOf(err) != NotFound {
			t.Errorf("%s of a settled message: %v", name, err)
		}
	}
}

func TestCumulativeAckCoversEarlierOnesOfTheSubscription(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, a := consume(t, s, "/queue/a", 4)
	for i := range 4 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	got := a.wait(t, "0", "1", "2", "3")
	if err := got[2].AckUpTo(nil, nil); err != nil {
		t.Fatal(err)
	}
	h.waitDepth("/queue/a", 1)
	if err := got[0].Ack(nil, nil); ClassOf(err) != NotFound {
		t.Errorf("ack of a covered one: %v", err)
	}
	ack(t, got[3])
}

func TestFullQueueRefusesAndAcceptsAgain(t *testing.T) {
	h := start(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{MaxLength: 2} } })
	s := h.session()
	mustPublish(t, s, "/queue/sale", "1")
	mustPublish(t, s, "/queue/sale", "2")
	err := publish(t, s, &Message{To: dest(t, "/queue/sale")})
	if ClassOf(err) != Full || !strings.Contains(TextOf(err), "queue sale") || !strings.Contains(TextOf(err), "2 messages") {
		t.Fatalf("a publish to a full queue: %v", err)
	}
	_, in := consume(t, s, "/queue/sale", 1)
	ack(t, in.wait(t, "1")[0])
	mustPublish(t, s, "/queue/sale", "3")
}

func TestByteLimitRefuses(t *testing.T) {
	h := start(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{MaxBytes: 1000} } })
	s := h.session()
	mustPublish(t, s, "/queue/b", strings.Repeat("x", 800))
	if err := publish(t, s, &Message{To: dest(t, "/queue/b"), Body: make([]byte, 800)}); ClassOf(err) != Full {
		t.Fatalf("over the byte limit: %v", err)
	}
}

func TestPoisonMessageGoesToTheDeadLetterQueue(t *testing.T) {
	h := start(t, func(o *Options) {
		o.QueuePolicy = func(a Address) Policy {
			if strings.HasPrefix(a.Name(), "DLQ.") {
				return Policy{}
			}
			return Policy{MaxDeliveries: 2, DeadLetter: "DLQ." + a.Name()}
		}
	})
	s := h.session()
	m := &Message{To: dest(t, "/queue/jobs"), Body: []byte("poison"), Headers: []Header{{"x-tenant", "7"}}, Priority: 3}
	if err := publish(t, s, m); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, s, "/queue/jobs", "good")
	for range 2 {
		worker := h.session()
		_, in := consume(t, worker, "/queue/jobs", 1)
		in.wait(t, "poison")
		worker.Close()
	}
	_, dead := consume(t, s, "/queue/DLQ.jobs", 1)
	d := dead.wait(t, "poison")[0]
	for name, want := range map[string]string{
		HeaderDeadLetterReason: ReasonMaxDeliveries, HeaderDeadLetterOrigin: "/queue/jobs",
		HeaderDeadLetterCount: "2", HeaderDeadLetterError: "its consumer went away", "x-tenant": "7",
	} {
		if got, _ := d.Message.Header(name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
	if d.Message.Priority != 3 {
		t.Errorf("priority %d", d.Message.Priority)
	}
	h.waitDepth("/queue/jobs", 1)
	_, in := consume(t, s, "/queue/jobs", 1)
	in.wait(t, "good")
}

func TestRejectWaitsForTheDeadLetterToBeStored(t *testing.T) {
	h := start(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{DeadLetter: "dead"} } })
	s := h.session()
	mustPublish(t, s, "/queue/a", "x")
	_, in := consume(t, s, "/queue/a", 1)
	answer := make(chan error, 1)
	if err := in.wait(t, "x")[0].Reject("bad input", nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if got := h.depth("/queue/dead"); got != 1 {
		t.Errorf("dead-letter queue has %d messages when the reject was confirmed", got)
	}
	if got := h.depth("/queue/a"); got != 0 {
		t.Errorf("the queue still has %d", got)
	}
}

func TestRejectWithoutDeadLetterQueueIsCounted(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	mustPublish(t, s, "/queue/a", "x")
	_, in := consume(t, s, "/queue/a", 1)
	if err := in.wait(t, "x")[0].Reject("", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.Stats.Dropped()[DropRejected]; got != 1 {
		t.Errorf("%d drops counted", got)
	}
	h.waitDepth("/queue/a", 0)
}

func TestNackWithDelayWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		mustPublish(t, s, "/queue/a", "x")
		_, in := consume(t, s, "/queue/a", 1)
		synctest.Wait()
		if err := in.got()[0].Nack(5*time.Second, "later", nil, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4900 * time.Millisecond)
		synctest.Wait()
		if n := len(in.got()); n != 1 {
			t.Fatalf("delivered %d times before the delay was over", n)
		}
		if info, _ := h.QueueInfo(anyone, dest(t, "/queue/a")); info.Delayed != 1 || info.Ready != 0 {
			t.Errorf("info %+v", info)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if n := len(in.got()); n != 2 || !in.got()[1].Redelivered() {
			t.Fatalf("delivered %d times after the delay", n)
		}
		h.stop()
	})
}

func TestRedeliveryDelayBacksOff(t *testing.T) {
	p := Policy{RedeliveryDelay: time.Second, RedeliveryMax: 5 * time.Second}
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 5 * time.Second, 40: 5 * time.Second} {
		if got := p.delay(n); got != want {
			t.Errorf("after %d deliveries: %v, want %v", n, got, want)
		}
	}
}

func TestExpiredMessagesAreDeadLettersEvenWithoutConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(o *Options) {
			o.QueuePolicy = func(a Address) Policy {
				if a.Name() == "dead" {
					return Policy{}
				}
				return Policy{DeadLetter: "dead", DropExpired: a.Name() == "drops"}
			}
		})
		s := h.session()
		soon := time.Now().Add(time.Second).UnixMilli()
		for _, q := range []string{"/queue/a", "/queue/drops"} {
			if err := publish(t, s, &Message{To: dest(t, q), Body: []byte("old"), ExpiresUnixMs: soon}); err != nil {
				t.Fatal(err)
			}
			mustPublish(t, s, q, "keeps")
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if a, dead, drops := h.depth("/queue/a"), h.depth("/queue/dead"), h.depth("/queue/drops"); a != 1 || dead != 1 || drops != 1 {
			t.Errorf("depths a %d, dead %d, drops %d; want 1 each", a, dead, drops)
		}
		if got := h.Stats.Dropped()[DropExpired]; got != 1 {
			t.Errorf("%d expired drops counted", got)
		}
		_, in := consume(t, s, "/queue/dead", 1)
		synctest.Wait()
		d := in.got()[0]
		if v, _ := d.Message.Header(HeaderDeadLetterReason); v != ReasonExpired || d.Message.ExpiresUnixMs != 0 {
			t.Errorf("reason %q, expires %d", v, d.Message.ExpiresUnixMs)
		}
		_, rest := consume(t, s, "/queue/a", 5)
		synctest.Wait()
		if got := rest.bodies(); len(got) != 1 || got[0] != "keeps" {
			t.Errorf("the queue gave %v", got)
		}
		h.stop()
	})
}

func TestPolicyExpiryAppliesToMessagesWithoutOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{Expiry: time.Minute} } })
		s := h.session()
		mustPublish(t, s, "/queue/a", "x")
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if got := h.depth("/queue/a"); got != 0 {
			t.Errorf("depth %d after the policy's expiry", got)
		}
		h.stop()
	})
}

func TestExpiryIsFoundAgainAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		for range 3 {
			if err := publish(t, s, &Message{To: dest(t, "/queue/a"), ExpiresUnixMs: time.Now().Add(time.Minute).UnixMilli()}); err != nil {
				t.Fatal(err)
			}
		}
		h.restart()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := h.depth("/queue/a"); got != 0 {
			t.Errorf("depth %d", got)
		}
		h.stop()
	})
}

func TestConsumerWithAFullBufferIsNotCounted(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	sub, slow := consume(t, s, "/queue/a", 10)
	slow.setRefuse(true)
	mustPublish(t, s, "/queue/a", "x")
	h.waitDepth("/queue/a", 1)
	slow.setRefuse(false)
	sub.Resume(nil)
	if d := slow.wait(t, "x")[0]; d.Count != 1 || d.Redelivered() {
		t.Errorf("count %d, redelivered %v", d.Count, d.Redelivered())
	}
}

func TestRestartKeepsWhatIsUnsettledAndItsCounts(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, in := consume(t, s, "/queue/a", 5)
	for i := range 8 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	got := in.wait(t, "0", "1", "2", "3", "4")
	ack(t, got[0])
	ack(t, got[3])
	h.restart()
	if got := h.depth("/queue/a"); got != 6 {
		t.Fatalf("depth %d after the restart, want 6", got)
	}
	_, in = consume(t, h.session(), "/queue/a", 10)
	got = in.wait(t, "1", "2", "4", "5", "6", "7")
	for i, d := range got {
		// 5 and 6 took the places of the acked ones before the restart.
		if want := i < 5; d.Redelivered() != want {
			t.Errorf("message %s: redelivered %v, want %v", d.Message.Body, d.Redelivered(), want)
		}
	}
}

func TestCrashMarksWhatMayHaveBeenDelivered(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, in := consume(t, s, "/queue/a", 2)
	for i := range 4 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	got := in.wait(t, "0", "1")
	ack(t, got[0])
	// A crash: nothing is saved but what was; the old router ends unheard.
	old := h.Router
	crashed := h.store.copy()
	defer old.Close(context.Background())
	h.store, h.opt.Store = crashed, crashed
	h.open()
	_, in = consume(t, h.session(), "/queue/a", 10)
	eventually(t, func() error {
		if n := len(in.got()); n != 3 {
			return fmt.Errorf("%d messages, want 3: %v", n, in.bodies())
		}
		return nil
	})
	for _, d := range in.got() {
		if string(d.Message.Body) == "1" && !d.Redelivered() {
			t.Error("a message that was delivered before the crash is not marked")
		}
	}
}

// copy returns what a crash would leave.
func (s *MemoryStore) copy() *MemoryStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := NewMemoryStore()
	for id, l := range s.logs {
		l.mu.Lock()
		c.logs[id] = &memoryLog{removed: func() {}, entries: append([]Entry(nil), l.entries...), last: l.last, record: l.record}
		l.mu.Unlock()
	}
	for k, v := range s.bindings {
		c.bindings[k] = v
	}
	for k, v := range s.txs {
		c.txs[k] = v
	}
	s.values.mu.Lock()
	defer s.values.mu.Unlock()
	if s.values.values != nil {
		c.values.values, c.values.log = map[ValueClass]map[string][]byte{}, newMemoryLog()
	}
	for class, all := range s.values.values {
		c.values.values[class] = maps.Clone(all)
	}
	return c
}

func TestBacklogLargerThanTheWindowIsDeliveredInOrder(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	const n = windowEntries + 3000
	to := dest(t, "/queue/big")
	answers := make(chan error, n)
	for i := range n {
		if _, err := s.Publish(context.Background(), &Message{To: to, Body: fmt.Append(nil, i)}, nil,
			func(_ Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	c := &counter{t: t, next: make(chan *Delivery, 64)}
	sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: FilterOf(to), Receiver: c, Credit: 64})
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	for i := range n {
		d := <-c.next
		if string(d.Message.Body) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, d.Message.Body)
		}
		if err := d.Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	h.waitDepth("/queue/big", 0)
}

type counter struct {
	t    testing.TB
	next chan *Delivery
}

func (c *counter) Live(*Message, *outbox.Batch) bool { return true }

func (c *counter) Stored(d *Delivery, _ *outbox.Batch) bool { c.next <- d; return true }

func TestDamageIsRefusedOrReported(t *testing.T) {
	for _, accept := range []bool{false, true} {
		t.Run(fmt.Sprint("accept=", accept), func(t *testing.T) {
			h := start(t, func(o *Options) { o.AcceptDamage = accept })
			s := h.session()
			for i := range 6 {
				mustPublish(t, s, "/queue/a", fmt.Sprint(i))
			}
			h.stop()
			l := h.store.logs[MailboxID{KindQueueBox, "/", "a"}]
			l.entries, l.last = l.entries[:4], 4 // the end of the log is gone
			r, err := New(context.Background(), h.opt)
			if !accept {
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "queue a") || !strings.Contains(err.Error(), "2 at its end") {
					t.Fatalf("start on a damaged store: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			h.Router = r
			_, in := consume(t, h.session(), "/queue/a", 10)
			in.wait(t, "0", "1", "2", "3")
			mustPublish(t, h.session(), "/queue/a", "new")
			in.wait(t, "0", "1", "2", "3", "new")
		})
	}
}

func TestTemporaryQueueBelongsToItsSession(t *testing.T) {
	h := start(t, nil)
	owner, other := h.session(), h.session()
	a, err := owner.TemporaryQueue("replies")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Subscribe(context.Background(), SubscribeOptions{Filter: FilterOf(a), Receiver: &inbox{}, Credit: 1}); ClassOf(err) != Denied {
		t.Errorf("another session subscribes: %v", err)
	}
	_, in := subscribe(t, owner, SubscribeOptions{Filter: FilterOf(a), Credit: 1})
	if err := publish(t, other, &Message{To: a, Body: []byte("answer")}); err != nil {
		t.Fatal(err)
	}
	in.wait(t, "answer")
	owner.Close()
	if _, err := h.QueueInfo(anyone, a); ClassOf(err) != NotFound {
		t.Errorf("after its session ended: %v", err)
	}
}

func TestQueueLimit(t *testing.T) {
	h := start(t, func(o *Options) { o.MaxQueues = 2 })
	s := h.session()
	mustPublish(t, s, "/queue/a", "")
	mustPublish(t, s, "/queue/b", "")
	if err := publish(t, s, &Message{To: dest(t, "/queue/c")}); ClassOf(err) != Full {
		t.Errorf("a third queue: %v", err)
	}
	if err := h.DeleteQueue(context.Background(), anyone, dest(t, "/queue/a")); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, s, "/queue/c", "")
}

func TestPeekPurgeMove(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	for i := range 6 {
		mustPublish(t, s, "/queue/a", fmt.Sprint(i))
	}
	_, in := consume(t, s, "/queue/a", 1)
	in.wait(t, "0")
	ctx := context.Background()
	peeked, err := h.Peek(ctx, anyone, dest(t, "/queue/a"), 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(peeked) != 3 || peeked[0].State != "unacked" || peeked[1].State != "ready" || string(peeked[2].Message.Body) != "2" {
		t.Fatalf("peeked %+v", peeked)
	}
	n, err := h.Move(ctx, anyone, dest(t, "/queue/a"), dest(t, "/queue/b"), 2)
	if err != nil || n != 2 {
		t.Fatalf("moved %d, %v", n, err)
	}
	h.waitDepth("/queue/b", 2)
	h.waitDepth("/queue/a", 4)
	if n, err = h.Purge(ctx, anyone, dest(t, "/queue/a")); err != nil || n != 3 {
		t.Fatalf("purged %d, %v", n, err)
	}
	h.waitDepth("/queue/a", 1) // what the consumer holds
	ack(t, in.got()[0])
	h.waitDepth("/queue/a", 0)
	if n, err = h.Move(ctx, anyone, dest(t, "/queue/b"), dest(t, "/queue/a"), 0); err != nil || n != 2 {
		t.Fatalf("moved back %d, %v", n, err)
	}
	in.wait(t, "0", "1")
	if _, err := h.Move(ctx, anyone, dest(t, "/queue/nowhere"), dest(t, "/queue/a"), 0); ClassOf(err) != NotFound {
		t.Errorf("move from a queue that does not exist: %v", err)
	}
}
