package door

import (
	"context"
	"errors"
	"net"
	"testing"
)

// visitor is a connection that leaves when it is told to.
type visitor struct {
	stubborn         bool
	leaving, aborted bool
}

func newGuests(seats int) *Guests[*visitor] {
	g := &Guests[*visitor]{Seats: NewSeats(seats, 0), Leaving: func(v *visitor) bool { return v.leaving }}
	g.Stop = func(v *visitor) {
		v.leaving = true
		if !v.stubborn {
			g.Leave(v)
		}
	}
	g.Abort = func(v *visitor) { v.aborted = true; g.Leave(v) }
	return g
}

func admit(t *testing.T, g *Guests[*visitor], v *visitor) *visitor {
	t.Helper()
	if c, err := g.Admit(func() *visitor { return v }); err != nil || c != v {
		t.Fatalf("admitted %v, %v", c, err)
	}
	return v
}

func TestGuests(t *testing.T) {
	g := newGuests(3)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if !g.Open(l) {
		t.Fatal("a listener is refused")
	}
	for range 2 {
		admit(t, g, &visitor{})
	}
	slow := admit(t, g, &visitor{stubborn: true})
	if _, err := g.Admit(func() *visitor { t.Error("it was begun"); return nil }); !errors.Is(err, ErrNoSeat) {
		t.Errorf("beyond the seats: %v", err)
	}
	if n := g.Shed(1) + g.Shed(5); n != 3 || g.Shed(5) != 0 || g.Len() != 1 || len(g.All()) != 1 {
		t.Errorf("%d were told to leave, and %d are there", n, g.Len())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := g.Drain(ctx); !errors.Is(err, cause) || !slow.aborted || g.Len() != 0 {
		t.Errorf("drain: %v, aborted %v, %d are there", err, slow.aborted, g.Len())
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener after the drain: %v", err)
	}
	if _, err := g.Admit(func() *visitor { return &visitor{} }); !errors.Is(err, ErrDrained) || g.Open(l) || !g.Draining() {
		t.Errorf("after the drain: %v", err)
	}
	if err := g.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	for range 3 {
		if !g.Seats.Take() {
			t.Fatal("a seat is still taken")
		}
	}
}
