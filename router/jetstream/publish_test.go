package jetstream

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// TestSilenceIsNudgedAndAnswered: a publish that nobody answers has the connection
// flushed again and again, costs the ones beside it nothing, and is answered with
// an error when the store closes.
func TestSilenceIsNudgedAndAnswered(t *testing.T) {
	s, err := Open(context.Background(), Options{Dir: t.TempDir(), SyncInterval: time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			s.Close()
		}
	}()
	if _, err := s.conn.Subscribe("silent", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	silent := make(chan error, 1)
	if err := s.pub.publish("silent", nil, nil, func(_ router.Stored, err error, _ *outbox.Batch) { silent <- err }); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); s.pub.nudges.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no nudge")
		}
	}
	stored := make(chan error, 1)
	s.transactions.publish("t", nil, []byte("x"), func(_ router.Stored, err error, _ *outbox.Batch) { stored <- err })
	if err := <-stored; err != nil {
		t.Fatal(err)
	}
	closed = true
	s.Close()
	if err := <-silent; !errors.Is(err, errClosed) {
		t.Errorf("the silent one ended with %v", err)
	}
	if n := s.pub.waiting; n != 0 {
		t.Errorf("%d still count as waiting", n)
	}
}
