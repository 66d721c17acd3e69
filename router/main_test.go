package router

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

var anyone = NewPrincipal("anyone", "", true, nil)

// harness is a router on a memory store that can be restarted.
type harness struct {
	t     testing.TB
	store *MemoryStore
	opt   Options
	*Router
}

func start(t testing.TB, change func(*Options)) *harness {
	t.Helper()
	h := &harness{t: t, store: NewMemoryStore()}
	h.opt = Options{Store: h.store, Authorize: AllowAll{}, Log: quiet(), MaxTransactionMessages: 1000, MaxTransactionBytes: 16 << 20,
		QueuePolicy: func(Address) Policy { return Policy{} }}
	if change != nil {
		change(&h.opt)
	}
	h.open()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *harness) open() {
	h.t.Helper()
	r, err := New(context.Background(), h.opt)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Router = r
}

func (h *harness) stop() {
	if h.Router == nil {
		return
	}
	if err := h.Close(context.Background()); err != nil {
		h.t.Error(err)
	}
	h.Router = nil
}

func (h *harness) restart() { h.stop(); h.open() }

func (h *harness) session() *Session {
	h.t.Helper()
	s, err := h.Connect(SessionOptions{Principal: anyone, Kick: func(error) {}})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func dest(t testing.TB, s string) Address {
	t.Helper()
	a, _, err := ParseDestination("", s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func filter(t testing.TB, s string) Filter {
	t.Helper()
	f, _, err := ParseFilter("", s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// publish sends and waits for the store.
func publish(t testing.TB, s *Session, m *Message) error {
	t.Helper()
	answer := make(chan error, 1)
	pending, err := s.Publish(context.Background(), m, nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err })
	if err != nil || !pending {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the store did not answer")
		return nil
	}
}

func mustPublish(t testing.TB, s *Session, to, body string) {
	t.Helper()
	if err := publish(t, s, &Message{To: dest(t, to), Body: []byte(body), Priority: DefaultPriority}); err != nil {
		t.Fatal(err)
	}
}

// inbox is a receiver that keeps what it gets.
type inbox struct {
	mu     sync.Mutex
	live   []*Message
	stored []*Delivery
	refuse bool
}

func (i *inbox) Live(m *Message, _ *outbox.Batch) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.refuse {
		return false
	}
	i.live = append(i.live, m)
	return true
}

func (i *inbox) Stored(d *Delivery, _ *outbox.Batch) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.refuse {
		return false
	}
	i.stored = append(i.stored, d)
	return true
}

func (i *inbox) setRefuse(v bool) {
	i.mu.Lock()
	i.refuse = v
	i.mu.Unlock()
}

func (i *inbox) got() []*Delivery {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]*Delivery(nil), i.stored...)
}

func (i *inbox) bodies() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []string
	for _, m := range i.live {
		out = append(out, string(m.Body))
	}
	for _, d := range i.stored {
		out = append(out, string(d.Message.Body))
	}
	return out
}

func consume(t testing.TB, s *Session, from string, credit int) (*Subscription, *inbox) {
	t.Helper()
	return subscribe(t, s, SubscribeOptions{Filter: filter(t, from), Credit: credit})
}

func subscribe(t testing.TB, s *Session, o SubscribeOptions) (*Subscription, *inbox) {
	t.Helper()
	i := &inbox{}
	o.Receiver = i
	sub, err := s.Subscribe(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	return sub, i
}

// eventually polls until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func (i *inbox) wait(t testing.TB, want ...string) []*Delivery {
	t.Helper()
	eventually(t, func() error {
		if got := i.bodies(); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
	return i.got()
}

func (h *harness) depth(queue string) int {
	h.t.Helper()
	info, err := h.QueueInfo(anyone, dest(h.t, queue))
	if err != nil {
		h.t.Fatal(err)
	}
	return info.Depth
}

func (h *harness) waitDepth(queue string, want int) {
	h.t.Helper()
	eventually(h.t, func() error {
		if got := h.depth(queue); got != want {
			return fmt.Errorf("depth of %s is %d, want %d", queue, got, want)
		}
		return nil
	})
}

func ack(t testing.TB, d *Delivery) {
	t.Helper()
	answer := make(chan error, 1)
	if err := d.Ack(nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
}
