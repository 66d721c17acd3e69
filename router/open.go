package router

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// opening is a mailbox that is open or about to be.
type opening struct {
	ready chan struct{}
	box   *Mailbox
	err   error
	gone  bool // it was a removal, which has ended: ask again
}

// openStored opens a mailbox once, however many ask.
func (r *Router) openStored(ctx context.Context, s StoredMailbox) (*Mailbox, error) {
	id := s.ID
	r.mu.Lock()
	o := r.boxes[id]
	if o != nil {
		r.mu.Unlock()
		select {
		case <-o.ready:
			if o.gone {
				return r.open(ctx, id)
			}
			return o.box, o.err
		case <-ctx.Done():
			return nil, &Error{Op: "open", Class: Unavailable, Text: "the mailbox did not open in time", Err: context.Cause(ctx)}
		}
	}
	if id.Kind == KindQueueBox && temporary(id.Name) {
		// An answer that comes after its requester left must not found a queue.
		r.mu.Unlock()
		return nil, &Error{Op: "open", Class: NotFound, Text: "the temporary queue " + id.Name + " is gone with its connection"}
	}
	if err := r.admitQueue(id); err != nil {
		r.mu.Unlock()
		return nil, err
	}
	o = &opening{ready: make(chan struct{})}
	r.boxes[id] = o
	r.mu.Unlock()
	box, err := r.newMailbox(ctx, s)
	r.mu.Lock()
	o.box, o.err = box, err
	if err != nil {
		delete(r.boxes, id)
		r.forgetQueue(id)
	}
	r.mu.Unlock()
	close(o.ready)
	return box, err
}

// admitQueue counts one more queue if the limit allows; with mu held.
func (r *Router) admitQueue(id MailboxID) error {
	if id.Kind != KindQueueBox {
		return nil
	}
	if r.opt.MaxQueues > 0 && r.queues >= r.opt.MaxQueues {
		return &Error{Op: "open", Class: Full, Text: fmt.Sprintf("there are %d queues already, which is the limit (limits.queues)", r.queues)}
	}
	r.queues++
	return nil
}

func (r *Router) forgetQueue(id MailboxID) {
	if id.Kind == KindQueueBox {
		r.queues--
	}
}

// newMailbox opens the log and restores the account.
func (r *Router) newMailbox(ctx context.Context, s StoredMailbox) (*Mailbox, error) {
	id := s.ID
	log, err := r.store.OpenLog(ctx, id)
	if err != nil {
		return nil, storeError("open", err)
	}
	b := &Mailbox{router: r, id: id, log: log, policy: r.policy(id), marked: r.inboxMarks.one()}
	if id.Kind == KindQueueBox {
		b.address = Address{vhost: id.Vhost, kind: KindQueue, name: id.Name}
	}
	b.opening = true
	if h, ok := log.(Hearer); ok {
		h.Hear(b.foreign)
	}
	if err := b.restore(ctx, s); err != nil {
		return nil, storeError("open", err)
	}
	b.opened()
	r0 := b.record(false)
	if err := b.saveAndWait(ctx, r0); err != nil {
		return nil, storeError("open", err)
	}
	b.reserved, b.saved, b.savedMs = r0.Reserved, r0.Floor, time.Now().UnixMilli()
	if b.expiring {
		r.goFunc(b.scanExpiries)
	}
	return b, nil
}

func storeError(op string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Op: op, Class: Unavailable, Text: "the store cannot confirm now; try again", RetryAfter: time.Second, Err: err}
}

// restore sets the account to the last record and what the store holds.
func (b *Mailbox) restore(ctx context.Context, stored StoredMailbox) error {
	rec := stored.Record
	r := record{Upto: 1}
	if rec != nil {
		var err error
		if r, err = decodeRecord(rec); err != nil {
			return fmt.Errorf("%s: %w", b.what(), err)
		}
	}
	s, err := b.bounds(ctx, stored, r.Floor)
	if err != nil {
		return err
	}
	if err := b.checkDamage(&r, s); err != nil {
		return err
	}
	if rec == nil && s.Count > 0 {
		r.Floor, r.Upto = s.First-1, s.First
		r.Reserved, r.Expiring = s.Last, true // nothing is known of them: any may have been delivered
	}
	b.ledger.restore(r, s.Count, s.Last)
	b.bytes, b.expiring = r.Bytes, r.Expiring
	if s.Bytes > 0 && !r.Clean && s.Count > 0 {
		// What was stored since the record was written is not in its sum.
		b.bytes = s.Bytes * uint64(b.ledger.count) / uint64(s.Count)
	}
	b.saved, b.trimmed = r.Floor, min(r.Floor, s.First-min(s.First, 1))
	return nil
}

// bounds asks the store what the log holds, unless it has said so.
func (b *Mailbox) bounds(ctx context.Context, stored StoredMailbox, floor uint64) (Bounds, error) {
	if stored.Empty != nil {
		return *stored.Empty, nil
	}
	return b.log.Bounds(ctx, floor)
}

// ErrDamaged is what New wraps if the store lost messages that it had confirmed.
var ErrDamaged = errors.New("the store is damaged")

// checkDamage compares what the store holds with what the last record says it
// held. Unless damage is accepted it is an error, so that nothing is silently
// lost and no sequence is used again for another message.
func (b *Mailbox) checkDamage(r *record, s Bounds) error {
	lostEnd := max(r.Last, s.Last) - s.Last
	lostStart := uint64(0)
	// Where an orderly stop wrote the record, nothing was trimmed after it; else an
	// empty log may be one that was consumed and trimmed since.
	if b.id.Kind == KindQueueBox && s.First > r.Floor+1 && (s.First <= r.Last || r.Clean) {
		lostStart = max(min(s.First-1, r.Last), r.Floor) - r.Floor
	}
	if lostEnd == 0 && lostStart == 0 && s.Holes == 0 {
		return nil
	}
	if !b.router.opt.AcceptDamage {
		return fmt.Errorf("%w: %s lost messages that were confirmed: %d at its start, %d within, %d at its end (it reaches %d, but %d was confirmed); "+
			"restore a backup, or set storage.on_damage: continue to go on with what is left",
			ErrDamaged, b.what(), lostStart, s.Holes, lostEnd, s.Last, r.Last)
	}
	b.router.log.Error("the store lost confirmed messages; going on with what is left",
		"mailbox", b.id.Name, "lost_at_start", lostStart, "lost_within", s.Holes, "lost_at_end", lostEnd)
	r.cut(s.Last)
	return nil
}

// cut makes a record fit a log that ends earlier than it did.
func (r *record) cut(last uint64) {
	r.Last = min(r.Last, last)
	r.Floor = min(r.Floor, last)
	r.Upto = min(r.Upto, last+1)
	r.Reserved = min(r.Reserved, last)
	for i, seq := range r.Open {
		if seq > last {
			r.Open, r.Gaps, r.Gone = r.Open[:i], r.Gaps[:i], 0
			break
		}
	}
	r.Skip = slices.DeleteFunc(r.Skip, func(s uint64) bool { return s > last })
}

func (r *Router) policy(id MailboxID) Policy {
	switch {
	case id.Kind == KindInbox:
		return r.opt.InboxPolicy
	case id.keepsSchedules():
		return Policy{} // a rule for all queues does not mean this one
	case r.opt.QueuePolicy == nil:
		return Policy{}
	}
	return r.opt.QueuePolicy(Address{vhost: id.Vhost, kind: KindQueue, name: id.Name})
}

// vacate has the mailbox take no more consumers. It is refused while it has some.
func (b *Mailbox) vacate(op string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := len(b.subs); {
	case b.closed || b.vacated:
		return b.deleted(op)
	case n > 0 && b.id.Kind == KindInbox:
		return &Error{Op: op, Class: Conflict, Text: b.what() + " is in use by another connection"}
	case n > 0:
		return &Error{Op: op, Class: Conflict, Text: fmt.Sprintf("%s has %d consumers", b.what(), n)}
	}
	b.vacated = true
	return nil
}

// reopen undoes vacate.
func (b *Mailbox) reopen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.vacated = false
}

// remove deletes a vacated mailbox with what it holds. Who opens one of its name
// meanwhile waits for the end.
func (r *Router) remove(ctx context.Context, b *Mailbox) error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	removal := &opening{ready: make(chan struct{}), gone: true}
	r.mu.Lock()
	r.boxes[b.id] = removal
	r.mu.Unlock()
	r.removals.Add(1)
	err := b.erase(ctx)
	r.mu.Lock()
	delete(r.boxes, b.id)
	r.forgetQueue(b.id)
	r.mu.Unlock()
	close(removal.ready)
	var w outbox.Batch
	b.mu.Lock()
	waiters := b.waiters
	b.waiters = nil
	b.mu.Unlock()
	for _, done := range waiters {
		done(Stored{}, nil, &w) // what they settled is gone in any case
	}
	w.Flush()
	return err
}

func (b *Mailbox) erase(ctx context.Context) error {
	// The record goes back to nothing first: if a stop interrupts the removal, the
	// mailbox is still there, and its missing messages are not taken for damage.
	if err := b.saveAndWait(ctx, record{Upto: 1}); err != nil {
		return storeError("delete", err)
	}
	if err := b.log.Remove(ctx); err != nil {
		return storeError("delete", err)
	}
	return nil
}

func (b *Mailbox) saveAndWait(ctx context.Context, r record) error {
	saved := make(chan error, 1)
	b.log.SaveRecord(r.encode(nil), func(_ Stored, err error, _ *outbox.Batch) { saved <- err })
	select {
	case err := <-saved:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func temporaryAddress(s *Session, name string) (Address, error) {
	return QueueAddress(s.Vhost, "temp."+s.ID.String()+"."+name)
}

// temporaryQueue makes a queue in memory for a session.
func (r *Router) temporaryQueue(s *Session, name string) (Address, error) {
	a, err := temporaryAddress(s, name)
	if err != nil {
		return Address{}, err
	}
	id := MailboxID{KindQueueBox, a.vhost, a.name}
	log := newMemoryLog()
	log.last = rand.Uint64() >> 16 // a number of an earlier leader's queue of that name is no message of this one
	b := &Mailbox{router: r, id: id, address: a, owner: s, log: log, reserved: math.MaxUint64}
	b.ledger.next, b.ledger.last = log.last+1, log.last
	ready := make(chan struct{})
	close(ready)
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.boxes[id]; o != nil {
		return a, nil
	}
	if err := r.admitQueue(id); err != nil {
		return Address{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		r.forgetQueue(id)
		return Address{}, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	s.temps = append(s.temps, b)
	r.boxes[id] = &opening{ready: ready, box: b}
	return a, nil
}

func (r *Router) dropTemporary(b *Mailbox) {
	if b.vacate("close") != nil {
		return // an operator deleted it before
	}
	_ = r.remove(context.Background(), b) // a memory log has no errors
}
