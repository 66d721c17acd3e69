package router

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// call is a question that the leader has not answered.
type call struct {
	id      uint64
	session *remoteSession
	payload []byte // method and body
	again   bool   // another leader may be asked the same
	atMs    int64
	done    func(r reply, w *outbox.Batch)
}

type reply struct {
	body envelopeReader
	err  error
	lost bool // nobody answered
}

// fail answers calls that nobody will.
func (e *edge) fail(calls []*call, cause error) {
	var w outbox.Batch
	for _, c := range calls {
		c.done(reply{err: errNoLeader(cause), lost: true}, &w)
	}
	w.Flush()
}

func errNoLeader(cause error) error {
	return &Error{Op: "cluster", Class: Unavailable, RetryAfter: time.Second, Err: cause,
		Text: "this node has no contact with the node that stores; try again, or another node"}
}

// giveUpNow answers the calls that have waited for a leader too long.
func (e *edge) giveUpNow() {
	e.mu.Lock()
	late := e.giveUp(time.Now().UnixMilli())
	e.mu.Unlock()
	if len(late) > 0 && !e.router.goFunc(func(context.Context) { e.fail(late, errLinkSilent) }) {
		e.fail(late, errLinkSilent) // the router stops
	}
}

// giveUp takes out the calls that have waited for a leader too long, and with a publish what the same client published after it:
// the client will send it again, and that would come behind what is stored of the rest. With the lock held; in the order of the calls.
func (e *edge) giveUp(nowMs int64) (late []*call) {
	if e.fresh() {
		return nil
	}
	parted := map[*remoteSession]bool{} // one of its publishes is given up
	for _, id := range slices.Sorted(maps.Keys(e.calls)) {
		c := e.calls[id]
		if nowMs-c.atMs <= e.holdMs.Load() && !(c.publishes() && parted[c.session]) {
			continue
		}
		parted[c.session] = parted[c.session] || c.publishes()
		delete(e.calls, id)
		e.held -= len(c.payload)
		late = append(late, c)
	}
	return late
}

// publishes reports whether the call has a client's messages stored.
func (c *call) publishes() bool {
	return len(c.payload) > 0 && (method(c.payload[0]) == methodPublish || method(c.payload[0]) == methodCommit)
}

// send writes a call; with the lock held and a link.
func (e *edge) send(c *call) {
	l := e.link
	b := binary.AppendUvarint(l.begin(opCall), c.id)
	b = binary.AppendUvarint(b, c.session.session.ID.N)
	l.end(append(b, c.payload...))
}

// ask sends a call. Its done hears the answer, or that there is none, on another goroutine and must not block.
func (e *edge) ask(rs *remoteSession, payload []byte, again bool, done func(reply, *outbox.Batch)) (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if rs.closed {
		return 0, &Error{Op: "cluster", Class: Conflict, Text: "the connection is closing"}
	}
	c, err := e.enter(rs, payload, again, done)
	if err != nil {
		return 0, err
	}
	e.sessions[rs.session.ID.N] = rs
	if e.link != nil {
		e.open(rs)
		e.send(c)
	}
	return c.id, nil
}

// enter notes a call; with the lock held.
func (e *edge) enter(rs *remoteSession, payload []byte, again bool, done func(reply, *outbox.Batch)) (*call, error) {
	if e.held+len(payload) > maxHeldBytes {
		return nil, errNoLeader(errLinkOverrun)
	}
	e.lastCall++
	c := &call{id: e.lastCall, session: rs, payload: payload, again: again, atMs: time.Now().UnixMilli(), done: done}
	e.calls[c.id] = c
	e.held += len(payload)
	return c, nil
}

// do sends a call and waits for the answer; if the leader is lost before it, for the next one's. A client that comes in the
// seconds before the loss is noticed waits as one does that comes after: refused, many client programs would not try again.
func (e *edge) do(ctx context.Context, rs *remoteSession, payload []byte) (envelopeReader, error) {
	return e.doAs(ctx, rs, payload, true, nil)
}

// doOnce is do for what may not be asked twice.
func (e *edge) doOnce(ctx context.Context, rs *remoteSession, payload []byte) (envelopeReader, error) {
	return e.doAs(ctx, rs, payload, false, nil)
}

// doNoting is do where something of the leader's consent is to be noted for the next one: under the lock, and before this link can
// end or another begin, which the caller would hear of too late.
func (e *edge) doNoting(ctx context.Context, rs *remoteSession, payload []byte, note func(envelopeReader)) (envelopeReader, error) {
	return e.doAs(ctx, rs, payload, true, note)
}

func (e *edge) doAs(ctx context.Context, rs *remoteSession, payload []byte, again bool, note func(envelopeReader)) (envelopeReader, error) {
	answers := make(chan reply, 1)
	id, err := e.ask(rs, payload, again, func(r reply, _ *outbox.Batch) {
		if r.err == nil && note != nil {
			e.mu.Lock()
			note(r.body)
			e.mu.Unlock()
		}
		answers <- r
	})
	if err != nil {
		return envelopeReader{}, err
	}
	return e.await(ctx, id, answers)
}

// doClosed is do for a session that has ended: only what is its last word, which another leader may be asked, too.
func (e *edge) doClosed(ctx context.Context, rs *remoteSession, payload []byte) (envelopeReader, error) {
	answers := make(chan reply, 1)
	e.mu.Lock()
	c, err := e.enter(rs, payload, true, func(r reply, _ *outbox.Batch) { answers <- r })
	if err == nil && e.link != nil {
		e.send(c)
	}
	e.mu.Unlock()
	if err != nil {
		return envelopeReader{}, err
	}
	return e.await(ctx, c.id, answers)
}

func (e *edge) await(ctx context.Context, id uint64, answers <-chan reply) (envelopeReader, error) {
	select {
	case r := <-answers:
		return r.body, r.err
	case <-ctx.Done():
		if e.take(id) == nil { // it has come just now
			r := <-answers
			return r.body, r.err
		}
		return envelopeReader{}, errNoLeader(context.Cause(ctx))
	}
}

// take returns a call that waits, and forgets it.
func (e *edge) take(id uint64) *call {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.calls[id]
	if c != nil {
		delete(e.calls, id)
		e.held -= len(c.payload)
	}
	return c
}

// note tells the leader something that has no answer. While there is no leader it is forgotten with the rest of what the
// leader kept.
func (e *edge) note(rs *remoteSession, m method, body func([]byte) []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.link == nil || !rs.opened {
		return
	}
	l := e.link
	b := append(binary.AppendUvarint(l.begin(opNote), rs.session.ID.N), byte(m))
	l.end(body(b))
}

func (e *edge) replied(r envelopeReader) {
	c := e.take(r.uvarint())
	if c == nil {
		return // its caller gave up
	}
	if class := r.byte(); class != replyOK {
		c.done(reply{err: r.error("cluster", class)}, &e.wakes)
		return
	}
	c.done(reply{body: envelopeReader{b: r.rest()}}, &e.wakes)
}
