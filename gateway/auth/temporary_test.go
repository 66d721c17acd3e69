package auth

import (
	"context"
	"log/slog"
	"testing"

	"github.com/mqgate/mqgate/router"
)

// TestTemporaryQueuesNeedNoPattern: request and reply work for users whose
// patterns do not name the replies' queues, and only for queues that a session made.
func TestTemporaryQueuesNeedNoPattern(t *testing.T) {
	a := newAuthority(t, Options{Users: []User{{Name: "asks", PasswordHash: cheapHash("x")}}})
	r, err := router.New(context.Background(), router.Options{Store: router.NewMemoryStore(), Authorize: a, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(context.Background())
	p := login(t, a, router.Credentials{User: "asks", Password: "x", HasUser: true})
	s, err := r.Connect(router.SessionOptions{Principal: p})
	if err != nil {
		t.Fatal(err)
	}
	replies, err := s.TemporaryQueue("replies")
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []router.Action{router.ActionWrite, router.ActionConsume} {
		if err := a.Authorize(p, action, replies); err != nil {
			t.Errorf("%s: %v", action, err)
		}
		for _, name := range []string{"temp.replies", "temp.", "orders"} {
			q, err := router.QueueAddress("", name)
			if err != nil {
				t.Fatal(err)
			}
			if a.Authorize(p, action, q) == nil {
				t.Errorf("%s of %s is allowed without a pattern", action, name)
			}
		}
	}
	// A made-up name of the right form is allowed, and there is nothing behind it.
	made, err := router.QueueAddress("", "temp.x-y.z")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(context.Background(), &router.Message{To: made}, nil, nil); router.ClassOf(err) != router.NotFound {
		t.Errorf("a publish to a temporary queue that nobody made: %v", err)
	}
}
