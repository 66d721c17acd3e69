package router

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// Headers that a dead letter carries, besides its own.
const (
	HeaderDeadLetterReason = "x-dead-letter-reason"
	HeaderDeadLetterOrigin = "x-dead-letter-origin" // destination it was to be consumed from
	HeaderDeadLetterCount  = "x-dead-letter-count"  // deliveries
	HeaderDeadLetterError  = "x-dead-letter-error"  // what the consumer said, or what happened
	HeaderOriginalDest     = "original-destination"
	HeaderOriginalExpiry   = "originalExpiration"
)

// morgue moves dead letters, one at a time in order: stored in the dead-letter
// queue first, settled in their mailbox then. If the store refuses, they stay
// where they are and are tried again.
type morgue struct {
	router   *Router
	wake     chan struct{}
	warnedMs atomic.Int64 // when a failure was last in the log

	mu      sync.Mutex
	waiting []deadLetter // bounded by what the mailboxes have loaded, and the places

	places chan struct{} // taken by those that were read from the store to be moved
}

// morguePlaces bounds the messages in memory that nobody has loaded for delivery.
const morguePlaces = 256

type deadLetter struct {
	box                   *Mailbox
	d                     *Delivery
	target, reason, cause string
	done                  Done // of a consumer that rejected it and waits, or nil
}

func newMorgue(r *Router) *morgue {
	return &morgue{router: r, wake: make(chan struct{}, 1), places: make(chan struct{}, morguePlaces)}
}

// put never blocks: a mailbox calls it with its lock held.
func (g *morgue) put(l deadLetter) {
	g.mu.Lock()
	g.waiting = append(g.waiting, l)
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *morgue) run(ctx context.Context) {
	for {
		select {
		case <-g.wake:
		case <-ctx.Done():
			g.refuseWaiting()
			return
		}
		g.mu.Lock()
		batch := g.waiting
		g.waiting = nil
		g.mu.Unlock()
		for _, l := range batch {
			if err := g.store(ctx, l); err != nil {
				g.retry(l, err)
			}
		}
	}
}

// refuseWaiting answers what a stop finds waiting: it is still unsettled, and
// disposed of after the next start.
func (g *morgue) refuseWaiting() {
	g.mu.Lock()
	batch := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	for _, l := range batch {
		l.refuse()
	}
}

// refuse tells a waiting consumer that the router stops.
func (l deadLetter) refuse() {
	l.leave()
	if l.done != nil {
		l.done(Stored{}, errStopping("settle"), nil)
	}
}

// leave gives up the place of one that was read from the store.
func (l deadLetter) leave() {
	if l.d.ahead {
		<-l.box.router.morgue.places
	}
}

// retry puts l back after a pause. The first of many that fail together is
// reported, since they fail for one reason.
func (g *morgue) retry(l deadLetter, err error) {
	if now := time.Now().UnixMilli(); now-g.warnedMs.Swap(now) > retryMs*10 {
		g.router.log.Warn("cannot store a dead letter, it stays in its mailbox for now",
			"mailbox", l.box.id.Name, "dead_letter", l.target, "error", err)
	}
	pause := func(ctx context.Context) {
		select {
		case <-time.After(retryMs * time.Millisecond):
			g.put(l)
		case <-ctx.Done():
			l.refuse()
		}
	}
	if !g.router.goFunc(pause) {
		l.refuse()
	}
}

// store appends the dead letter; its end is heard in the store's answer.
func (g *morgue) store(ctx context.Context, l deadLetter) error {
	if l.reason == reasonDue {
		return g.release(ctx, l)
	}
	addr, err := QueueAddress(l.box.id.Vhost, l.target)
	if err != nil {
		return err
	}
	target, err := g.router.queue(ctx, addr)
	if err != nil {
		return err
	}
	m := l.message(addr)
	return target.append(m, m.AppendEnvelope(nil), func(_ Stored, err error, w *outbox.Batch) {
		if err != nil {
			g.retry(l, err)
			return
		}
		g.router.Stats.DeadLettered.Add(1)
		l.box.buried(l, w)
	})
}

// message returns what is stored in the dead-letter queue.
func (l deadLetter) message(to Address) *Message {
	origin := l.box.address
	if origin.IsZero() {
		origin = l.d.Message.To
	}
	return l.d.Message.With(func(m *Message) {
		m.DedupID = "dead\x00" + l.box.id.Name + "\x00" + strconv.FormatUint(l.d.Seq, 10) + "\x00" + m.ID.String()
		m.To = to
		m.set(HeaderDeadLetterReason, l.reason)
		m.set(HeaderDeadLetterOrigin, origin.Text(StyleDot))
		m.set(HeaderDeadLetterCount, strconv.Itoa(l.d.Count))
		if l.cause != "" {
			m.set(HeaderDeadLetterError, l.cause)
		}
		if _, ok := m.Header(HeaderOriginalDest); !ok {
			m.set(HeaderOriginalDest, origin.Text(StyleDot))
		}
		if m.ExpiresUnixMs > 0 {
			m.set(HeaderOriginalExpiry, strconv.FormatInt(m.ExpiresUnixMs, 10))
		}
		m.ExpiresUnixMs = 0
	})
}

// set replaces a header of a message that is not published yet.
func (m *Message) set(name, value string) {
	m.unset(name)
	m.Headers = append(m.Headers, Header{name, value})
}

// unset removes a header of a message that is not published yet.
func (m *Message) unset(name string) {
	hs := make([]Header, 0, len(m.Headers)+1)
	for _, h := range m.Headers {
		if h.Name != name {
			hs = append(hs, h)
		}
	}
	m.Headers = hs
}

// buried settles the original of a stored dead letter.
func (b *Mailbox) buried(l deadLetter, w *outbox.Batch) {
	l.leave()
	if !b.bury(l, w) && l.done != nil {
		l.done(Stored{}, nil, w)
	}
}

// bury reports false if the mailbox is closed.
func (b *Mailbox) bury(l deadLetter, w *outbox.Batch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed: // deleted, or what a stop left unsettled is moved again later
	case l.d.ahead:
		b.buriedAhead(l.d)
	case l.d.state != stateSettled:
		b.settled(l.d)
	}
	if b.closed {
		return false
	}
	b.confirm(w, l.done)
	b.dispatch(w)
	return true
}

// buriedAhead settles one that was not loaded when it expired, and may be now.
func (b *Mailbox) buriedAhead(d *Delivery) {
	if b.ledger.settleAhead(d.Seq) {
		b.release(d.Message.Size())
		b.touch()
	} else if loaded := b.ledger.find(d.Seq); loaded != nil && loaded.state != stateHeld && loaded.state != stateMoving {
		b.ledger.withdraw(loaded)
		b.settled(loaded)
	}
}
