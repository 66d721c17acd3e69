package router

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func (h *harness) client(id string) *Session {
	h.t.Helper()
	s, err := h.Connect(SessionOptions{Principal: anyone, ClientID: id, Kick: func(error) {}})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func claim(t testing.TB, s *Session, o ClaimOptions) (*DurableSession, bool) {
	t.Helper()
	x, present, err := s.Claim(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return x, present
}

func mqttFilter(t testing.TB, s string) Filter {
	t.Helper()
	f, err := ParseMQTTFilter("", s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDurableSessionStoresOneCopyForSeveralFilters(t *testing.T) {
	h := start(t, nil)
	s := h.client("c")
	x, present := claim(t, s, ClaimOptions{Expiry: time.Hour})
	if present {
		t.Error("a new session is present")
	}
	for _, f := range []string{"a/#", "a/+", "a/b"} {
		if err := x.Bind(context.Background(), mqttFilter(t, f), BindOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	if err := x.Leave(context.Background(), LeaveOptions{Expiry: time.Hour, State: []byte("state")}); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, h.session(), "/topic/a/b", "1")
	h.restart()
	s = h.client("c")
	x, present = claim(t, s, ClaimOptions{Expiry: time.Hour})
	if !present || string(x.State()) != "state" {
		t.Errorf("present %v, state %q", present, x.State())
	}
	if err := x.Unbind(context.Background(), mqttFilter(t, "a/#")); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, h.session(), "/topic/a/b", "2")
	mustPublish(t, h.session(), "/topic/a/b/c", "unbound")
	in := &inbox{}
	sub, err := x.Receive(in, 10)
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	in.wait(t, "1", "2")
	s.Close()
	if err := x.Leave(context.Background(), LeaveOptions{}); err != nil { // no expiry: it ends
		t.Fatal(err)
	}
	if n := len(h.bindings); n != 0 {
		t.Errorf("%d bindings are left", n)
	}
	h.restart()
	if all, _ := h.DurableSessions(); all != 0 || len(h.mailboxes()) != 0 {
		t.Errorf("%d sessions and %d mailboxes are left", all, len(h.mailboxes()))
	}
}

func TestClaimWaitsForTheOwnerToLeave(t *testing.T) {
	h := start(t, nil)
	old := h.client("c")
	x, _ := claim(t, old, ClaimOptions{Expiry: time.Hour})
	fresh := h.client("c")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := fresh.Claim(ctx, ClaimOptions{Expiry: time.Hour}); ClassOf(err) != Unavailable {
		t.Fatalf("the session is claimed twice: %v", err)
	}
	claimed := make(chan error, 1)
	go func() { // ends when the owner has left
		_, present, err := fresh.Claim(context.Background(), ClaimOptions{Expiry: time.Hour})
		if err == nil && !present {
			err = fmt.Errorf("the session is not present")
		}
		claimed <- err
	}()
	if err := x.Leave(context.Background(), LeaveOptions{Expiry: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if err := <-claimed; err != nil {
		t.Error(err)
	}
}

// A session that another leader is said to have given, and that is not known, is refused and not made.
func TestClaimAgainMakesNoSession(t *testing.T) {
	h := start(t, nil)
	claim(t, h.client("will"), ClaimOptions{Clean: true, Will: &Will{Message: &Message{To: dest(t, "/queue/wills")}}})
	for _, id := range []string{"unknown", "will"} {
		if _, _, err := h.client(id).Claim(context.Background(), ClaimOptions{Expiry: time.Hour, Again: true}); ClassOf(err) != NotFound {
			t.Errorf("%s: %v", id, err)
		}
	}
	if all, _ := h.DurableSessions(); all != 0 {
		t.Errorf("%d sessions", all)
	}
}

func TestSessionNamesAreNotForDurableSubscriptions(t *testing.T) {
	h := start(t, nil)
	_, err := h.session().Subscribe(context.Background(), SubscribeOptions{Filter: filter(t, "/topic/a"), Durable: sessionPrefix + "c", Receiver: &inbox{}})
	if ClassOf(err) != Invalid {
		t.Errorf("a durable subscription takes a session's inbox: %v", err)
	}
}

func TestShareSkipsMembersWithoutRoom(t *testing.T) {
	h := start(t, nil)
	var members []*inbox
	var subs []*Subscription
	for range 2 {
		in := &inbox{}
		sub, err := h.session().SubscribeShared("g", SubscribeOptions{Filter: mqttFilter(t, "a/+"), Receiver: in})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
		members, subs = append(members, in), append(subs, sub)
	}
	p := h.session()
	members[0].setRefuse(true)
	mustPublish(t, p, "/topic/a/b", "1")
	mustPublish(t, p, "/topic/a/b", "2")
	members[1].wait(t, "1", "2")
	members[1].setRefuse(true)
	mustPublish(t, p, "/topic/a/b", "lost")
	if n := h.Stats.Dropped()[DropSlowConsumer]; n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
	for _, sub := range subs {
		sub.Close(nil)
	}
	if h.subs.len() != 0 || len(h.shares.members) != 0 {
		t.Error("the group is left")
	}
}
