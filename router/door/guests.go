package door

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Guests are the connections of one server and the listeners that they come by, up to
// the end of its drain.
type Guests[C comparable] struct {
	Seats *Seats
	// Stop has a connection end once it has said what is to be said. It does not block.
	Stop func(C)
	// Abort ends one at once.
	Abort func(C)
	// Leaving reports whether one is ending already.
	Leaving func(C) bool
	// Socket, if set, gives a connection's socket; then Vanished ends those whose peer is not there any more.
	Socket   func(C) net.Conn
	Vanished func(C)

	mu        sync.Mutex
	all       map[C]*debt
	listeners map[net.Listener]struct{}
	draining  bool
	looking   *time.Timer // while there are connections
	owing     func(C) (owes bool, silent time.Duration)
	group     sync.WaitGroup
}

// Why a connection is turned away.
var (
	ErrNoSeat  = errors.New("there is no free seat")
	ErrDrained = errors.New("the server is draining")
)

// Open notes a listener that Drain is to close; false means that the server drains.
func (g *Guests[C]) Open(l net.Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return false
	}
	if g.listeners == nil {
		g.listeners = map[net.Listener]struct{}{}
	}
	g.listeners[l] = struct{}{}
	return true
}

// Close closes a listener that has ended.
func (g *Guests[C]) Close(l net.Listener) {
	g.mu.Lock()
	delete(g.listeners, l)
	g.mu.Unlock()
	_ = l.Close() // it may be closed already
}

// Draining reports whether Drain was called.
func (g *Guests[C]) Draining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.draining
}

// Admit takes a seat and counts the connection that begin makes, until Leave.
func (g *Guests[C]) Admit(begin func() C) (c C, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.draining:
		return c, ErrDrained
	case !g.Seats.Take():
		return c, ErrNoSeat
	}
	g.group.Add(1)
	c = begin()
	if g.all == nil {
		g.all = map[C]*debt{}
	}
	g.all[c] = new(debt)
	g.watch()
	return c, nil
}

// Leave forgets a connection that has ended.
func (g *Guests[C]) Leave(c C) {
	g.mu.Lock()
	delete(g.all, c)
	g.unwatch()
	g.Seats.Leave()
	g.mu.Unlock()
	g.group.Done()
}

// Len returns how many there are.
func (g *Guests[C]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// All returns those that there are.
func (g *Guests[C]) All() []C {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.locked()
}

func (g *Guests[C]) locked() []C {
	out := make([]C, 0, len(g.all))
	for c := range g.all {
		out = append(out, c)
	}
	return out
}

// Drain closes the listeners, stops the connections and waits until all have left. When
// ctx ends first, the rest is aborted and ctx's cause is returned, when they have left.
func (g *Guests[C]) Drain(ctx context.Context) error {
	g.mu.Lock()
	g.draining = true
	for l := range g.listeners {
		_ = l.Close() // who accepts from it returns
	}
	all := g.locked()
	g.mu.Unlock()
	for _, c := range all {
		g.Stop(c)
	}
	over := make(chan struct{})
	go func() { g.group.Wait(); close(over) }() // ends with the connections, which Abort ends below
	select {
	case <-over:
		return nil
	case <-ctx.Done():
	}
	for _, c := range all {
		g.Abort(c)
	}
	<-over
	return context.Cause(ctx)
}

// Shed stops up to n connections as Drain does all, and returns how many; 0 means that
// there are none left to stop. It refuses no new ones, and does not wait.
func (g *Guests[C]) Shed(n int) int {
	chosen := make([]C, 0, min(n, 100))
	g.mu.Lock()
	for c := range g.all {
		if len(chosen) == n {
			break
		}
		if !g.Leaving(c) {
			chosen = append(chosen, c)
		}
	}
	g.mu.Unlock()
	for _, c := range chosen {
		g.Stop(c)
	}
	return len(chosen)
}
