package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// remoteSession is what an edge keeps of a session for the leader. Its fields are under the edge's lock.
type remoteSession struct {
	edge    *edge
	session *Session
	opened  bool // the present leader knows it
	closed  bool
	subs    map[uint64]*remoteSubscription
	follows map[uint64]*remoteFollowing
	lastID  uint64
	claimed *claimCall // of its durable session, or its will
	temps   []string   // temporary queues
}

// remoteTimeout bounds what a session asks of the leader where its caller sets no time.
const remoteTimeout = 5 * time.Second

func newRemoteSession(e *edge, s *Session) *remoteSession {
	return &remoteSession{edge: e, session: s, subs: map[uint64]*remoteSubscription{}, follows: map[uint64]*remoteFollowing{}}
}

// claimClient has the leader give the session its client id: an older session of it, on whatever node, is kicked.
func (rs *remoteSession) claimClient() error {
	ctx, cancel := context.WithTimeout(context.Background(), remoteTimeout)
	defer cancel()
	// What a call needs is opened before it: the answer tells how that ended.
	_, err := rs.edge.do(ctx, rs, []byte{byte(methodOpen)})
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

// close forgets the session here and at the leader.
func (rs *remoteSession) close() {
	e := rs.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	if rs.closed {
		return
	}
	rs.closed = true
	e.sayClosed(rs)
	delete(e.sessions, rs.session.ID.N)
}

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

	mu      sync.Mutex
	waiting []*Delivery // given by the leader, not yet taken by the receiver; the credit bounds it
	held    []*Delivery // taken by it, in order; some may be over
	ready   bool        // the receiver may be given something
	closed  bool
}

// subscribe opens a subscription at the leader.
func (rs *remoteSession) subscribe(ctx context.Context, sub *Subscription, o SubscribeOptions) error {
	x := rs.addSubscription(sub, methodSubscribe, subscribeCall{Filter: wireOf(o.Filter), Credit: sub.credit, NoLocal: o.NoLocal,
		Selector: selectorText(o.Selector), Durable: o.Durable, Group: sub.group, Alone: sub.exclusive})
	_, err := rs.edge.do(ctx, rs, x.request(nil))
	return x.answered(err)
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

// answered notes whether the leader opened the subscription.
func (x *remoteSubscription) answered(err error) error {
	if err != nil {
		x.forget()
		return err
	}
	x.rs.edge.mu.Lock()
	x.opened = true
	x.rs.edge.mu.Unlock()
	return nil
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
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ready = true
	for len(x.waiting) > 0 && !x.closed {
		if !x.sub.receiver.Stored(x.waiting[0], w) {
			x.ready = false
			return
		}
		x.keep(x.waiting[0])
		x.waiting[0] = nil
		x.waiting = x.waiting[1:]
	}
}

// keep notes what the client has in hands; with the lock held.
func (x *remoteSubscription) keep(d *Delivery) {
	if len(x.held) > 2*x.sub.credit+64 {
		x.held = slices.DeleteFunc(x.held, (*Delivery).isOver)
	}
	x.held = append(x.held, d)
}

func (d *Delivery) isOver() bool { return atomic.LoadUint32(&d.over) != 0 }

// overUpTo notes that all that was given before d is over too; with the lock held.
func (x *remoteSubscription) overUpTo(d *Delivery) {
	i := slices.Index(x.held, d)
	for _, before := range x.held[:max(i, 0)] {
		atomic.StoreUint32(&before.over, 1)
	}
	x.held = slices.Delete(x.held, 0, i+1)
}

// deliver takes what the leader gives.
func (x *remoteSubscription) deliver(d *Delivery, w *outbox.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.closed: // the leader has it back
	case !x.ready || !x.sub.receiver.Stored(d, w):
		x.ready = false
		x.waiting = append(x.waiting, d)
	default:
		x.keep(d)
		x.rs.edge.router.Stats.Delivered.Add(1)
	}
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
	if !atomic.CompareAndSwapUint32(&d.over, 0, 1) {
		return errNotHeld()
	}
	if how == settleAckUpTo {
		x.mu.Lock()
		x.overUpTo(d)
		x.mu.Unlock()
	}
	body := func(b []byte) []byte {
		b = binary.AppendUvarint(b, x.id)
		b = binary.AppendUvarint(b, d.Seq)
		b = append(b, byte(how))
		b = binary.AppendVarint(b, delay.Milliseconds())
		return appendString(b, cause)
	}
	if done == nil {
		x.rs.edge.note(x.rs, methodSettle, body)
		return nil
	}
	_, err := x.rs.edge.ask(x.rs, body([]byte{byte(methodSettle)}), true, func(r reply, w *outbox.Batch) { done(Stored{}, x.stale(d, r.err), w) })
	return err
}

// stale takes it for no error that a message, which came from another leader, is not held any more: it was given to another
// client, as it would be after any loss of a consumer.
func (x *remoteSubscription) stale(d *Delivery, err error) error {
	if err == nil || ClassOf(err) != NotFound {
		return err
	}
	x.rs.edge.mu.Lock()
	defer x.rs.edge.mu.Unlock()
	if l := x.rs.edge.link; l != nil && l.id != d.link {
		return nil
	}
	return err
}

func errNotHeld() error {
	return &Error{Op: "settle", Class: NotFound, Text: "the message is not, or no longer, held by this subscription"}
}

// event is something that the leader says to a session.
func (e *edge) event(link uint64, r envelopeReader) {
	n := r.uvarint()
	kind := event(r.byte())
	e.mu.Lock()
	rs := e.sessions[n]
	e.mu.Unlock()
	if rs == nil {
		return // it has ended here; the leader hears that soon
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
		if d.remote != nil && atomic.CompareAndSwapUint32(&d.over, 0, 1) {
			held = append(held, d)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(held)))
	for _, d := range held {
		b = binary.AppendUvarint(binary.AppendUvarint(b, d.remote.id), d.Seq)
	}
	_, err := e.ask(s.remote, b, false, func(r reply, w *outbox.Batch) { done(Stored{}, r.err, w) })
	return err
}

// unbind ends a durable subscription for good.
func (rs *remoteSession) unbind(ctx context.Context, durable string, w *outbox.Batch) error {
	_, err := rs.edge.do(ctx, rs, append([]byte{byte(methodUnbind)}, durable...))
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

// flush has done called when what was settled so far is stored.
func (rs *remoteSession) flush(done Done) {
	if _, err := rs.edge.ask(rs, []byte{byte(methodFlush)}, true, func(r reply, w *outbox.Batch) { done(Stored{}, r.err, w) }); err != nil {
		answer(done, Stored{}, err)
	}
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
	if _, err := rs.edge.do(ctx, rs, append([]byte{byte(methodTemporary)}, name...)); err != nil {
		return Address{}, err
	}
	rs.edge.mu.Lock()
	if !slices.Contains(rs.temps, name) {
		rs.temps = append(rs.temps, name)
	}
	rs.edge.mu.Unlock()
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
	b, err := r.edge.do(ctx, r.edge.self, append([]byte{byte(methodAsk)}, question...))
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

// remoteFollowing is the edge's end of a Following.
type remoteFollowing struct {
	rs *remoteSession
	id uint64
	f  *Following

	call   followCall // under the edge's lock, as is opened
	opened bool
	epoch  uint64

	mu      sync.Mutex
	waiting []keptMessage
	last    uint64 // sequence that came last
	ready   bool
	closed  bool
	taken   int // since the leader was told
}

// followWindow is how many messages of a history are on their way to an edge at most.
const followWindow = 512

func (rs *remoteSession) follow(ctx context.Context, topic Address, from HistoryStart, rc HistoryReceiver) (*Following, HistoryPosition, error) {
	e := rs.edge
	f := &Following{session: rs.session, receiver: rc}
	e.mu.Lock()
	rs.lastID++
	x := &remoteFollowing{rs: rs, id: rs.lastID, f: f}
	f.remote = x
	rs.follows[x.id] = x
	e.mu.Unlock()
	c := followCall{ID: x.id, Topic: wireOf(FilterOf(topic)), Last: from.Last, AfterSeq: from.AfterSeq, Epoch: from.Epoch}
	if !from.Since.IsZero() {
		c.SinceMs = from.Since.UnixMilli()
	}
	var p HistoryPosition
	r, err := e.do(ctx, rs, appendJSON([]byte{byte(methodFollow)}, c))
	if err == nil {
		err = json.Unmarshal(r.b, &p)
	}
	if err != nil {
		x.forget()
		return nil, p, err
	}
	e.mu.Lock()
	x.call, x.epoch, x.opened = c, p.Epoch, true
	e.mu.Unlock()
	x.mu.Lock()
	x.last = max(x.last, p.Last)
	if from.Last > 0 || !from.Since.IsZero() || from.Epoch != 0 {
		x.last = 0 // it may come yet; the first message tells
	}
	x.mu.Unlock()
	return f, p, nil
}

func (x *remoteFollowing) forget() {
	e := x.rs.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(x.rs.follows, x.id)
}

func (rs *remoteSession) history(kind event, r envelopeReader) {
	id := r.uvarint()
	rs.edge.mu.Lock()
	x := rs.follows[id]
	rs.edge.mu.Unlock()
	if x == nil {
		return
	}
	seq := r.uvarint()
	if kind == eventMissed {
		x.f.receiver.Missed(seq, &rs.edge.wakes)
		return
	}
	m, err := ParseEnvelope(r.rest())
	if err != nil {
		return
	}
	x.mu.Lock()
	x.last = seq
	x.waiting = append(x.waiting, keptMessage{seq: seq, m: m})
	n := x.pump(&rs.edge.wakes)
	x.mu.Unlock()
	x.tell(n)
}

func (x *remoteFollowing) resume(w *outbox.Batch) {
	x.mu.Lock()
	x.ready = true
	n := x.pump(w)
	x.mu.Unlock()
	x.tell(n)
}

// tell has the leader send as many more.
func (x *remoteFollowing) tell(n int) {
	if n > 0 {
		x.rs.edge.note(x.rs, methodTaken, func(b []byte) []byte { return binary.AppendUvarint(binary.AppendUvarint(b, x.id), uint64(n)) })
	}
}

// pump gives the receiver what waits, and returns how much taken the leader is to be told; with the lock held.
func (x *remoteFollowing) pump(w *outbox.Batch) (taken int) {
	for x.ready && !x.closed && len(x.waiting) > 0 {
		if !x.f.receiver.Kept(x.waiting[0].m, x.waiting[0].seq, w) {
			x.ready = false
			break
		}
		x.waiting[0].m = nil
		x.waiting = x.waiting[1:]
		x.taken++
	}
	if x.taken >= followWindow/4 || x.taken > 0 && len(x.waiting) == 0 {
		taken, x.taken = x.taken, 0
	}
	return taken
}

func (x *remoteFollowing) close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.rs.edge.note(x.rs, methodUnfollow, func(b []byte) []byte { return binary.AppendUvarint(b, x.id) })
	x.forget()
}

// remoteDurable is a durable session that the leader keeps.
type remoteDurable struct{ rs *remoteSession }

// claim has the leader make the session the owner of its client's durable one.
func (rs *remoteSession) claim(ctx context.Context, o ClaimOptions) (*DurableSession, bool, error) {
	call := claimCall{Clean: o.Clean, Expiry: o.Expiry, Will: o.Will.call()}
	r, err := rs.edge.do(ctx, rs, appendJSON([]byte{byte(methodClaim)}, call))
	if err != nil {
		return nil, false, err
	}
	var c claimReply
	if err := json.Unmarshal(r.b, &c); err != nil {
		return nil, false, &Error{Op: "connect", Class: Internal, Text: "internal error", Err: err}
	}
	if c.Exists || o.Will != nil {
		call.Clean, call.Again = false, c.Exists // of the next leader only what this one kept is asked
		rs.edge.mu.Lock()
		rs.claimed = &call
		rs.edge.mu.Unlock()
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

// leave tells the leader how the connection ended. The session is closed here already, so this goes by itself.
func (d *remoteDurable) leave(ctx context.Context, o LeaveOptions) error {
	_, err := d.rs.edge.doClosed(ctx, d.rs, appendJSON([]byte{byte(methodLeave)}, leaveCall{Expiry: o.Expiry, Will: o.Will, State: o.State}))
	return err
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
	r, err := d.rs.edge.do(ctx, d.rs, x.request(nil))
	if err := x.answered(err); err != nil {
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
	c.User, c.ClientID, c.Vhost = rs.session.Principal.Name(), rs.session.Principal.ClientID(), rs.session.Vhost
	_, err := rs.edge.doClosed(ctx, rs, appendJSON([]byte{byte(methodWill)}, c))
	return err
}
