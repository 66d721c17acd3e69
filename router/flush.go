package router

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// What a client settles without asking to hear of it, an edge tells the leader without asking for an answer. A leader that dies may not
// have stored it, and where there is none it is told to nobody. The client may count on it all the same once a flush is confirmed. So
// the edge keeps it until a leader has said that it is stored, and repeats it to each that comes before.

const (
	// maxUnconfirmedBytes bounds what is kept for a session. What is beyond it makes a flush fail if the link breaks.
	maxUnconfirmedBytes = 256 << 10
	// confirmEvery is how many settlements are kept before the leader is asked whether they are stored, and confirmEveryMs for how long
	// at most: sessions may be many, and do nothing for hours.
	confirmEvery   = 32
	confirmEveryMs = 10_000
)

// settleCall is how deliveries of a subscription ended.
type settleCall struct {
	sub   *remoteSubscription
	seqs  []uint64 // the last one first
	how   settlement
	delay time.Duration
	cause string
	n     uint64 // among its session's
}

func (c *settleCall) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, c.sub.id)
	b = binary.AppendUvarint(b, c.seqs[0])
	b = append(b, byte(c.how))
	b = binary.AppendVarint(b, c.delay.Milliseconds())
	b = appendString(b, c.cause)
	for _, seq := range c.seqs[1:] {
		b = binary.AppendUvarint(b, seq)
	}
	return b
}

// bytes is about what it takes to keep it.
func (c *settleCall) bytes() int { return 96 + 8*len(c.seqs) + len(c.cause) }

// final reports whether it may be repeated. What was given back comes again by itself, and once more given back it would count twice.
func (c *settleCall) final() bool { return c.how != settleNack && c.how != settleUndeliver }

// unconfirmed are a session's settlements of which no leader has said that they are stored.
type unconfirmed struct {
	kept    []settleCall
	bytes   int
	last    uint64 // the number of the last settlement
	beyond  uint64 // that of the last one that was not kept; 0: all are
	asking  bool   // a confirmation is on its way
	doubted bool   // some may be lost
}

// noteSettled tells the leader of a settlement without asking for an answer; where there is none, the next one is told.
func (e *edge) noteSettled(c settleCall) {
	rs := c.sub.rs
	e.mu.Lock()
	defer e.mu.Unlock()
	u := &rs.unconfirmed
	u.last++
	c.n = u.last
	linked := e.link != nil && rs.opened
	if c.final() || !linked {
		e.keep(rs, c)
	}
	if !linked {
		return
	}
	e.tell(rs, &c)
	if len(u.kept) >= confirmEvery && !u.asking {
		e.askConfirmation(rs)
	}
}

// tell writes a settlement; with the lock held and a link.
func (e *edge) tell(rs *remoteSession, c *settleCall) {
	b := append(binary.AppendUvarint(e.link.begin(opNote), rs.session.ID.N), byte(methodSettle))
	e.link.end(c.appendTo(b))
}

// keep notes a settlement that is to be repeated; with the lock held.
func (e *edge) keep(rs *remoteSession, c settleCall) {
	u, n := &rs.unconfirmed, c.bytes()
	switch {
	case rs.closed || rs.subs[c.sub.id] != c.sub: // the leader takes it for given back
	case u.bytes+n > maxUnconfirmedBytes || e.held+n > maxHeldBytes:
		u.beyond = u.last
		u.doubted = u.doubted || e.link == nil
	default:
		u.kept = append(u.kept, c)
		u.bytes += n
		e.held += n
		e.keeping[rs] = true
	}
}

// askConfirmation has the leader say when all that it was told so far is stored; with the lock held and a link.
func (e *edge) askConfirmation(rs *remoteSession) {
	u := &rs.unconfirmed
	upTo := u.last
	c, err := e.enter(rs, []byte{byte(methodFlush), flushInTime}, false, func(r reply, _ *outbox.Batch) {
		e.mu.Lock()
		defer e.mu.Unlock()
		u.asking = false
		if r.err == nil {
			e.confirmed(rs, upTo)
		}
	})
	if err == nil {
		u.asking = true
		e.send(c)
	}
}

// confirmIdle asks for what sessions keep that settle too little to ask themselves; with the lock held.
func (e *edge) confirmIdle(nowMs int64) {
	if e.link == nil || nowMs-e.askedMs < confirmEveryMs {
		return
	}
	e.askedMs = nowMs
	for rs := range e.keeping {
		if rs.opened && !rs.unconfirmed.asking {
			e.askConfirmation(rs)
		}
	}
}

// confirmed forgets the settlements up to a number; with the lock held.
func (e *edge) confirmed(rs *remoteSession, upTo uint64) {
	u := &rs.unconfirmed
	if u.beyond <= upTo {
		u.beyond = 0
	}
	e.dropKept(rs, func(c settleCall) bool { return c.n <= upTo })
}

// dropKept forgets some of the settlements, and reports whether there were any; with the lock held.
func (e *edge) dropKept(rs *remoteSession, which func(settleCall) bool) bool {
	u, before := &rs.unconfirmed, len(rs.unconfirmed.kept)
	u.kept = slices.DeleteFunc(u.kept, func(c settleCall) bool {
		if !which(c) {
			return false
		}
		u.bytes -= c.bytes()
		e.held -= c.bytes()
		return true
	})
	if len(u.kept) == 0 {
		u.kept = nil
		delete(e.keeping, rs)
	}
	return len(u.kept) < before
}

// confirmParted asks for what a subscription that has ended settled: another leader could not be told of it.
func (e *edge) confirmParted(x *remoteSubscription) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rs := x.rs
	of := func(c settleCall) bool { return c.sub == x }
	if e.link != nil && rs.opened && slices.ContainsFunc(rs.unconfirmed.kept, of) {
		e.askConfirmation(rs)
	}
}

// unlink notes that nobody will confirm what the leader was told; with the lock held.
func (u *unconfirmed) unlink() {
	u.doubted = u.doubted || u.beyond > 0
	u.beyond = 0
}

// settledOf lists the messages that a subscription settled, and of which that will be repeated; with the lock held.
func (u *unconfirmed) settledOf(x *remoteSubscription) (seqs []uint64) {
	for i := range u.kept {
		if c := &u.kept[i]; c.sub == x {
			seqs = append(seqs, c.seqs...)
		}
	}
	return seqs
}

// repeat tells a new leader what no other confirmed; with the lock held and a link.
func (e *edge) repeat(rs *remoteSession) {
	u := &rs.unconfirmed
	if e.dropKept(rs, func(c settleCall) bool { return rs.subs[c.sub.id] != c.sub }) {
		u.doubted = true
	}
	for i := range u.kept {
		e.tell(rs, &u.kept[i])
	}
	e.dropKept(rs, func(c settleCall) bool { return !c.final() })
}

// flush has done called when what was settled so far is stored.
func (rs *remoteSession) flush(done Done) {
	e := rs.edge
	e.mu.Lock()
	upTo := rs.unconfirmed.last
	e.mu.Unlock()
	_, err := e.ask(rs, []byte{byte(methodFlush)}, true, func(r reply, w *outbox.Batch) {
		err := r.err
		if err == nil {
			err = e.flushed(rs, upTo)
		}
		done(Stored{}, err, w)
	})
	if err != nil {
		answer(done, Stored{}, err)
	}
}

// flushed notes that a leader has stored all that it knows up to a number; an error means that some of it no leader may know.
func (e *edge) flushed(rs *remoteSession, upTo uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.confirmed(rs, upTo)
	if rs.unconfirmed.doubted {
		return &Error{Op: "settle", Class: Unavailable,
			Text: "some acknowledgements may be lost with the node that stored: what they were for may be delivered again"}
	}
	return nil
}

// flush answers when what the edge settled so far is stored. What waits for a message to be loaded is done first.
func (x *shadow) flush(q request, w *outbox.Batch) {
	if x.postponed > 0 {
		x.flushes = append(x.flushes, q)
		return
	}
	r := q.body
	inTime := r.byte() == flushInTime
	x.session.flush(inTime, w, func(_ Stored, err error, _ *outbox.Batch) { x.link.answer(q.number, err) })
}

// flushAfter does the flushes that waited for a settlement.
func (x *shadow) flushAfter(w *outbox.Batch) {
	if x.postponed > 0 {
		return
	}
	waited := x.flushes
	x.flushes = nil
	for _, q := range waited {
		x.flush(q, w)
	}
}

// Flush has done called when all that the session's subscriptions have settled so
// far is stored.
func (s *Session) Flush(w *outbox.Batch, done Done) {
	if s.remote != nil {
		s.remote.flush(done)
		return
	}
	s.flush(false, w, done)
}

// flush is Flush; inTime: when the store learns it anyway, which is soon.
func (s *Session) flush(inTime bool, w *outbox.Batch, done Done) {
	s.mu.Lock()
	boxes := map[*Mailbox]struct{}{}
	for b := range s.parted {
		boxes[b] = struct{}{}
	}
	for sub := range s.subs {
		if b := sub.mailbox(); b != nil {
			boxes[b] = struct{}{}
		}
	}
	s.mu.Unlock()
	c := &copies{done: done}
	c.left.Store(int32(len(boxes)) + 1)
	for b := range boxes {
		b.flush(inTime, w, c.stored)
	}
	c.stored(Stored{}, nil, w)
}

// part has a flush know of a subscription that has ended, until what it settled is stored.
func (s *Session) part(sub *Subscription, b *Mailbox) {
	switch {
	case sub.remote != nil:
		s.router.edge.confirmParted(sub.remote)
		return
	case b == nil:
		return
	}
	s.mu.Lock()
	if s.parted == nil {
		s.parted = map[*Mailbox]int{}
	}
	s.parted[b]++
	s.mu.Unlock()
	b.flush(true, nil, func(_ Stored, err error, _ *outbox.Batch) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.parted[b]--; s.parted[b] == 0 && err == nil {
			delete(s.parted, b)
		}
	})
}
