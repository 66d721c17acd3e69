package jetstream_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// What an earlier leader had under way may be stored after the next one opened the store, and a publisher's second try is
// then a duplicate of it: all of it must be heard of, in order and before what is stored behind it.
func TestLateAppendsOfAnEarlierLeaderAreHeard(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	now, before := c.open(0), c.open(1)
	t.Cleanup(now.Close)
	t.Cleanup(before.Close)
	id := router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"}
	openLog := func(s router.Store) router.Log {
		l, err := s.OpenLog(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l, late := openLog(now), openLog(before)
	var mu sync.Mutex
	var heard []string
	note := func(format string, args ...any) {
		mu.Lock()
		heard = append(heard, fmt.Sprintf(format, args...))
		mu.Unlock()
	}
	l.(router.Hearer).Hear(func(e router.Entry, _ *outbox.Batch) { note("%d %s", e.Seq, e.Envelope) })
	appendOne := func(to router.Log, body, dedup string) {
		t.Helper()
		done := make(chan error, 1)
		to.Append([]byte(body), dedup, func(s router.Stored, err error, _ *outbox.Batch) {
			if to == l {
				note("%d own %s", s.Seq, body)
			}
			done <- err
		})
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no answer")
		}
	}
	now.HearTransactions(func(x router.StoredTransaction) { note("transaction %s", x.Body) })
	begun := make(chan answer, 1)
	before.BeginTransaction([]byte("tx"), into(begun))
	if a := hear(t, begun); a.err != nil {
		t.Fatal(a.err)
	}
	within(t, 30*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		if got := fmt.Sprint(heard); got != "[transaction tx]" {
			return fmt.Errorf("heard %s", got)
		}
		heard = nil
		return nil
	})
	appendOne(late, "a", "id-a")
	appendOne(late, "b", "id-b")
	appendOne(l, "b", "id-b") // the publisher asks again
	appendOne(l, "c", "")     // and goes on
	appendOne(late, "d", "")  // another straggler, to a stream that nobody appends to
	want := "[1 a 2 b 2 own b 3 own c 4 d]"
	within(t, 30*time.Second, func() error {
		mu.Lock()
		defer mu.Unlock()
		if got := fmt.Sprint(heard); got != want {
			return fmt.Errorf("heard %s, want %s", got, want)
		}
		return nil
	})
}
