package router

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/router/selector"
)

// Binding has copies of a topic's messages stored in a mailbox: durable
// subscriptions and queues bound to topics are both that. It is stored, and
// outlives sessions and restarts.
type Binding struct {
	Filter  Filter
	Box     MailboxID
	User    string // who made it; only they may delete or take it
	NoLocal bool
	// Selector leaves out messages whose headers it does not match; nil: none.
	Selector *selector.Selector
	// Several: the inbox is that of an MQTT session, which may have other bindings.
	Several bool
	// Member is the client whose durable session is a member of the shared group that the mailbox belongs to; "" stands for
	// all members without one.
	Member string
	Since  time.Time

	mailbox *Mailbox
}

// storedBinding is the stored form; the filter is in the slash style.
type storedBinding struct {
	Filter  string      `json:"filter"`
	Vhost   string      `json:"vhost"`
	Kind    MailboxKind `json:"kind"`
	Name    string      `json:"name"`
	User    string      `json:"user,omitempty"`
	NoLocal bool        `json:"noLocal,omitempty"`
	Select  string      `json:"selector,omitempty"`
	Several bool        `json:"several,omitempty"`
	Member  string      `json:"member,omitempty"`
	SinceMs int64       `json:"since"`
}

// key identifies the binding: a durable subscriber has one, a
// queue or an MQTT session one for each filter.
func (b *Binding) key() string {
	k := fmt.Sprintf("%d\x00%s\x00%s", b.Box.Kind, b.Box.Vhost, b.Box.Name)
	if b.Box.Kind == KindQueueBox || b.Several {
		k += "\x00" + b.Filter.name
	}
	if _, shared := b.shareKey(); shared {
		k += "\x00" + b.Member
	}
	return k
}

func (b *Binding) encode() []byte {
	v, err := json.Marshal(storedBinding{
		Filter: b.Filter.Text(StyleSlash), Vhost: b.Box.Vhost, Kind: b.Box.Kind, Name: b.Box.Name,
		User: b.User, NoLocal: b.NoLocal, Select: selectorText(b.Selector), Several: b.Several, Member: b.Member, SinceMs: b.Since.UnixMilli(),
	})
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return v
}

func decodeBinding(v []byte) (*Binding, error) {
	var s storedBinding
	if err := json.Unmarshal(v, &s); err != nil {
		return nil, fmt.Errorf("read a stored binding: %w", err)
	}
	f, _, err := ParseFilter(s.Vhost, s.Filter)
	if err != nil {
		return nil, fmt.Errorf("read a stored binding: %w", err)
	}
	b := &Binding{Filter: f, Box: MailboxID{Kind: s.Kind, Vhost: s.Vhost, Name: s.Name},
		User: s.User, NoLocal: s.NoLocal, Several: s.Several, Member: s.Member, Since: time.UnixMilli(s.SinceMs)}
	if s.Select != "" {
		if b.Selector, err = selector.Parse(s.Select); err != nil {
			return nil, fmt.Errorf("read a stored binding: %w", err)
		}
	}
	return b, nil
}

// bind returns the inbox of a durable subscription, and makes or changes its
// binding. When it returns, every later publish stores a copy.
func (r *Router) bind(ctx context.Context, s *Session, o SubscribeOptions) (*Mailbox, error) {
	for _, reserved := range [...]string{sessionPrefix, sharePrefix} {
		if strings.HasPrefix(o.Durable, reserved) {
			return nil, &Error{Op: "subscribe", Class: Invalid, Text: "names of durable subscriptions do not begin with " + reserved}
		}
	}
	want := &Binding{Filter: o.Filter, Box: MailboxID{KindInbox, s.Vhost, o.Durable}, User: s.Principal.Name(), NoLocal: o.NoLocal, Selector: o.Selector, Since: time.Now()}
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	old := r.bindings[want.key()]
	if old != nil {
		if old.User != want.User {
			return nil, &Error{Op: "subscribe", Class: Denied, Text: "durable subscription " + o.Durable + " belongs to another user"}
		}
		if old.Filter == want.Filter && old.NoLocal == want.NoLocal && selectorText(old.Selector) == selectorText(want.Selector) {
			return old.mailbox, nil
		}
		// JMS: another topic or selector under the same name is a new subscription.
		if err := r.dropBinding(ctx, old); err != nil {
			return nil, err
		}
	}
	return want.mailbox, r.addBinding(ctx, want)
}

// BindQueue stores a copy of the topic's messages in a queue from now on, as
// virtual topics do. It is no error if it is bound already.
func (s *Session) BindQueue(ctx context.Context, f Filter, queue Address) error {
	if err := s.router.auth.AuthorizeFilter(s.Principal, ActionRead, f); err != nil {
		return err
	}
	if err := s.router.auth.Authorize(s.Principal, ActionConsume, queue); err != nil {
		return err
	}
	if queue.name == ScheduledQueue {
		return &Error{Op: "subscribe", Class: Denied, Text: "queue " + ScheduledQueue + " takes only what the gateway puts there"}
	}
	if s.remote != nil {
		return s.remote.bindQueue(ctx, f, queue, false)
	}
	r := s.router
	b := &Binding{Filter: f, Box: MailboxID{KindQueueBox, queue.vhost, queue.name}, User: s.Principal.Name(), Since: time.Now()}
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	if r.bindings[b.key()] != nil {
		return nil
	}
	return r.addBinding(ctx, b)
}

// UnbindQueue ends what BindQueue began. What the queue holds stays.
func (s *Session) UnbindQueue(ctx context.Context, f Filter, queue Address) error {
	if err := s.router.auth.Authorize(s.Principal, ActionConsume, queue); err != nil {
		return err
	}
	if s.remote != nil {
		return s.remote.bindQueue(ctx, f, queue, true)
	}
	r := s.router
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	b := r.bindings[(&Binding{Filter: f, Box: MailboxID{KindQueueBox, queue.vhost, queue.name}}).key()]
	switch {
	case b == nil:
		return &Error{Op: "unsubscribe", Class: NotFound, Text: fmt.Sprintf("queue %s is not bound to that topic", queue.Name())}
	case b.User != s.Principal.Name() && !s.Principal.Admin():
		return &Error{Op: "unsubscribe", Class: Denied, Text: fmt.Sprintf("another user bound queue %s to that topic", queue.Name())}
	}
	return r.dropRoute(ctx, b)
}

// addBinding stores a binding, then routes by it; with bindMu held.
func (r *Router) addBinding(ctx context.Context, b *Binding) error {
	box, err := r.open(ctx, b.Box)
	if err != nil {
		return err
	}
	if err := r.store.PutBinding(ctx, b.key(), b.encode()); err != nil {
		return &Error{Op: "subscribe", Class: Unavailable, Text: "the store did not confirm the subscription", Err: err}
	}
	r.route(b, box)
	r.announce(b.Filter)
	return nil
}

func (r *Router) route(b *Binding, box *Mailbox) {
	b.mailbox = box
	r.bindings[b.key()] = b
	r.binds.insert(b.Filter, b)
}

// dropBinding forgets a durable subscription and its inbox; with bindMu held.
func (r *Router) dropBinding(ctx context.Context, b *Binding) error {
	if err := b.mailbox.vacate("unsubscribe"); err != nil {
		return err
	}
	if err := r.dropRoute(ctx, b); err != nil {
		b.mailbox.reopen()
		return err
	}
	return r.remove(ctx, b.mailbox)
}

// dropRoute forgets a binding; with bindMu held.
func (r *Router) dropRoute(ctx context.Context, b *Binding) error {
	if err := r.store.PutBinding(ctx, b.key(), nil); err != nil {
		return &Error{Op: "unsubscribe", Class: Unavailable, Text: "the store did not confirm", Err: err}
	}
	delete(r.bindings, b.key())
	r.binds.remove(b.Filter, b)
	r.retract(b.Filter)
	return nil
}

// unbind ends a durable subscription of the session's user.
func (r *Router) unbind(ctx context.Context, s *Session, durable string, w *outbox.Batch) error {
	key := (&Binding{Box: MailboxID{KindInbox, s.Vhost, durable}}).key()
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	b := r.bindings[key]
	switch {
	case b == nil:
		return &Error{Op: "unsubscribe", Class: NotFound, Text: "there is no durable subscription " + durable}
	case b.User != s.Principal.Name() && !s.Principal.Admin():
		return &Error{Op: "unsubscribe", Class: Denied, Text: "durable subscription " + durable + " belongs to another user"}
	}
	for _, sub := range b.mailbox.consumers() {
		if sub.session == s {
			sub.Close(w)
		}
	}
	return r.dropBinding(ctx, b)
}

// loadBindings routes by what the store knows; at start.
func (r *Router) loadBindings(ctx context.Context) error {
	values, err := r.store.Bindings(ctx)
	if err != nil {
		return fmt.Errorf("load bindings: %w", err)
	}
	for _, v := range values {
		b, err := decodeBinding(v)
		if err != nil {
			return err
		}
		box, err := r.open(ctx, b.Box)
		if err != nil {
			return err
		}
		r.route(b, box)
		if key, ok := b.shareKey(); ok {
			r.shares.keep(key, box)
		}
	}
	return nil
}

// copies counts down the stored copies of one message and reports once.
type copies struct {
	left atomic.Int32
	err  atomic.Pointer[error]
	done Done
}

func (c *copies) stored(s Stored, err error, w *outbox.Batch) {
	if err != nil {
		c.err.CompareAndSwap(nil, &err)
	}
	if c.left.Add(-1) > 0 {
		return
	}
	if p := c.err.Load(); p != nil {
		err = *p
	}
	c.done(s, err, w)
}

func ignoreDone(Stored, error, *outbox.Batch) {}

// storeCopies appends m to each mailbox of the route. It reports whether any
// append is under way.
func (r *Router) storeCopies(s *Session, to *route, m *Message, done Done) (bool, error) {
	if done == nil {
		done = ignoreDone
	}
	if len(to.boxes) == 1 && to.bindings[0] == nil {
		return true, to.boxes[0].publish(m, nil, done)
	}
	c := &copies{done: done}
	c.left.Store(1) // ours, so that it cannot end before all are begun
	envelope := m.AppendEnvelope(nil)
	pending := false
	for i, box := range to.boxes {
		if !to.bindings[i].takes(m, box, s) {
			continue
		}
		c.left.Add(1)
		err := box.publish(m, envelope, c.stored)
		switch {
		case err == nil:
			pending = true
		case ClassOf(err) == Full && box.id.Kind == KindInbox:
			// An absent subscriber must not stop the publisher.
			r.Stats.Drop(DropInboxFull, 1)
			c.left.Add(-1)
		case ClassOf(err) == NotFound && box.id.Kind == KindInbox:
			c.left.Add(-1) // its subscriber ended it just now
		case !pending:
			return false, err
		default:
			c.stored(Stored{}, err, nil)
		}
	}
	if to.history != nil {
		c.left.Add(1)
		to.history.append(m, envelope, c.stored)
		pending = true
	}
	if !pending {
		return false, nil
	}
	if c.left.Add(-1) == 0 {
		// All answers came while we were still appending: report from here.
		c.left.Store(1)
		c.stored(Stored{}, nil, nil)
	}
	return true, nil
}

// publish appends with the policy's expiry where the message names none.
func (b *Mailbox) publish(m *Message, envelope []byte, done Done) error {
	if c := b.withExpiry(m); c != m || envelope == nil {
		m, envelope = c, c.AppendEnvelope(nil)
	}
	return b.append(m, envelope, done)
}

// servedBy reports whether the session is the mailbox's consumer now.
func (b *Mailbox) servedBy(s *Session) bool {
	for _, sub := range b.consumers() {
		if sub.session == s {
			return true
		}
	}
	return false
}

// consumers returns the subscriptions that are attached now.
func (b *Mailbox) consumers() []*Subscription {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.subs // copied on write
}
