package router

import (
	"sync"

	"github.com/mqgate/mqgate/router/outbox"
)

// gate keeps the live messages of a subscription from when it is routed to until its start: a client hears that it is subscribed
// before the first message, and misses nothing that came in between.
type gate struct {
	mu    sync.Mutex
	open  bool
	early []*Message
	bytes int
}

// What comes early is a moment's worth. Above that it is dropped, as for any receiver without room.
const (
	maxEarly      = 1 << 10
	maxEarlyBytes = 1 << 20
)

// live hands a live message to the receiver, or keeps it for the start. False means that it was dropped.
func (s *Subscription) live(m *Message, w *outbox.Batch) bool {
	if g := s.gate.Load(); g != nil {
		return g.keep(s, m, w)
	}
	return s.receiver.Live(m, w)
}

func (g *gate) keep(s *Subscription, m *Message, w *outbox.Batch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open: // meanwhile, and what came before has been given
		return s.receiver.Live(m, w)
	case len(g.early) == maxEarly || g.bytes+m.Size() > maxEarlyBytes && len(g.early) > 0:
		return false
	}
	g.early = append(g.early, m)
	g.bytes += m.Size()
	return true
}

// openGate gives what came early, and has the rest go straight to the receiver.
func (s *Subscription) openGate(w *outbox.Batch) {
	g := s.gate.Load()
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.early {
		if !s.receiver.Live(m, w) {
			s.session.router.Stats.Drop(DropSlowConsumer, 1)
		}
	}
	g.open, g.early = true, nil
	s.gate.Store(nil)
}
