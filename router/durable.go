package router

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// sessionPrefix begins the names of the inboxes of durable sessions.
const sessionPrefix = "mqtt:"

// gatherWills is how long a new leader waits for the edges to say that a client is still there before it publishes its will.
const gatherWills = leaderPatience + 2*time.Second

// restartGrace is how long after its start a gateway alone holds back the wills of those who did not return, so that who
// waits for them can be back. A server may defer wills over a restart (MQTT 5, 3.1.2.5).
const restartGrace = 3 * time.Second

// NeverExpires is the expiry of a session that is kept until it is ended.
const NeverExpires = time.Duration(math.MaxInt64)

// DurableSession outlives its client's connection: its subscriptions, what is stored in its inbox, its will, and a state
// that only the front-end reads. One Session owns it at a time. It belongs to the user that began it.
type DurableSession struct {
	router *Router
	key    clientKey
	remote *remoteDurable // on an edge: the leader has the rest

	// The rest is under the lock of durables, but for box.
	rec       sessionRecord
	owner     *Session
	free      chan struct{} // closed when the owner has left
	will      *Will
	principal *Principal // of the last owner; nil after a restart: it was authorised then
	dueMs     int64      // when something is to be done while it is away
	warned    bool       // of a will that is tried again and again

	boxMu sync.Mutex
	box   *Mailbox // nil before the first binding
}

// sessionRecord is the stored form.
type sessionRecord struct {
	Vhost       string `json:"vhost"`
	Client      string `json:"client"`
	User        string `json:"user,omitempty"`
	Online      bool   `json:"online,omitempty"`
	ExpiryMs    int64  `json:"expiry"`             // after the connection's end; math.MaxInt64: never
	ExpiresAtMs int64  `json:"expiresAt"`          // while it is away
	OwnedMs     int64  `json:"owned,omitempty"`    // since when the last owner is connected, by its node's clock
	Will        []byte `json:"will,omitempty"`     // envelope
	WillDelayMs int64  `json:"willDelay"`          // after the connection's end
	WillForMs   int64  `json:"willFor"`            // the will's expiry
	WillAtMs    int64  `json:"willAt,omitempty"`   // while it is away
	WillOnly    bool   `json:"willOnly,omitempty"` // no session, but the will of one that ends with its connection
	State       []byte `json:"state,omitempty"`
}

// durables are the durable sessions of this node. One goroutine does what is due for those that are away.
type durables struct {
	router *Router
	values ValueStore
	mu     sync.Mutex
	all    map[clientKey]*DurableSession
	due    dueHeap
	holdMs int64 // nothing is done before
	wake   chan struct{}
}

func newDurables(r *Router) *durables {
	return &durables{router: r, all: map[clientKey]*DurableSession{}, wake: make(chan struct{}, 1)}
}

func (d *durables) owns(id MailboxID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.all[clientKey{id.Vhost, strings.TrimPrefix(id.Name, sessionPrefix)}]
	return ok && strings.HasPrefix(id.Name, sessionPrefix)
}

// load reads the sessions from the store; at start. A client that was connected when the gateway stopped counts as gone
// since now.
func (d *durables) load(ctx context.Context) error {
	d.values, _ = d.router.store.(ValueStore)
	if d.values == nil {
		return nil
	}
	now := time.Now().UnixMilli()
	if d.router.opt.Gather {
		now += gatherWills.Milliseconds() // most are connected, and their edges will say so
	}
	err := d.values.Values(ctx, ValueSession, func(key string, value []byte) error {
		x := &DurableSession{router: d.router}
		if err := json.Unmarshal(value, &x.rec); err != nil {
			return fmt.Errorf("session %q: %w", key, err)
		}
		x.key = clientKey{x.rec.Vhost, x.rec.Client}
		if x.rec.Will != nil {
			m, err := ParseEnvelope(x.rec.Will)
			if err != nil {
				return fmt.Errorf("will of session %q: %w", key, err)
			}
			x.will = &Will{Message: m, Delay: time.Duration(x.rec.WillDelayMs) * time.Millisecond, Expiry: time.Duration(x.rec.WillForMs) * time.Millisecond}
		}
		if x.rec.Online {
			x.away(now, x.will != nil)
			if x.will != nil && !d.router.opt.Gather {
				d.holdMs = now + restartGrace.Milliseconds()
			}
		}
		d.all[x.key] = x
		d.schedule(x)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load sessions: %w", err)
	}
	return d.adopt(ctx)
}

// adopt gives the sessions their inboxes, and removes bindings whose session a stop ended halfway.
func (d *durables) adopt(ctx context.Context) error {
	for _, b := range d.router.bindings {
		if key, ok := b.shareKey(); ok && d.all[clientKey{b.Box.Vhost, b.Member}] == nil {
			if err := d.router.unbindShare(ctx, key, b.Member); err != nil {
				return err
			}
			continue
		}
		if !b.Several {
			continue
		}
		if x := d.all[clientKey{b.Box.Vhost, strings.TrimPrefix(b.Box.Name, sessionPrefix)}]; x != nil {
			x.box = b.mailbox
			continue
		}
		if err := d.router.dropRoute(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// away notes the end of the connection [MQTT-3.1.2-23].
func (x *DurableSession) away(nowMs int64, publishWill bool) {
	x.rec.Online = false
	x.rec.ExpiresAtMs = add(nowMs, x.rec.ExpiryMs)
	x.rec.WillAtMs = 0
	if publishWill && x.will != nil {
		x.rec.WillAtMs = min(add(nowMs, x.rec.WillDelayMs), x.rec.ExpiresAtMs)
	} else {
		x.will, x.rec.Will = nil, nil
	}
}

func add(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// ClaimOptions say how a session begins.
type ClaimOptions struct {
	// Clean ends an earlier session of the client first [MQTT-3.1.2-4].
	Clean bool
	// Expiry is how long the session is kept after the connection's end; 0: not at all.
	Expiry time.Duration
	// Will is published when the client is gone; nil: nothing is. It is stored also where no session is: then it is the
	// caller who publishes it with PublishWill, and the store's copy is for the case that the gateway dies before. Its message
	// gets an id.
	Will *Will
	// Again: the session was the owner by the word of another leader, and is not any more if another came after it.
	Again bool
}

// Claim makes s the owner of its client's durable session, and waits until an earlier owner has left. It returns nil if
// there is none and o asks for none. Present tells whether the session existed. Only the user that began a session may
// claim it.
func (s *Session) Claim(ctx context.Context, o ClaimOptions) (x *DurableSession, present bool, err error) {
	d := s.router.durables
	if s.client.id == "" {
		return nil, false, nil
	}
	if o.Will != nil {
		o.Will.name()
	}
	if s.remote != nil {
		return s.remote.claim(ctx, o)
	}
	for {
		x, wait, err := d.take(s, o)
		if err != nil || x == nil && wait == nil {
			return nil, false, err
		}
		if wait == nil {
			present, err := x.begin(ctx, o)
			if err != nil {
				x.abandon()
				return nil, false, err
			}
			if o.Expiry == 0 && !present {
				if o.Will != nil {
					s.keepWill(x)
				}
				return nil, false, nil
			}
			return x, present, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, false, &Error{Op: "connect", Class: Unavailable, Text: "the session is in use by another connection that did not end in time", Err: context.Cause(ctx)}
		}
	}
}

// take makes s the owner if nobody is, or returns what to wait for.
func (d *durables) take(s *Session, o ClaimOptions) (*DurableSession, <-chan struct{}, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.all[s.client] // [MQTT-3.1.3-2]
	if o.Again && (x == nil || x.rec.WillOnly) {
		return nil, nil, &Error{Op: "connect", Class: NotFound, Text: "the session is not known to this leader"}
	}
	if x == nil {
		if o.Expiry == 0 && o.Will == nil {
			return nil, nil, nil
		}
		x = &DurableSession{router: d.router, key: s.client, rec: sessionRecord{Vhost: s.client.vhost, Client: s.client.id, User: s.Principal.Name(), ExpiryMs: -1}}
		d.all[s.client] = x
	}
	if x.rec.User != s.Principal.Name() {
		return nil, nil, &Error{Op: "connect", Class: Conflict, Text: fmt.Sprintf("the session of client id %q belongs to another user", s.client.id)}
	}
	if s.takenOver() || (s.again || o.Again) && x.ownedAfter(s.Since) { // and neither waits for the one that came after it
		return nil, nil, ErrTakenOver
	}
	if x.free != nil {
		return nil, x.free, nil
	}
	x.owner, x.free, x.dueMs, x.principal = s, make(chan struct{}), 0, s.Principal
	return x, nil, nil
}

// ownedAfter reports whether the last owner, or one that is about to begin, came after a time; with the lock held.
func (x *DurableSession) ownedAfter(since time.Time) bool {
	return since.UnixMilli() < x.rec.OwnedMs || x.owner != nil && since.Before(x.owner.Since)
}

// begin resumes the session or makes a new one, and stores that.
func (x *DurableSession) begin(ctx context.Context, o ClaimOptions) (present bool, err error) {
	fresh := x.rec.ExpiryMs < 0 || x.rec.WillOnly // [MQTT-3.1.2-6]
	if x.willDue(o) && !x.publishWill(ctx) {
		return false, &Error{Op: "connect", Class: Unavailable, Text: "the will of an earlier connection cannot be stored now; try again", RetryAfter: time.Second}
	}
	if o.Clean && !fresh {
		if err := x.empty(ctx); err != nil {
			return false, err
		}
		x.rec.State = nil
	}
	willOnly := o.Expiry == 0 && (o.Clean || fresh)
	if willOnly && o.Will == nil {
		return false, x.forget(ctx)
	}
	before, will := x.rec, x.will
	defer func() {
		if err != nil {
			x.setRecord(before, will)
		}
	}()
	x.router.durables.mu.Lock()
	x.rec.WillOnly = willOnly
	x.router.durables.mu.Unlock()
	x.rec.ExpiryMs, x.rec.Online, x.rec.WillAtMs, x.rec.OwnedMs = expiryMs(o.Expiry), true, 0, x.owner.Since.UnixMilli()
	x.will, x.rec.Will = nil, nil
	if o.Will != nil {
		x.will, x.rec.WillDelayMs, x.rec.WillForMs = o.Will, o.Will.Delay.Milliseconds(), o.Will.Expiry.Milliseconds()
		x.rec.Will = x.will.Message.AppendEnvelope(nil) // [MQTT-3.1.2-7]
	}
	err = x.saveAndWait(ctx)
	if err != nil && willOnly { // a full disk does not keep clients out that ask nothing else of it
		x.router.log.Warn("a will is not stored, and would not survive the gateway", "client_id", x.key.id, "error", err)
		err = nil
	}
	return !o.Clean && !fresh, err // [MQTT-3.1.2-5]
}

// willDue reports whether a claim finds a will that is to be published: its time has come, or the session that it belongs to has
// ended or does now [MQTT-3.1.3-9].
func (x *DurableSession) willDue(o ClaimOptions) bool {
	if x.rec.WillAtMs == 0 || x.will == nil {
		return false
	}
	again := x.rec.OwnedMs == x.owner.Since.UnixMilli() // the same connection, by the word of another leader
	return o.Clean || x.rec.WillOnly && !again || x.rec.WillAtMs <= time.Now().UnixMilli()
}

func (x *DurableSession) setRecord(rec sessionRecord, will *Will) {
	x.router.durables.mu.Lock()
	defer x.router.durables.mu.Unlock()
	x.rec, x.will = rec, will
}

func expiryMs(d time.Duration) int64 {
	if d == NeverExpires {
		return math.MaxInt64
	}
	return d.Milliseconds()
}

// abandon gives the session up after a failed begin.
func (x *DurableSession) abandon() {
	d := x.router.durables
	d.mu.Lock()
	defer d.mu.Unlock()
	if x.rec.ExpiryMs < 0 {
		delete(d.all, x.key)
	} else if !x.rec.Online {
		d.schedule(x)
	}
	x.release()
}

// release lets another claim it; with the lock held.
func (x *DurableSession) release() {
	if x.free != nil {
		close(x.free)
	}
	x.owner, x.free = nil, nil
}

// State returns what Save stored last, nil for a new session.
func (x *DurableSession) State() []byte { return x.rec.State }

// Save stores the front-end's state; the owner's saves are stored in the order of the calls.
func (x *DurableSession) Save(state []byte, done Done) {
	if x.remote != nil {
		x.remote.save(state, done)
		return
	}
	d := x.router.durables
	d.mu.Lock()
	x.rec.State = state
	value := x.encode()
	d.mu.Unlock()
	x.put(value, done)
}

func (x *DurableSession) encode() []byte {
	v, err := json.Marshal(x.rec)
	if err != nil {
		panic(err) // strings, numbers and bytes always encode
	}
	return v
}

func (x *DurableSession) put(value []byte, done Done) {
	if v := x.router.durables.values; v != nil {
		v.PutValue(ValueSession, x.key.vhost+"\x00"+x.key.id, value, done)
		return
	}
	answer(done, Stored{}, nil)
}

func (x *DurableSession) saveAndWait(ctx context.Context) error { return x.putAndWait(ctx, x.encode()) }

func (x *DurableSession) putAndWait(ctx context.Context, value []byte) error {
	stored := make(chan error, 1)
	x.put(value, func(_ Stored, err error, _ *outbox.Batch) { stored <- err })
	select {
	case err := <-stored:
		if err != nil {
			return storeError("session", err)
		}
		return nil
	case <-ctx.Done():
		return &Error{Op: "session", Class: Unavailable, Text: "the store did not confirm the session", Err: context.Cause(ctx)}
	}
}

// LeaveOptions say how a connection ended.
type LeaveOptions struct {
	// Expiry is how long the session is kept from now; 0 ends it.
	Expiry time.Duration
	// Will is whether the will is to be published; otherwise it is forgotten.
	Will bool
	// State replaces what Save stored.
	State []byte
}

// Leave gives the session up; its Session must be closed before. It waits for the store.
func (x *DurableSession) Leave(ctx context.Context, o LeaveOptions) error {
	if x.remote != nil {
		return x.remote.leave(ctx, o)
	}
	d := x.router.durables
	willDone := !o.Will || x.will == nil
	if !willDone && (o.Expiry == 0 || x.rec.WillDelayMs == 0) {
		willDone = x.publishWill(ctx)
	}
	if o.Expiry == 0 && willDone {
		return x.end(ctx)
	}
	d.mu.Lock()
	x.rec.State = o.State
	x.rec.ExpiryMs = expiryMs(o.Expiry)
	x.away(time.Now().UnixMilli(), o.Will)
	value := x.encode()
	d.mu.Unlock()
	err := x.putAndWait(ctx, value)
	d.mu.Lock()
	d.schedule(x)
	x.release()
	d.mu.Unlock()
	return err
}

// awaitNode gives the session up where its node has lost its link, and lives: its will and its end wait until the node must have said
// what has become of the client, as after a change of the leader. The store still has it as connected.
func (x *DurableSession) awaitNode() {
	d := x.router.durables
	d.mu.Lock()
	defer d.mu.Unlock()
	x.away(time.Now().Add(gatherWills).UnixMilli(), true)
	d.schedule(x)
	x.release()
}

// leaveAsStored is Leave for a connection whose node says nothing of it, as it may be gone: all is as it was stored last.
func (x *DurableSession) leaveAsStored(ctx context.Context, will bool) error {
	x.router.durables.mu.Lock()
	o := LeaveOptions{Expiry: NeverExpires, Will: will, State: x.rec.State}
	if ms := x.rec.ExpiryMs; ms < NeverExpires.Milliseconds() {
		o.Expiry = time.Duration(ms) * time.Millisecond
	}
	x.router.durables.mu.Unlock()
	return x.Leave(ctx, o)
}

// end removes the session with all it holds.
func (x *DurableSession) end(ctx context.Context) error {
	if err := x.empty(ctx); err != nil {
		d := x.router.durables
		d.mu.Lock()
		defer d.mu.Unlock()
		x.rec.Online, x.rec.ExpiresAtMs, x.rec.ExpiryMs = false, time.Now().UnixMilli()+retryMs, 0 // it is tried again
		d.schedule(x)
		x.release()
		return err
	}
	return x.forget(ctx)
}

// forget removes the record of a session that holds nothing more.
func (x *DurableSession) forget(ctx context.Context) error {
	var err error
	if x.rec.ExpiryMs >= 0 { // else it was never stored
		err = x.putAndWait(ctx, nil)
	}
	d := x.router.durables
	d.mu.Lock()
	delete(d.all, x.key)
	x.release()
	d.mu.Unlock()
	return err
}

// empty removes the session's bindings and its inbox.
func (x *DurableSession) empty(ctx context.Context) error {
	r := x.router
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	for _, b := range x.bindings() {
		if err := r.dropRoute(ctx, b); err != nil {
			return err
		}
	}
	for _, b := range r.bindings {
		if key, ok := b.shareKey(); ok && b.Member == x.key.id && b.Box.Vhost == x.key.vhost {
			if err := r.unbindShare(ctx, key, b.Member); err != nil {
				return err
			}
		}
	}
	x.boxMu.Lock()
	defer x.boxMu.Unlock()
	if x.box == nil {
		return nil
	}
	if err := x.box.vacate("unsubscribe"); err != nil {
		return err
	}
	if err := r.remove(ctx, x.box); err != nil {
		return err
	}
	x.box = nil
	return nil
}

// DurableSessions returns how many durable sessions there are, and how many of them have a connection.
func (r *Router) DurableSessions() (all, online int) {
	r.durables.mu.Lock()
	defer r.durables.mu.Unlock()
	for _, x := range r.durables.all {
		if x.rec.WillOnly {
			continue
		}
		all++
		if x.owner != nil {
			online++
		}
	}
	return all, online
}
