package router

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
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

// What is confirmed on any node after a SUBSCRIBE was confirmed on another is not missed, though the nodes hear of it a moment later:
// by live subscriptions, and by groups.
func TestClusterLiveSubscribeIsABarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		pub := c.edges[0].session()
		for i := range 1000 {
			s, in := c.edges[1].session(), &inbox{}
			topic := fmt.Sprintf("/topic/t.%d", i)
			o := SubscribeOptions{Filter: filter(t, topic), Credit: 1, Receiver: in}
			var sub *Subscription
			var err error
			if i%2 == 0 {
				sub, err = s.Subscribe(context.Background(), o)
			} else if sub, err = s.SubscribeShared("g", o); err == nil {
				sub.Start(nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			mustPublish(t, pub, topic, "x")
			sub.Start(nil)
			in.wait(t, "x")
			s.Close()
		}
	})
}
