package router

import (
	"context"
	"fmt"
	"testing"
)

// What is published from the moment that Subscribe returns waits for Start, in order, and is not given before.
func TestLiveMessagesWaitForTheStart(t *testing.T) {
	r := start(t, nil)
	in := &inbox{}
	sub, err := r.session().Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Receiver: in})
	if err != nil {
		t.Fatal(err)
	}
	pub := r.session()
	for i := range 10 {
		mustPublish(t, pub, "/topic/a", fmt.Sprint(i))
	}
	if n := len(in.bodies()); n != 0 {
		t.Fatalf("%d came before the start", n)
	}
	sub.Start(nil)
	mustPublish(t, pub, "/topic/a", "10")
	in.wait(t, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10")
}

// What comes early is bounded, and what is too much is counted.
func TestWhatWaitsForTheStartIsBounded(t *testing.T) {
	r := start(t, nil)
	in := &inbox{}
	sub, err := r.session().Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Receiver: in})
	if err != nil {
		t.Fatal(err)
	}
	pub := r.session()
	for range maxEarly + 5 {
		mustPublish(t, pub, "/topic/a", "x")
	}
	sub.Start(nil)
	if n := len(in.bodies()); n != maxEarly {
		t.Errorf("%d came, want %d", n, maxEarly)
	}
	if n := r.Stats.Dropped()[DropSlowConsumer]; n != 5 {
		t.Errorf("%d are counted as dropped, want 5", n)
	}
}

// A subscription that ends before its start gets nothing, and leaves nothing behind.
func TestASubscriptionMayEndBeforeItsStart(t *testing.T) {
	r := start(t, nil)
	in := &inbox{}
	s := r.session()
	sub, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Receiver: in})
	if err != nil {
		t.Fatal(err)
	}
	sub.Close(nil)
	mustPublish(t, r.session(), "/topic/a", "x")
	sub.Start(nil)
	if n := len(in.bodies()); n != 0 {
		t.Errorf("%d came", n)
	}
	if n := r.subs.len(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
}
