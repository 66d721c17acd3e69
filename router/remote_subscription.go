package router

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// remoteSubscription is the edge's end of a subscription to what the leader keeps.
type remoteSubscription struct {
	rs      *remoteSession
	id      uint64
	sub     *Subscription
	durable string
	method  method // that opened it
	call    subscribeCall
	opened  bool // the leader said yes; under the edge's lock
	started bool // as is this

	// turn is for who gives the receiver something: that has locks of its own, under which front-ends speak with the router, so none of
	// ours may be held meanwhile.
	turn sync.Mutex

	mu      sync.Mutex
	waiting []*Delivery // given by the leader, not yet taken by the receiver; the credit bounds it
	held    []*Delivery // taken by it, in order; some may be over
	ready   bool        // the receiver may be given something
	closed  bool
	asked   uint64 // the link by which it was asked for again last, noLink while it is not; 0: the first one still
}

// subscribe opens a subscription at the leader.
func (rs *remoteSession) subscribe(ctx context.Context, sub *Subscription, o SubscribeOptions) error {
	x := rs.addSubscription(sub, methodSubscribe, subscribeCall{Filter: wireOf(o.Filter), Credit: sub.credit, NoLocal: o.NoLocal,
		Selector: selectorText(o.Selector), Durable: o.Durable, Group: sub.group, Alone: sub.exclusive})
	_, err := x.open(ctx)
	return err
}

func (rs *remoteSession) addSubscription(sub *Subscription, m method, c subscribeCall) *remoteSubscription {
	e := rs.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	rs.lastID++
	c.ID = rs.lastID
	x := &remoteSubscription{rs: rs, id: rs.lastID, sub: sub, durable: c.Durable, method: m, call: c}
	rs.subs[x.id] = x
	sub.remote = x
	return x
}

// request is what opens the subscription.
func (x *remoteSubscription) request(held []uint64) []byte {
	c := x.call
	c.Held = held
	return appendJSON([]byte{byte(x.method)}, c)
}

// open has the leader open the subscription.
func (x *remoteSubscription) open(ctx context.Context) (envelopeReader, error) {
	r, err := x.rs.edge.doNoting(ctx, x.rs, x.request(nil), func(envelopeReader) { x.opened = true })
	if err != nil {
		x.close() // the leader may have opened it, and only not have said so
	}
	return r, err
}

func (x *remoteSubscription) forget() {
	e := x.rs.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(x.rs.subs, x.id)
}

func (x *remoteSubscription) start(w *outbox.Batch) {
	x.resume(w)
	x.rs.edge.mu.Lock()
	x.started = true
	x.rs.edge.mu.Unlock()
	x.rs.edge.note(x.rs, methodStart, func(b []byte) []byte { return binary.AppendUvarint(b, x.id) })
}

// resume gives the receiver what waits.
func (x *remoteSubscription) resume(w *outbox.Batch) {
	x.turn.Lock()
	defer x.turn.Unlock()
	for d := x.next(); d != nil; d = x.next() {
		if !x.give(d, w) {
			return
		}
	}
}

// next returns what waits first, and counts it as in the client's hands; nil if nothing waits.
func (x *remoteSubscription) next() *Delivery {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ready = true
	if len(x.waiting) == 0 || x.closed {
		return nil
	}
	d := x.waiting[0]
	x.waiting[0] = nil
	x.waiting = x.waiting[1:]
	x.keep(d)
	return d
}

// give has the receiver take what counts as in its client's hands, and reports whether it did; with the turn.
func (x *remoteSubscription) give(d *Delivery, w *outbox.Batch) bool {
	if x.sub.receiver.Stored(d, w) {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ready = false
	x.held = slices.DeleteFunc(x.held, func(h *Delivery) bool { return h == d })
	if !x.closed && x.asked != noLink { // else its leader, or the next one, gives it again
		x.waiting = slices.Insert(x.waiting, 0, d)
	}
	return false
}

// noLink is the id of none.
const noLink = math.MaxUint64

// unlink forgets what the receiver has not taken: its leader, or the next one, gives it again, to whomever.
func (x *remoteSubscription) unlink() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting, x.asked = nil, noLink
}

// keep notes what the client has in hands; with the lock held.
func (x *remoteSubscription) keep(d *Delivery) {
	if len(x.held) > 2*x.sub.credit+64 {
		x.held = slices.DeleteFunc(x.held, (*Delivery).isOver)
	}
	x.held = append(x.held, d)
}

// States of a delivery on an edge, in Delivery.over.
const (
	inHand   uint32 = iota
	isOver          // the leader was told how it ended
	settling        // and is to say when that is stored: until then another leader may not know of it
)

func (d *Delivery) isOver() bool { return atomic.LoadUint32(&d.over) == isOver }

// pass takes deliveries from one state to another.
func pass(ds []*Delivery, from, to uint32) {
	for _, d := range ds {
		atomic.CompareAndSwapUint32(&d.over, from, to)
	}
}

// takeUpTo passes d, and all that were given before it and are in the client's hands, to another state, and returns them, d last; nil if
// d is not in its hands.
func (x *remoteSubscription) takeUpTo(d *Delivery, state uint32) []*Delivery {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !atomic.CompareAndSwapUint32(&d.over, inHand, state) {
		return nil
	}
	var ds []*Delivery
	i := slices.Index(x.held, d)
	for _, before := range x.held[:max(i, 0)] {
		if atomic.CompareAndSwapUint32(&before.over, inHand, state) {
			ds = append(ds, before)
		}
	}
	x.held = slices.DeleteFunc(x.held, (*Delivery).isOver)
	return append(ds, d)
}

// deliver takes what the leader gives.
func (x *remoteSubscription) deliver(d *Delivery, w *outbox.Batch) {
	x.turn.Lock()
	defer x.turn.Unlock()
	if x.admit(d) && x.give(d, w) {
		x.rs.edge.router.Stats.Delivered.Add(1)
	}
}

// admit reports whether the receiver is to be given d now, which counts as in its client's hands then.
func (x *remoteSubscription) admit(d *Delivery) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed: // the leader has it back
	case x.asked != 0 && x.asked != d.link: // it was on its way when the next leader was told what the client holds: that one gives it
	case !x.ready:
		x.waiting = append(x.waiting, d)
	default:
		x.keep(d)
		return true
	}
	return false
}

// giveBack has the leader give what a member of a live group has not acknowledged to others, when the member has left.
func (x *remoteSubscription) giveBack(ms []*Message) {
	if len(ms) == 0 {
		return
	}
	x.rs.edge.note(x.rs, methodGiveBack, func(b []byte) []byte {
		b = binary.AppendUvarint(binary.AppendUvarint(b, x.id), uint64(len(ms)))
		for _, m := range ms {
			b = appendString(b, string(m.AppendEnvelope(nil)))
		}
		return b
	})
}

func (x *remoteSubscription) setCredit(n int) {
	x.rs.edge.mu.Lock()
	x.call.Credit = max(n, 1)
	x.rs.edge.mu.Unlock()
	x.rs.edge.note(x.rs, methodCredit, func(b []byte) []byte {
		return binary.AppendUvarint(binary.AppendUvarint(b, x.id), uint64(max(n, 1)))
	})
}

// close ends it at the leader. What the receiver has not seen counts as not delivered.
func (x *remoteSubscription) close() {
	x.mu.Lock()
	waiting := x.waiting
	x.waiting, x.closed = nil, true
	x.mu.Unlock()
	x.rs.edge.note(x.rs, methodCancel, func(b []byte) []byte {
		b = binary.AppendUvarint(binary.AppendUvarint(b, x.id), uint64(len(waiting)))
		for _, d := range waiting {
			b = binary.AppendUvarint(b, d.Seq)
		}
		return b
	})
	x.forget()
}

// settle tells the leader how a delivery ended. With done it hears when that is stored.
func (x *remoteSubscription) settle(d *Delivery, how settlement, delay time.Duration, cause string, done Done) error {
	if !atomic.CompareAndSwapUint32(&d.over, inHand, settlingFor(done)) {
		return errNotHeld()
	}
	return x.tellSettled([]*Delivery{d}, how, delay, cause, done)
}

// settleUpTo settles d and all that were given before it. The leader is told which those are: one that came after another gives them in
// an order of its own.
func (x *remoteSubscription) settleUpTo(d *Delivery, done Done) error {
	ds := x.takeUpTo(d, settlingFor(done))
	switch len(ds) {
	case 0:
		return errNotHeld()
	case 1:
		return x.tellSettled(ds, settleAck, 0, "", done)
	}
	return x.tellSettled(ds, settleAckAll, 0, "", done)
}

// settlingFor returns the state of a delivery whose end the leader is being told.
func settlingFor(done Done) uint32 {
	if done != nil {
		return settling
	}
	return isOver
}

// tellSettled tells the leader how deliveries ended.
func (x *remoteSubscription) tellSettled(ds []*Delivery, how settlement, delay time.Duration, cause string, done Done) error {
	last := len(ds) - 1
	c := settleCall{sub: x, seqs: append(make([]uint64, 0, len(ds)), ds[last].Seq), how: how, delay: delay, cause: cause}
	for _, d := range ds[:last] {
		c.seqs = append(c.seqs, d.Seq)
	}
	if done == nil {
		x.rs.edge.noteSettled(c)
		return nil
	}
	_, err := x.rs.edge.ask(x.rs, c.appendTo([]byte{byte(methodSettle)}), true, func(r reply, w *outbox.Batch) {
		pass(ds, settling, isOver)
		done(Stored{}, x.stale(ds, r.err), w)
	})
	return err
}

// stale takes it for no error that a message, which came from another leader, is not held any more: it was given to another
// client, as it would be after any loss of a consumer. A session has its inbox alone, and is told: what it knows of the message it
// must know until the inbox cannot give it again.
func (x *remoteSubscription) stale(ds []*Delivery, err error) error {
	if err == nil || ClassOf(err) != NotFound || x.method == methodReceive {
		return err
	}
	x.rs.edge.mu.Lock()
	defer x.rs.edge.mu.Unlock()
	l := x.rs.edge.link
	if l != nil && slices.ContainsFunc(ds, func(d *Delivery) bool { return d.link != l.id }) {
		return nil
	}
	return err
}

func errNotHeld() error {
	return &Error{Op: "settle", Class: NotFound, Text: "the message is not, or no longer, held by this subscription"}
}

func (rs *remoteSession) subscription(id uint64) *remoteSubscription {
	rs.edge.mu.Lock()
	defer rs.edge.mu.Unlock()
	return rs.subs[id]
}

func (rs *remoteSession) stored(link uint64, r envelopeReader) {
	x := rs.subscription(r.uvarint())
	d := &Delivery{Seq: r.uvarint(), Count: int(r.uvarint()), marked: r.byte() == 1}
	m, err := ParseEnvelope(r.rest())
	if x == nil || err != nil {
		return
	}
	d.Message, d.sub, d.remote, d.link = m, x.sub, x, link
	x.deliver(d, &rs.edge.wakes)
}

func (rs *remoteSession) live(r envelopeReader) {
	x := rs.subscription(r.uvarint())
	m, err := ParseEnvelope(r.rest())
	if x == nil || err != nil {
		return
	}
	if x.sub.receiver.Live(m, &rs.edge.wakes) {
		rs.edge.router.Stats.Delivered.Add(1)
	} else {
		rs.edge.router.Stats.Drop(DropSlowConsumer, 1)
	}
}
