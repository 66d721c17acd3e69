package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// LeaderOptions say how a router serves the edges of a cluster.
type LeaderOptions struct {
	Transport Transport
	// Address is where it listens: another one for each time that a node becomes the leader.
	Address string
	// Valid reports whether this node leads now. It is asked before anything leaves, so it must be fast, and right also after
	// the process was paused.
	Valid func() bool
	// Principal returns who someone is, as a login would: the edge has checked the password, or the token.
	Principal func(Identity) (*Principal, error)
	// Nodes returns how many nodes are there now, this one included: so many edges are waited for before mailboxes give what
	// may be in their clients' hands. It must not block.
	Nodes func() int
	// Answer answers the questions of Router.Ask; it may block.
	Answer func(ctx context.Context, question []byte) ([]byte, error)
}

// Leader has a router serve the sessions of the cluster's edges: each of them has a shadow here, a Session like any other.
// Everything that leaves to the edges leaves by a link, which falls silent when the lease is lost.
type Leader struct {
	router *Router
	opt    LeaderOptions
	log    *slog.Logger
	stop   func() // listening

	handing sync.Once

	mu       sync.Mutex
	links    map[uint64]*leaderLink
	ending   map[SessionID]*shadow // of links that were lost
	filters  map[Filter]int        // bindings of each
	revision uint64                // of filters
	asks     map[uint64]*presenceAsk
	lastAsk  uint64
}

// leaderLink is the leader's end of a link.
type leaderLink struct {
	*link
	leader *Leader
	node   string
	boot   uint64
	late   *lateWork
	busy   atomic.Int64 // requests that are not done
	asked  atomic.Bool  // for all that the edge had of another leader

	// Under the leader's lock.
	seen     uint64        // revision of the filters that the edge has
	advanced chan struct{} // closed when seen changes
	presence uint64        // the edge's presence revision
	shadows  map[uint64]*shadow
}

func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Lead has the router serve edges until its Close or Abandon. Sessions of its own it should not have.
func (r *Router) Lead(o LeaderOptions) (*Leader, error) {
	d := &Leader{router: r, opt: o, log: r.log, links: map[uint64]*leaderLink{}, ending: map[SessionID]*shadow{}, filters: map[Filter]int{}, asks: map[uint64]*presenceAsk{}}
	r.bindMu.Lock()
	for _, b := range r.bindings {
		d.filters[b.Filter]++
	}
	r.leader.Store(d)
	r.bindMu.Unlock()
	var err error
	if d.stop, err = o.Transport.Listen(o.Address, d.arrived); err != nil {
		return nil, err
	}
	r.goFunc(d.watch)
	return d, nil
}

// watch answers signs of life and ends the links that give none, until the router stops; then all of them end.
func (d *Leader) watch(ctx context.Context) {
	d.gather(ctx)
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			d.HandOver()
			return
		}
		for _, l := range d.allLinks() {
			cause := l.closed()
			if cause == nil && l.silent(leaderPatience) {
				cause = errLinkSilent
			}
			if cause != nil {
				d.drop(l, cause)
			}
		}
	}
}

const (
	// gatherFor bounds how long a new leader waits for the edges, and gatherLook is how often it looks.
	gatherFor  = 2 * time.Second
	gatherLook = 20 * time.Millisecond
)

// gather lets the mailboxes give once the edges have asked for what they had of another leader.
func (d *Leader) gather(ctx context.Context) {
	defer d.router.gathered()
	if !d.router.gathering.Load() {
		return
	}
	deadline := time.Now().Add(gatherFor)
	for time.Now().Before(deadline) && !d.complete() {
		select {
		case <-time.After(gatherLook):
		case <-ctx.Done():
			return
		}
	}
}

// complete reports whether all nodes are there, and nothing that they asked for is left to do.
func (d *Leader) complete() bool {
	links := d.allLinks()
	for _, l := range links {
		if !l.asked.Load() || l.busy.Load() > 0 {
			return false
		}
	}
	return len(links) >= d.opt.Nodes()
}

// HandOver ends all links, and leaves what the edges' sessions had to another leader. Nothing is heard afterwards.
func (d *Leader) HandOver() {
	d.handing.Do(func() {
		d.stop()
		for _, l := range d.allLinks() {
			d.mu.Lock()
			delete(d.links, l.id)
			shadows := l.shadows
			l.shadows = map[uint64]*shadow{}
			d.mu.Unlock()
			for _, x := range shadows {
				x.abandon()
			}
			l.end(l.begin(opBye))
			l.write(context.Background())
			l.close(errLinkEnded)
		}
	})
}

func (d *Leader) allLinks() []*leaderLink {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*leaderLink, 0, len(d.links))
	for _, l := range d.links {
		out = append(out, l)
	}
	return out
}

// arrived takes what an edge sent.
func (d *Leader) arrived(chunk []byte) {
	id, ok := linkOf(chunk)
	if !ok {
		return
	}
	d.mu.Lock()
	l := d.links[id]
	d.mu.Unlock()
	if l == nil {
		if l = d.welcome(id, chunk); l == nil {
			return // of a link that has ended: the edge hears nothing any more, and begins another
		}
	}
	if l.closed() != nil {
		return
	}
	if err := l.receive(chunk, l.frame); err != nil {
		d.drop(l, err)
	}
	l.late.start()
}

// welcome begins a link with an edge that says hello.
func (d *Leader) welcome(id uint64, chunk []byte) *leaderLink {
	var hello helloFrame
	first := &link{}
	greeted := false
	err := first.receive(chunk, func(o op, body []byte) {
		if o == opHello && !greeted {
			greeted = json.Unmarshal(body, &hello) == nil
		}
	})
	if err != nil || !greeted {
		return nil
	}
	for _, l := range d.allLinks() {
		switch {
		case l.node != hello.Node:
		case l.boot == hello.Boot:
			d.drop(l, errLinkAgain)
		default: // it was restarted
			d.drop(l, errLinkEnded)
		}
	}
	l := &leaderLink{link: newLink(id, hello.Address, d.opt.Transport, d.router.goFunc), leader: d, node: hello.Node, boot: hello.Boot,
		shadows: map[uint64]*shadow{}, advanced: make(chan struct{})}
	l.valid = d.opt.Valid
	l.late = &lateWork{run: d.router.goFunc}
	d.mu.Lock()
	d.links[id] = l
	b := binary.AppendUvarint(l.begin(opFilters), d.revision)
	b = binary.AppendUvarint(append(b, 1), uint64(len(d.filters)))
	for f := range d.filters {
		b = appendFilter(b, f)
	}
	l.end(binary.AppendUvarint(b, 0))
	d.mu.Unlock()
	d.log.Info("a node joined", "node", hello.Node)
	return l
}

// drop ends a link: what the edge's sessions held goes back.
func (d *Leader) drop(l *leaderLink, cause error) {
	d.mu.Lock()
	if d.links[l.id] != l {
		d.mu.Unlock()
		return
	}
	delete(d.links, l.id)
	shadows := l.shadows
	l.shadows = map[uint64]*shadow{}
	for n, x := range shadows {
		d.ending[SessionID{l.boot, n}] = x
	}
	d.mu.Unlock()
	l.end(l.begin(opBye)) // it begins another link at once, if it still hears
	l.write(context.Background())
	l.close(cause)
	d.log.Info("a node left", "node", l.node, "cause", cause, "sessions", len(shadows))
	lives := !errors.Is(cause, errLinkSilent) && !errors.Is(cause, errLinkEnded)
	places := make(chan struct{}, 64)
	for _, x := range shadows {
		if !d.router.goFunc(func(ctx context.Context) {
			places <- struct{}{}
			x.lost(ctx, lives)
			<-places
		}) {
			return // the router stops: the next start finds the sessions gone
		}
	}
}

// frame takes one frame of an edge.
func (l *leaderLink) frame(o op, body []byte) {
	r := envelopeReader{b: body}
	switch o {
	case opBeat:
		l.beat(r)
	case opCall:
		l.dispatch(r.uvarint(), r)
	case opNote:
		l.dispatch(0, r)
	case opSeen:
		l.hasSeen(r.uvarint())
	case opTold:
		l.leader.told(l, r)
	case opBye:
		l.leader.drop(l, errLinkEnded)
	case opAttached:
		l.asked.Store(true)
	}
}

// beat sends a sign of life back.
func (l *leaderLink) beat(r envelopeReader) {
	d := l.leader
	sentMs, presence := r.uvarint(), r.uvarint()
	d.mu.Lock()
	l.presence = presence
	others := d.router.PresenceRevision()
	for _, o := range d.links {
		if o != l {
			others += o.presence
		}
	}
	d.mu.Unlock()
	l.end(binary.AppendUvarint(binary.AppendUvarint(l.begin(opBeat), sentMs), others))
}

// dispatch hands a call (number 0: a note) to the session's shadow.
func (l *leaderLink) dispatch(number uint64, r envelopeReader) {
	n := r.uvarint()
	m := method(r.byte())
	if r.bad {
		l.close(errFrame)
		return
	}
	if n == 0 || m == methodWill {
		l.late.add(func(ctx context.Context) { l.answerNode(ctx, number, m, r) })
		return
	}
	d := l.leader
	d.mu.Lock()
	x := l.shadows[n]
	if x == nil && m == methodOpen && number == 0 {
		x = newShadow(l, n)
		x.before = d.ending[SessionID{l.boot, n}]
		l.shadows[n] = x
	}
	d.mu.Unlock()
	if x == nil {
		if number != 0 {
			l.refuse(number, &Error{Op: "cluster", Class: Unavailable, Text: "the session is not known here any more; connect again", RetryAfter: time.Second})
		}
		return
	}
	l.busy.Add(1)
	start, taken := x.enqueue(request{number: number, method: m, body: r})
	if !taken {
		l.busy.Add(-1)
	}
	if start {
		l.late.add(x.run)
	}
}

// lateWork are goroutines to be started when a chunk has been read, so that each finds all that the chunk has for it.
type lateWork struct {
	run  func(func(context.Context)) bool
	todo []func(context.Context)
}

func (w *lateWork) add(f func(context.Context)) { w.todo = append(w.todo, f) }

func (w *lateWork) start() {
	for i, f := range w.todo {
		w.run(f)
		w.todo[i] = nil
	}
	w.todo = w.todo[:0]
}

func (l *leaderLink) forget(x *shadow) {
	l.leader.mu.Lock()
	defer l.leader.mu.Unlock()
	if l.shadows[x.n] == x {
		delete(l.shadows, x.n)
	}
}

// refuse answers a call with an error, reply with success.
func (l *leaderLink) refuse(number uint64, err error) {
	if number != 0 {
		l.end(appendError(binary.AppendUvarint(l.begin(opReply), number), err))
	}
}

func (l *leaderLink) reply(number uint64, body []byte) {
	if number != 0 {
		l.end(append(append(binary.AppendUvarint(l.begin(opReply), number), replyOK), body...))
	}
}

// answer is reply or refuse.
func (l *leaderLink) answer(number uint64, err error) {
	if err != nil {
		l.refuse(number, err)
		return
	}
	l.reply(number, nil)
}

// answerNode answers what an edge asks for itself.
func (l *leaderLink) answerNode(ctx context.Context, number uint64, m method, r envelopeReader) {
	switch m {
	case methodPresent:
		f := r.filter()
		people, err := l.leader.present(ctx, l, Address{vhost: f.vhost, name: f.name, kind: f.kind})
		if err != nil {
			l.refuse(number, err)
			return
		}
		l.reply(number, appendJSON(nil, people))
	case methodWill:
		l.answer(number, l.publishWill(ctx, r))
	case methodAsk:
		answer, err := l.leader.opt.Answer(ctx, r.rest())
		if err != nil {
			l.refuse(number, err)
			return
		}
		l.reply(number, answer)
	default:
		l.refuse(number, &Error{Op: "cluster", Class: Invalid, Text: "unknown question of a node", Err: errFrame})
	}
}

// publishWill publishes the will of a session that has ended.
func (l *leaderLink) publishWill(ctx context.Context, r envelopeReader) error {
	var c willCall
	if err := json.Unmarshal(r.b, &c); err != nil {
		return errFrame
	}
	w, err := c.will()
	if err != nil {
		return err
	}
	p, err := l.leader.opt.Principal(c.Identity)
	if err != nil {
		return err
	}
	if err := l.leader.router.auth.Authorize(p, ActionWrite, w.Message.To); err != nil {
		return err
	}
	return l.leader.router.publishFor(ctx, p, c.Vhost, w.due())
}

// announce tells every edge of a binding by whose filter copies are stored from now on.
func (r *Router) announce(f Filter) {
	if d := r.leader.Load(); d != nil {
		d.change(f, 1)
	}
}

// barrier waits until every edge knows the filters of all bindings that exist now: what is confirmed anywhere later is
// stored by them.
func (d *Leader) barrier(ctx context.Context) error {
	d.mu.Lock()
	revision := d.revision
	d.mu.Unlock()
	for _, l := range d.allLinks() {
		if err := l.waitSeen(ctx, revision); err != nil {
			return err
		}
	}
	return nil
}

// retract has the edges forget a filter; until then they only ask in vain.
func (r *Router) retract(f Filter) {
	if d := r.leader.Load(); d != nil {
		d.change(f, -1)
	}
}

// change counts bindings of a filter, and tells the edges of the first and the last.
func (d *Leader) change(f Filter, by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.filters[f]
	after := before + by
	if d.filters[f] = after; after <= 0 {
		delete(d.filters, f)
	}
	if (before > 0) == (after > 0) {
		return
	}
	d.revision++
	for _, l := range d.links {
		b := append(binary.AppendUvarint(l.begin(opFilters), d.revision), 0)
		if by > 0 {
			b = binary.AppendUvarint(appendFilter(binary.AppendUvarint(b, 1), f), 0)
		} else {
			b = appendFilter(binary.AppendUvarint(binary.AppendUvarint(b, 0), 1), f)
		}
		l.end(b)
	}
}

func (l *leaderLink) hasSeen(revision uint64) {
	l.leader.mu.Lock()
	defer l.leader.mu.Unlock()
	l.seen = revision
	close(l.advanced)
	l.advanced = make(chan struct{})
}

// waitSeen returns when the edge has the filters of a revision, or is none any more: it notices that itself before.
func (l *leaderLink) waitSeen(ctx context.Context, revision uint64) error {
	for {
		l.leader.mu.Lock()
		seen, advanced := l.seen, l.advanced
		gone := l.leader.links[l.id] != l
		l.leader.mu.Unlock()
		if seen >= revision || gone {
			return nil
		}
		select {
		case <-advanced:
		case <-time.After(beatEvery): // it may have been dropped
		case <-ctx.Done():
			return &Error{Op: "subscribe", Class: Unavailable, Text: "not every node knows of the subscription yet; try again", Err: context.Cause(ctx)}
		}
	}
}

// presenceAsk gathers what the edges say.
type presenceAsk struct {
	left  map[*leaderLink]bool
	lists [][]Presence
	done  chan struct{}
}

// present lists who receives a topic on the other nodes, and by what is kept here.
func (d *Leader) present(ctx context.Context, asker *leaderLink, topic Address) ([]Presence, error) {
	kept, err := d.router.presentKept(ctx, topic)
	if err != nil {
		return nil, err
	}
	a := &presenceAsk{left: map[*leaderLink]bool{}, done: make(chan struct{})}
	d.mu.Lock()
	d.lastAsk++
	n := d.lastAsk
	d.asks[n] = a
	for _, l := range d.links {
		if l != asker {
			a.left[l] = true
			l.end(appendFilter(binary.AppendUvarint(l.begin(opAsk), n), FilterOf(topic)))
		}
	}
	waits := len(a.left) > 0
	d.mu.Unlock()
	if waits {
		select {
		case <-a.done:
		case <-time.After(time.Second): // a node that is silent has nobody to show
		case <-ctx.Done():
		}
	}
	d.mu.Lock()
	delete(d.asks, n)
	lists := append([][]Presence{kept, d.router.presentLive(topic)}, a.lists...)
	d.mu.Unlock()
	return mergePresence(lists...), nil
}

// told takes an edge's answer to an ask.
func (d *Leader) told(l *leaderLink, r envelopeReader) {
	n := r.uvarint()
	var list []Presence
	if err := json.Unmarshal(r.b, &list); err != nil {
		list = nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.asks[n]
	if a == nil || !a.left[l] {
		return
	}
	delete(a.left, l)
	a.lists = append(a.lists, list)
	if len(a.left) == 0 {
		close(a.done)
	}
}
