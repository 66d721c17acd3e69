package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// EdgeOptions make a router an edge of a cluster: it has the sessions of its node and their live subscriptions, and asks
// the leader for everything that is stored.
type EdgeOptions struct {
	Transport Transport
	// Node is this node's name, unique in the cluster.
	Node string
	// Hold is how long what needs the leader waits while there is none, before it is refused; default 1.5 seconds.
	Hold time.Duration
}

const (
	defaultHold = 1500 * time.Millisecond
	// maxHeldBytes bounds what waits for the leader's answers.
	maxHeldBytes = 256 << 20
)

// ErrMoved is the cause that Kick gets when the leader changed, and the next one does not have what was kept for the session.
var ErrMoved = errors.New("the node that kept this session's state was lost; connect again")

// edge is the part of an edge router that speaks with the leader.
type edge struct {
	router    *Router
	transport Transport
	node      string
	address   string
	holdMs    atomic.Int64

	stopListening func()

	filters  *tree[Filter] // those by which the leader stores
	loaded   atomic.Bool   // filters is what the leader has
	echoedMs atomic.Int64  // when the last beat that the leader answered was sent
	revision atomic.Uint64 // of presence elsewhere

	mu       sync.Mutex
	leader   string // address; "" while none is known
	link     *link
	linkedMs int64 // since when
	calls    map[uint64]*call
	held     int // bytes of calls, and of settlements that no leader has confirmed
	lastCall uint64
	sessions map[uint64]*remoteSession // those that the leader knows, or is to know
	self     *remoteSession            // asks for the node itself
	keeping  map[*remoteSession]bool   // those that have such settlements
	askedMs  int64                     // when all of these were asked for last
	wakes    outbox.Batch              // the receiver's
}

func newEdge(r *Router, o *EdgeOptions) *edge {
	e := &edge{router: r, transport: o.Transport, node: o.Node, filters: newTree[Filter](),
		calls: map[uint64]*call{}, sessions: map[uint64]*remoteSession{}, keeping: map[*remoteSession]bool{}}
	e.holdMs.Store(defaultHold.Milliseconds())
	if o.Hold > 0 {
		e.holdMs.Store(o.Hold.Milliseconds())
	}
	// The node's own questions need no session at the leader.
	e.self = newRemoteSession(e, &Session{Principal: NewPrincipal("", "", false, nil), Vhost: DefaultVhost, router: r, kick: func(error) {}})
	e.address = fmt.Sprintf("edge.%s.%x", hexName(o.Node), r.boot)
	return e
}

// startEdge begins to listen for the leader.
func (r *Router) startEdge(o *EdgeOptions) error {
	e := newEdge(r, o)
	r.edge = e
	var err error
	if e.stopListening, err = e.transport.Listen(e.address, e.arrived); err != nil {
		r.cancel()
		return fmt.Errorf("listen for the leader: %w", err)
	}
	r.goFunc(e.run)
	return nil
}

// stop ends what startEdge began, after run has ended.
func (e *edge) stop() {
	e.stopListening()
	e.mu.Lock()
	calls := slices.Collect(maps.Values(e.calls))
	clear(e.calls)
	e.mu.Unlock()
	var w outbox.Batch
	for _, c := range calls {
		c.done(reply{err: errStopping("cluster")}, &w)
	}
	w.Flush()
}

// hexName makes any name one token of an address.
func hexName(name string) string { return fmt.Sprintf("%x", name) }

// run listens, and watches the link, until ctx ends.
func (e *edge) run(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			e.tick()
		case <-ctx.Done():
			e.leave()
			return
		}
	}
}

// leave tells the leader that this node goes: what it held goes back at once.
func (e *edge) leave() {
	e.mu.Lock()
	l := e.link
	e.link, e.leader = nil, ""
	e.mu.Unlock()
	if l == nil {
		return
	}
	l.end(l.begin(opBye))
	l.write(context.Background()) // here and now: the router stops
	l.close(errLinkEnded)
}

// FollowLeader has an edge ask the leader at an address, "" for none, from now on.
func (r *Router) FollowLeader(address string) {
	e := r.edge
	e.mu.Lock()
	if e.leader != address {
		e.leader = address
		e.disconnect(errLinkEnded)
		e.connect()
	}
	e.mu.Unlock()
	if address == "" {
		e.giveUpNow()
	}
}

// Hold sets how long what needs the leader waits for one.
func (r *Router) Hold(d time.Duration) {
	r.edge.holdMs.Store(d.Milliseconds())
	r.edge.giveUpNow()
}

// IsEdge reports whether the router asks a leader for everything that is stored.
func (r *Router) IsEdge() bool { return r.edge != nil }

// Linked reports whether an edge has a leader that answers.
func (r *Router) Linked() bool { return r.edge != nil && r.edge.fresh() }

// fresh reports whether the leader answered a moment ago, and the filters are known: what they do not match is stored
// nowhere.
func (e *edge) fresh() bool {
	return e.loaded.Load() && time.Now().UnixMilli()-e.echoedMs.Load() < edgePatience.Milliseconds()
}

// silent reports whether the leader has not answered for too long.
func (e *edge) silent(nowMs int64) bool { return nowMs-e.echoedMs.Load() > edgePatience.Milliseconds() }

// connect begins a link to the leader; with the lock held.
func (e *edge) connect() {
	if e.leader == "" || e.link != nil {
		return
	}
	l := newLink(randomID(), e.leader, e.transport, e.router.goFunc)
	e.link, e.linkedMs = l, time.Now().UnixMilli()
	e.echoedMs.Store(time.Now().UnixMilli())
	l.end(appendJSON(l.begin(opHello), helloFrame{Address: e.address, Node: e.node, Boot: e.router.boot}))
	waiting := slices.Sorted(maps.Keys(e.calls))
	var ended []*remoteSession
	for _, rs := range e.sessions {
		e.open(rs)
		e.reattach(rs)
		if rs.words != nil {
			ended = append(ended, rs)
		}
	}
	l.end(l.begin(opAttached))
	parted := map[*remoteSession]bool{} // whose clients went while there was no leader
	for _, id := range waiting {
		c := e.calls[id]
		e.open(c.session)
		e.send(c)
		parted[c.session] = c.session.closed && c.session.words == nil
	}
	for _, rs := range ended {
		e.tellEnd(rs)
	}
	for rs, closed := range parted {
		if closed {
			e.sayClosed(rs)
		}
	}
}

// disconnect ends the link; with the lock held. What may not be asked twice is answered; what the leader kept for the
// sessions is asked of the next one.
func (e *edge) disconnect(cause error) {
	if e.link == nil {
		return
	}
	e.link.close(cause)
	e.link = nil
	e.loaded.Store(false)
	var lost []*call
	for _, c := range e.calls {
		if !c.again {
			lost = append(lost, c)
		}
	}
	for _, rs := range e.sessions {
		rs.opened = false
		rs.unconfirmed.unlink()
		for _, x := range rs.subs {
			if x.opened {
				x.unlink()
			}
		}
	}
	if e.router.goFunc(func(context.Context) { e.fail(lost, cause) }) { // else stop answers them
		for _, c := range lost {
			delete(e.calls, c.id)
			e.held -= len(c.payload)
		}
	}
}

// tick sends a sign of life and looks for the leader's.
func (e *edge) tick() {
	now := time.Now().UnixMilli()
	e.mu.Lock()
	if l := e.link; l != nil {
		switch cause := l.closed(); {
		case cause != nil:
			e.disconnect(cause)
		case e.silent(now), !e.loaded.Load() && now-e.linkedMs > helloPatience.Milliseconds():
			e.disconnect(errLinkSilent)
		default:
			b := binary.AppendUvarint(l.begin(opBeat), uint64(now))
			l.end(binary.AppendUvarint(b, e.router.subs.generation.Load()))
		}
	}
	if e.link == nil {
		e.connect()
	}
	e.confirmIdle(now)
	late := e.giveUp(now)
	e.mu.Unlock()
	e.fail(late, errLinkSilent)
}

// open has the leader know a session; with the lock held and a link.
func (e *edge) open(rs *remoteSession) {
	if rs.opened || e.link == nil {
		return
	}
	rs.opened = true
	if rs == e.self {
		return
	}
	s := rs.session
	l := e.link
	claims := s.client.id
	if rs.closed && rs.words == nil {
		claims = "" // it only has something to publish yet
	}
	b := binary.AppendUvarint(l.begin(opNote), s.ID.N)
	l.end(appendJSON(append(b, byte(methodOpen)), openCall{
		Boot: s.ID.Boot, N: s.ID.N, Identity: s.Principal.Identity(), Vhost: s.Vhost,
		Protocol: s.Protocol, Remote: s.Remote, Name: s.Name, Claims: claims, SinceMs: s.Since.UnixMilli(), AgeMs: time.Since(s.Since).Milliseconds(),
		Again: rs.named,
	}))
}

// sayClosed has the leader forget a session; with the lock held and a link.
func (e *edge) sayClosed(rs *remoteSession) {
	if rs.opened && e.link != nil {
		l := e.link
		rs.endedOn = l.id
		l.end(append(binary.AppendUvarint(l.begin(opNote), rs.session.ID.N), rs.closing()...))
	}
	rs.opened = false
}

// closing is methodClose as it is sent.
func (rs *remoteSession) closing() []byte {
	var left byte
	if rs.willLeft {
		left |= leftWill
	}
	if rs.claimed != nil && rs.claimed.Again {
		left |= leftSession
	}
	return []byte{byte(methodClose), left}
}

// arrived takes what the leader sent.
func (e *edge) arrived(chunk []byte) {
	id, ok := linkOf(chunk)
	e.mu.Lock()
	l := e.link
	if l != nil && e.silent(time.Now().UnixMilli()) { // the node was paused: the leader has given to others what lay in its buffers
		e.disconnect(errLinkSilent)
		e.connect()
		l = nil
	}
	e.mu.Unlock()
	if !ok || l == nil || l.id != id {
		return // of a link that has ended
	}
	err := l.receive(chunk, func(o op, body []byte) { e.frame(l, o, envelopeReader{b: body}) })
	e.wakes.Flush()
	if err != nil {
		e.mu.Lock()
		if e.link == l {
			e.disconnect(err)
		}
		e.mu.Unlock()
	}
}

func (e *edge) frame(l *link, o op, r envelopeReader) {
	switch o {
	case opReply:
		e.replied(r)
	case opEvent:
		e.event(l.id, r)
	case opBeat:
		e.echoedMs.Store(int64(r.uvarint()))
		e.revision.Store(r.uvarint())
	case opFilters:
		e.learn(l, r)
	case opAsk:
		e.tellPresence(l, r)
	case opBye:
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.link == l {
			e.disconnect(errLinkEnded)
			e.connect()
		}
	}
}

// learn enters filters by which the leader stores, and says so.
func (e *edge) learn(l *link, r envelopeReader) {
	revision := r.uvarint()
	if r.byte() == 1 {
		e.filters.clear()
	}
	for range r.uvarint() {
		if f := r.filter(); !r.bad {
			e.filters.insert(f, f)
		}
	}
	for range r.uvarint() {
		if f := r.filter(); !r.bad {
			e.filters.remove(f, f)
		}
	}
	if r.bad {
		l.close(errFrame)
		return
	}
	e.loaded.Store(true)
	l.end(binary.AppendUvarint(l.begin(opSeen), revision))
}

// resolve finds the local receivers of an address, and whether the leader is to be told.
func (e *edge) resolve(to Address, generation uint64) *route {
	r := e.router
	rt := &route{generation: generation}
	if to.kind == KindQueue {
		rt.remote = true
		return rt
	}
	for _, sub := range r.subs.match(to, nil) {
		if r.auth.Authorize(sub.session.Principal, ActionRead, to) == nil {
			rt.live = append(rt.live, sub)
		}
	}
	rt.remote = len(e.filters.match(to, nil)) > 0
	if !rt.remote && r.opt.History != nil && !to.Reserved() {
		keep, _ := r.opt.History(to)
		rt.remote = keep > 0
	}
	return rt
}

// store has the leader store what is to be stored of m. It reports whether done will hear.
func (e *edge) store(s *Session, to *route, m *Message, done Done) (bool, error) {
	if !to.remote && !m.Has(FlagRetain) {
		// What the node has learned since the route was resolved, it may say already that it knows.
		if !m.Has(FlagPersistent) || e.fresh() && to.generation == e.router.generation() {
			return false, nil
		}
	}
	if done == nil {
		done = ignoreDone
	}
	if m.DedupID == "" {
		m.DedupID = "edge\x00" + m.ID.String() // another leader may be asked again
	}
	payload := m.AppendEnvelope(append(make([]byte, 0, m.Size()+128), byte(methodPublish)))
	_, err := e.ask(s.remote, payload, true, func(r reply, w *outbox.Batch) { e.published(1, r, done, w) })
	return err == nil, err
}

// published has done hear how a publish of some messages ended, and counts it.
func (e *edge) published(n int, r reply, done Done, w *outbox.Batch) {
	if r.err == nil {
		e.router.Stats.Published.Add(uint64(n))
	} else {
		e.router.Stats.Refused.Add(1)
	}
	done(Stored{}, r.err, w)
}
