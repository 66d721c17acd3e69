package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// remoteSession is what an edge keeps of a session for the leader. Its fields are under the edge's lock.
type remoteSession struct {
	edge    *edge
	session *Session
	opened  bool // the present leader knows it
	named   bool // a leader gave it its client id
	closed  bool
	// willLeft: the will could not be published when the session ended, and the leader is to do it later.
	willLeft bool
	words    *lastWords // nil: the leader has heard how the session ended, or will see that by itself
	endedOn  uint64     // the link by which it heard that it ended
	subs     map[uint64]*remoteSubscription
	follows  map[uint64]*remoteFollowing
	lastID   uint64
	claimed  *claimCall // of its durable session, or its will
	temps    []string   // temporary queues

	unconfirmed unconfirmed
}

// remoteTimeout bounds what a session asks of the leader where its caller sets no time. It is longer than an edge waits for the
// next leader: EdgeOptions.Hold says when a client is refused for want of one.
const remoteTimeout = 15 * time.Second

func newRemoteSession(e *edge, s *Session) *remoteSession {
	return &remoteSession{edge: e, session: s, subs: map[uint64]*remoteSubscription{}, follows: map[uint64]*remoteFollowing{}}
}

// claimClient has the leader give the session its client id: an older session of it, on whatever node, is kicked.
func (rs *remoteSession) claimClient() error {
	ctx, cancel := context.WithTimeout(context.Background(), remoteTimeout)
	defer cancel()
	// What a call needs is opened before it: the answer tells how that ended.
	_, err := rs.edge.doNoting(ctx, rs, []byte{byte(methodOpen)}, func(envelopeReader) { rs.named = true })
	return err
}

// register has the leader know of the session, for those who ask who is connected.
func (rs *remoteSession) register() {
	e := rs.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sessions[rs.session.ID.N] = rs
	e.open(rs)
}

// close forgets the session here and at the leader. A will that is not to be published is forgotten there when close returns, so
// that the loss of this node does not publish it; or some leader will be told.
func (rs *remoteSession) close() {
	e := rs.edge
	e.mu.Lock()
	if rs.closed {
		e.mu.Unlock()
		return
	}
	rs.closed = true
	e.dropKept(rs, func(settleCall) bool { return true })
	if rs.claimed == nil || rs.claimed.Again || rs.willLeft {
		e.sayClosed(rs)
		delete(e.sessions, rs.session.ID.N)
		e.mu.Unlock()
		return
	}
	answers := make(chan error, 1)
	rs.words = &lastWords{heard: func(err error) { answers <- err }}
	if e.link != nil {
		e.tellEnd(rs)
	}
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), willPatience)
	defer cancel()
	_ = e.awaitWords(ctx, answers) // nobody is left to hear
}

// event is something that the leader says to a session.
func (e *edge) event(link uint64, r envelopeReader) {
	n := r.uvarint()
	kind := event(r.byte())
	e.mu.Lock()
	rs := e.sessions[n]
	ended := rs == nil || rs.closed
	e.mu.Unlock()
	if ended {
		return // the leader hears that soon
	}
	switch kind {
	case eventStored:
		rs.stored(link, r)
	case eventLive:
		rs.live(r)
	case eventKept, eventMissed:
		rs.history(kind, r)
	case eventKick:
		rs.session.kick(kickCause(r.text()))
	}
}

func kickCause(text string) error {
	if text == ErrTakenOver.Error() {
		return ErrTakenOver
	}
	return ErrMoved
}

// commit has the leader publish and settle as one.
func (e *edge) commit(s *Session, ms []*Message, settle []*Delivery, done Done) error {
	b := binary.AppendUvarint([]byte{byte(methodCommit)}, uint64(len(ms)))
	for _, m := range ms {
		if err := s.mayPublish(m); err != nil {
			return err
		}
		s.stamp(m)
		b = appendString(b, string(m.AppendEnvelope(nil)))
	}
	held := settle[:0:0]
	for _, d := range settle {
		if d.remote != nil && atomic.CompareAndSwapUint32(&d.over, inHand, settling) {
			held = append(held, d)
		}
	}
	pass := func(to uint32) {
		for _, d := range held {
			atomic.CompareAndSwapUint32(&d.over, settling, to)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(held)))
	for _, d := range held {
		b = binary.AppendUvarint(binary.AppendUvarint(b, d.remote.id), d.Seq)
	}
	_, err := e.ask(s.remote, b, false, func(r reply, w *outbox.Batch) {
		if r.err == nil {
			pass(isOver)
		} else {
			pass(inHand) // the client may settle them again
		}
		e.published(len(ms), r, done, w)
	})
	if err != nil {
		pass(inHand)
	}
	return err
}

// unbind ends a durable subscription for good.
func (rs *remoteSession) unbind(ctx context.Context, durable string, w *outbox.Batch) error {
	_, err := rs.edge.doOnce(ctx, rs, append([]byte{byte(methodUnbind)}, durable...))
	if err != nil {
		return err
	}
	rs.edge.mu.Lock()
	var own []*Subscription
	for _, x := range rs.subs {
		if x.durable == durable {
			own = append(own, x.sub)
		}
	}
	rs.edge.mu.Unlock()
	for _, sub := range own {
		sub.Close(w)
	}
	return nil
}

func (rs *remoteSession) bindQueue(ctx context.Context, f Filter, queue Address, undo bool) error {
	_, err := rs.edge.do(ctx, rs, appendJSON([]byte{byte(methodBindQueue)}, bindCall{Filter: wireOf(f), Queue: queue.name, Undo: undo}))
	return err
}

// browse asks for the next page of what a queue holds.
func (rs *remoteSession) browse(ctx context.Context, b *Browsing, n int) (out []PeekedMessage, more bool, err error) {
	r, err := rs.edge.do(ctx, rs, appendJSON([]byte{byte(methodBrowse)}, browseCall{
		Queue: wireOf(FilterOf(b.queue)), Selector: selectorText(b.selector), Next: b.next, Last: b.last, N: n,
	}))
	if err != nil {
		return nil, false, err
	}
	var a browseReply
	if err := json.Unmarshal(r.b, &a); err != nil {
		return nil, false, &Error{Op: "browse", Class: Internal, Text: "internal error", Err: err}
	}
	b.next, b.last = a.Next, a.Last
	for _, p := range a.Page {
		m, err := ParseEnvelope(p.Envelope)
		if err != nil {
			return nil, false, &Error{Op: "browse", Class: Internal, Text: "internal error", Err: err}
		}
		out = append(out, PeekedMessage{Seq: p.Seq, State: p.State, Deliveries: p.Deliveries, Message: m})
	}
	return out, a.More, nil
}

func (rs *remoteSession) temporaryQueue(name string) (Address, error) {
	ctx, cancel := context.WithTimeout(context.Background(), remoteTimeout)
	defer cancel()
	if _, err := rs.edge.doNoting(ctx, rs, append([]byte{byte(methodTemporary)}, name...), func(envelopeReader) {
		if !slices.Contains(rs.temps, name) {
			rs.temps = append(rs.temps, name)
		}
	}); err != nil {
		return Address{}, err
	}
	return temporaryAddress(rs.session, name)
}

// retained returns the retained messages that match; authorised here.
func (rs *remoteSession) retained(f Filter) ([]*Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), remoteTimeout)
	defer cancel()
	r, err := rs.edge.do(ctx, rs, appendFilter([]byte{byte(methodRetained)}, f))
	if err != nil {
		return nil, err
	}
	var out []*Message
	for range r.uvarint() {
		m, err := ParseEnvelope(r.bytes())
		if err != nil || r.bad {
			return nil, &Error{Op: "subscribe", Class: Internal, Text: "internal error", Err: errFrame}
		}
		out = append(out, m)
	}
	return out, nil
}

// present asks the leader who receives a topic on the other nodes, or by what it keeps.
func (e *edge) present(ctx context.Context, topic Address) ([]Presence, error) {
	r, err := e.do(ctx, e.self, appendFilter([]byte{byte(methodPresent)}, FilterOf(topic)))
	if err != nil {
		return nil, err
	}
	var out []Presence
	if err := json.Unmarshal(r.b, &out); err != nil {
		return nil, &Error{Op: "presence", Class: Internal, Text: "internal error", Err: err}
	}
	return mergePresence(e.router.presentLive(topic), out), nil
}

// Ask puts a question that the router does not understand to the leader's LeaderOptions.Answer; of an edge.
func (r *Router) Ask(ctx context.Context, question []byte) ([]byte, error) {
	b, err := r.edge.doOnce(ctx, r.edge.self, append([]byte{byte(methodAsk)}, question...))
	return b.b, err
}

// tellPresence answers the leader who receives a topic live here.
func (e *edge) tellPresence(l *link, r envelopeReader) {
	n := r.uvarint()
	topic := r.filter()
	a := Address{vhost: topic.vhost, name: topic.name, kind: topic.kind}
	b := binary.AppendUvarint(nil, n)
	b = appendJSON(b, e.router.presentLive(a))
	l.end(append(l.begin(opTold), b...))
}

// mergePresence joins lists, each session once, sorted.
func mergePresence(lists ...[]Presence) []Presence {
	seen := map[SessionID]bool{}
	out := []Presence{}
	for _, list := range lists {
		for _, p := range list {
			if !seen[p.Session] {
				seen[p.Session] = true
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b Presence) int { return strings.Compare(a.Session.String(), b.Session.String()) })
	return out
}

// remoteDurable is a durable session that the leader keeps.
type remoteDurable struct{ rs *remoteSession }

// claim has the leader make the session the owner of its client's durable one.
func (rs *remoteSession) claim(ctx context.Context, o ClaimOptions) (*DurableSession, bool, error) {
	call := claimCall{Clean: o.Clean, Expiry: o.Expiry, Will: o.Will.call()}
	var c claimReply
	var bad error
	_, err := rs.edge.doNoting(ctx, rs, appendJSON([]byte{byte(methodClaim)}, call), func(r envelopeReader) {
		if bad = json.Unmarshal(r.b, &c); bad == nil && (c.Exists || o.Will != nil) {
			call.Clean, call.Again = false, c.Exists // of the next leader only what this one kept is asked
			rs.claimed = &call
		}
	})
	if err != nil {
		return nil, false, err
	}
	if bad != nil {
		return nil, false, &Error{Op: "connect", Class: Internal, Text: "internal error", Err: bad}
	}
	if !c.Exists {
		return nil, false, nil
	}
	return &DurableSession{router: rs.edge.router, key: rs.session.client, owner: rs.session, remote: &remoteDurable{rs}, rec: sessionRecord{State: c.State}}, c.Present, nil
}

func (d *remoteDurable) save(state []byte, done Done) {
	payload := append([]byte{byte(methodSave)}, state...)
	if _, err := d.rs.edge.ask(d.rs, payload, true, func(r reply, w *outbox.Batch) { done(Stored{}, r.err, w) }); err != nil {
		answer(done, Stored{}, err)
	}
}

func (d *remoteDurable) bind(ctx context.Context, m method, c bindCall) error {
	_, err := d.rs.edge.do(ctx, d.rs, appendJSON([]byte{byte(m)}, c))
	return err
}

func (d *remoteDurable) receive(receiver Receiver, credit int) (*Subscription, error) {
	s := d.rs.session
	sub := &Subscription{session: s, receiver: receiver, credit: max(credit, 1)}
	x := d.rs.addSubscription(sub, methodReceive, subscribeCall{Credit: sub.credit})
	ctx, cancel := context.WithTimeout(context.Background(), remoteTimeout)
	defer cancel()
	r, err := x.open(ctx)
	if err != nil {
		return nil, err
	}
	if r.byte() == 0 { // there is no inbox yet
		x.forget()
		return nil, nil
	}
	if !s.remember(sub) {
		x.close()
		return nil, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	return sub, nil
}

// publishWill has the leader publish a will, also for a session that has ended.
func (rs *remoteSession) publishWill(ctx context.Context, w *Will) error {
	c := w.call()
	c.Identity, c.Vhost = rs.session.Principal.Identity(), rs.session.Vhost
	// Asked again of another leader, what is stored of it is stored once: it has an id.
	_, err := rs.edge.doClosed(ctx, rs, appendJSON([]byte{byte(methodWill)}, c))
	if ClassOf(err) == Unavailable {
		rs.edge.mu.Lock()
		rs.willLeft = true
		rs.edge.mu.Unlock()
	}
	return err
}
