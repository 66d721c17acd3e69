package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

func TestMarksOutlastCrashesAndCleanStops(t *testing.T) {
	for _, c := range []string{"crash", "clean", "crash crash", "crash clean", "clean crash", "crash clean crash clean"} {
		t.Run(c, func(t *testing.T) {
			h := start(t, nil)
			const n = 6000 // more than the record of a restart reserves
			h.fill("/queue/a", n)
			_, in := consume(t, h.session(), "/queue/a", n)
			waitFor(t, in, n)
			for _, how := range strings.Fields(c) {
				if how == "crash" {
					h.crash()
				} else {
					h.restart()
				}
			}
			_, in = consume(t, h.session(), "/queue/a", n)
			for i, d := range waitFor(t, in, n) {
				if !d.Redelivered() {
					t.Fatalf("message %d was delivered before, and comes without a mark", i)
				}
			}
		})
	}
}

// TestDamageAfterACrashIsRefused also where nobody ever consumed: what was stored a while before is known.
func TestDamageAfterACrashIsRefused(t *testing.T) {
	for to, id := range map[string]MailboxID{"/queue/a": {KindQueueBox, "/", "a"}, "/topic/a": {KindInbox, "/", "d"}} {
		t.Run(to, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := start(t, nil)
				if id.Kind == KindInbox {
					s := h.session()
					if _, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, to), Durable: id.Name, Receiver: &inbox{}, Credit: 1}); err != nil {
						t.Fatal(err)
					}
					s.Close()
				}
				h.fill(to, 6)
				time.Sleep(3 * markEveryMs * time.Millisecond)
				synctest.Wait()
				h.Abandon()
				h.Router = nil
				l := h.store.logs[id]
				l.entries, l.last = l.entries[:5], 5
				if _, err := New(context.Background(), h.opt); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "1 at its end") {
					t.Errorf("start on a damaged store: %v", err)
				}
			})
		})
	}
}

// TestFewInboxesAreMarked: a message for each of many inboxes costs few records.
func TestFewInboxesAreMarked(t *testing.T) {
	var m inboxMarks
	boxes := make([]*Mailbox, 500)
	for i := range boxes {
		boxes[i] = &Mailbox{id: MailboxID{Kind: KindInbox}, marked: m.one(), router: &Router{alarms: newAlarms()}}
	}
	began := time.Now()
	for _, b := range boxes {
		b.mark()
	}
	marked := 0
	for _, b := range boxes {
		if b.stale {
			marked++
		}
	}
	if most := len(m.ms) * (1 + int(time.Since(began)/(markEveryMs*time.Millisecond))); marked == 0 || marked > most {
		t.Errorf("%d of %d inboxes are marked, at most %d are expected", marked, len(boxes), most)
	}
}

func TestACleanStopMarksNothingThatWasNotDelivered(t *testing.T) {
	h := start(t, nil)
	h.fill("/queue/a", 10)
	_, in := consume(t, h.session(), "/queue/a", 1)
	waitFor(t, in, 1)
	h.restart()
	_, in = consume(t, h.session(), "/queue/a", 10)
	for i, d := range waitFor(t, in, 10) {
		if d.Redelivered() != (i == 0) {
			t.Errorf("message %d: marked %v", i, d.Redelivered())
		}
	}
}

// heldSaves has the store write records at once and answer when told.
type heldSaves struct {
	mu     sync.Mutex
	held   []func()
	clean  []bool
	letAll bool
}

func (s *heldSaves) save(l Log, _ MailboxID, rec []byte, done Done) {
	r, err := decodeRecord(rec)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean = append(s.clean, r.Clean)
	if s.letAll {
		l.SaveRecord(rec, done)
		return
	}
	l.SaveRecord(rec, func(st Stored, err error, _ *outbox.Batch) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = append(s.held, func() { done(st, err, nil) })
	})
}

func (s *heldSaves) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func (s *heldSaves) release() {
	s.mu.Lock()
	held := s.held
	s.held, s.letAll = nil, true
	s.mu.Unlock()
	for _, f := range held {
		f()
	}
}

func TestCloseAnswersEverySettlementAndItsRecordIsTheLast(t *testing.T) {
	h, store := startTampered(t, nil)
	h.fill("/queue/a", 3)
	_, in := consume(t, h.session(), "/queue/a", 3)
	got := waitFor(t, in, 3)
	saves := &heldSaves{}
	store.set(func() { store.save = saves.save })
	var answered [2]atomic.Int64
	for i := range answered {
		if err := got[i].Ack(nil, func(_ Stored, err error, _ *outbox.Batch) {
			if err != nil {
				t.Error(err)
			}
			answered[i].Add(1)
		}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		if saves.waiting() == 0 {
			return fmt.Errorf("no save is under way")
		}
		return nil
	})
	r := h.Router
	h.Router = nil
	closed := make(chan error, 1)
	go func() { closed <- r.Close(context.Background()) }()
	eventually(t, func() error {
		if saves.waiting() < 2 {
			return fmt.Errorf("%d saves", saves.waiting())
		}
		return nil
	})
	saves.release() // the first one's answer comes after the last record was written
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	for i := range answered {
		eventually(t, func() error {
			if n := answered[i].Load(); n != 1 {
				return fmt.Errorf("settlement %d was answered %d times", i, n)
			}
			return nil
		})
	}
	saves.mu.Lock()
	if n := len(saves.clean); !saves.clean[n-1] {
		t.Errorf("the last record is not that of the stop: %v", saves.clean)
	}
	saves.mu.Unlock()
	h.open()
	if n := h.depth("/queue/a"); n != 1 {
		t.Errorf("depth %d after the restart", n)
	}
}

func TestFailedSavesAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := startTampered(t, nil)
		h.fill("/queue/a", 2)
		_, in := consume(t, h.session(), "/queue/a", 2)
		synctest.Wait()
		store.set(func() {
			store.save = func(_ Log, _ MailboxID, _ []byte, done Done) { answer(done, Stored{}, errBroken) }
		})
		answer := make(chan error, 1)
		if err := in.got()[0].Ack(nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; ClassOf(err) != Unavailable {
			t.Errorf("a settlement that is not stored is confirmed: %v", err)
		}
		store.set(func() { store.save = nil })
		time.Sleep(2 * retryMs * time.Millisecond)
		synctest.Wait()
		b := h.box("/queue/a")
		b.mu.Lock()
		if b.dirty || b.saved != 1 {
			t.Errorf("dirty %v, saved floor %d", b.dirty, b.saved)
		}
		b.mu.Unlock()
		h.stop()
	})
}

func TestReadsAreRepeatedAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := startTampered(t, nil)
		h.fill("/queue/a", 3)
		store.set(func() {
			store.read = func(Log, MailboxID, uint64, int, int) ([]Entry, error) { return nil, errBroken }
		})
		_, in := consume(t, h.session(), "/queue/a", 3)
		time.Sleep(time.Second)
		store.set(func() { store.read = nil })
		time.Sleep(2 * retryMs * time.Millisecond)
		synctest.Wait()
		if got := in.bodies(); len(got) != 3 {
			t.Errorf("got %v", got)
		}
		h.stop()
	})
}

func TestDeadLettersWaitForTheirStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := startTampered(t, func(o *Options) {
			o.QueuePolicy = func(Address) Policy { return Policy{DeadLetter: "dead"} }
		})
		h.fill("/queue/dead", 0)
		h.fill("/queue/a", 1)
		_, in := consume(t, h.session(), "/queue/a", 1)
		synctest.Wait()
		store.set(func() {
			store.append = func(_ Log, _ MailboxID, _ []byte, _ string, done Done) { answer(done, Stored{}, errBroken) }
		})
		var answers atomic.Int64
		if err := in.got()[0].Reject("bad", nil, func(_ Stored, err error, _ *outbox.Batch) {
			if err != nil {
				t.Error(err)
			}
			answers.Add(1)
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if h.depth("/queue/a") != 1 || answers.Load() != 0 {
			t.Errorf("depth %d, %d answers while the dead-letter queue cannot store", h.depth("/queue/a"), answers.Load())
		}
		store.set(func() { store.append = nil })
		time.Sleep(time.Second)
		synctest.Wait()
		if h.depth("/queue/a") != 0 || h.depth("/queue/dead") != 1 || answers.Load() != 1 {
			t.Errorf("depth %d, dead %d, %d answers", h.depth("/queue/a"), h.depth("/queue/dead"), answers.Load())
		}
		h.stop()
	})
}

func TestCloseAnswersARejectThatCouldNotBeStored(t *testing.T) {
	h, store := startTampered(t, func(o *Options) {
		o.QueuePolicy = func(Address) Policy { return Policy{DeadLetter: "dead"} }
	})
	h.fill("/queue/a", 1)
	_, in := consume(t, h.session(), "/queue/a", 1)
	d := waitFor(t, in, 1)[0]
	var tried atomic.Int64
	store.set(func() {
		store.append = func(_ Log, _ MailboxID, _ []byte, _ string, done Done) {
			tried.Add(1)
			answer(done, Stored{}, errBroken)
		}
	})
	answers := make(chan error, 2)
	if err := d.Reject("bad", nil, func(_ Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if tried.Load() == 0 {
			return fmt.Errorf("not tried")
		}
		return nil
	})
	h.stop()
	if err := <-answers; ClassOf(err) != Unavailable {
		t.Errorf("answered %v", err)
	}
	store.set(func() { store.append = nil })
	h.open()
	if n := h.depth("/queue/a"); n != 1 {
		t.Errorf("depth %d: the message must still be there", n)
	}
}

// What was settled is kept for a while: a message that is sent again, since nobody had an answer to it, is known by the one
// that is stored, also to servers that were started since. Then it goes.
func TestWhatIsSettledIsTrimmedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		_, in := consume(t, h.session(), "/queue/a", 10)
		p := h.session()
		stored := func() int {
			l := h.store.logs[MailboxID{KindQueueBox, "/", "a"}]
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.entries)
		}
		for i := range 10 {
			mustPublish(t, p, "/queue/a", fmt.Sprint(i))
			ack(t, waitFor(t, in, i+1)[i])
			time.Sleep(5 * time.Second)
			if n, want := stored(), min(i+1, trimEveryMs/5000); n < want {
				t.Errorf("%d are stored, want the last %d at least", n, want)
			}
		}
		time.Sleep(3 * trimEveryMs * time.Millisecond)
		if n := stored(); n != 0 {
			t.Errorf("%d are stored", n)
		}
	})
}
