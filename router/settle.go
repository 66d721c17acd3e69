package router

import (
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// settle makes one change to a held delivery and what follows from it: its
// consumer has room for another.
func (d *Delivery) settle(w *outbox.Batch, change func(b *Mailbox, s *Subscription)) error {
	b := d.box
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.state != stateHeld || b.closed {
		return errNotHeld()
	}
	s := d.sub
	change(b, s)
	b.enqueue(s)
	b.dispatch(w)
	return nil
}

// Ack settles a message: it is done. If done is not nil it hears when that is
// stored; otherwise the store learns it within a moment.
func (d *Delivery) Ack(w *outbox.Batch, done Done) error {
	if d.remote != nil {
		return d.remote.settle(d, settleAck, 0, "", done)
	}
	return d.settle(w, func(b *Mailbox, _ *Subscription) {
		b.settled(d)
		b.router.Stats.Settled.Add(1)
		b.confirm(w, done)
	})
}

// AckUpTo settles d and all that the same subscription was given before it.
func (d *Delivery) AckUpTo(w *outbox.Batch, done Done) error {
	if d.remote != nil {
		return d.remote.settleUpTo(d, done)
	}
	return d.settle(w, func(b *Mailbox, s *Subscription) {
		for x := s.held.head; ; x = s.held.head {
			b.settled(x)
			b.router.Stats.Settled.Add(1)
			if x == d {
				break
			}
		}
		b.confirm(w, done)
	})
}

// Nack gives a message back, to be delivered again after a delay: if negative,
// after the policy's. Beyond the policy's deliveries it becomes a dead letter.
func (d *Delivery) Nack(delay time.Duration, cause string, w *outbox.Batch, done Done) error {
	if d.remote != nil {
		return d.remote.settle(d, settleNack, delay, cause, done)
	}
	return d.settle(w, func(b *Mailbox, _ *Subscription) {
		if delay < 0 {
			delay = b.policy.delay(d.Count)
		}
		var due int64
		if delay > 0 {
			due = time.Now().Add(delay).UnixMilli()
		}
		b.putBack(d, due, cause, w)
		b.confirm(w, done)
	})
}

// delay is the policy's pause after so many deliveries.
func (p *Policy) delay(deliveries int) time.Duration {
	d := p.RedeliveryDelay
	for i := 1; i < deliveries && d < p.RedeliveryMax; i++ {
		d = min(2*d, p.RedeliveryMax)
	}
	return d
}

// Reject makes a message a dead letter at once, or drops it if the policy has no
// dead-letter queue.
func (d *Delivery) Reject(cause string, w *outbox.Batch, done Done) error {
	if d.remote != nil {
		return d.remote.settle(d, settleReject, 0, cause, done)
	}
	return d.settle(w, func(b *Mailbox, _ *Subscription) {
		b.ledger.release(d)
		if b.policy.DeadLetter == "" || done == nil {
			b.dispose(d, ReasonRejected, cause, w)
			b.confirm(w, done)
			return
		}
		d.state = stateMoving
		b.router.morgue.put(deadLetter{box: b, d: d, target: b.policy.DeadLetter, reason: ReasonRejected, cause: cause, done: done})
	})
}

// RejectTooLarge makes a message a dead letter that the consumer can never take, or drops it if the policy has no dead-letter queue.
func (d *Delivery) RejectTooLarge(w *outbox.Batch) error {
	if d.remote != nil {
		return d.remote.settle(d, settleTooLarge, 0, "", nil)
	}
	return d.settle(w, func(b *Mailbox, _ *Subscription) {
		b.ledger.release(d)
		b.dispose(d, ReasonTooLarge, "it is larger than a subscriber takes", w)
	})
}

// Undeliver gives back a message that never left the gateway: it counts as not
// delivered.
func (d *Delivery) Undeliver(w *outbox.Batch) error {
	if d.remote != nil {
		return d.remote.settle(d, settleUndeliver, 0, "", nil)
	}
	return d.settle(w, func(b *Mailbox, _ *Subscription) { b.ledger.undeliver(d) })
}

// confirm has done called when the settlement is stored; with the lock held.
func (b *Mailbox) confirm(w *outbox.Batch, done Done) {
	if done != nil {
		b.waiters = append(b.waiters, done)
		b.save(w)
	}
}
