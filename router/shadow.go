package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// shadow stands at the leader for a session of an edge. What the edge asks for it is done in order, by one goroutine while
// there is something to do.
type shadow struct {
	link *leaderLink
	n    uint64

	mu       sync.Mutex
	requests []request
	running  bool
	closed   bool // the link was lost: nothing more is done
	left     bool // to another leader
	awaited  bool // the node lives, and says on another link what has become of the client

	// The rest is run's, but for held.
	session *Session
	failed  error // why there is no session
	will    *Will // of a session that ends with its connection
	durable *DurableSession
	subs    map[uint64]*shadowSubscription
	follows map[uint64]*shadowFollowing

	before *shadow // of the same session, by a link that was lost; nil: there is none, or it has ended
	ended  chan struct{}

	postponed int       // settlements that wait for their message
	flushes   []request // that wait for those
}

// request is a call or, without a number, a note.
type request struct {
	number    uint64
	method    method
	body      envelopeReader
	postponed bool // it waited for a message
}

func newShadow(l *leaderLink, n uint64) *shadow {
	return &shadow{link: l, n: n, subs: map[uint64]*shadowSubscription{}, follows: map[uint64]*shadowFollowing{}, ended: make(chan struct{})}
}

// shadowPatience bounds what waits for others on behalf of an edge's client.
const shadowPatience = 10 * time.Second

// enqueue reports whether run must be started, and whether the request will be done.
func (x *shadow) enqueue(r request) (start, taken bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false, false
	}
	x.requests = append(x.requests, r)
	start = !x.running
	x.running = true
	return start, true
}

// abandon has nothing more done: another leader takes the session over.
func (x *shadow) abandon() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed, x.left = true, true
}

func (x *shadow) run(ctx context.Context) {
	var w outbox.Batch
	for {
		x.mu.Lock()
		todo := x.requests
		x.requests = nil
		if len(todo) == 0 || x.closed {
			x.running = false
			closed := x.closed && !x.left
			x.mu.Unlock()
			if closed {
				x.end(ctx)
			}
			return
		}
		x.mu.Unlock()
		for _, r := range todo {
			x.handle(ctx, r, &w)
		}
		w.Flush()
		x.link.busy.Add(-int64(len(todo)))
	}
}

// lost ends the session of an edge that is gone, as if its connection had broken; of one that lives and has only lost its link, what
// is to be done then waits for its word.
func (x *shadow) lost(ctx context.Context, lives bool) {
	x.mu.Lock()
	x.closed, x.awaited = true, lives
	running := x.running
	x.mu.Unlock()
	if !running { // else run does it
		x.end(ctx)
	}
}

func (x *shadow) end(ctx context.Context) {
	if x.session == nil {
		x.over()
		return
	}
	r := x.session.router
	if x.awaited {
		x.will = nil
		x.session.awaitNode()
	}
	if x.durable == nil && x.will != nil { // before Close forgets it
		if err := x.session.PublishWill(ctx, x.will); err != nil && ctx.Err() == nil {
			r.log.Warn("the will of a lost node's client could not be published", "error", err)
		}
		x.will = nil
	}
	x.session.Close()
	x.over()
	if d := x.durable; d != nil {
		x.durable = nil
		if x.awaited {
			d.awaitNode()
			return
		}
		ctx, cancel := context.WithTimeout(ctx, shadowPatience)
		defer cancel()
		if err := d.leaveAsStored(ctx, true); err != nil && ctx.Err() == nil {
			r.log.Warn("the session of a lost node could not be stored", "client_id", d.key.id, "error", err)
		}
	}
}

// over lets the session go on by another link.
func (x *shadow) over() {
	d, id := x.link.leader, SessionID{x.link.boot, x.n}
	d.mu.Lock()
	if d.ending[id] == x {
		delete(d.ending, id)
	}
	d.mu.Unlock()
	close(x.ended)
}

// awaitEarlier waits until what the session had by a link that was lost went back: it is about to say that its client has that in hands.
func (x *shadow) awaitEarlier(ctx context.Context) {
	before := x.before
	if x.before = nil; before == nil {
		return
	}
	select {
	case <-before.ended:
	case <-time.After(shadowPatience):
	case <-ctx.Done():
	}
}

// handle does one thing. What has no answer has no error either: the edge has done its part already.
func (x *shadow) handle(ctx context.Context, q request, w *outbox.Batch) {
	r := q.body
	if q.method == methodOpen {
		x.open(ctx, q)
		return
	}
	if x.session == nil {
		if q.method == methodClose {
			x.link.forget(x)
		}
		x.link.refuse(q.number, x.failed)
		return
	}
	switch q.method {
	case methodPublish:
		x.publish(ctx, q)
	case methodSettle:
		x.settle(q, w)
		x.flushAfter(w)
	case methodStart:
		if s := x.subs[r.uvarint()]; s != nil {
			s.sub.Start(w)
		}
	case methodCredit:
		if s := x.subs[r.uvarint()]; s != nil {
			s.sub.SetCredit(int(r.uvarint()), w)
		}
	case methodCancel:
		x.cancel(r, w)
	case methodGiveBack:
		x.giveBack(r, w)
	case methodTaken:
		if f := x.follows[r.uvarint()]; f != nil {
			f.taken(int(r.uvarint()), w)
		}
	case methodUnfollow:
		id := r.uvarint()
		if f := x.follows[id]; f != nil {
			delete(x.follows, id)
			f.following.Close()
		}
	case methodFlush:
		x.flush(q, w)
	case methodCommit:
		x.commit(ctx, q, w)
	case methodSave:
		if x.durable == nil {
			x.link.refuse(q.number, errNoSession)
			return
		}
		x.durable.Save(r.rest(), func(_ Stored, err error, _ *outbox.Batch) { x.link.answer(q.number, err) })
	case methodClose:
		x.close(ctx, r, w)
		x.link.reply(q.number, nil)
	default:
		x.wait(ctx, q, w)
	}
}

var errNoSession = &Error{Op: "session", Class: Conflict, Text: "the session is not owned by this connection"}

// wait does what may take a moment.
func (x *shadow) wait(ctx context.Context, q request, w *outbox.Batch) {
	w.Flush()
	ctx, cancel := context.WithTimeout(ctx, shadowPatience)
	defer cancel()
	body, err := x.answer(ctx, q, w)
	if err == nil && (q.method == methodSubscribe || q.method == methodBind || q.method == methodBindQueue) {
		err = x.link.leader.barrier(ctx)
	}
	if err != nil {
		x.link.refuse(q.number, err)
		return
	}
	x.link.reply(q.number, body)
}

func (x *shadow) answer(ctx context.Context, q request, w *outbox.Batch) ([]byte, error) {
	r := q.body
	switch q.method {
	case methodSubscribe:
		return nil, x.subscribe(ctx, r)
	case methodUnbind:
		return nil, x.session.Unbind(ctx, string(r.b), w)
	case methodTemporary:
		_, err := x.session.TemporaryQueue(string(r.b))
		return nil, err
	case methodBindQueue:
		var c bindCall
		if json.Unmarshal(r.b, &c) != nil {
			return nil, errFrame
		}
		queue := Address{vhost: x.session.Vhost, kind: KindQueue, name: c.Queue}
		if c.Undo {
			return nil, x.session.UnbindQueue(ctx, c.Filter.filter(), queue)
		}
		return nil, x.session.BindQueue(ctx, c.Filter.filter(), queue)
	case methodBrowse:
		return x.browse(ctx, r)
	case methodClaim:
		return x.claim(ctx, r)
	case methodLeave:
		return nil, x.leave(ctx, r)
	case methodBind, methodRelease:
		var c bindCall
		if json.Unmarshal(r.b, &c) != nil {
			return nil, errFrame
		}
		if x.durable == nil {
			return nil, errNoSession
		}
		return nil, x.bind(ctx, q.method, c)
	case methodReceive:
		return x.receive(r)
	case methodRetained:
		return x.retained(r)
	case methodFollow:
		return x.follow(ctx, r)
	}
	return nil, &Error{Op: "cluster", Class: Invalid, Text: fmt.Sprintf("unknown request %d of a node; do all nodes run the same version?", q.method), Err: errFrame}
}

// open begins the session; asked again, it tells how that ended.
func (x *shadow) open(ctx context.Context, q request) {
	x.awaitEarlier(ctx)
	if q.number != 0 {
		x.link.answer(q.number, x.failed)
		return
	}
	var c openCall
	if err := json.Unmarshal(q.body.b, &c); err != nil {
		x.failed = errFrame
		return
	}
	d := x.link.leader
	p, err := d.opt.Principal(c.Identity)
	if err == nil {
		x.session, err = d.router.Connect(SessionOptions{
			Principal: p, Vhost: c.Vhost, Protocol: c.Protocol, Remote: c.Remote, Name: c.Name, ClientID: c.Claims,
			ID: SessionID{Boot: c.Boot, N: c.N}, Since: time.UnixMilli(c.SinceMs), Age: time.Duration(c.AgeMs) * time.Millisecond,
			Again: c.Again, Kick: x.kick,
		})
	}
	if err != nil {
		x.failed = err
		x.kick(err)
	}
}

// kick has the edge close the client's connection.
func (x *shadow) kick(cause error) {
	l := x.link
	b := append(binary.AppendUvarint(l.begin(opEvent), x.n), byte(eventKick))
	l.end(appendString(b, cause.Error()))
}

func (x *shadow) publish(ctx context.Context, q request) {
	m, err := ParseEnvelope(q.body.rest())
	if err != nil {
		x.link.refuse(q.number, &Error{Op: "publish", Class: Internal, Text: "internal error", Err: err})
		return
	}
	number := q.number
	pending, err := x.session.publishStored(ctx, m, func(_ Stored, err error, _ *outbox.Batch) { x.link.answer(number, err) })
	if err != nil || !pending {
		x.link.answer(number, err)
	}
}

// publishStored is the stored half of Publish: the edge has reached the live subscribers.
func (s *Session) publishStored(ctx context.Context, m *Message, done Done) (bool, error) {
	err := s.mayPublish(m)
	if err == nil {
		var r *route
		if r, err = s.route(ctx, m.To); err == nil {
			var pending bool
			if pending, err = s.storeAll(r, m, done); err == nil {
				s.router.Stats.Published.Add(1)
				return pending, nil
			}
		}
	}
	s.router.Stats.Refused.Add(1)
	return false, err
}

func (x *shadow) browse(ctx context.Context, r envelopeReader) ([]byte, error) {
	var c browseCall
	if json.Unmarshal(r.b, &c) != nil {
		return nil, errFrame
	}
	sel, err := parseSelector(c.Selector)
	if err != nil {
		return nil, err
	}
	b, err := x.session.Browse(c.Queue.address(), sel)
	if err != nil {
		return nil, err
	}
	b.next = c.Next
	if c.Last != 0 {
		b.last = c.Last
	}
	page, more, err := b.Next(ctx, c.N)
	if err != nil {
		return nil, err
	}
	a := browseReply{Next: b.next, Last: b.last, More: more}
	for _, p := range page {
		a.Page = append(a.Page, browsed{Seq: p.Seq, State: p.State, Deliveries: p.Deliveries, Envelope: p.Message.AppendEnvelope(nil)})
	}
	return appendJSON(nil, a), nil
}

// bind makes or ends a binding of the durable session.
func (x *shadow) bind(ctx context.Context, m method, c bindCall) error {
	f := c.Filter.filter()
	switch {
	case m == methodRelease && c.Group != "":
		return x.durable.UnbindShared(ctx, c.Group, f)
	case m == methodRelease:
		return x.durable.Unbind(ctx, f)
	case c.Group != "":
		return x.durable.BindShared(ctx, c.Group, f)
	}
	return x.durable.Bind(ctx, f, BindOptions{NoLocal: c.NoLocal, Retained: c.Retained})
}

func (x *shadow) commit(ctx context.Context, q request, w *outbox.Batch) {
	r := q.body
	var ms []*Message
	for range r.uvarint() {
		m, err := ParseEnvelope(r.bytes())
		if err != nil || r.bad {
			x.link.refuse(q.number, &Error{Op: "commit", Class: Internal, Text: "internal error", Err: errFrame})
			return
		}
		ms = append(ms, m)
	}
	var settle []*Delivery
	var from []*shadowSubscription // of each
	for range r.uvarint() {
		s, seq := x.subs[r.uvarint()], r.uvarint()
		if r.bad {
			break
		}
		if s == nil {
			continue
		}
		d := s.inHand(seq)
		if d == nil {
			w.Flush()
			s.awaitAdoption(ctx, seq)
			d = s.inHand(seq)
		}
		if d != nil {
			settle, from = append(settle, d), append(from, s)
		}
	}
	err := x.session.Commit(ctx, ms, settle, w, func(_ Stored, err error, _ *outbox.Batch) {
		for i, d := range settle {
			if err == nil { // else the client has them still
				from[i].forget(d)
			}
		}
		x.link.answer(q.number, err)
	})
	if err != nil {
		x.link.refuse(q.number, err)
	}
}

func (x *shadow) claim(ctx context.Context, r envelopeReader) ([]byte, error) {
	var c claimCall
	if json.Unmarshal(r.b, &c) != nil {
		return nil, errFrame
	}
	will, err := c.Will.will()
	if err != nil {
		return nil, err
	}
	d, present, err := x.session.Claim(ctx, ClaimOptions{Clean: c.Clean, Expiry: c.Expiry, Will: will, Again: c.Again})
	if err != nil {
		return nil, err
	}
	a := claimReply{Exists: d != nil, Present: present}
	if d != nil {
		x.durable, a.State = d, d.State()
	} else {
		x.will = will
	}
	return appendJSON(nil, a), nil
}

func (x *shadow) leave(ctx context.Context, r envelopeReader) error {
	var c leaveCall
	if json.Unmarshal(r.b, &c) != nil {
		return errFrame
	}
	d := x.durable
	if d == nil {
		return errNoSession
	}
	x.durable = nil
	x.link.forget(x)
	return d.Leave(ctx, LeaveOptions(c))
}

// What an edge says of a session that it closes.
const (
	leftWill    = 1 << iota // the leader is to publish the will
	leftSession             // it owns a durable session, and its Leave follows
)

// close ends the session; a durable one's last word, Leave, follows.
func (x *shadow) close(ctx context.Context, r envelopeReader, w *outbox.Batch) {
	w.Flush()
	x.will = nil
	left := r.byte()
	if left&leftWill != 0 {
		x.session.postponeWill()
	}
	x.session.Close()
	if d := x.durable; d != nil && left&leftSession == 0 {
		// The claim took longer than the edge waited: it refused its client, and nobody else would ever leave.
		x.durable = nil
		ctx, cancel := context.WithTimeout(ctx, shadowPatience)
		defer cancel()
		if err := d.leaveAsStored(ctx, false); err != nil && ctx.Err() == nil {
			x.session.router.log.Warn("a session that was claimed in vain could not be stored", "client_id", d.key.id, "error", err)
		}
	}
	if x.durable == nil {
		x.link.forget(x)
	}
}

func (x *shadow) retained(r envelopeReader) ([]byte, error) {
	ms, err := x.session.Retained(r.filter())
	if err != nil {
		return nil, err
	}
	b := binary.AppendUvarint(nil, uint64(len(ms)))
	for _, m := range ms {
		b = appendString(b, string(m.AppendEnvelope(nil)))
	}
	return b, nil
}
