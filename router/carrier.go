package router

import (
	"context"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// Carrier takes live messages to other nodes and brings theirs. A router that is
// alone has none.
type Carrier interface {
	// Carry sends a message to the nodes that have interest in its topic. It must
	// not block; order is kept for one caller.
	Carry(m *Message)
	// Interest has arrive called for the messages of other nodes that match f, one
	// at a time and in order, until stop is called. Known is closed when every node that is in touch with this one sends what
	// matches f: what is confirmed there later is not missed.
	Interest(f Filter, arrive func(m *Message, w *outbox.Batch)) (stop func(), known <-chan struct{}, err error)
	// Dropped counts the messages of other nodes that this one did not take in time.
	Dropped() uint64
}

// live are the connected subscribers of this node, by filter. Each distinct
// filter has one interest at the carrier, and what arrives by it goes to the
// subscribers of exactly that filter: a message that several filters of the node
// match reaches each subscriber once.
type live struct {
	router *Router
	mu     sync.Mutex
	groups map[Filter]*liveGroup
}

type liveGroup struct {
	subs  []*Subscription // copied on write
	stop  func()
	known <-chan struct{}
}

// add begins to route live messages to s.
func (l *live) add(s *Subscription) {
	l.router.subs.insert(s.filter, s)
	if l.router.opt.Carrier == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[s.filter]
	if g == nil {
		g = &liveGroup{}
		stop, known, err := l.router.opt.Carrier.Interest(s.filter, func(m *Message, w *outbox.Batch) { l.arrived(g, m, w) })
		if err != nil {
			l.router.log.Error("messages of other nodes will not reach a subscription", "filter", s.filter.String(), "error", err)
			return
		}
		g.stop, g.known = stop, known
		l.groups[s.filter] = g
	}
	g.subs = append(g.subs[:len(g.subs):len(g.subs)], s)
}

// known returns what is closed when all nodes send what a filter matches; nil if there are no others.
func (l *live) known(f Filter) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.groups[f]; g != nil {
		return g.known
	}
	return nil
}

// await returns when all nodes send what a filter matches, or ctx ends.
func (l *live) await(ctx context.Context, f Filter) {
	if known := l.known(f); known != nil {
		select {
		case <-known:
		case <-ctx.Done():
		}
	}
}

// remove ends that.
func (l *live) remove(s *Subscription) {
	l.router.subs.remove(s.filter, s)
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[s.filter]
	if g == nil {
		return
	}
	if g.subs, _ = without(g.subs, s); len(g.subs) == 0 {
		g.stop()
		delete(l.groups, s.filter)
	}
}

// arrived hands a message of another node to the subscribers of one filter.
func (l *live) arrived(g *liveGroup, m *Message, w *outbox.Batch) {
	l.mu.Lock()
	subs := g.subs
	l.mu.Unlock()
	expired := m.ExpiresUnixMs > 0 && m.Expired(time.Now().UnixMilli()) // on its way here
	for _, s := range subs {
		switch {
		case !s.selects(m), s.noLocal && s.session.ID == m.Origin:
		case s.share != nil && s.share.kept.Load(): // it has a copy in its mailbox
		case expired:
			l.router.Stats.Drop(DropExpired, 1)
		case s.share == nil && l.router.auth.Authorize(s.session.Principal, ActionRead, m.To) != nil:
			l.router.Stats.Drop(DropDenied, 1)
		case s.live(m, w):
			l.router.Stats.Delivered.Add(1)
		default:
			l.router.Stats.Drop(DropSlowConsumer, 1)
		}
		w.StartMany()
	}
}
