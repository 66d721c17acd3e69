package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mqgate/mqgate/router/outbox"
)

// Options of a Router.
type Options struct {
	Store     Store
	Authorize Authorizer
	Log       *slog.Logger
	// QueuePolicy returns the policy of a queue, once when it is opened.
	QueuePolicy func(Address) Policy
	// InboxPolicy is that of durable subscriptions' inboxes.
	InboxPolicy Policy
	// AcceptDamage has a start go on, with an error in the log, where the store lost
	// confirmed messages; otherwise New returns ErrDamaged.
	AcceptDamage bool
	// Carrier takes live messages to other nodes; nil if there are none.
	Carrier Carrier
	// History tells how many of a topic's messages are kept, and for how long (0: no
	// limit of age), for those who follow it; nil or no messages: none are. It must
	// not block, and always answer the same.
	History func(topic Address) (messages int, age time.Duration)
	// MaxQueues bounds how many queues may exist, temporary ones included; 0: no limit.
	MaxQueues int
	// Gather has the mailboxes give nothing until the edges have told the leader what their clients hold.
	Gather bool
	// Edge, if set, makes the router an edge of a cluster: it needs no Store.
	Edge *EdgeOptions
	// MaxTransactionMessages and MaxTransactionBytes bound a transaction.
	MaxTransactionMessages, MaxTransactionBytes int
}

// Router is the core: see the package documentation. Create it with New.
type Router struct {
	Stats Stats

	opt   Options
	store Store
	auth  Authorizer
	log   *slog.Logger
	boot  uint64

	ctx    context.Context // ends when the router stops
	cancel context.CancelFunc
	group  sync.WaitGroup
	stopMu sync.Mutex
	stop   bool

	subs      *tree[*Subscription]
	live      live
	binds     *tree[*Binding]
	removals  atomic.Uint64 // mailboxes removed, for route caches
	alarms    *alarms
	morgue    *morgue
	histories *histories
	retained  retained
	durables  *durables
	shares    *shares
	system    system

	inboxMarks inboxMarks
	redoing    sync.Mutex // held while an interrupted transaction is applied

	systemCount atomic.Uint64          // of system messages
	edge        *edge                  // of an edge router
	leader      atomic.Pointer[Leader] // of a router that leads a cluster
	gathering   atomic.Bool            // and whose mailboxes give nothing yet

	bindMu   sync.Mutex
	bindings map[string]*Binding

	mu       sync.Mutex
	boxes    map[MailboxID]*opening
	queues   int
	sessions map[*Session]struct{}
	clients  map[clientKey]*Session
	nextID   uint64
}

type clientKey struct{ vhost, id string }

// New starts a router on a store: it opens every mailbox that exists, routes by
// the stored bindings, and finishes transactions that a crash interrupted.
func New(ctx context.Context, o Options) (*Router, error) {
	r := &Router{
		opt: o, store: o.Store, auth: o.Authorize, log: o.Log,
		subs: newTree[*Subscription](), binds: newTree[*Binding](), alarms: newAlarms(),
		bindings: map[string]*Binding{}, boxes: map[MailboxID]*opening{},
		sessions: map[*Session]struct{}{}, clients: map[clientKey]*Session{},
	}
	r.morgue = newMorgue(r)
	r.histories = newHistories(r)
	r.durables = newDurables(r)
	r.shares = &shares{router: r, members: map[shareKey]*share{}}
	r.live = live{router: r, groups: map[Filter]*liveGroup{}}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("make a boot id: %w", err)
	}
	r.boot = binary.LittleEndian.Uint64(b[:])
	r.gathering.Store(o.Gather)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if o.Edge != nil {
		return r, r.startEdge(o.Edge)
	}
	if err := r.load(ctx); err != nil {
		r.cancel()
		r.group.Wait()
		return nil, err
	}
	r.goFunc(r.alarms.run)
	r.goFunc(r.morgue.run)
	r.goFunc(r.durables.run)
	return r, nil
}

func (r *Router) load(ctx context.Context) error {
	stored, err := r.store.Mailboxes(ctx)
	if err != nil {
		return fmt.Errorf("list mailboxes: %w", err)
	}
	if err := r.openAll(ctx, stored); err != nil {
		return err
	}
	if err := r.loadRetained(ctx); err != nil {
		return err
	}
	if err := r.loadBindings(ctx); err != nil {
		return err
	}
	if err := r.durables.load(ctx); err != nil {
		return err
	}
	if err := r.removeOrphans(ctx); err != nil {
		return err
	}
	if h, ok := r.store.(TransactionHearer); ok {
		h.HearTransactions(r.redoLate)
	}
	return r.redo(ctx)
}

// openAtOnce is how many mailboxes a start opens at a time: each waits for the store to take its record.
const openAtOnce = 64

// openAll opens the mailboxes that a start finds.
func (r *Router) openAll(ctx context.Context, stored []StoredMailbox) error {
	opening, ctx := errgroup.WithContext(ctx)
	opening.SetLimit(openAtOnce)
	for _, s := range stored {
		if s.ID.Kind == KindHistory {
			r.histories.found(s)
			continue
		}
		opening.Go(func() error {
			_, err := r.openStored(ctx, s)
			return err
		})
	}
	return opening.Wait()
}

// removeOrphans deletes the inboxes that no binding feeds: a stop interrupted
// their making or their removal.
func (r *Router) removeOrphans(ctx context.Context) error {
	owned := map[*Mailbox]bool{}
	for _, b := range r.bindings {
		owned[b.mailbox] = true
	}
	for _, b := range r.mailboxes() {
		if b.id.Kind != KindInbox || owned[b] || r.durables.owns(b.id) {
			continue
		}
		if err := r.remove(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func errStopping(op string) error {
	return &Error{Op: op, Class: Unavailable, Text: "the server is stopping; try again in a moment", RetryAfter: time.Second}
}

func (r *Router) stopping() bool {
	r.stopMu.Lock()
	defer r.stopMu.Unlock()
	return r.stop
}

// goFunc starts and counts a goroutine in one act. It ends when ctx does. It
// returns false, and starts nothing, if the router is stopping.
func (r *Router) goFunc(f func(context.Context)) bool {
	r.stopMu.Lock()
	defer r.stopMu.Unlock()
	if r.stop {
		return false
	}
	r.group.Go(func() { f(r.ctx) })
	return true
}

// Close stops the router: sessions that are left end, and every mailbox's record
// is saved, exact. The store may be closed afterwards.
func (r *Router) Close(ctx context.Context) error {
	r.stopMu.Lock()
	r.stop = true
	r.stopMu.Unlock()
	r.closeSessions()
	r.cancel()
	r.group.Wait()
	if r.edge != nil {
		r.edge.stop()
		return nil
	}
	return r.saveAll(ctx)
}

// Abandon stops a router whose store belongs to another node now: nothing more is saved.
func (r *Router) Abandon() {
	r.stopMu.Lock()
	r.stop = true
	r.stopMu.Unlock()
	for _, b := range r.mailboxes() {
		b.abandon()
	}
	r.closeSessions()
	r.cancel()
	r.group.Wait()
}

// closeSessions ends the sessions that are left. Their stored wills stay: of clients that come back to another leader, or that
// the next start finds gone.
func (r *Router) closeSessions() {
	for _, s := range r.Sessions() {
		s.takeWill()
		s.Close()
	}
}

// abandon has a mailbox store nothing more.
func (b *Mailbox) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	waiters := b.waiters
	b.waiters = nil
	for _, done := range waiters {
		answer(done, Stored{}, errStopping("settle"))
	}
}

// saveAll writes every mailbox's last record and waits for the store.
func (r *Router) saveAll(ctx context.Context) error {
	var left sync.WaitGroup
	var failed atomic.Pointer[error]
	saving := make(chan struct{}, savingAtOnce)
	for _, b := range r.mailboxes() {
		select {
		case saving <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("save mailboxes: %w", context.Cause(ctx))
		}
		left.Add(1)
		b.finish(func(_ Stored, err error, _ *outbox.Batch) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			<-saving
			left.Done()
		})
	}
	done := make(chan struct{})
	go func() { left.Wait(); close(done) }() // ends with the store's answers, which it bounds in time
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("save mailboxes: %w", context.Cause(ctx))
	}
	if p := failed.Load(); p != nil {
		return fmt.Errorf("save mailboxes: %w", *p)
	}
	return nil
}

// savingAtOnce bounds what the store has in hands at the end: there may be an inbox for each of a million devices.
const savingAtOnce = 1 << 12

// finish writes the exact record after a save that may be under way; the store
// keeps their order.
func (b *Mailbox) finish(done Done) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	rec, waiters := b.record(true), b.waiters
	b.waiters = nil
	b.log.SaveRecord(rec.encode(nil), func(s Stored, err error, w *outbox.Batch) {
		for _, waiter := range waiters {
			waiter(s, err, w)
		}
		done(s, err, w)
	})
}

// Connect begins a session.
func (r *Router) Connect(o SessionOptions) (*Session, error) {
	if o.Vhost == "" {
		o.Vhost = DefaultVhost
	}
	s := &Session{
		Principal: o.Principal, Vhost: o.Vhost, Protocol: o.Protocol, Name: o.Name, Remote: o.Remote, Since: time.Now(),
		router: r, kick: o.Kick, routes: map[Address]*route{}, subs: map[*Subscription]struct{}{},
		ended: make(chan struct{}),
	}
	r.mu.Lock()
	if r.stopping() {
		// Close has told, or will tell, all sessions that it finds under this lock.
		r.mu.Unlock()
		return nil, errStopping("connect")
	}
	r.nextID++
	s.ID = SessionID{Boot: r.boot, N: r.nextID}
	var old *Session
	if o.ID != (SessionID{}) {
		s.ID, s.shadow = o.ID, true
	}
	if !o.Since.IsZero() {
		s.Since = o.Since
	}
	s.began = time.Now().Add(-o.Age)
	if o.ClientID != "" && r.edge != nil {
		s.client = clientKey{o.Vhost, o.ClientID}
	} else if o.ClientID != "" {
		key := clientKey{o.Vhost, o.ClientID}
		if old = r.clients[key]; old != nil && old.Principal.Name() != o.Principal.Name() {
			r.mu.Unlock()
			return nil, &Error{Op: "connect", Class: Conflict, Text: fmt.Sprintf("client id %q is in use by another user", o.ClientID)}
		}
		if s.again = o.Again; old != nil && s.cameBefore(old) {
			r.mu.Unlock()
			return nil, ErrTakenOver
		}
		s.client = key
		r.clients[key] = s
	}
	r.sessions[s] = struct{}{}
	r.mu.Unlock()
	if r.edge != nil {
		s.remote = newRemoteSession(r.edge, s)
		if o.ClientID == "" {
			s.remote.register()
			return s, nil
		}
		if err := s.remote.claimClient(); err != nil {
			s.Close()
			return nil, err
		}
		return s, nil
	}
	if old != nil && old.ID == s.ID {
		old.awaitNode() // its node has another link
	}
	if old != nil {
		old.giveWay()
	}
	return s, nil
}

// leave forgets a session.
func (r *Router) leave(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
	if r.clients[s.client] == s {
		delete(r.clients, s.client)
	}
}

// Sessions returns the sessions that exist now.
func (r *Router) Sessions() []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Session, 0, len(r.sessions))
	for s := range r.sessions {
		out = append(out, s)
	}
	return out
}

func (r *Router) mailboxes() []*Mailbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Mailbox, 0, len(r.boxes))
	for _, o := range r.boxes {
		if o.box != nil {
			out = append(out, o.box)
		}
	}
	return out
}

// generation changes whenever a cached route may be wrong.
func (r *Router) generation() uint64 {
	g := r.subs.generation.Load() + r.binds.generation.Load() + r.removals.Load()
	if r.edge != nil {
		g += r.edge.filters.generation.Load()
	}
	return g
}

// resolve finds who gets what is published to an address.
func (r *Router) resolve(ctx context.Context, to Address, generation uint64) (*route, error) {
	if r.edge != nil {
		return r.edge.resolve(to, generation), nil
	}
	rt := &route{generation: generation}
	if to.kind == KindQueue {
		box, err := r.queue(ctx, to)
		if err != nil {
			return nil, err
		}
		rt.boxes, rt.bindings = []*Mailbox{box}, []*Binding{nil}
		return rt, nil
	}
	var err error
	if rt.history, err = r.histories.of(ctx, to); err != nil {
		return nil, err
	}
	for _, sub := range r.subs.match(to, nil) {
		if sub.share != nil || r.auth.Authorize(sub.session.Principal, ActionRead, to) == nil {
			rt.live = append(rt.live, sub)
		}
	}
	bindings := r.binds.match(to, nil)
	rt.live = withoutKept(rt.live, bindings)
	for _, b := range bindings { // [MQTT-4.5.0-1]
		switch i := slices.Index(rt.boxes, b.mailbox); {
		case i < 0:
			rt.boxes = append(rt.boxes, b.mailbox)
			rt.bindings = append(rt.bindings, b)
		case rt.bindings[i].NoLocal: // one copy, though several filters match: for any that wants it
			rt.bindings[i] = b
		}
	}
	return rt, nil
}

// queue returns a queue's mailbox and makes it if it does not exist.
func (r *Router) queue(ctx context.Context, a Address) (*Mailbox, error) {
	return r.open(ctx, MailboxID{KindQueueBox, a.vhost, a.name})
}

func (r *Router) open(ctx context.Context, id MailboxID) (*Mailbox, error) {
	return r.openStored(ctx, StoredMailbox{ID: id})
}

// temporary reports whether only temporaryQueue makes a queue of that name.
func temporary(name string) bool {
	rest, ok := strings.CutPrefix(name, "temp.")
	id, _, dot := strings.Cut(rest, ".")
	boot, n, dash := strings.Cut(id, "-")
	if !ok || !dot || !dash {
		return false
	}
	_, err1 := strconv.ParseUint(boot, 36, 64)
	_, err2 := strconv.ParseUint(n, 36, 64)
	return err1 == nil && err2 == nil
}
