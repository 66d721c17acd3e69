package router

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

const (
	// windowEntries and windowBytes bound what a mailbox with consumers keeps in
	// memory ahead of them; without consumers it keeps nothing but what was
	// returned. The rest is in the store.
	windowEntries = 8192
	windowBytes   = 4 << 20
	// reserveAhead is how far beyond the last delivery the record allows to
	// deliver: after a crash, at most so many messages are marked redelivered
	// that never were.
	reserveAhead = 4096
	// retryMs is the pause after the store refused.
	retryMs = 500
)

// Mailbox keeps messages until they are settled: a queue, whose consumers
// compete, or the inbox of one durable subscriber. This node is its only owner.
type Mailbox struct {
	router  *Router
	id      MailboxID
	address Address // of a queue; zero for an inbox
	policy  Policy
	log     Log
	owner   *Session // of a temporary queue
	timer   alarm    // under the alarms' lock

	mu        sync.Mutex
	ledger    ledger
	waiting   int    // appends that the store has not answered
	inflight  int    // bytes of those
	bytes     uint64 // unsettled, about
	subs      []*Subscription
	adopting  map[uint64]*adoption // who has in hands what is not loaded yet
	selective int                  // consumers with a selector
	sole      *Subscription        // the exclusive consumer, which alone gets messages
	groups    *groups              // nil: no message had a group
	hungry    fifo[*Subscription]  // those with credit, next one first
	reading   bool
	missedMs  int64 // since when counted messages are not found; 0: they are
	closed    bool
	opening   bool    // the account is not restored yet
	early     []Entry // foreign ones that came before
	vacated   bool    // about to be removed: takes no consumers
	expiries  expiryHeap
	expiring  bool     // some message had an expiry: a restart must look for them
	past      []uint64 // expired and not loaded, in order; expireUnloaded runs while there are some
	renewing  bool     // renewFrom runs
	alarmMs   int64    // when tend is called next, 0: never

	reserved     uint64 // what the saved record allows to deliver
	handed       uint64 // highest sequence delivered
	saving       bool
	dirty        bool
	stale        bool          // the saved record does not know of all that is stored
	marked       *atomic.Int64 // when the record of an inbox like this one was last saved for that
	savedMs      int64
	waiters      []Done // acknowledgements that wait for the next save
	saved        uint64 // floor of the saved record
	trimmed      uint64
	trimming     bool
	trimmedMs    int64
	aged         uint64 // was settled when the last trim by time was due
	settledBytes uint64 // since the last trim, about
}

// Policy is how a mailbox treats its messages.
type Policy struct {
	MaxLength     int           // messages, unsettled ones included; 0: no limit
	MaxBytes      int64         // 0: no limit
	Expiry        time.Duration // for messages that name none; 0: never
	MaxDeliveries int           // then dead letter; 0: never
	DeadLetter    string        // name of the dead-letter queue; "" drops, counted
	DropExpired   bool          // expired ones do not go to the dead-letter queue
	// RedeliveryDelay is the pause before a negatively acknowledged message is
	// delivered again; it doubles with each delivery up to RedeliveryMax.
	RedeliveryDelay, RedeliveryMax time.Duration
}

// Reasons for a dead letter, as its header x-dead-letter-reason says them.
const (
	ReasonRejected      = "rejected"
	ReasonExpired       = "expired"
	ReasonMaxDeliveries = "max-deliveries"
	ReasonDamaged       = "damaged"
	ReasonTooLarge      = "too-large"

	// reasonDue is not one: the message leaves since it is to be published now.
	reasonDue = "due"
)

// Name returns the queue's name or the inbox's identity.
func (b *Mailbox) Name() string { return b.id.Name }

// append stores a copy of m. The policy's limits are checked here: what is under
// way counts.
func (b *Mailbox) append(m *Message, envelope []byte, done Done) error {
	if err := b.admit(m); err != nil {
		return err
	}
	b.log.Append(envelope, m.DedupID, func(s Stored, err error, w *outbox.Batch) {
		b.appended(m, s, err, w)
		done(s, err, w)
	})
	return nil
}

// admit reserves a place for m, or says which limit it meets.
func (b *Mailbox) admit(m *Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return b.deleted("publish")
	}
	if err := b.full(1, m.Size()); err != nil {
		return err
	}
	b.waiting++
	b.inflight += m.Size()
	return nil
}

// full reports the limit that n more messages would exceed; with the lock held.
func (b *Mailbox) full(n, size int) error {
	p := &b.policy
	if p.MaxLength > 0 && b.ledger.count+b.waiting+n > p.MaxLength {
		return &Error{Op: "publish", Class: Full, RetryAfter: time.Second,
			Text: fmt.Sprintf("%s is full: it holds its limit of %d messages (max_length)", b.what(), p.MaxLength)}
	}
	if p.MaxBytes > 0 && int64(b.bytes)+int64(b.inflight)+int64(size) > p.MaxBytes {
		return &Error{Op: "publish", Class: Full, RetryAfter: time.Second,
			Text: fmt.Sprintf("%s is full: its messages take its limit of %d bytes (max_bytes)", b.what(), p.MaxBytes)}
	}
	return nil
}

func (b *Mailbox) deleted(op string) error {
	if b.router.stopping() {
		return errStopping(op)
	}
	return &Error{Op: op, Class: NotFound, Text: b.what() + " was deleted"}
}

func (b *Mailbox) what() string {
	if b.id.Kind == KindInbox {
		return "durable subscription " + b.id.Name
	}
	return "queue " + b.id.Name
}

// appended enters a stored message and hands it on if someone waits for it.
func (b *Mailbox) appended(m *Message, s Stored, err error, w *outbox.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	b.inflight -= m.Size()
	if err != nil {
		b.unanswered(err)
		return
	}
	// The first copy of a duplicate may be one that was not answered in time.
	b.enter(m, s.Seq)
	b.dispatch(w)
}

// unanswered notes that an append failed and may yet be stored: what the store
// holds is then to be read. What was refused is not stored.
func (b *Mailbox) unanswered(err error) {
	switch ClassOf(err) {
	case Full: // what is settled here takes room that others need
		b.settledBytes = max(b.settledBytes, trimBytes)
		b.alarm(time.Now().UnixMilli())
	case TooLarge:
	default:
		b.ledger.unsure = true
	}
}

func (b *Mailbox) enter(m *Message, seq uint64) {
	if !b.ledger.unknown(seq) {
		return
	}
	if at := b.deadline(m); at != 0 {
		b.watchExpiry(at, seq)
	}
	b.bytes += uint64(m.Size())
	b.ledger.stored(seq, m, b.room())
	b.mark()
}

// appendAll stores the messages as one: all or none.
func (b *Mailbox) appendAll(ms []*Message, done Done) error {
	size, envelopes := 0, make([][]byte, len(ms))
	for i, m := range ms {
		size += m.Size()
		envelopes[i] = m.AppendEnvelope(nil)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return b.deleted("publish")
	}
	if err := b.full(len(ms), size); err != nil {
		b.mu.Unlock()
		return err
	}
	b.waiting += len(ms)
	b.inflight += size
	b.mu.Unlock()
	b.log.AppendAll(envelopes, func(s Stored, err error, w *outbox.Batch) {
		b.mu.Lock()
		b.waiting -= len(ms)
		b.inflight -= size
		if err != nil {
			b.unanswered(err)
		} else {
			// The store gave them consecutive sequences, unless others share its
			// stream: then they are read back.
			for i, m := range ms {
				b.enter(m, s.Seq-uint64(len(ms)-1-i))
			}
			b.dispatch(w)
		}
		b.mu.Unlock()
		done(s, err, w)
	})
	return nil
}

// dispatch hands ready messages to consumers with credit; with the lock held.
func (b *Mailbox) dispatch(w *outbox.Batch) {
	if b.router.gathering.Load() {
		b.refill()
		return
	}
	b.rouse()
	for b.hungry.n > 0 {
		d := b.ledger.peek()
		if d == nil {
			break
		}
		if d.Seq > b.reserved {
			b.save(w)
			break
		}
		if b.overdue(d, w) || b.superseded(d) || b.unreadable(d) {
			continue
		}
		b.noticeGroups(d)
		s := b.hungry.pop()
		s.queued = false
		if b.chooses(s) {
			b.offer(s, w)
		} else if s.wants() && !b.denied(d, s) {
			b.give(d, s, w)
		}
	}
	b.refill()
}

// overdue disposes of the next ready message if it may not be delivered any
// more: a restart can find one that has had all its deliveries.
func (b *Mailbox) overdue(d *Delivery, w *outbox.Batch) bool {
	reason := ""
	if at := b.deadline(d.Message); at != 0 && at <= time.Now().UnixMilli() {
		reason = ReasonExpired
	} else if n := b.policy.MaxDeliveries; n > 0 && d.Count >= n {
		reason = ReasonMaxDeliveries
	} else {
		return false
	}
	d.box = b
	b.ledger.take()
	b.dispose(d, reason, d.cause, w)
	return true
}

// denied settles a message whose topic the owner of an inbox may not read: its
// filter may cover more than its rights.
func (b *Mailbox) denied(d *Delivery, s *Subscription) bool {
	if b.id.Kind != KindInbox || d.Message.To.IsZero() || b.shared() || b.router.auth.Authorize(s.session.Principal, ActionRead, d.Message.To) == nil {
		return false
	}
	b.ledger.take()
	b.settled(d)
	b.router.Stats.Drop(DropDenied, 1)
	b.enqueue(s)
	return true
}

// give hands d to s, which has credit.
func (b *Mailbox) give(d *Delivery, s *Subscription, w *outbox.Batch) {
	d.box = b
	if b.ledger.peek() == d {
		b.ledger.take()
	} else {
		b.ledger.withdraw(d) // others were passed over
	}
	b.ledger.hold(d, s)
	if !s.receiver.Stored(d, w) {
		// The connection's buffer is full: it calls Resume when there is room.
		b.ledger.undeliver(d)
		s.paused = true
		return
	}
	stats := &b.router.Stats
	stats.Delivered.Add(1)
	if d.marked {
		stats.Redelivered.Add(1)
	}
	if d.Seq > b.handed {
		b.handed = d.Seq
		if b.handed+reserveAhead/2 > b.reserved && b.reserved != math.MaxUint64 {
			b.save(w)
		}
	}
	b.enqueue(s)
}

// enqueue puts s among those that get messages if it has credit.
func (b *Mailbox) enqueue(s *Subscription) {
	if !s.queued && s.wants() {
		s.queued = true
		b.hungry.push(s)
	}
}

// settled accounts for a message that left for good; with the lock held.
func (b *Mailbox) settled(d *Delivery) {
	b.ledger.settle(d)
	b.release(d.Message.Size())
	if b.ledger.count == 0 {
		b.bytes = 0 // what a crash made inexact ends here
	}
	b.touch()
}

// release accounts for the bytes of a message that left for good.
func (b *Mailbox) release(size int) {
	b.bytes -= min(b.bytes, uint64(size))
	b.settledBytes += uint64(size)
}

// alarm has tend called at a time, or at once if that is past.
func (b *Mailbox) alarm(atMs int64) {
	if b.alarmMs == 0 || atMs < b.alarmMs {
		b.alarmMs = max(atMs, 1)
		b.router.alarms.set(b, b.alarmMs)
	}
}

// tend does what time brings: delays that end, expiries, saving and trimming.
func (b *Mailbox) tend(nowMs int64) {
	var w outbox.Batch
	b.mu.Lock()
	b.alarmMs = 0
	if b.closed {
		b.mu.Unlock()
		return
	}
	if next := b.ledger.mature(nowMs); next != 0 {
		b.alarm(next)
	}
	b.expireDue(nowMs, &w)
	b.renewOldest()
	b.saveDue(nowMs, &w)
	b.trim(nowMs)
	b.dispatch(&w)
	b.mu.Unlock()
	w.Flush()
}

// attach adds a consumer; it gets nothing before start.
func (b *Mailbox) attach(s *Subscription) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.vacated {
		return b.deleted("subscribe")
	}
	if b.id.keepsSchedules() && !s.operator {
		return &Error{Op: "subscribe", Class: Denied, Text: "queue " + ScheduledQueue + " is the gateway's: what it keeps is published when it is due"}
	}
	if b.owner != nil && b.owner != s.session {
		return &Error{Op: "subscribe", Class: Denied, Text: "only the connection that made a temporary queue may consume from it"}
	}
	if b.id.Kind == KindInbox && len(b.subs) > 0 && !b.shared() {
		return &Error{Op: "subscribe", Class: Conflict, Text: b.what() + " is in use by another connection"}
	}
	s.paused = true
	if s.selector != nil && b.id.Kind == KindInbox {
		s.selector = nil // its binding stores only what it selects
	}
	if s.selector != nil {
		b.selective++
	}
	b.subs = append(b.subs[:len(b.subs):len(b.subs)], s) // copied: consumers() hands it out
	b.claimHeld(s, s.inHands)
	s.inHands = nil
	if s.exclusive && (b.sole == nil || s.holds()) {
		b.elect()
	}
	return nil
}

// resume lets s have messages, as many as its credit allows.
func (b *Mailbox) resume(s *Subscription, w *outbox.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.paused {
		s.paused = false
		b.enqueue(s)
		b.dispatch(w)
	}
}

// detach removes a consumer. What it held is ready again at once, in order, or a
// dead letter if it was delivered too often.
func (b *Mailbox) detach(s *Subscription, w *outbox.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.detached {
		return
	}
	s.detached = true
	if s.selector != nil {
		b.selective--
	}
	if s.queued { // on an idle queue nothing else would forget it
		b.hungry.remove(s)
	}
	b.subs, _ = without(b.subs, s)
	for d := s.held.head; d != nil; d = s.held.head {
		b.putBack(d, 0, "its consumer went away", w)
	}
	b.freeGroups(s)
	if b.sole == s {
		b.elect()
	}
	if len(b.subs) == 0 {
		b.ledger.unload(0)
	}
	b.dispatch(w)
}

// putBack returns a held message to the mailbox, or disposes of it.
func (b *Mailbox) putBack(d *Delivery, due int64, cause string, w *outbox.Batch) {
	d.cause = cause
	b.touch()
	if m := b.policy.MaxDeliveries; m > 0 && d.Count >= m {
		b.ledger.release(d)
		b.dispose(d, ReasonMaxDeliveries, cause, w)
		return
	}
	b.ledger.giveBack(d, due)
	if due != 0 {
		b.alarm(due)
	}
}

// dispose ends the life of a message in this mailbox: into the dead-letter
// queue, or dropped and counted. The message is in nobody's hands and not ready.
func (b *Mailbox) dispose(d *Delivery, reason, cause string, w *outbox.Batch) {
	target := b.policy.DeadLetter
	if reason == ReasonExpired && b.id.keepsSchedules() {
		d.state = stateMoving
		b.router.morgue.put(deadLetter{box: b, d: d, reason: reasonDue})
		return
	}
	if reason == ReasonExpired && b.policy.DropExpired {
		target = ""
	}
	if target == "" {
		b.router.Stats.Drop(dropReason(reason), 1)
		b.settled(d)
		return
	}
	d.state = stateMoving
	b.router.morgue.put(deadLetter{box: b, d: d, target: target, reason: reason, cause: cause})
}

func dropReason(reason string) string {
	switch reason {
	case ReasonExpired:
		return DropExpired
	case ReasonMaxDeliveries:
		return DropMaxDelivered
	case ReasonTooLarge:
		return DropTooLarge
	}
	return DropRejected
}
