package stomp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

func (s *gatedStore) await(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() error {
		if got := s.waiting(); got != n {
			return fmt.Errorf("%d answers wait, want %d", got, n)
		}
		return nil
	})
}

// TestRepliesKeepTheOrderOfRequests though the store answers in another one.
func TestRepliesKeepTheOrderOfRequests(t *testing.T) {
	store := newGatedStore()
	fx := start(t, func(s *settings) { s.router.Store = store })
	c := fx.login(t, ActiveMQ, frame.V12)
	for _, q := range []string{"a", "b", "c"} {
		c.do("SEND", "destination:/queue/"+q)
	}
	store.close()
	c.frame("SEND", "", "destination:/queue/a", "receipt:1")
	store.await(t, 1)
	c.frame("SEND", "", "destination:/nowhere", "receipt:2") // fails at once
	c.frame("SEND", "", "destination:/queue/b", "receipt:3")
	c.frame("BEGIN", "", "transaction:t", "receipt:4")
	c.frame("SEND", "", "destination:/queue/c")
	store.await(t, 3)
	store.release(1) // b
	store.release(1) // c
	fx.depth(t, "b", 2, 0)
	store.open()
	for _, want := range []string{"RECEIPT 1", "ERROR 2", "RECEIPT 3", "RECEIPT 4"} {
		r, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.command.String() + " " + r.header("receipt-id"); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

// TestReceiptWaitsForTheStore: nothing is said before the store confirmed, and DISCONNECT waits for all of it.
func TestReceiptWaitsForTheStore(t *testing.T) {
	store := newGatedStore()
	fx := start(t, func(s *settings) { s.router.Store = store })
	c := fx.login(t, ActiveMQ, frame.V12)
	store.close()
	c.frame("SEND", "", "destination:/queue/a", "receipt:1")
	c.frame("SEND", "", "destination:/queue/a")
	c.frame("DISCONNECT", "", "receipt:bye")
	store.await(t, 2)
	eventually(t, func() error { // the reader waits with DISCONNECT in hand
		if !strings.Contains(stacks(), "disconnect") {
			return errors.New("the reader does not wait yet")
		}
		return nil
	})
	c.raw()
	store.release(1)
	if c.tee.b.Len() > 0 {
		t.Errorf("got %q before the store answered", c.raw())
	}
	store.open()
	c.want(frame.RECEIPT)
	if r := c.want(frame.RECEIPT); r.header("receipt-id") != "bye" {
		t.Errorf("receipt-id %q", r.header("receipt-id"))
	}
	c.gone()
}

// unsaved is a store that does not hear what became of its messages while fails is set.
type unsaved struct {
	*router.MemoryStore
	fails atomic.Bool
}

type unsavedLog struct {
	router.Log
	store *unsaved
}

func (s *unsaved) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := s.MemoryStore.OpenLog(ctx, id)
	return unsavedLog{l, s}, err
}

func (l unsavedLog) SaveRecord(record []byte, done router.Done) {
	if !l.store.fails.Load() {
		l.Log.SaveRecord(record, done)
		return
	}
	go done(router.Stored{}, &router.Error{Op: "save", Class: router.Unavailable, Text: "the store does not answer"}, nil)
}

// TestDisconnectTellsOfLostAcks: its RECEIPT would say that every ACK before it is stored.
func TestDisconnectTellsOfLostAcks(t *testing.T) {
	store := &unsaved{MemoryStore: router.NewMemoryStore()}
	fx := start(t, func(s *settings) { s.router.Store = store })
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SEND", "destination:/queue/a")
	c.do("SUBSCRIBE", "id:s", "destination:/queue/a", "ack:client-individual")
	m := c.want(frame.MESSAGE)
	store.fails.Store(true)
	defer store.fails.Store(false)
	c.frame("ACK", "", "id:"+m.header("ack"))
	c.frame("DISCONNECT", "", "receipt:bye")
	if r := c.want(frame.ERROR); r.header("receipt-id") != "bye" || r.header("message") != "the store does not answer" {
		t.Errorf("got %v", r)
	}
	c.gone()
}

// TestUnconfirmedIsBounded: beyond the limit nothing more is read, and it goes on when the store answers.
func TestUnconfirmedIsBounded(t *testing.T) {
	cases := map[string]struct {
		change func(*Options)
		body   string
	}{
		"count": {func(o *Options) { o.MaxUnconfirmed = 5 }, "x"},
		"bytes": {func(o *Options) { o.MaxUnconfirmedBytes = 5 * 1100 }, strings.Repeat("x", 1000)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			store := newGatedStore()
			fx := start(t, func(s *settings) { s.router.Store = store; tc.change(&s.options) })
			c := fx.login(t, ActiveMQ, frame.V12)
			store.close()
			for i := range 20 {
				c.frame("SEND", tc.body, "destination:/queue/a", fmt.Sprint("receipt:", i))
			}
			store.await(t, 5)
			eventually(t, func() error {
				if !strings.Contains(stacks(), "(*conn).expect") {
					return errors.New("the reader does not wait yet")
				}
				return nil
			})
			if n := store.waiting(); n != 5 {
				t.Errorf("%d are under way", n)
			}
			store.open()
			for i := range 20 {
				if r := c.want(frame.RECEIPT); r.header("receipt-id") != fmt.Sprint(i) {
					t.Fatalf("receipt %q, want %d", r.header("receipt-id"), i)
				}
			}
		})
	}
}

func TestFullQueueAndRecovery(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.router.QueuePolicy = func(router.Address) router.Policy { return router.Policy{MaxLength: 3} }
	})
	c := fx.login(t, ActiveMQ, frame.V12)
	for range 3 {
		c.do("SEND", "destination:/queue/f")
	}
	c.frame("SEND", "", "destination:/queue/f", "receipt:r")
	if e := c.fails("queue f is full"); e.header("receipt-id") != "r" || !strings.Contains(e.body, "Wait 1s before trying again") {
		t.Errorf("ERROR %v %q", e.headers, e.body)
	}
	c.frame("SEND", "", "destination:/queue/f") // without a receipt, too
	c.fails("queue f is full")
	c.frame("SEND", "", "destination:/queue/g,/queue/f", "receipt:r")
	if e := c.fails("queue f is full"); e.header("receipt-id") != "r" {
		t.Errorf("ERROR %v", e.headers)
	}
	fx.depth(t, "g", 0, 0) // all or none
	w := fx.login(t, ActiveMQ, frame.V12)
	w.do("SUBSCRIBE", "id:1", "destination:/queue/f", "ack:client")
	w.frame("ACK", "", "id:"+w.want(frame.MESSAGE).header("ack"), "receipt:a") // the next one may overtake the receipt
	w.either(frame.RECEIPT, frame.MESSAGE)
	c.do("SEND", "destination:/queue/f")
	fx.depth(t, "f", 3, 1)
}

// TestClassesHaveHints: the table has a hint for each class of the router.
func TestClassesHaveHints(t *testing.T) {
	for class := router.Internal; class.String() != "unknown"; class++ {
		r := explain(&router.Error{Op: "x", Class: class, Text: "a\nb", Err: errors.New("detail")})
		if int(class) >= len(classHints) || r.hint == "" || r.message != "a b" || strings.Contains(r.message+r.hint, "detail") {
			t.Errorf("%s: %+v", class, r)
		}
	}
	if r := explain(&router.Error{Op: "login", Class: router.Denied, Text: "the user name or the password is wrong"}); !strings.Contains(r.hint, "login and passcode") {
		t.Errorf("who could not log in reads %q", r.hint)
	}
	if r := explain(errors.New("secret")); r.message != "internal error" || strings.Contains(r.hint, "secret") || r.fatal {
		t.Errorf("%+v", r)
	}
}

func TestFarewells(t *testing.T) {
	for _, cause := range []error{errDraining, errSilent, errSlow, router.ErrTakenOver} {
		if r := farewell(fmt.Errorf("wrapped: %w", cause)); r == nil || !r.fatal || r.hint == "" {
			t.Errorf("%v: %+v", cause, r)
		}
	}
	for _, cause := range []error{nil, errLeft, errParted, errAborted, errors.New("read: connection reset")} {
		if r := farewell(cause); r != nil {
			t.Errorf("%v: %+v", cause, r)
		}
	}
}
