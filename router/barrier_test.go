package router

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// What is confirmed anywhere after a durable subscription was confirmed anywhere is stored, whatever made it.
func TestClusterSubscribeIsABarrier(t *testing.T) {
	for name, bind := range map[string]func(*testing.T, *harness, string, string) (MailboxID, func()){
		"STOMP durable": subscribeDurable, "MQTT session": bindSession, "MQTT shared group": bindGroup, "bound queue": bindQueue,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testSubscribeIsABarrier(t, bind) }) // its clock does not run away on a busy machine
		})
	}
}

// testSubscribeIsABarrier has bind make a binding on one node, says which mailbox is to have the copy of what another node's
// client publishes then, and undoes it.
func testSubscribeIsABarrier(t *testing.T, bind func(t *testing.T, e *harness, topic, name string) (MailboxID, func())) {
	c := startCluster(t, 2, nil)
	pub := c.edges[0].session()
	for i := range 1000 {
		topic := fmt.Sprintf("/topic/t.%d", i)
		id, undo := bind(t, c.edges[1], topic, fmt.Sprintf("d%d", i))
		m := &Message{To: dest(t, topic), Body: []byte("x"), Flags: FlagPersistent}
		if err := publish(t, pub, m); err != nil {
			t.Fatal(err)
		}
		c.core.mu.Lock()
		b := c.core.boxes[id]
		c.core.mu.Unlock()
		if b == nil {
			t.Fatalf("round %d: there is no %v", i, id)
		}
		if n := b.box.info().Depth; n != 1 {
			t.Fatalf("round %d: %d copies stored", i, n)
		}
		undo()
	}
	eventually(t, func() error {
		if n := c.edges[0].edge.filters.len(); n != 0 {
			return fmt.Errorf("%d filters are left", n)
		}
		return nil
	})
}

func subscribeDurable(t *testing.T, e *harness, topic, name string) (MailboxID, func()) {
	s := e.session()
	o := SubscribeOptions{Filter: filter(t, topic), Durable: name, Credit: 1, Receiver: &inbox{}}
	if _, err := s.Subscribe(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	return MailboxID{KindInbox, DefaultVhost, name}, func() {
		if err := s.Unbind(context.Background(), name, nil); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

// claimed is the session of an MQTT client, and what ends it.
func claimed(t *testing.T, e *harness, client string) (*DurableSession, func()) {
	t.Helper()
	s := e.client(client)
	x, _ := claim(t, s, ClaimOptions{Expiry: time.Hour})
	return x, func() {
		s.Close()
		if err := x.Leave(context.Background(), LeaveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func bindSession(t *testing.T, e *harness, topic, name string) (MailboxID, func()) {
	x, end := claimed(t, e, name)
	if err := x.Bind(context.Background(), filter(t, topic), BindOptions{}); err != nil {
		t.Fatal(err)
	}
	return x.boxID(), end
}

func bindGroup(t *testing.T, e *harness, topic, name string) (MailboxID, func()) {
	x, end := claimed(t, e, name)
	if err := x.BindShared(context.Background(), "g", filter(t, topic)); err != nil {
		t.Fatal(err)
	}
	return shareBox(shareKey{"g", filter(t, topic)}), end
}

func bindQueue(t *testing.T, e *harness, topic, name string) (MailboxID, func()) {
	s := e.session()
	if err := s.BindQueue(context.Background(), filter(t, topic), dest(t, "/queue/"+name)); err != nil {
		t.Fatal(err)
	}
	return MailboxID{KindQueueBox, DefaultVhost, name}, func() {
		if err := s.UnbindQueue(context.Background(), filter(t, topic), dest(t, "/queue/"+name)); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

func TestClusterDurableSessionMovesBetweenNodes(t *testing.T) {
	c := startCluster(t, 2, nil)
	kicked := make(chan error, 1)
	s, err := c.edges[0].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(cause error) { kicked <- cause }})
	if err != nil {
		t.Fatal(err)
	}
	x, present := claim(t, s, ClaimOptions{Expiry: time.Hour})
	if present || x == nil {
		t.Fatal("a new session is present")
	}
	if err := x.Bind(context.Background(), mqttFilter(t, "a/#"), BindOptions{}); err != nil {
		t.Fatal(err)
	}
	in := &inbox{}
	sub, err := x.Receive(in, 1)
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	p := c.edges[1].session()
	for i := range 3 {
		mustPublish(t, p, "/topic/a/b", fmt.Sprint(i))
	}
	ack(t, in.wait(t, "0")[0])
	in.wait(t, "0", "1")
	go func() { // as a front-end does when it is kicked
		if cause := <-kicked; !errors.Is(cause, ErrTakenOver) {
			t.Errorf("kicked for %v", cause)
		}
		s.Close()
		if err := x.Leave(context.Background(), LeaveOptions{Expiry: time.Hour, State: []byte("s1")}); err != nil {
			t.Error(err)
		}
	}()
	s2, err := c.edges[1].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	y, present := claim(t, s2, ClaimOptions{Expiry: time.Hour})
	if !present || string(y.State()) != "s1" {
		t.Fatalf("present %v, state %q", present, y.State())
	}
	in2 := &inbox{}
	sub, err = y.Receive(in2, 10)
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	ds := in2.wait(t, "1", "2")
	if !ds[0].Redelivered() || ds[1].Redelivered() {
		t.Error("the marks are wrong")
	}
	saved := make(chan error, 1)
	y.Save([]byte("s2"), func(_ Stored, err error, _ *outbox.Batch) { saved <- err })
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if err := y.Unbind(context.Background(), mqttFilter(t, "a/#")); err != nil {
		t.Fatal(err)
	}
	s2.Close()
	if err := y.Leave(context.Background(), LeaveOptions{}); err != nil {
		t.Fatal(err)
	}
	if all, _ := c.core.DurableSessions(); all != 0 {
		t.Errorf("%d sessions are left", all)
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
