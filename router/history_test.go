package router

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mqgate/mqgate/router/outbox"
)

// reader is a HistoryReceiver with room for so many messages; 0: no limit.
type reader struct {
	mu     sync.Mutex
	room   int
	limit  bool
	seqs   []uint64
	bodies []string
	missed []uint64
}

func (r *reader) Kept(m *Message, seq uint64, _ *outbox.Batch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limit && r.room == 0 {
		return false
	}
	r.room--
	r.seqs = append(r.seqs, seq)
	r.bodies = append(r.bodies, string(m.Body))
	return true
}

func (r *reader) Missed(before uint64, _ *outbox.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed = append(r.missed, before)
}

func (r *reader) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bodies)
}

func (r *reader) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seqs[len(r.seqs)-1]
}

func keeping(n int, age time.Duration) func(*Options) {
	return func(o *Options) {
		o.History = func(a Address) (int, time.Duration) {
			if a.Levels()[0] == "chat" {
				return n, age
			}
			return 0, 0
		}
	}
}

// say publishes bodies and waits for the store.
func say(t rapid.TB, s *Session, to Address, bodies ...string) {
	t.Helper()
	for _, b := range bodies {
		stored := make(chan error, 1)
		var w outbox.Batch
		pending, err := s.Publish(context.Background(), &Message{To: to, Body: []byte(b)}, &w, func(_ Stored, err error, _ *outbox.Batch) { stored <- err })
		w.Flush()
		if err != nil || !pending {
			t.Fatalf("publish to a topic with history: pending %v, error %v", pending, err)
		}
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
}

func follow(t rapid.TB, s *Session, a Address, from HistoryStart, r *reader) (*Following, HistoryPosition) {
	t.Helper()
	f, p, err := s.Follow(context.Background(), a, from, r)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(nil)
	return f, p
}

func until(t rapid.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen: " + what)
		}
	}
}

func untilGot(t rapid.TB, r *reader, want ...string) {
	t.Helper()
	until(t, fmt.Sprintf("reader gets %q", want), func() bool { return len(r.got()) >= len(want) })
	if got := r.got(); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestHistoryStarts(t *testing.T) {
	h := start(t, keeping(4, 0))
	s, room := h.session(), dest(t, "/topic/chat.lobby")
	say(t, s, room, "a", "b", "c")
	var first reader
	_, p := follow(t, s, room, HistoryStart{Last: 100}, &first)
	untilGot(t, &first, "a", "b", "c")
	if !p.Complete || p.Epoch == 0 || p.Last != first.last() || p.First != first.seqs[0] {
		t.Fatalf("position %+v of %v", p, first.seqs)
	}
	seqs := slices.Clone(first.seqs)
	say(t, s, room, "d", "e", "f")
	untilGot(t, &first, "a", "b", "c", "d", "e", "f")

	for name, c := range map[string]struct {
		from     HistoryStart
		want     []string
		complete bool
	}{
		"now":                  {HistoryStart{}, nil, true},
		"last 2":               {HistoryStart{Last: 2}, []string{"e", "f"}, true},
		"last, fewer kept":     {HistoryStart{Last: 9}, []string{"c", "d", "e", "f"}, true},
		"after kept":           {HistoryStart{Epoch: p.Epoch, AfterSeq: seqs[2]}, []string{"d", "e", "f"}, true},
		"after just gone":      {HistoryStart{Epoch: p.Epoch, AfterSeq: seqs[1]}, []string{"c", "d", "e", "f"}, true},
		"after gone":           {HistoryStart{Epoch: p.Epoch, AfterSeq: seqs[0]}, []string{"c", "d", "e", "f"}, false},
		"after the last":       {HistoryStart{Epoch: p.Epoch, AfterSeq: first.last()}, nil, true},
		"after the future":     {HistoryStart{Epoch: p.Epoch, AfterSeq: first.last() + 5}, []string{"c", "d", "e", "f"}, false},
		"another epoch":        {HistoryStart{Epoch: p.Epoch + 1, AfterSeq: seqs[2]}, []string{"c", "d", "e", "f"}, false},
		"since long ago":       {HistoryStart{Since: time.Unix(1, 0)}, []string{"c", "d", "e", "f"}, true},
		"since the far future": {HistoryStart{Since: time.Now().Add(time.Hour)}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			var r reader
			f, p := follow(t, s, room, c.from, &r)
			defer f.Close()
			untilGot(t, &r, c.want...)
			if p.Complete != c.complete {
				t.Errorf("complete %v, want %v", p.Complete, c.complete)
			}
		})
	}
}

func TestHistoryOutlivesRestart(t *testing.T) {
	h := start(t, keeping(10, 0))
	s, room := h.session(), dest(t, "/topic/chat.lobby")
	var before reader
	_, p := follow(t, s, room, HistoryStart{Last: 1}, &before)
	say(t, s, room, "a", "b", "c")
	untilGot(t, &before, "a", "b", "c")
	h.restart()
	s = h.session()
	var after reader
	_, q := follow(t, s, room, HistoryStart{Epoch: p.Epoch, AfterSeq: before.seqs[0]}, &after)
	if q.Epoch != p.Epoch || !q.Complete {
		t.Fatalf("after the restart %+v, before %+v", q, p)
	}
	say(t, s, room, "d")
	untilGot(t, &after, "b", "c", "d")
	if infos := h.MailboxInfos(anyone); len(infos) != 0 {
		t.Fatalf("a history is listed as a mailbox: %+v", infos)
	}
}

func TestHistoryForgetsByAge(t *testing.T) {
	h := start(t, keeping(10, time.Hour))
	s, room := h.session(), dest(t, "/topic/chat.lobby")
	stored := make(chan error, 1)
	old := &Message{To: room, Body: []byte("old"), TimestampMs: time.Now().Add(-2 * time.Hour).UnixMilli()}
	if _, err := s.Publish(context.Background(), old, nil, func(_ Stored, err error, _ *outbox.Batch) { stored <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-stored; err != nil {
		t.Fatal(err)
	}
	say(t, s, room, "new")
	var r reader
	follow(t, s, room, HistoryStart{Last: 10}, &r)
	untilGot(t, &r, "new")
}

func TestHistoryIsRefused(t *testing.T) {
	h := start(t, keeping(10, 0))
	s := h.session()
	if _, _, err := s.Follow(context.Background(), dest(t, "/topic/other"), HistoryStart{}, &reader{}); ClassOf(err) != NotFound {
		t.Errorf("follow without history: %v", err)
	}
	s.Close()
	if _, _, err := s.Follow(context.Background(), dest(t, "/topic/chat.x"), HistoryStart{}, &reader{}); ClassOf(err) != Conflict {
		t.Errorf("follow on a closed session: %v", err)
	}
}

func TestHistoryReadsFromStoreWhatMemoryDoesNotHold(t *testing.T) {
	h := start(t, keeping(5000, 0))
	s, room := h.session(), dest(t, "/topic/chat.lobby")
	big := make([]byte, 4<<10)
	var want []string
	for i := range 700 { // ten times what is cached
		b := fmt.Sprintf("%d%s", i, big)
		say(t, s, room, b)
		want = append(want, b)
	}
	r := reader{limit: true, room: 300}
	f, _ := follow(t, s, room, HistoryStart{Last: 5000}, &r)
	until(t, "the receiver is full", func() bool { return len(r.got()) == 300 })
	r.mu.Lock()
	r.limit = false
	r.mu.Unlock()
	f.Resume(nil)
	untilGot(t, &r, want...)
}

func TestSlowFollowerHearsWhatItMissed(t *testing.T) {
	h := start(t, keeping(3, 0))
	s, room := h.session(), dest(t, "/topic/chat.lobby")
	r := reader{limit: true, room: 1}
	f, _ := follow(t, s, room, HistoryStart{}, &r)
	say(t, s, room, "a", "b", "c", "d", "e", "f")
	r.mu.Lock()
	r.limit = false
	r.mu.Unlock()
	f.Resume(nil)
	untilGot(t, &r, "a", "d", "e", "f")
	if len(r.missed) != 1 || r.missed[0] > r.seqs[1] {
		t.Errorf("missed %v before %v", r.missed, r.seqs)
	}
	if h.Stats.Dropped()[DropHistoryOverrun] != 1 {
		t.Errorf("drops %v", h.Stats.Dropped())
	}
}

// Whatever the order of publishing, leaving with what was seen, coming back and
// restarting: within the retention a follower sees each message once, in order.
func TestFollowersMissNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &harness{t: t, store: NewMemoryStore()}
		h.opt = Options{Store: h.store, Authorize: AllowAll{}, Log: quiet()}
		keeping(1000, 0)(&h.opt)
		h.open()
		defer h.stop()
		room := dest(t, "/topic/chat.lobby")
		s := h.session()
		r := &reader{limit: true}
		f, p := follow(rt, s, room, HistoryStart{}, r)
		base := p.Last // while nothing was seen
		var want []string
		resume := func() {
			from := HistoryStart{Epoch: p.Epoch, AfterSeq: base}
			if n := len(r.seqs); n > 0 {
				from.AfterSeq = r.seqs[n-1]
			}
			f, p = follow(rt, s, room, from, r)
			if !p.Complete {
				rt.Fatalf("incomplete: %+v after %+v", p, from)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				b := fmt.Sprint(len(want))
				want = append(want, b)
				say(t, s, room, b)
			},
			"take": func(t *rapid.T) {
				r.mu.Lock()
				r.room += rapid.IntRange(1, 5).Draw(t, "n")
				r.mu.Unlock()
				f.Resume(nil)
			},
			"leave and come back": func(*rapid.T) { f.Close(); resume() },
			"restart": func(*rapid.T) {
				h.restart()
				s = h.session()
				resume()
			},
		})
		r.mu.Lock()
		r.limit = false
		r.mu.Unlock()
		f.Resume(nil)
		untilGot(rt, r, want...)
	})
}

func TestPresenceOverKindsOfSubscriptions(t *testing.T) {
	h := start(t, keeping(3, 0))
	room := dest(t, "/topic/chat.lobby")
	follower, subscriber, durable, absent := h.session(), h.session(), h.session(), h.session()
	follow(t, follower, room, HistoryStart{}, &reader{})
	filter, _, err := ParseFilter("", "/topic/chat.*")
	if err != nil {
		t.Fatal(err)
	}
	for s, name := range map[*Session]string{subscriber: "", durable: "inbox"} {
		sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter, Receiver: nobody{}, Durable: name})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
	}
	present := func() map[SessionID]bool {
		ps, err := absent.Present(context.Background(), room)
		if err != nil {
			t.Fatal(err)
		}
		out := map[SessionID]bool{}
		for _, p := range ps {
			out[p.Session] = true
		}
		return out
	}
	if got := present(); len(got) != 3 || !got[follower.ID] || !got[subscriber.ID] || !got[durable.ID] {
		t.Fatalf("present: %v", got)
	}
	follower.Close()
	subscriber.Close()
	durable.Close()
	if got := present(); len(got) != 0 {
		t.Fatalf("still present: %v", got)
	}
}

type nobody struct{}

func (nobody) Live(*Message, *outbox.Batch) bool    { return true }
func (nobody) Stored(*Delivery, *outbox.Batch) bool { return false }
