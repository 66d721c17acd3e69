package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// Session is one client's presence and its only way in. Publish and Commit are
// for one goroutine at a time, the connection's reader; the others are for any.
type Session struct {
	ID        SessionID
	Principal *Principal
	Vhost     string
	// Protocol is what operators see: "stomp", "mqtt", "ws".
	Protocol string
	// Remote is the peer's address as operators see it.
	Remote string
	// Name is what the client calls itself, for those who are told who is present.
	Name string
	// Since is when the session began.
	Since time.Time
	began time.Time // by the clock of this node, which Since is not at the leader

	router *Router
	client clientKey // zero without a client id
	kick   func(cause error)
	n      atomic.Uint64
	routes map[Address]*route
	remote *remoteSession // on an edge
	shadow bool           // it stands for a session of an edge, which stamps its messages
	again  bool           // and has its client id by the word of another leader

	mu      sync.Mutex
	subs    map[*Subscription]struct{}
	parted  map[*Mailbox]int // how many subscriptions to each have ended and may have settlements that are not stored
	temps   []*Mailbox
	follows map[*Following]struct{}
	will    *DurableSession // its stored form, where there is no session besides
	closed  bool
	ended   chan struct{} // closed at the end of Close
}

// SessionOptions describe a new session.
type SessionOptions struct {
	Principal        *Principal
	Vhost            string
	Protocol, Remote string
	// Name is what the client calls itself. It is its word alone.
	Name string
	// ClientID, if not empty, is held by one session of a vhost at a time: an older
	// one of the same principal is kicked, one of another principal is kept and
	// the new session is refused.
	ClientID string
	// Kick closes the client's connection; it must not block.
	Kick func(cause error)
	// ID and Since, if set, are those of the edge's session that this one stands for.
	ID    SessionID
	Since time.Time
	// Age is how long ago the session began: an attempt to connect may have waited for a
	// leader. It does not take the client id from a session that began after it.
	Age time.Duration
	// Again: the session had its client id by the word of another leader.
	Again bool
}

// ErrTakenOver is the cause that Kick gets when the same client connected again.
var ErrTakenOver = errors.New("another connection took over the client id")

// maxRoutes bounds a session's route cache.
const maxRoutes = 256

// route is what an address resolves to, for as long as the generation stays.
type route struct {
	generation uint64
	live       []*Subscription
	boxes      []*Mailbox
	bindings   []*Binding // of boxes, parallel; nil entries for a queue
	history    *history
	remote     bool // on an edge: the leader stores it
}

// Publish routes m, which must not change afterwards. If stored copies are due,
// it returns true and done hears once all of them are stored, or that one
// failed; the same if subscribers that must lose nothing have to catch up first.
// Done is not called otherwise. Live subscribers' connections are woken
// by w.
func (s *Session) Publish(ctx context.Context, m *Message, w *outbox.Batch, done Done) (bool, error) {
	if err := s.mayPublish(m); err != nil {
		s.router.Stats.Refused.Add(1)
		return false, err
	}
	r, err := s.route(ctx, m.To)
	if err != nil {
		s.router.Stats.Refused.Add(1)
		return false, err
	}
	s.stamp(m)
	pending, err := s.storeAll(r, m, done)
	if err != nil {
		s.router.Stats.Refused.Add(1)
		return false, err
	}
	if !pending || s.router.edge == nil { // else it is counted when the leader has answered
		s.router.Stats.Published.Add(1)
	}
	if m.Has(FlagRetain) {
		// Whoever subscribed meanwhile may have read the topic's retained message before this one.
		if now, err := s.route(ctx, m.To); err == nil && now != r {
			r = now.withGroupsOf(r)
		}
	}
	w.Brakes() // of deliveries that nobody waits for
	s.deliverLive(r, m, w)
	if brakes := w.Brakes(); len(brakes) > 0 && !pending { // else the store sets the pace
		pending = hold(brakes, w, done)
	}
	return pending, nil
}

// withGroupsOf is a route whose groups are those of an earlier one: a group that began since begins with what is published
// later (MQTT 5 section 4.8.2).
func (r *route) withGroupsOf(before *route) *route {
	out := *r
	out.live = slices.DeleteFunc(slices.Clone(r.live), func(s *Subscription) bool {
		return s.share != nil && !slices.Contains(before.live, s)
	})
	return &out
}

// hold has done called when subscribers that must lose nothing have caught up:
// a publisher that waits for its confirmations goes as fast as they do.
func hold(brakes []outbox.Brake, w *outbox.Batch, done Done) bool {
	if done == nil {
		return false
	}
	c := &copies{done: done}
	c.left.Store(int32(len(brakes)) + 1)
	confirmed := func(w *outbox.Batch) { c.stored(Stored{}, nil, w) }
	for _, k := range brakes {
		if !k.Hold(confirmed) {
			confirmed(w)
		}
	}
	confirmed(w)
	return true
}

func (s *Session) mayPublish(m *Message) error {
	to, err := m.destination()
	if err != nil {
		return err
	}
	if to.Reserved() {
		return &Error{Op: "publish", Class: Denied, Text: fmt.Sprintf("%s belongs to the gateway; clients publish only to $queue/NAME among the topics that begin with '$'", to.MQTTText())}
	}
	return s.router.auth.Authorize(s.Principal, ActionWrite, to)
}

// stamp completes a message with what only the gateway says.
func (s *Session) stamp(m *Message) {
	if s.shadow {
		return
	}
	m.ID = MessageID{Session: s.ID, N: s.n.Add(1)}
	m.Origin = s.ID
	if m.TimestampMs == 0 {
		m.TimestampMs = time.Now().UnixMilli()
	}
}

// deliverLive hands m to the connected subscribers that match, here and on other
// nodes [MQTT-4.6.0-6].
func (s *Session) deliverLive(r *route, m *Message, w *outbox.Batch) {
	if c := s.router.opt.Carrier; c != nil && m.To.kind == KindTopic {
		c.Carry(m)
	}
	delivered, dropped, late := 0, 0, 0
	expired := m.ExpiresUnixMs > 0 && m.Expired(time.Now().UnixMilli()) // [MQTT-3.3.2-5]
	for _, sub := range r.live {
		switch {
		case sub.noLocal && sub.session == s || !sub.selects(m): // [MQTT-3.8.3-3]
		case expired:
			late++
		case sub.live(m, w):
			delivered++
		default:
			dropped++
		}
		w.StartMany()
	}
	if delivered > 0 {
		s.router.Stats.Delivered.Add(uint64(delivered))
	}
	if late > 0 {
		s.router.Stats.Drop(DropExpired, late)
	}
	if dropped > 0 {
		s.router.Stats.Drop(DropSlowConsumer, dropped)
	}
}

// route resolves an address, from the cache if nothing changed since.
func (s *Session) route(ctx context.Context, to Address) (*route, error) {
	g := s.router.generation()
	if r := s.routes[to]; r != nil && r.generation == g {
		return r, nil
	}
	r, err := s.router.resolve(ctx, to, g)
	if err != nil {
		return nil, err
	}
	if len(s.routes) >= maxRoutes {
		clear(s.routes)
	}
	s.routes[to] = r
	return r, nil
}

// Subscribe opens a subscription; Start begins its deliveries. When it returns,
// every publish that is confirmed later, on any node, is matched, and waits for Start.
func (s *Session) Subscribe(ctx context.Context, o SubscribeOptions) (*Subscription, error) {
	action := ActionRead
	if o.Filter.kind == KindQueue {
		action = ActionConsume
	}
	if err := s.router.auth.AuthorizeFilter(s.Principal, action, o.Filter); err != nil {
		return nil, err
	}
	sub := &Subscription{session: s, receiver: o.Receiver, filter: o.Filter, noLocal: o.NoLocal, selector: o.Selector, credit: max(o.Credit, 1),
		exclusive: o.Exclusive && o.Filter.kind == KindQueue, inHands: o.inHands}
	var err error
	switch {
	case s.remote != nil && (o.Filter.kind == KindQueue || o.Durable != ""):
		err = s.remote.subscribe(ctx, sub, o)
	case o.Filter.kind == KindQueue && o.Durable != "":
		err = &Error{Op: "subscribe", Class: Invalid, Text: "a queue keeps its messages by itself: durable subscriptions are for topics"}
	case o.Filter.kind == KindQueue:
		a, _ := o.Filter.Address()
		sub.box, err = s.router.queue(ctx, a)
	case o.Durable != "":
		sub.box, err = s.router.bind(ctx, s, o)
	}
	if err != nil {
		return nil, err
	}
	if sub.box != nil {
		if err := sub.box.attach(sub); err != nil {
			return nil, err
		}
	}
	if !s.remember(sub) {
		sub.detach(nil)
		return nil, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	if !sub.Stores() {
		s.listen(sub)
		s.router.live.await(ctx, sub.filter)
	}
	return sub, nil
}

// listen begins to route live messages to a subscription, which waits with them for its start.
func (s *Session) listen(sub *Subscription) {
	sub.gate.Store(new(gate))
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.subs[sub]; open { // else nothing would ever remove it
		s.router.live.add(sub)
	}
}

func (s *Session) remember(sub *Subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.subs[sub] = struct{}{}
	return true
}

func (s *Session) forget(sub *Subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.subs[sub]
	delete(s.subs, sub)
	return ok
}

// cameBefore reports whether another session, which has the client id now, is of a later connection. An attempt that waited for a leader
// may be of one that its client has given up since. The nodes' clocks do not agree, so it tells its age.
func (s *Session) cameBefore(owner *Session) bool {
	switch {
	case owner.ID == s.ID:
		return false
	case s.again && owner.again: // the durable sessions' records are compared by that as well
		return owner.Since.After(s.Since)
	}
	return owner.began.After(s.began)
}

// takenOver reports whether the session has ended: to one that claims, another connection of its client has come.
func (s *Session) takenOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Unbind ends a durable subscription for good: its binding and what its inbox
// holds are deleted. The session's own active one is closed first.
func (s *Session) Unbind(ctx context.Context, durable string, w *outbox.Batch) error {
	if s.remote != nil {
		return s.remote.unbind(ctx, durable, w)
	}
	return s.router.unbind(ctx, s, durable, w)
}

// TemporaryQueue makes a queue that lives in memory as long as the session and
// from which only the session consumes. Its name is the session's own.
func (s *Session) TemporaryQueue(name string) (Address, error) {
	if s.remote != nil {
		return s.remote.temporaryQueue(name)
	}
	return s.router.temporaryQueue(s, name)
}

// Subscriptions returns how many subscriptions the session has.
func (s *Session) Subscriptions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs)
}

// Close ends the session: what it held goes back to the mailboxes, in order.
func (s *Session) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	subs, temps, follows, will := s.subs, s.temps, s.follows, s.will
	s.subs, s.temps, s.follows, s.will = nil, nil, nil, nil
	s.mu.Unlock()
	var w outbox.Batch
	for sub := range subs {
		if sub.Stores() {
			sub.detach(&w)
		} else {
			s.router.removeLive(sub)
		}
	}
	for f := range follows {
		f.leave()
	}
	if s.remote != nil {
		s.remote.close()
	}
	for _, b := range temps {
		s.router.dropTemporary(b)
	}
	s.router.leave(s)
	w.Flush()
	if will != nil {
		will.forgetWill()
	}
	close(s.ended)
}

// takeoverPatience is how long a client that comes again waits for its older connection to end. A node that is cut off, and cannot
// end it, has stopped delivering by itself by then (edgePatience).
const takeoverPatience = 2 * time.Second

// giveWay has the session's connection end since its client came again, and returns when it has, or does not in time: then only
// what it holds is taken from it.
func (s *Session) giveWay() {
	s.kick(ErrTakenOver)
	select {
	case <-s.ended:
	case <-time.After(takeoverPatience):
	}
	s.Close()
}
