package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// ValueStore is what a Store may offer besides: the last value of each key. Retained messages and sessions are kept so;
// with a Store that lacks it they live in memory only.
type ValueStore interface {
	// PutValue replaces the value of a key; an empty one removes it. Puts of a key are stored in the order of the calls. It
	// never blocks.
	PutValue(class ValueClass, key string, value []byte, done Done)
	// Values calls each for every key that has a value, in no particular order.
	Values(ctx context.Context, class ValueClass, each func(key string, value []byte) error) error
}

// ValueClass tells kinds of values: their keys are apart.
type ValueClass uint8

const (
	// ValueRetained are retained messages by topic.
	ValueRetained ValueClass = iota + 1
	// ValueSession are the records of durable sessions by vhost and client id.
	ValueSession
)

const (
	// maxRetained and maxRetainedBytes bound the retained messages of a router.
	maxRetained      = 1_000_000
	maxRetainedBytes = 1 << 30
)

// retained keeps the last retained message of each topic in memory and, if the store can, there.
type retained struct {
	values ValueStore // nil: memory only
	mu     sync.RWMutex
	roots  map[string]*retainedNode // by vhost
	count  int
	bytes  int
}

// retainedNode is one level of a trie over topics.
type retainedNode struct {
	children map[string]*retainedNode
	message  *Message
}

// loadRetained fills the trie from the store; at start.
func (r *Router) loadRetained(ctx context.Context) error {
	r.retained.roots = map[string]*retainedNode{}
	r.retained.values, _ = r.store.(ValueStore)
	if r.retained.values == nil {
		return nil
	}
	now := time.Now().UnixMilli()
	err := r.retained.values.Values(ctx, ValueRetained, func(key string, value []byte) error {
		m, err := ParseEnvelope(value)
		if err != nil {
			r.Stats.Damaged.Add(1)
			r.log.Error("a retained message is damaged and left out", "key", key, "error", err)
			return nil
		}
		if !m.Expired(now) {
			r.retained.set(m)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load retained messages: %w", err)
	}
	return nil
}

// retainedKey identifies a topic in the store.
func retainedKey(a Address) string { return a.vhost + "\x00" + a.name }

// keep makes m the retained message of its topic; an empty body removes what is retained [MQTT-3.3.1-6] [MQTT-3.3.1-7]. It
// reports whether done will hear from the store.
func (k *retained) keep(m *Message, done Done) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(m.Body) == 0 {
		// What is in the store may be known there only, if it was damaged: the removal is stored in any case.
		k.remove(m.To)
		if k.values == nil {
			return false, nil
		}
		k.values.PutValue(ValueRetained, retainedKey(m.To), nil, done)
		return true, nil
	}
	if k.count >= maxRetained || k.bytes+m.Size() > maxRetainedBytes {
		k.sweep(time.Now().UnixMilli())
		if k.count >= maxRetained || k.bytes+m.Size() > maxRetainedBytes {
			return false, &Error{Op: "publish", Class: Full, Text: fmt.Sprintf("%d messages with %d bytes are retained, which is the limit", k.count, k.bytes)}
		}
	}
	k.set(m)
	if k.values == nil {
		return false, nil
	}
	k.values.PutValue(ValueRetained, retainedKey(m.To), m.AppendEnvelope(nil), done)
	return true, nil
}

// set puts m into the trie.
func (k *retained) set(m *Message) {
	n := k.roots[m.To.vhost]
	if n == nil {
		n = &retainedNode{}
		k.roots[m.To.vhost] = n
	}
	for l := range strings.SplitSeq(m.To.name, "/") {
		c := n.children[l]
		if c == nil {
			if n.children == nil {
				n.children = map[string]*retainedNode{}
			}
			c = &retainedNode{}
			n.children[l] = c
		}
		n = c
	}
	if n.message != nil {
		k.forget(n.message)
	}
	n.message = m // [MQTT-3.3.1-5]
	k.count++
	k.bytes += m.Size()
}

func (k *retained) forget(m *Message) {
	k.count--
	k.bytes -= m.Size()
}

// remove takes the message of a topic out of the trie, and the nodes that hold nothing more.
func (k *retained) remove(a Address) {
	root := k.roots[a.vhost]
	if root == nil {
		return
	}
	m, empty := root.remove(strings.Split(a.name, "/"))
	if m != nil {
		k.forget(m)
	}
	if empty {
		delete(k.roots, a.vhost)
	}
}

func (n *retainedNode) remove(levels []string) (m *Message, empty bool) {
	if len(levels) == 0 {
		m, n.message = n.message, nil
	} else if c := n.children[levels[0]]; c != nil {
		var gone bool
		if m, gone = c.remove(levels[1:]); gone {
			delete(n.children, levels[0])
		}
	}
	return m, n.message == nil && len(n.children) == 0
}

// sweep removes what has expired, here and in the store.
func (k *retained) sweep(nowMs int64) {
	var expired []Address
	for _, root := range k.roots {
		root.each(func(m *Message) {
			if m.Expired(nowMs) {
				expired = append(expired, m.To)
			}
		})
	}
	for _, a := range expired {
		k.remove(a)
		if k.values != nil {
			k.values.PutValue(ValueRetained, retainedKey(a), nil, ignoreDone)
		}
	}
}

func (n *retainedNode) each(f func(*Message)) {
	if n.message != nil {
		f(n.message)
	}
	for _, c := range n.children {
		c.each(f)
	}
}

// match calls f for the messages below n whose topics the rest of a filter matches. Top is true at the first level, where
// wildcards never match a name that begins with '$' [MQTT-4.7.2-1].
func (n *retainedNode) match(filter string, top bool, f func(*Message)) {
	level, rest, more := strings.Cut(filter, "/")
	if level == "#" {
		if !top && n.message != nil {
			f(n.message) // "a/#" also matches "a" [MQTT-4.7.1-2]
		}
		for name, c := range n.children {
			if !top || !strings.HasPrefix(name, "$") {
				c.each(f)
			}
		}
		return
	}
	step := func(c *retainedNode) {
		switch {
		case more:
			c.match(rest, false, f)
		case c.message != nil:
			f(c.message)
		}
	}
	if level != "+" {
		if c := n.children[level]; c != nil {
			step(c)
		}
		return
	}
	for name, c := range n.children {
		if !top || !strings.HasPrefix(name, "$") {
			step(c)
		}
	}
}

// Retained returns the retained messages that match a topic filter, each of which the session's principal may read, in no
// particular order. Expired ones are left out.
func (s *Session) Retained(f Filter) ([]*Message, error) {
	if err := s.router.auth.AuthorizeFilter(s.Principal, ActionRead, f); err != nil {
		return nil, err
	}
	if f.System() {
		return s.systemRetained(f), nil
	}
	if s.remote != nil {
		return s.remote.retained(f)
	}
	var out []*Message
	now := time.Now().UnixMilli()
	k := &s.router.retained
	k.mu.RLock()
	defer k.mu.RUnlock()
	root := k.roots[f.vhost]
	if root == nil || f.kind != KindTopic {
		return nil, nil
	}
	root.match(f.name, true, func(m *Message) {
		if !m.Expired(now) && s.router.auth.Authorize(s.Principal, ActionRead, m.To) == nil {
			out = append(out, m)
		}
	})
	return out, nil
}

// storeRetained stores copies of the retained messages that match a filter in the session's inbox, and waits for the store.
// Those that do not fit are dropped and counted, like others that do not.
func (x *DurableSession) storeRetained(ctx context.Context, f Filter) error {
	ms, err := x.owner.Retained(f)
	if err != nil || len(ms) == 0 {
		return err
	}
	x.boxMu.Lock()
	box := x.box
	x.boxMu.Unlock()
	stored := make(chan error, 1)
	c := &copies{done: func(_ Stored, err error, _ *outbox.Batch) { stored <- err }}
	c.left.Store(1)
	for _, m := range ms {
		m = m.With(func(m *Message) { m.Flags |= FlagKept; m.DedupID = "" })
		c.left.Add(1)
		switch err := box.publish(m, nil, c.stored); {
		case err == nil:
		case ClassOf(err) == Full:
			x.router.Stats.Drop(DropInboxFull, 1)
			c.left.Add(-1)
		default:
			return err
		}
	}
	c.finish()
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return &Error{Op: "subscribe", Class: Unavailable, Text: "the store did not confirm the retained messages", Err: context.Cause(ctx)}
	}
}

// superseded settles the copy of a retained message that nobody was given yet and that is not the retained one any more: what
// took its place was published after the subscription began, and is stored behind it.
func (b *Mailbox) superseded(d *Delivery) bool {
	if !d.Message.Has(FlagKept) || d.Count > 0 || d.marked || b.router.retained.is(d.Message) {
		return false
	}
	b.ledger.take()
	b.settled(d)
	return true
}

// is reports whether m is a copy of the retained message of its topic.
func (k *retained) is(m *Message) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	n := k.roots[m.To.vhost]
	for l := range strings.SplitSeq(m.To.name, "/") {
		if n == nil {
			return false
		}
		n = n.children[l]
	}
	return n != nil && n.message != nil && n.message.ID == m.ID
}

// RetainedCount returns how many messages are retained.
func (r *Router) RetainedCount() int {
	r.retained.mu.RLock()
	defer r.retained.mu.RUnlock()
	return r.retained.count
}

// errRetain is why nothing was retained where copies were stored already.
var errRetain = errors.New("the message could not be retained")

// storeAll stores the copies of the route's mailboxes and, if it is to be retained, the topic's.
func (s *Session) storeAll(to *route, m *Message, done Done) (bool, error) {
	if e := s.router.edge; e != nil {
		return e.store(s, to, m, done)
	}
	if !m.Has(FlagRetain) || m.To.kind != KindTopic { // [MQTT-3.3.1-8]
		if len(to.boxes) == 0 && to.history == nil {
			return false, nil
		}
		return s.router.storeCopies(s, to, m, done)
	}
	if done == nil {
		done = ignoreDone
	}
	c := &copies{done: done}
	c.left.Store(2) // ours, and that of the mailboxes
	pending := false
	if len(to.boxes) > 0 || to.history != nil {
		var err error
		if pending, err = s.router.storeCopies(s, to, m, c.stored); err != nil {
			return false, err
		}
	}
	if !pending {
		c.left.Add(-1)
	}
	c.left.Add(1)
	kept, err := s.router.retained.keep(m, c.stored)
	switch {
	case err != nil && !pending:
		return false, err
	case err != nil:
		err = &Error{Op: "publish", Class: Full, Text: TextOf(err), Err: errRetain}
		c.err.CompareAndSwap(nil, &err)
	}
	if !kept {
		c.left.Add(-1)
	}
	if !kept && !pending {
		return false, nil
	}
	c.finish()
	return true, nil
}

// finish gives up the caller's own place among the copies.
func (c *copies) finish() {
	if c.left.Add(-1) == 0 {
		// All answers came while more were begun: report from here.
		c.left.Store(1)
		c.stored(Stored{}, nil, nil)
	}
}

// memoryValues is the ValueStore of MemoryStore.
type memoryValues struct {
	mu     sync.Mutex
	values map[ValueClass]map[string][]byte
	log    *memoryLog // gives the answers in order
	puts   atomic.Uint64
}

// PutValue replaces a value.
func (s *MemoryStore) PutValue(class ValueClass, key string, value []byte, done Done) {
	v := &s.values
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.values == nil {
		v.values, v.log = map[ValueClass]map[string][]byte{}, newMemoryLog()
	}
	if v.values[class] == nil {
		v.values[class] = map[string][]byte{}
	}
	if len(value) == 0 {
		delete(v.values[class], key)
	} else {
		v.values[class][key] = value
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	v.log.answer(done, Stored{Seq: v.puts.Add(1)})
}

// Values lists the values of a class.
func (s *MemoryStore) Values(_ context.Context, class ValueClass, each func(key string, value []byte) error) error {
	s.values.mu.Lock()
	defer s.values.mu.Unlock()
	for k, v := range s.values.values[class] {
		if err := each(k, v); err != nil {
			return err
		}
	}
	return nil
}

var _ ValueStore = (*MemoryStore)(nil)
