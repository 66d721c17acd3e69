package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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

// openPublisher returns a store, which is closed with the test, and a publisher beside its own, which stop ends.
func openPublisher(t *testing.T, shared bool) (s *Store, p *publisher, stop func()) {
	t.Helper()
	s = openInternal(t, nil)
	t.Cleanup(s.Close)
	var group sync.WaitGroup
	p, err := newPublisher(s.conn, shared, &group)
	if err != nil {
		t.Fatal(err)
	}
	return s, p, func() { p.close(); group.Wait() }
}

// TestPublishesBeyondTheSlotsWait: they leave in their order when answers come, never more at a time than there are slots, and
// hear of the end if it comes before.
func TestPublishesBeyondTheSlotsWait(t *testing.T) {
	s, p, stop := openPublisher(t, false)
	const slots, publishers, each = 4, 3, 500
	p.most = slots
	var seq, most atomic.Int64
	if _, err := s.reads.Subscribe("echo", func(m *nats.Msg) {
		_ = m.Respond(fmt.Appendf(nil, `{"stream":"s","seq":%d}`, seq.Add(1))) // the test ends the connection
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.reads.SubscribeSync("silent"); err != nil {
		t.Fatal(err)
	}
	if err := s.reads.Flush(); err != nil {
		t.Fatal(err)
	}
	var left sync.WaitGroup
	var last [publishers]uint64 // the publisher's goroutine's, which has the answers
	for n := range publishers {
		left.Add(each)
		go func() { // ends after its publishes
			for range each {
				err := p.publish("echo", nil, nil, func(st router.Stored, err error, _ *outbox.Batch) {
					if err != nil || st.Seq <= last[n] {
						t.Errorf("publisher %d: %d after %d, %v", n, st.Seq, last[n], err)
					}
					last[n] = st.Seq
					left.Done()
				})
				if err != nil {
					t.Error(err)
					left.Done()
				}
				p.mu.Lock()
				most.Store(max(most.Load(), int64(p.waiting)))
				p.mu.Unlock()
			}
		}()
	}
	left.Wait()
	if n := most.Load(); n > slots {
		t.Errorf("%d publishes were under way, of %d slots", n, slots)
	}

	ended := 0
	for range 2 * slots {
		if err := p.publish("silent", nil, nil, func(_ router.Stored, err error, _ *outbox.Batch) {
			if !errors.Is(err, errClosed) {
				t.Errorf("at the end: %v", err)
			}
			ended++
		}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if ended != 2*slots {
		t.Errorf("%d of %d heard of the end", ended, 2*slots)
	}
	if err := p.publish("echo", nil, nil, nil); !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v", err)
	}

	full := &publisher{backlog: make([]queued, publishBacklog)}
	if err := full.publish("echo", nil, nil, nil); router.ClassOf(err) != router.Unavailable || !errors.Is(err, errBusy) {
		t.Errorf("with a full backlog: %v", err)
	}
	full = &publisher{most: 9, bytes: publisherBytes, held: backlogBytes - 10}
	same := []byte("123456")
	for n := range 6 { // the same bytes count once
		if err := full.publish("echo", nil, same, nil); err != nil {
			t.Fatalf("publish %d of the same: %v", n, err)
		}
	}
	if err := full.publish("echo", nil, []byte("12345"), nil); !errors.Is(err, errBusy) {
		t.Errorf("with too many bytes: %v", err)
	}
}
