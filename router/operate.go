package router

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/mqgate/mqgate/router/outbox"
)

// MailboxInfo is what operators see of a mailbox.
type MailboxInfo struct {
	Kind      string `json:"kind"` // "queue", "temporary" or "durable"
	Vhost     string `json:"vhost"`
	Name      string `json:"name"`
	Depth     int    `json:"depth"` // all unsettled messages
	Ready     int    `json:"ready"`
	Unacked   int    `json:"unacked"` // held by consumers
	Delayed   int    `json:"delayed"` // wait for their redelivery
	Bytes     uint64 `json:"bytes"`   // of unsettled messages, about
	Consumers int    `json:"consumers"`
	MaxLength int    `json:"max_length,omitempty"`
	MaxBytes  int64  `json:"max_bytes,omitempty"`
	Filter    string `json:"filter,omitempty"` // of a durable subscription
	// Holders tells who holds unsettled messages, to answer why a queue is stuck.
	Holders []HolderInfo `json:"holders,omitempty"`
}

// HolderInfo is one consumer of a mailbox.
type HolderInfo struct {
	Session string `json:"session"`
	User    string `json:"user"`
	Remote  string `json:"remote"`
	Unacked int    `json:"unacked"`
	Credit  int    `json:"credit"`
	Paused  bool   `json:"paused"` // its connection's buffer is full
	// Exclusive tells that this consumer alone gets messages.
	Exclusive bool `json:"exclusive,omitempty"`
}

// PeekedMessage is a stored message that an operator looks at.
type PeekedMessage struct {
	Seq        uint64
	State      string // "ready", "unacked", "delayed" or "moving"
	Deliveries int
	Message    *Message
}

// MailboxInfos describes the mailboxes that p may consume from or, as an
// administrator, all; sorted by name.
func (r *Router) MailboxInfos(p *Principal) []MailboxInfo {
	out := []MailboxInfo{} // as JSON an empty list, not null
	for _, b := range r.mailboxes() {
		if r.mayOperate(p, ActionConsume, b) == nil {
			out = append(out, b.info())
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Kind != out[j].Kind {
			return out[i].Kind > out[j].Kind
		}
		return out[i].Name < out[j].Name
	})
	return out
}

// Deepest describes the n queues with the most messages, deepest first.
func (r *Router) Deepest(n int) []MailboxInfo {
	var out []MailboxInfo
	for _, b := range r.mailboxes() {
		if b.id.Kind == KindQueueBox {
			out = append(out, b.info())
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Depth > out[j].Depth })
	return out[:min(n, len(out))]
}

// Queues returns how many queues exist.
func (r *Router) Queues() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queues
}

func (r *Router) mayOperate(p *Principal, a Action, b *Mailbox) error {
	if p.Admin() {
		return nil
	}
	if b.address.IsZero() {
		return &Error{Op: "admin", Class: Denied, Text: "only an administrator may see durable subscriptions of others"}
	}
	return r.auth.Authorize(p, a, b.address)
}

func (b *Mailbox) info() MailboxInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := MailboxInfo{
		Kind: "queue", Vhost: b.id.Vhost, Name: b.id.Name, Depth: b.ledger.count, Unacked: b.ledger.held,
		Delayed: len(b.ledger.delayed), Bytes: b.bytes, Consumers: len(b.subs),
		MaxLength: b.policy.MaxLength, MaxBytes: b.policy.MaxBytes,
	}
	i.Ready = max(i.Depth-i.Unacked-i.Delayed, 0)
	switch {
	case b.id.Kind == KindInbox:
		i.Kind = "durable"
		i.Name = strings.ReplaceAll(i.Name, "\x00", "/")
	case b.owner != nil:
		i.Kind = "temporary"
	}
	for _, s := range b.subs {
		i.Holders = append(i.Holders, HolderInfo{Session: s.session.ID.String(), User: s.session.Principal.Name(),
			Remote: s.session.Remote, Unacked: s.held.n, Credit: s.credit, Paused: s.paused, Exclusive: b.sole == s})
	}
	return i
}

// existing returns the mailbox of a queue that exists.
func (r *Router) existing(a Address) (*Mailbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock() // an opening's box is set with it held
	o := r.boxes[MailboxID{KindQueueBox, a.vhost, a.name}]
	if o == nil || o.box == nil {
		return nil, &Error{Op: "admin", Class: NotFound, Text: fmt.Sprintf("there is no queue %q", a.name)}
	}
	return o.box, nil
}

func (r *Router) operate(p *Principal, a Action, q Address) (*Mailbox, error) {
	b, err := r.existing(q)
	if err != nil {
		return nil, err
	}
	return b, r.mayOperate(p, a, b)
}

// QueueInfo describes one queue.
func (r *Router) QueueInfo(p *Principal, q Address) (MailboxInfo, error) {
	b, err := r.operate(p, ActionConsume, q)
	if err != nil {
		return MailboxInfo{}, err
	}
	return b.info(), nil
}

// Peek returns unsettled messages from a sequence on, at most n, and changes nothing.
func (r *Router) Peek(ctx context.Context, p *Principal, q Address, from uint64, n int) ([]PeekedMessage, error) {
	b, err := r.operate(p, ActionConsume, q)
	if err != nil {
		return nil, err
	}
	return b.peek(ctx, from, n)
}

func (b *Mailbox) peek(ctx context.Context, from uint64, n int) ([]PeekedMessage, error) {
	b.mu.Lock()
	var out []PeekedMessage
	for d := b.ledger.head; d != nil && len(out) < n; d = d.next {
		if d.Seq >= from {
			out = append(out, PeekedMessage{Seq: d.Seq, State: stateNames[d.state], Deliveries: d.Count, Message: d.Message})
		}
	}
	at, last := max(b.ledger.next, from), b.ledger.last
	b.mu.Unlock()
	for len(out) < n && at <= last {
		entries, err := b.log.Read(ctx, at, min(n-len(out), 512), windowBytes)
		if err != nil {
			return nil, storeError("peek", err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			at = e.Seq + 1
			if m, err := ParseEnvelope(e.Envelope); err == nil && b.unsettledAhead(e.Seq) {
				out = append(out, PeekedMessage{Seq: e.Seq, State: stateNames[stateReady], Message: m})
			}
		}
	}
	return out, nil
}

var stateNames = [...]string{stateReady: "ready", stateHeld: "unacked", stateDelayed: "delayed", stateMoving: "moving", stateSettled: "settled"}

// unsettledAhead reports whether a message that was not loaded when we looked is
// unsettled now.
func (b *Mailbox) unsettledAhead(seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if seq < b.ledger.next {
		return b.ledger.find(seq) != nil
	}
	return b.ledger.unsettledAhead(seq)
}

// Purge removes every message that no consumer holds and returns how many.
func (r *Router) Purge(ctx context.Context, p *Principal, q Address) (int, error) {
	b, err := r.operate(p, ActionAdmin, q)
	if err != nil {
		return 0, err
	}
	stored := make(chan error, 1)
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, b.deleted("purge")
	}
	n := b.ledger.purge()
	b.forgetExpiries()
	b.bytes = 0
	for d := b.ledger.head; d != nil; d = d.next {
		b.bytes += uint64(d.Message.Size())
	}
	b.touch()
	b.confirm(nil, func(_ Stored, err error, _ *outbox.Batch) { stored <- err })
	b.mu.Unlock()
	select {
	case err = <-stored:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return n, storeError("purge", err)
	}
	return n, nil
}

// DeleteQueue removes a queue with what it holds. It is refused while the queue
// has consumers.
func (r *Router) DeleteQueue(ctx context.Context, p *Principal, q Address) error {
	b, err := r.operate(p, ActionAdmin, q)
	if err != nil {
		return err
	}
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	if err := b.vacate("delete"); err != nil {
		return err
	}
	for _, bound := range r.bindings {
		if bound.mailbox == b {
			// Else what is published to the topic would go to a queue that is no more.
			if err := r.dropRoute(ctx, bound); err != nil {
				b.reopen()
				return err
			}
		}
	}
	return r.remove(ctx, b)
}

// Move takes up to n ready messages (all if n is 0) from one queue to another,
// oldest first: each is stored in its new place before it leaves the old one. It
// returns how many were moved.
func (r *Router) Move(ctx context.Context, p *Principal, from, to Address, n int) (int, error) {
	src, err := r.operate(p, ActionAdmin, from)
	if err != nil {
		return 0, err
	}
	if from == to {
		return 0, &Error{Op: "move", Class: Invalid, Text: "the queues are the same"}
	}
	if to.name == ScheduledQueue {
		return 0, &Error{Op: "move", Class: Invalid, Text: "queue " + ScheduledQueue + " takes only what the gateway puts there"}
	}
	dst, err := r.queue(ctx, to)
	if err != nil {
		return 0, err
	}
	s, err := r.Connect(SessionOptions{Principal: p, Vhost: from.vhost, Protocol: "admin", Kick: func(error) {}})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	m := &mover{dst: dst, limit: n, src: src, progress: make(chan struct{}, 1)}
	m.last = src.lastStored() // what arrives meanwhile stays
	sub := &Subscription{session: s, receiver: m, filter: FilterOf(from), credit: 256, box: src, operator: true}
	if err := src.attach(sub); err != nil {
		return 0, err
	}
	s.remember(sub)
	sub.Start(nil)
	return m.run(ctx)
}

func (b *Mailbox) lastStored() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ledger.last
}

// idle reports whether nothing is ready in the mailbox or waits to be loaded.
func (b *Mailbox) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ledger.ready() == 0 && b.ledger.count <= b.ledger.loaded
}
