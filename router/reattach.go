package router

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// What the leader kept for an edge's sessions in memory is lost with it: who consumes from what, and what is in whose hands.
// The edges know all of that, and ask the next leader for it before anything else. Their clients notice nothing but a pause.
//
// A leader gives nothing from its mailboxes before the edges had their chance to say what their clients hold (gather), so
// that a message in one client's hands is not given to another.

// reattach asks a new leader for what another kept for a session; with the lock held and a link.
func (e *edge) reattach(rs *remoteSession) {
	if rs.claimed != nil {
		e.askAgain(rs, appendJSON([]byte{byte(methodClaim)}, *rs.claimed))
	}
	for _, name := range rs.temps {
		e.askAgain(rs, append([]byte{byte(methodTemporary)}, name...))
	}
	l := e.link
	for _, x := range rs.subs {
		if !x.opened {
			continue // who opens it waits for the answer
		}
		e.askAgain(rs, x.request(append(x.inHands(l.id), rs.unconfirmed.settledOf(x)...)))
		if x.started {
			b := append(binary.AppendUvarint(l.begin(opNote), rs.session.ID.N), byte(methodStart))
			l.end(binary.AppendUvarint(b, x.id))
		}
	}
	e.repeat(rs)
	for _, x := range rs.follows {
		if x.opened {
			e.askAgain(rs, appendJSON([]byte{byte(methodFollow)}, x.goOn()))
		}
	}
}

// lastWords are how a session ended, of which no leader has heard.
type lastWords struct {
	leave []byte      // the call; nil: it only ended
	heard func(error) // hears the answer, once
}

// leave tells the leader how the connection ended. Where there is none, or it is lost meanwhile, the next one is told, also when
// the caller waits no more.
func (d *remoteDurable) leave(ctx context.Context, o LeaveOptions) error {
	rs, e := d.rs, d.rs.edge
	answers := make(chan error, 1)
	w := &lastWords{leave: appendJSON([]byte{byte(methodLeave)}, leaveCall(o)), heard: func(err error) { answers <- err }}
	e.mu.Lock()
	if e.held+len(w.leave) > maxHeldBytes {
		e.mu.Unlock()
		return errNoLeader(errLinkOverrun)
	}
	e.held += len(w.leave)
	rs.words = w
	e.sessions[rs.session.ID.N] = rs
	if e.link != nil {
		if rs.endedOn != e.link.id { // this leader knows nothing of the session
			e.open(rs)
			e.reattach(rs)
		}
		e.tellEnd(rs)
	}
	e.mu.Unlock()
	return e.awaitWords(ctx, answers)
}

// awaitWords waits until a leader has heard last words, or there is none.
func (e *edge) awaitWords(ctx context.Context, answers <-chan error) error {
	hold := time.NewTimer(time.Duration(e.holdMs.Load()) * time.Millisecond)
	defer hold.Stop()
	for {
		select {
		case err := <-answers:
			return err
		case <-hold.C:
			if e.fresh() { // it is slow, but there
				hold.Reset(time.Duration(e.holdMs.Load()) * time.Millisecond)
				continue
			}
			return errNoLeader(errLinkSilent)
		case <-ctx.Done():
			return errNoLeader(context.Cause(ctx))
		}
	}
}

// tellEnd has a leader that knows the session hear its last words; with the lock held and a link.
func (e *edge) tellEnd(rs *remoteSession) {
	w := rs.words
	last := w.leave
	if last == nil {
		last = rs.closing()
		rs.opened, rs.endedOn = false, e.link.id
	} else {
		e.sayClosed(rs)
	}
	c, err := e.enter(rs, last, false, func(r reply, _ *outbox.Batch) {
		if r.lost {
			return // another leader will be told
		}
		e.mu.Lock()
		first := rs.words == w // a stop answers all calls, and there may be one for each of two links
		if first {
			e.forgetWords(rs)
		}
		e.mu.Unlock()
		if first {
			w.heard(r.err)
		}
	})
	if err == nil {
		e.send(c)
	}
}

// forgetWords ends what is kept of a session that has ended; with the lock held.
func (e *edge) forgetWords(rs *remoteSession) {
	e.held -= len(rs.words.leave)
	rs.words = nil
	delete(e.sessions, rs.session.ID.N)
}

// askAgain sends a call of which only a refusal matters: then the client must connect again.
func (e *edge) askAgain(rs *remoteSession, payload []byte) {
	c, err := e.enter(rs, payload, false, func(r reply, _ *outbox.Batch) {
		if r.err == nil || r.lost {
			return
		}
		e.mu.Lock()
		ended := rs.closed
		e.mu.Unlock()
		if !ended {
			rs.session.kick(ErrMoved)
		}
	})
	if err == nil {
		e.send(c)
	}
}

// inHands lists what the client holds, and what it has settled without an answer: the next leader is asked to settle that again. What
// the client has not seen the next leader gives again.
func (x *remoteSubscription) inHands(link uint64) []uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waiting, x.asked = nil, link
	var seqs []uint64
	for _, d := range x.held {
		if !d.isOver() {
			seqs = append(seqs, d.Seq)
		}
	}
	return seqs
}

// goOn continues behind the last message that came.
func (x *remoteFollowing) goOn() followCall {
	c := x.call
	if last := x.last.Load(); last > 0 {
		c.Last, c.SinceMs, c.AfterSeq, c.Epoch = 0, 0, last, x.epoch
	}
	return c
}

// adoption is a message that a consumer has had in hands since before this node led, and that is not loaded yet.
type adoption struct {
	sub  *Subscription
	then []func() // once it is loaded, or known to be settled
}

// adopt gives a loaded message to the consumer that has it in hands; with the lock held.
func (b *Mailbox) adopt(d *Delivery) bool {
	a := b.adopting[d.Seq]
	if a == nil {
		return false
	}
	defer b.resolve(d.Seq) // what waits finds it in its consumer's hands
	s := a.sub
	if s.detached {
		return false
	}
	b.ledger.withdraw(d)
	count := max(d.Count, 1)
	b.ledger.hold(d, s)
	d.box, d.Count = b, count
	b.handed = max(b.handed, d.Seq)
	b.noticeGroups(d)
	b.bindGroup(s, d.Message) // what follows in the group is still to come
	if r, ok := s.receiver.(adopter); ok {
		r.adopted(d)
	}
	return true
}

// resolve ends the wait for a message; with the lock held.
func (b *Mailbox) resolve(seq uint64) {
	a := b.adopting[seq]
	delete(b.adopting, seq)
	a.sub.adopting--
	if len(a.then) > 0 {
		b.router.goFunc(func(context.Context) {
			for _, f := range a.then {
				f()
			}
		})
	}
}

// adopter is a receiver whose client may have messages in hands already.
type adopter interface{ adopted(d *Delivery) }

func (s *shadowSubscription) adopted(d *Delivery) { s.hold(d) }

// claimHeld notes what a new consumer has in hands; with the lock held.
func (b *Mailbox) claimHeld(s *Subscription, seqs []uint64) {
	for _, seq := range seqs {
		d := b.ledger.find(seq)
		if d == nil && seq < b.ledger.next || d != nil && d.state != stateReady {
			continue // it is settled, or another's
		}
		if !b.await(seq, s) {
			continue
		}
		if d != nil {
			b.adopt(d)
		}
	}
	if b.ledger.live() { // nothing is left to be loaded
		b.passAdoptions()
	}
}

// await notes that a message which is not loaded is in a consumer's hands; with the lock held. False: another said so before, to which
// it was given first or again, and one of the two is enough. Of one client the later word counts.
func (b *Mailbox) await(seq uint64, s *Subscription) bool {
	if b.adopting == nil {
		b.adopting = map[uint64]*adoption{}
	}
	a := b.adopting[seq]
	switch {
	case a == nil:
		a = &adoption{}
		b.adopting[seq] = a
	case !a.sub.detached && a.sub.session.ID != s.session.ID:
		return false
	default:
		a.sub.adopting--
	}
	a.sub = s
	s.adopting++
	return true
}

// passAdoptions gives up on what should be among the loaded messages and is not: it was settled; with the lock held.
func (b *Mailbox) passAdoptions() {
	for seq := range b.adopting {
		if seq < b.ledger.next || b.ledger.live() {
			s := b.adopting[seq].sub
			b.resolve(seq)
			b.enqueue(s)
		}
	}
}

// whenAdopted has f called, on another goroutine, when a message that a consumer has in hands is loaded or known to be
// settled. False: it is not waited for.
func (b *Mailbox) whenAdopted(seq uint64, f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.adopting[seq]
	if a == nil {
		return false
	}
	a.then = append(a.then, f)
	return true
}

// gathered lets the mailboxes give: the edges have said what is in their clients' hands.
func (r *Router) gathered() {
	if !r.gathering.CompareAndSwap(true, false) {
		return
	}
	var w outbox.Batch
	for _, b := range r.mailboxes() {
		b.mu.Lock()
		b.dispatch(&w)
		b.mu.Unlock()
	}
	w.Flush()
}
