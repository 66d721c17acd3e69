package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// liveInbox keeps the bodies of live messages.
type liveInbox struct {
	mu     sync.Mutex
	bodies []string
}

func (i *liveInbox) Live(m *router.Message, _ *outbox.Batch) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bodies = append(i.bodies, m.To.Name()+"="+string(m.Body))
	return true
}

func (i *liveInbox) Stored(*router.Delivery, *outbox.Batch) bool { return false }

func (i *liveInbox) got() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.bodies)
}

// node is a router that shares live messages over the store's server.
func node(t *testing.T, s *jetstream.Store) (*router.Router, *router.Session) {
	t.Helper()
	c, err := s.Carrier()
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(context.Background(), router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler), Carrier: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		c.Close()
	})
	sess, err := r.Connect(router.SessionOptions{Principal: router.NewPrincipal("x", "", true, nil)})
	if err != nil {
		t.Fatal(err)
	}
	return r, sess
}

func listen(t *testing.T, s *router.Session, filter string) (*router.Subscription, *liveInbox) {
	t.Helper()
	f, _, err := router.ParseFilter("", filter)
	if err != nil {
		t.Fatal(err)
	}
	in := &liveInbox{}
	sub, err := s.Subscribe(context.Background(), router.SubscribeOptions{Filter: f, Receiver: in})
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	return sub, in
}

func TestLiveMessagesCrossNodesOnceAndInOrder(t *testing.T) {
	store := openStore(t, t.TempDir(), false)
	t.Cleanup(store.Close)
	_, a := node(t, store)
	_, b := node(t, store)
	_, exact := listen(t, b, "/topic/plant.7.temp")
	_, wide := listen(t, b, "/topic/plant.>")
	_, twin := listen(t, b, "/topic/plant.>") // the same filter twice: one interest
	_, own := listen(t, a, "/topic/plant.*.temp")
	_, other := listen(t, b, "/topic/office.>")

	send := func(n int) {
		to, _, err := router.ParseDestination("", "/topic/plant.7.temp")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Publish(context.Background(), &router.Message{To: to, Body: fmt.Append(nil, n)}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Interest reaches the server in its own time: wait for a first message.
	deadline := time.Now().Add(10 * time.Second)
	for first := 0; len(exact.got()) == 0 || len(wide.got()) == 0 || len(twin.got()) == 0; first-- {
		if time.Now().After(deadline) {
			t.Fatal("no message crossed")
		}
		send(first)
		time.Sleep(5 * time.Millisecond)
	}
	for i := 1; i <= 500; i++ {
		send(i)
	}
	want := make([]string, 500)
	for i := range want {
		want[i] = fmt.Sprintf("plant/7/temp=%d", i+1)
	}
	for name, in := range map[string]*liveInbox{"exact": exact, "wide": wide, "twin": twin, "own": own} {
		for {
			got := in.got()
			if len(got) >= 500 && slices.Equal(got[len(got)-500:], want) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d messages, not the 500 in order once each", name, len(got))
			}
			time.Sleep(time.Millisecond)
		}
	}
	if got := other.got(); len(got) != 0 {
		t.Errorf("a filter that does not match got %v", got)
	}
}

func TestInterestEndsWithItsLastSubscriber(t *testing.T) {
	store := openStore(t, t.TempDir(), false)
	t.Cleanup(store.Close)
	ra, a := node(t, store)
	_, b := node(t, store)
	first, _ := listen(t, b, "/topic/x")
	second, in := listen(t, b, "/topic/x")
	first.Close(nil)
	to, _, _ := router.ParseDestination("", "/topic/x")
	deadline := time.Now().Add(10 * time.Second)
	for len(in.got()) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the second subscriber lost its interest with the first")
		}
		if _, err := a.Publish(context.Background(), &router.Message{To: to}, nil, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	second.Close(nil)
	n := len(in.got())
	if _, err := a.Publish(context.Background(), &router.Message{To: to}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if ra.Stats.Delivered.Load() != 0 {
		t.Error("the publishing node counts deliveries that it did not make")
	}
	if len(in.got()) != n {
		t.Error("a closed subscription got a message")
	}
}

// What a node does not take in time is counted, also when nobody asks for it any more.
func TestCarrierCountsWhatItDrops(t *testing.T) {
	s := openStore(t, t.TempDir(), false)
	defer s.Close()
	from, err := s.Carrier()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := s.Carrier()
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	f, _, err := router.ParseFilter("", "/topic/a")
	if err != nil {
		t.Fatal(err)
	}
	busy := make(chan struct{})
	stop, known, err := to.Interest(f, func(*router.Message, *outbox.Batch) { <-busy })
	if err != nil {
		t.Fatal(err)
	}
	defer close(busy)
	<-known
	topic, _ := f.Address()
	m := &router.Message{To: topic, Body: []byte("x")}
	eventually(t, func() error {
		for range 4 << 10 {
			from.Carry(m)
		}
		if to.Dropped() == 0 {
			return errors.New("nothing is counted")
		}
		return nil
	})
	before := to.Dropped()
	stop()
	if after := to.Dropped(); after < before {
		t.Errorf("%d were dropped, and %d when the subscriber had left", before, after)
	}
}
