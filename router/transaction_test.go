package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

func commitAll(t testing.TB, s *Session, ms []*Message, settle ...*Delivery) error {
	t.Helper()
	answer := make(chan error, 2)
	if err := s.Commit(context.Background(), ms, settle, nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
		return err
	}
	return <-answer
}

func messages(t testing.TB, to ...string) []*Message {
	t.Helper()
	var out []*Message
	for i, name := range to {
		out = append(out, &Message{To: dest(t, name), Body: fmt.Append(nil, i)})
	}
	return out
}

func TestTransactionOfOneMailboxIsOneAppend(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	if err := commitAll(t, s, messages(t, "/queue/a", "/queue/a", "/queue/a")); err != nil {
		t.Fatal(err)
	}
	_, in := consume(t, s, "/queue/a", 5)
	in.wait(t, "0", "1", "2")
	if n := h.Stats.Published.Load(); n != 3 {
		t.Errorf("%d published", n)
	}
	if txs, _ := h.store.Transactions(context.Background()); len(txs) != 0 || h.store.txSeq != 0 {
		t.Error("a record was stored for one mailbox")
	}
}

func TestTransactionOfSeveralMailboxes(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	durable(t, s, "/topic/t")
	_, live := consume(t, s, "/topic/t", 1)
	mustPublish(t, s, "/queue/in", "job")
	_, in := consume(t, s, "/queue/in", 1)
	job := in.wait(t, "job")[0]
	if err := commitAll(t, s, messages(t, "/queue/a", "/queue/b", "/topic/t", "/queue/a"), job); err != nil {
		t.Fatal(err)
	}
	if len(live.bodies()) != 1 {
		t.Error("live subscribers have not got it when the commit is confirmed")
	}
	h.waitDepth("/queue/in", 0)
	_, a := consume(t, s, "/queue/a", 5)
	a.wait(t, "0", "3")
	h.waitDepth("/queue/b", 1)
	if txs, _ := h.store.Transactions(context.Background()); len(txs) != 0 {
		t.Errorf("%d records are left", len(txs))
	}
}

func TestTransactionLimitsAreCheckedBeforeAnythingIsStored(t *testing.T) {
	h := start(t, func(o *Options) {
		o.MaxTransactionMessages, o.MaxTransactionBytes = 3, 2000
		o.QueuePolicy = func(a Address) Policy {
			if a.Name() == "small" {
				return Policy{MaxLength: 1}
			}
			return Policy{}
		}
	})
	s := h.session()
	if err := commitAll(t, s, messages(t, "/queue/a", "/queue/a", "/queue/a", "/queue/a")); ClassOf(err) != TooLarge || !strings.Contains(TextOf(err), "limits.transaction_messages") {
		t.Errorf("too many messages: %v", err)
	}
	big := messages(t, "/queue/a")
	big[0].Body = make([]byte, 2000)
	if err := commitAll(t, s, big); ClassOf(err) != TooLarge || !strings.Contains(TextOf(err), "limits.transaction_bytes") {
		t.Errorf("too many bytes: %v", err)
	}
	for _, to := range [][]string{{"/queue/small", "/queue/small"}, {"/queue/a", "/queue/small", "/queue/small"}} {
		if err := commitAll(t, s, messages(t, to...)); ClassOf(err) != Full {
			t.Errorf("into a queue that has no room: %v", err)
		}
	}
	// Copies count: each is in the transaction's record.
	for i := range 5 {
		if err := s.BindQueue(context.Background(), filter(t, "/topic/fan"), dest(t, fmt.Sprintf("/queue/f%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	wide := messages(t, "/topic/fan")
	wide[0].Body = make([]byte, 500)
	if err := commitAll(t, s, wide); ClassOf(err) != TooLarge {
		t.Errorf("five copies of 500 bytes: %v", err)
	}
	for _, info := range h.MailboxInfos(anyone) {
		if info.Depth != 0 {
			t.Errorf("%s holds %d", info.Name, info.Depth)
		}
	}
}

func TestCommitOfSettlementsOnly(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	mustPublish(t, s, "/queue/a", "x")
	_, in := consume(t, s, "/queue/a", 1)
	d := in.wait(t, "x")[0]
	if err := commitAll(t, s, nil, d, d); err != nil { // the second finds it settled, which is no error
		t.Fatal(err)
	}
	h.waitDepth("/queue/a", 0)
}

func TestAFailedCommitSettlesNothing(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	mustPublish(t, s, "/queue/in", "job")
	_, in := consume(t, s, "/queue/in", 1)
	job := in.wait(t, "job")[0]
	h.store.mu.Lock()
	l := h.store.logs[MailboxID{KindQueueBox, "/", "a"}]
	h.store.mu.Unlock()
	if l != nil {
		t.Fatal("the queue exists")
	}
	h.fill("/queue/a", 0)
	b := h.box("/queue/a")
	b.log = failingLog{b.log}
	if err := commitAll(t, s, messages(t, "/queue/a", "/queue/a"), job); ClassOf(err) != Unavailable {
		t.Fatalf("commit: %v", err)
	}
	if n := h.depth("/queue/in"); n != 1 {
		t.Errorf("the job was settled (%d left)", n)
	}
	ack(t, job)
}

type failingLog struct{ Log }

func (failingLog) AppendAll(_ [][]byte, done Done) { answer(done, Stored{}, errBroken) }

func TestAStoredTransactionIsRetriedUntilItIsApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := startTampered(t, nil)
		s := h.session()
		h.fill("/queue/a", 0)
		h.fill("/queue/b", 0)
		store.set(func() {
			store.append = func(l Log, id MailboxID, e []byte, dedup string, done Done) {
				if id.Name == "b" {
					answer(done, Stored{}, errBroken)
					return
				}
				l.Append(e, dedup, done)
			}
		})
		answers := make(chan error, 2)
		if err := s.Commit(context.Background(), messages(t, "/queue/a", "/queue/b"), nil, nil, func(_ Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		select {
		case err := <-answers:
			t.Fatalf("answered %v while one copy is not stored", err)
		default:
		}
		store.set(func() { store.append = nil })
		time.Sleep(2 * retryMs * time.Millisecond)
		synctest.Wait()
		if err := <-answers; err != nil {
			t.Error(err)
		}
		if a, b := h.depth("/queue/a"), h.depth("/queue/b"); a != 1 || b != 1 {
			t.Errorf("depths %d and %d", a, b)
		}
		if txs, _ := h.store.Transactions(context.Background()); len(txs) != 0 {
			t.Errorf("%d records are left", len(txs))
		}
		h.stop()
	})
}

// TestARetriedCopyThatWasStoredIsNotStoredTwice: the store fails after it stored.
func TestARetriedCopyThatWasStoredIsNotStoredTwice(t *testing.T) {
	h, store := startTampered(t, nil)
	s := h.session()
	_, in := consume(t, s, "/queue/b", 10)
	var failed atomic.Bool
	store.set(func() {
		store.append = func(l Log, id MailboxID, e []byte, dedup string, done Done) {
			if id.Name == "b" && !failed.Swap(true) {
				l.Append(e, dedup, func(_ Stored, _ error, w *outbox.Batch) { done(Stored{}, errBroken, w) })
				return
			}
			l.Append(e, dedup, done)
		}
	})
	if err := commitAll(t, s, messages(t, "/queue/a", "/queue/b")); err != nil {
		t.Fatal(err)
	}
	in.wait(t, "1")
	h.waitDepth("/queue/b", 1)
}

func TestAStopDuringATransactionAnswersAndTheRestartFinishesIt(t *testing.T) {
	h, store := startTampered(t, nil)
	s := h.session()
	h.fill("/queue/b", 0)
	var tried atomic.Int64
	store.set(func() {
		store.append = func(l Log, id MailboxID, e []byte, dedup string, done Done) {
			if id.Name == "b" {
				tried.Add(1)
				answer(done, Stored{}, errBroken)
				return
			}
			l.Append(e, dedup, done)
		}
	})
	answers := make(chan error, 2)
	if err := s.Commit(context.Background(), messages(t, "/queue/a", "/queue/b", "/queue/b"), nil, nil, func(_ Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
		t.Fatal(err)
	}
	h.waitDepth("/queue/a", 1)
	eventually(t, func() error {
		if tried.Load() < 2 {
			return errors.New("not tried yet")
		}
		return nil
	})
	h.stop()
	if err := <-answers; ClassOf(err) != Unavailable {
		t.Errorf("answered %v", err)
	}
	store.set(func() { store.append = nil })
	h.open()
	if a, b := h.depth("/queue/a"), h.depth("/queue/b"); a != 1 || b != 2 {
		t.Errorf("depths %d and %d after the restart, want 1 and 2", a, b)
	}
	h.restart()
	if a, b := h.depth("/queue/a"), h.depth("/queue/b"); a != 1 || b != 2 {
		t.Errorf("depths %d and %d after another restart", a, b)
	}
}

// TestACrashAtEachStepIsRedoneExactlyOnce cuts a transaction after its record and
// any number of its copies.
func TestACrashAtEachStepIsRedoneExactlyOnce(t *testing.T) {
	to := []string{"/queue/a", "/queue/b", "/queue/a", "/queue/c"}
	for cut := range len(to) + 1 {
		t.Run(fmt.Sprint("copies=", cut), func(t *testing.T) {
			h, store := startTampered(t, nil)
			h.fill("/queue/a", 2) // what was there before is not taken for a copy
			var stored atomic.Int64
			reached := make(chan struct{}, len(to))
			store.set(func() {
				store.append = func(l Log, _ MailboxID, e []byte, dedup string, done Done) {
					if int(stored.Add(1)) <= cut {
						l.Append(e, dedup, func(Stored, error, *outbox.Batch) { reached <- struct{}{} })
						return
					}
					reached <- struct{}{} // the process dies before this one
				}
			})
			if err := h.session().Commit(context.Background(), messages(t, to...), nil, nil, func(Stored, error, *outbox.Batch) {
				t.Error("answered")
			}); err != nil {
				t.Fatal(err)
			}
			for range to {
				<-reached
			}
			h.crash()
			for range 2 {
				_, in := consume(t, h.session(), "/queue/a", 10)
				if got := in.wait(t, "0", "1", "0", "2"); len(got) != 4 {
					t.Fatal(got)
				}
				if b, c := h.depth("/queue/b"), h.depth("/queue/c"); b != 1 || c != 1 {
					t.Fatalf("depths %d and %d, want 1 each", b, c)
				}
				h.restart()
			}
		})
	}
}

// lateTransactions stores transactions and does not confirm them; tell has the router hear of what is there.
type lateTransactions struct {
	*MemoryStore
	heard func(StoredTransaction)
}

func (s *lateTransactions) HearTransactions(f func(StoredTransaction)) { s.heard = f }

func (s *lateTransactions) BeginTransaction(body []byte, done Done) {
	s.MemoryStore.BeginTransaction(body, func(_ Stored, _ error, _ *outbox.Batch) { answer(done, Stored{}, errBroken) })
}

func (s *lateTransactions) tell(t *testing.T) (found []StoredTransaction) {
	t.Helper()
	found, err := s.Transactions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range found {
		s.heard(x)
	}
	return found
}

// TestATransactionThatIsFoundLateIsAppliedThen: and once, however often it is found.
func TestATransactionThatIsFoundLateIsAppliedThen(t *testing.T) {
	h := start(t, nil)
	h.stop()
	late := &lateTransactions{MemoryStore: h.store}
	h.opt.Store = late
	h.open()
	ms := messages(t, "/queue/a", "/queue/b", "/queue/a")
	if err := commitAll(t, h.session(), ms); ClassOf(err) != Unavailable {
		t.Fatalf("a transaction that is not confirmed: %v", err)
	}
	late.heard(StoredTransaction{Seq: 99, Body: []byte("damaged")}) // costs no other
	found := late.tell(t)
	if len(found) != 1 {
		t.Fatalf("%d transactions are stored", len(found))
	}
	for _, x := range found {
		late.heard(x)
	}
	eventually(t, func() error {
		if left := late.tell(t); len(left) > 0 {
			return fmt.Errorf("%d transactions are not ended", len(left))
		}
		return nil
	})
	h.stop() // and what it began is done
	h.open()
	if a, b := h.depth("/queue/a"), h.depth("/queue/b"); a != 2 || b != 1 {
		t.Errorf("%d and %d messages, want 2 and 1", a, b)
	}
}

func TestStoredTransactionsRoundTripAndDamageIsFound(t *testing.T) {
	h := start(t, nil)
	h.fill("/queue/a", 1)
	b := h.box("/queue/a")
	whole := encodeTransaction(&commit{copies: []copyOf{{b, messages(t, "/queue/a")[0]}, {b, messages(t, "/topic/x")[0]}}})
	got, err := decodeTransaction(whole)
	if err != nil || len(got) != 2 || got[0].box != b.id || got[0].after != 1 || got[1].m.To != dest(t, "/topic/x") {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range whole {
		if _, err := decodeTransaction(whole[:n]); !errors.Is(err, errTransaction) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func FuzzDecodeTransaction(f *testing.F) {
	m := (&Message{Body: []byte("x")}).AppendEnvelope(nil)
	f.Add(append([]byte{1, 1, 1, '/', 1, 'a', 0, byte(len(m))}, m...))
	f.Add([]byte{0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := decodeTransaction(b)
		if err != nil && !errors.Is(err, errTransaction) {
			t.Fatal(err)
		}
		if len(out) > len(b) {
			t.Fatalf("%d records of %d bytes", len(out), len(b))
		}
	})
}

func FuzzDecodeBinding(f *testing.F) {
	f.Add([]byte(`{"filter":"/topic/a/*","vhost":"/","kind":2,"name":"d","user":"ann","noLocal":true,"since":5}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, v []byte) {
		b, err := decodeBinding(v)
		if err != nil {
			return
		}
		again, err := decodeBinding(b.encode())
		if err != nil || again.Filter != b.Filter || again.NoLocal != b.NoLocal {
			t.Fatalf("%+v came back as %+v, %v", b, again, err)
		}
	})
}
