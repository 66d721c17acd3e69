package door

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// TestSeats compares with two counters.
func TestSeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most, perUser := rapid.IntRange(1, 4).Draw(t, "most"), rapid.IntRange(0, 2).Draw(t, "per user")
		s := NewSeats(most, perUser)
		taken, users := 0, map[string]int{}
		user := rapid.SampledFrom([]string{"a", "b", ""})
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				ok := s.Take()
				if ok != (taken < most) {
					t.Fatalf("took a seat: %v, with %d of %d taken", ok, taken, most)
				}
				if ok {
					taken++
				}
			},
			"leave": func(*rapid.T) {
				if taken > 0 {
					taken--
					s.Leave()
				}
			},
			"enter": func(t *rapid.T) {
				u := user.Draw(t, "user")
				ok := s.Enter(u)
				if ok != (perUser == 0 || users[u] < perUser) {
					t.Fatalf("%q entered: %v, with %d of %d", u, ok, users[u], perUser)
				}
				if ok {
					users[u]++
				}
			},
			"exit": func(t *rapid.T) {
				if u := user.Draw(t, "user"); users[u] > 0 {
					users[u]--
					s.Exit(u)
				}
			},
			"": func(t *rapid.T) {
				if perUser > 0 && len(s.users) > len(users) {
					t.Fatalf("remembers %d users", len(s.users))
				}
			},
		})
		for u, n := range users {
			for range n {
				s.Exit(u)
			}
		}
		if len(s.users) != 0 {
			t.Fatalf("remembers %v", s.users)
		}
	})
}

// failing is a listener that fails as told.
type failing struct {
	net.Listener
	errs   []error
	closed bool
}

func (f *failing) Accept() (net.Conn, error) {
	if f.closed || len(f.errs) == 0 {
		return nil, net.ErrClosed
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	if err == nil {
		return nil, nil
	}
	return nil, err
}

func (f *failing) Close() error   { f.closed = true; return nil }
func (f *failing) Addr() net.Addr { return &net.TCPAddr{} }

type temporary struct{ error }

func (temporary) Temporary() bool { return true }

func TestAcceptGoesOnAfterWhatMayPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passes := temporary{errors.New("too many open files")}
		l := &failing{errs: []error{passes, passes, nil, passes, nil}}
		var count atomic.Uint64
		served := 0
		a := Accepting{Log: slog.New(slog.DiscardHandler), Errors: &count, Life: t.Context(), Draining: func() bool { return false },
			Each: func(net.Conn) { served++ }}
		if err := a.Accept(t.Context(), l); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a listener that is closed by itself: %v", err)
		}
		if served != 2 || count.Load() != 3 {
			t.Errorf("%d connections, %d failures", served, count.Load())
		}
		a.Draining = func() bool { return true }
		if err := a.Accept(t.Context(), l); err != nil {
			t.Errorf("a listener that the server closed: %v", err)
		}
	})
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a := Accepting{Log: slog.New(slog.DiscardHandler), Errors: new(atomic.Uint64), Life: ctx, Draining: func() bool { return false }}
	if err := a.Accept(ctx, l); err != nil {
		t.Error(err)
	}
}
