package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// shadowSubscription passes what a mailbox gives on to the edge.
type shadowSubscription struct {
	shadow *shadow
	id     uint64
	sub    *Subscription

	mu   sync.Mutex
	held map[uint64]*Delivery // by sequence
}

var _ Receiver = (*shadowSubscription)(nil)

// Stored passes a delivery on: its credit is the edge's.
func (s *shadowSubscription) Stored(d *Delivery, _ *outbox.Batch) bool {
	l := s.shadow.link
	if l.closed() != nil {
		return false
	}
	s.hold(d)
	b := append(binary.AppendUvarint(l.begin(opEvent), s.shadow.n), byte(eventStored))
	b = binary.AppendUvarint(binary.AppendUvarint(b, s.id), d.Seq)
	b = binary.AppendUvarint(b, uint64(d.Count))
	b = append(b, boolByte(d.marked))
	l.end(d.Message.AppendEnvelope(b))
	return true
}

// Live passes on what a shared group chose this member for.
func (s *shadowSubscription) Live(m *Message, _ *outbox.Batch) bool {
	l := s.shadow.link
	if l.closed() != nil {
		return false
	}
	b := append(binary.AppendUvarint(l.begin(opEvent), s.shadow.n), byte(eventLive))
	l.end(m.AppendEnvelope(binary.AppendUvarint(b, s.id)))
	return true
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func (s *shadowSubscription) hold(d *Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[d.Seq] = d
}

// inHand returns a delivery that the edge has; nil: it has not.
func (s *shadowSubscription) inHand(seq uint64) *Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[seq]
}

// awaitAdoption returns once a message that the client has from another leader is loaded, or is known to be settled. What its session
// does next waits.
func (s *shadowSubscription) awaitAdoption(ctx context.Context, seq uint64) {
	loaded := make(chan struct{})
	if s.sub.box == nil || !s.sub.box.whenAdopted(seq, func() { close(loaded) }) {
		return
	}
	select {
	case <-loaded:
	case <-time.After(shadowPatience):
	case <-ctx.Done():
	}
}

// take returns a delivery that the edge has, which is settled now.
func (s *shadowSubscription) take(seq uint64) *Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.held[seq]
	delete(s.held, seq)
	return d
}

// forget is take for a delivery that has been settled; the message may have been given again.
func (s *shadowSubscription) forget(d *Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[d.Seq] == d {
		delete(s.held, d.Seq)
	}
}

func (x *shadow) subscribe(ctx context.Context, r envelopeReader) error {
	var c subscribeCall
	if json.Unmarshal(r.b, &c) != nil {
		return errFrame
	}
	sel, err := parseSelector(c.Selector)
	if err != nil {
		return err
	}
	s := &shadowSubscription{shadow: x, id: c.ID, held: map[uint64]*Delivery{}}
	o := SubscribeOptions{Filter: c.Filter.filter(), Receiver: s, Credit: c.Credit, NoLocal: c.NoLocal, Selector: sel, Durable: c.Durable, Exclusive: c.Alone, inHands: c.Held}
	if c.Group != "" {
		if s.sub, err = x.session.SubscribeShared(c.Group, o); err == nil {
			s.sub.Start(nil) // or what is confirmed before the edge says so would be missed
			x.session.router.live.await(ctx, s.sub.filter)
		}
	} else {
		s.sub, err = x.session.Subscribe(ctx, o)
	}
	if err == nil {
		x.subs[c.ID] = s
	}
	return err
}

// cancel ends a subscription. What the client has not seen of it counts as not delivered.
func (x *shadow) cancel(r envelopeReader, w *outbox.Batch) {
	id := r.uvarint()
	s := x.subs[id]
	if s == nil {
		return
	}
	delete(x.subs, id)
	s.sub.pause()
	for range r.uvarint() {
		seq := r.uvarint()
		if r.bad {
			break
		}
		if d := s.take(seq); d != nil {
			_ = d.Undeliver(w) // it is held: it was here just now
		}
	}
	s.sub.Close(w)
}

// giveBack ends a member's subscription to a live group, and gives others what it has not acknowledged.
func (x *shadow) giveBack(r envelopeReader, w *outbox.Batch) {
	id := r.uvarint()
	s := x.subs[id]
	if s == nil {
		return
	}
	delete(x.subs, id)
	var ms []*Message
	for range r.length() {
		m, err := ParseEnvelope(r.bytes())
		if err != nil || r.bad {
			break
		}
		ms = append(ms, m)
	}
	s.sub.CloseAndReturn(ms, w)
}

// pause has a mailbox give nothing more.
func (s *Subscription) pause() {
	if s.box != nil {
		s.box.mu.Lock()
		s.paused = true
		s.box.mu.Unlock()
	}
}

func (x *shadow) settle(q request, w *outbox.Batch) {
	if q.postponed {
		x.postponed--
	}
	r := q.body
	s := x.subs[r.uvarint()]
	seqs := []uint64{r.uvarint()}
	how := settlement(r.byte())
	delay := time.Duration(r.varint()) * time.Millisecond
	cause := r.text()
	for how == settleAckAll && len(r.b) > 0 {
		seqs = append(seqs, r.uvarint())
	}
	if s == nil || r.bad {
		x.link.refuse(q.number, errNotHeld())
		return
	}
	if x.settleLater(q, s, seqs) {
		return
	}
	var done Done
	if q.number != 0 {
		done = func(_ Stored, err error, _ *outbox.Batch) { x.link.answer(q.number, err) }
	}
	d := s.take(seqs[0])
	if how == settleAckAll {
		if !s.ackBefore(seqs[1:], w) && done != nil {
			done = nil
			x.link.refuse(q.number, errNotHeld())
		}
		how = settleAck
	}
	if err := d.settleAs(how, delay, cause, w, done); err != nil {
		x.link.refuse(q.number, err)
	}
}

// ackBefore settles what was given before another, and reports whether all of it was held.
func (s *shadowSubscription) ackBefore(seqs []uint64, w *outbox.Batch) bool {
	all := true
	for _, seq := range seqs {
		all = s.take(seq).settleAs(settleAck, 0, "", w, nil) == nil && all
	}
	return all
}

// settleAs ends a delivery as an edge says; nil: one that it has not.
func (d *Delivery) settleAs(how settlement, delay time.Duration, cause string, w *outbox.Batch, done Done) error {
	if d == nil {
		return errNotHeld()
	}
	switch how {
	case settleAck:
		return d.Ack(w, done)
	case settleNack:
		return d.Nack(delay, cause, w, done)
	case settleReject:
		return d.Reject(cause, w, done)
	case settleUndeliver:
		return d.Undeliver(w)
	case settleTooLarge:
		return d.RejectTooLarge(w)
	}
	return errFrame
}

// settleLater has a request wait for a message that the client has from another leader, and that is not loaded yet.
func (x *shadow) settleLater(q request, s *shadowSubscription, seqs []uint64) bool {
	box := s.sub.mailbox()
	if box == nil {
		return false
	}
	q.postponed = true
	for _, seq := range seqs {
		if s.inHand(seq) == nil && box.whenAdopted(seq, func() { x.push(q) }) {
			x.postponed++
			return true
		}
	}
	return false
}

// push has a request done.
func (x *shadow) push(q request) {
	x.link.busy.Add(1)
	start, taken := x.enqueue(q)
	if !taken {
		x.link.busy.Add(-1)
	}
	if start {
		x.link.run(x.run)
	}
}

func (x *shadow) receive(r envelopeReader) ([]byte, error) {
	if x.durable == nil {
		return nil, errNoSession
	}
	var c subscribeCall
	if json.Unmarshal(r.b, &c) != nil {
		return nil, errFrame
	}
	s := &shadowSubscription{shadow: x, id: c.ID, held: map[uint64]*Delivery{}}
	var err error
	if s.sub, err = x.durable.receive(s, c.Credit, c.Held); err != nil || s.sub == nil {
		return []byte{0}, err
	}
	x.subs[s.id] = s
	return []byte{1}, nil
}
