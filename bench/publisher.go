package bench

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// stallAfter is how long a publisher waits for deliveries none of which comes, before it gives them up and goes on.
const stallAfter = 2 * time.Second

// publisher is one sender: a connection, the loop that feeds it, and the count of what it sent.
type publisher struct {
	run        *run
	index      int
	deliveries int64 // due for each message
	link       connection
	window     *window // nil: the protocol confirms nothing
	credit     *credit // nil: no end-to-end loop

	issued  atomic.Uint64 // messages handed to the connection; their numbers are below it
	refusal atomic.Int64  // of these, refused by the broker
	stalls  int64         // the loop's; read after it has ended
}

// publish sends limit messages (0: without end) until quit is closed or the connection ends, then waits for confirmations.
func (p *publisher) publish(quit <-chan struct{}, limit uint64, pace *pacer) {
	if err := p.loop(quit, limit, pace); err != nil {
		p.failed(err)
	}
	p.awaitConfirmations(p.run.options.Drain)
}

func (p *publisher) loop(quit <-chan struct{}, limit uint64, pace *pacer) error {
	body := newBody(p.run.id, p.index, p.run.options.SizeBytes)
	for n := uint64(0); limit == 0 || n < limit; n++ {
		if closed(quit) {
			break
		}
		dueNS, ok, err := p.awaitDue(quit, n, pace)
		if !ok || err != nil {
			return err
		}
		if ok, err := p.awaitCredit(quit, n); !ok || err != nil {
			return err
		}
		if ok, err := p.awaitWindow(quit); !ok || err != nil {
			return err
		}
		if dueNS == 0 {
			dueNS = p.run.clock.nowNS()
		}
		id := uint64(0)
		if p.window != nil {
			id = p.window.reserve(dueNS)
		}
		restamp(body, n, dueNS)
		p.issued.Store(n + 1) // before it can arrive anywhere: subscribers refuse numbers that were not sent
		if err := p.link.send(id, body); err != nil {
			return err
		}
	}
	return p.link.flush()
}

// awaitDue waits until message n of a paced publisher is due. The time returned is what latency counts from; 0 means from
// the moment of sending.
func (p *publisher) awaitDue(quit <-chan struct{}, n uint64, pace *pacer) (dueNS int64, ok bool, err error) {
	if pace == nil {
		return 0, true, nil
	}
	wait, dueNS := pace.due(n, p.run.clock.nowNS())
	if wait <= 0 {
		return dueNS, true, nil
	}
	if err := p.link.flush(); err != nil {
		return 0, false, err
	}
	pace.timer.Reset(wait)
	select {
	case <-pace.timer.C:
		pace.wokeNS = p.run.clock.nowNS()
		return 0, true, nil
	case <-quit:
		return 0, false, nil
	case <-p.link.ended():
		return 0, false, errEnded
	}
}

// awaitCredit waits while --inflight deliveries are on their way.
func (p *publisher) awaitCredit(quit <-chan struct{}, sent uint64) (bool, error) {
	if p.credit == nil || !p.credit.exhausted(int64(sent)*p.deliveries) {
		return true, nil
	}
	if err := p.link.flush(); err != nil {
		return false, err
	}
	due := int64(sent) * p.deliveries
	patience := time.NewTimer(stallAfter)
	defer patience.Stop()
	for before := p.credit.arrived.Load(); !p.credit.enough(due); {
		select {
		case <-p.credit.wake:
		case <-quit:
			return false, nil
		case <-p.link.ended():
			return false, errEnded
		case <-patience.C:
			now := p.credit.arrived.Load()
			if now == before {
				p.stalls++
				p.credit.forgive(due)
				return true, nil
			}
			before = now
			patience.Reset(stallAfter)
		}
	}
	return true, nil
}

// awaitWindow waits for room among the unconfirmed messages; what is buffered leaves first, since room comes from its
// confirmation.
func (p *publisher) awaitWindow(quit <-chan struct{}) (bool, error) {
	if p.window == nil || p.window.room() {
		return true, nil
	}
	if err := p.link.flush(); err != nil {
		return false, err
	}
	for !p.window.room() {
		select {
		case <-p.window.wake:
		case <-quit:
			return false, nil
		case <-p.link.ended():
			return false, errEnded
		}
	}
	return true, nil
}

// awaitConfirmations waits until everything is confirmed, the connection ends, or nothing was confirmed for idle. What then
// is unconfirmed stays counted in the window.
func (p *publisher) awaitConfirmations(idle time.Duration) {
	if p.window == nil {
		return
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for p.window.outstanding.Load() > 0 {
		select {
		case <-p.window.wake:
			timer.Reset(idle)
		case <-timer.C:
			return
		case <-p.link.ended():
			return
		}
	}
}

// A publisher is the listener of its connection.

func (p *publisher) message([]byte, bool, int64) {
	p.failed(errors.New("a message arrived on a connection that never subscribed"))
}

func (p *publisher) confirmed(id uint64, arrivedNS int64) {
	if p.window == nil {
		p.failed(fmt.Errorf("a confirmation of message %d, which asked for none", id))
		return
	}
	sentNS, ok := p.window.settle(id)
	switch {
	case !ok:
		p.failed(fmt.Errorf("a second or unasked confirmation of message %d", id))
	case p.run.measuring.Load():
		p.window.confirmTimes.record(arrivedNS - sentNS)
	}
}

func (p *publisher) refused(id uint64, reason error) {
	p.failed(reason)
	if p.window == nil {
		return
	}
	if _, ok := p.window.settle(id); !ok {
		return
	}
	p.refusal.Add(1)
	if p.credit != nil {
		p.credit.arrive(p.deliveries)
	}
}

func (p *publisher) caughtUp() {
	if p.window != nil {
		p.window.handBack()
	}
}

func (p *publisher) failed(err error) {
	p.run.complaints.add(fmt.Errorf("publisher %d: %w", p.index, err))
}

// errEnded is why a loop stops when its connection is gone; the reader has said more.
var errEnded = errors.New("stopped, because its connection ended")

// closed reports whether c is closed; on a channel nobody sends to, this costs a few nanoseconds.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
