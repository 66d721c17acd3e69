package jetstream_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// keptInbox follows a history.
type keptInbox struct {
	mu     sync.Mutex
	bodies []string
	seqs   []uint64
}

func (i *keptInbox) Kept(m *router.Message, seq uint64, _ *outbox.Batch) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bodies = append(i.bodies, string(m.Body))
	i.seqs = append(i.seqs, seq)
	return true
}

func (i *keptInbox) Missed(uint64, *outbox.Batch) {}

func (i *keptInbox) await(t *testing.T, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		i.mu.Lock()
		got := slices.Clone(i.bodies)
		i.mu.Unlock()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// A history outlives the process, with its sequences and its epoch, next to
// others in the same stream.
func TestHistoryOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	var epoch, seen uint64
	for run := range 3 {
		store := openStore(t, dir, true)
		r, err := router.New(context.Background(), router.Options{Store: store, Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler),
			History: func(router.Address) (int, time.Duration) { return 6, 0 }})
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Connect(router.SessionOptions{Principal: router.NewPrincipal("x", "", true, nil)})
		if err != nil {
			t.Fatal(err)
		}
		say := func(topic, body string) {
			a, _, err := router.ParseDestination("", topic)
			if err != nil {
				t.Fatal(err)
			}
			answers := make(chan error, 1)
			if _, err := s.Publish(context.Background(), &router.Message{To: a, Body: []byte(body)}, nil,
				func(_ router.Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
				t.Fatal(err)
			}
			if err := <-answers; err != nil {
				t.Fatal(err)
			}
		}
		var want []string
		if run > 0 {
			want = []string{fmt.Sprint(run-1, ".2"), fmt.Sprint(run-1, ".3")} // behind what the last run saw
		}
		for i := range 4 {
			for other := range 8 {
				say(fmt.Sprintf("/topic/other.%d", other), "x") // some share the stream
			}
			say("/topic/room", fmt.Sprint(run, ".", i))
			want = append(want, fmt.Sprint(run, ".", i))
		}
		room, _, err := router.ParseDestination("", "/topic/room")
		if err != nil {
			t.Fatal(err)
		}
		in := &keptInbox{}
		from := router.HistoryStart{Epoch: epoch, AfterSeq: seen, Last: 10}
		f, p, err := s.Follow(context.Background(), room, from, in)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Complete || p.Epoch == 0 || epoch != 0 && p.Epoch != epoch {
			t.Errorf("run %d: %+v from %+v", run, p, from)
		}
		f.Start(nil)
		in.await(t, want...)
		epoch, seen = p.Epoch, in.seqs[len(in.seqs)-3]
		if err := r.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		store.Close()
	}
}
