package router

import (
	"context"
	"time"
)

func (x *DurableSession) boxID() MailboxID {
	return MailboxID{KindInbox, x.key.vhost, sessionPrefix + x.key.id}
}

// bindings lists the session's bindings; with bindMu held.
func (x *DurableSession) bindings() []*Binding {
	if x.box == nil {
		return nil
	}
	var out []*Binding
	for _, b := range x.router.bindings {
		if b.mailbox == x.box {
			out = append(out, b)
		}
	}
	return out
}

// BindOptions say what of a filter's messages an inbox gets.
type BindOptions struct {
	// NoLocal leaves out what the session itself publishes.
	NoLocal bool
	// Retained has the retained messages that match stored too, before Bind returns.
	Retained bool
}

// Bind has the messages of a topic filter stored in the session's inbox from now on: one copy of each, however many of the
// session's filters match.
func (x *DurableSession) Bind(ctx context.Context, f Filter, o BindOptions) error {
	if err := x.router.auth.AuthorizeFilter(x.owner.Principal, ActionRead, f); err != nil {
		return err
	}
	if x.remote != nil {
		return x.remote.bind(ctx, methodBind, bindCall{Filter: wireOf(f), NoLocal: o.NoLocal, Retained: o.Retained})
	}
	if err := x.bind(ctx, f, o.NoLocal); err != nil || !o.Retained {
		return err
	}
	return x.storeRetained(ctx, f)
}

func (x *DurableSession) bind(ctx context.Context, f Filter, noLocal bool) error {
	r := x.router
	b := &Binding{Filter: f, Box: x.boxID(), User: x.owner.Principal.Name(), NoLocal: noLocal, Several: true, Since: time.Now()}
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	old := r.bindings[b.key()]
	if old != nil && old.NoLocal == noLocal {
		return nil
	}
	if err := r.addBinding(ctx, b); err != nil {
		return err
	}
	if old != nil {
		r.binds.remove(old.Filter, old)
		r.retract(old.Filter)
	}
	x.boxMu.Lock()
	x.box = b.mailbox
	x.boxMu.Unlock()
	return nil
}

// Unbind ends that. What is stored stays.
func (x *DurableSession) Unbind(ctx context.Context, f Filter) error {
	if x.remote != nil {
		return x.remote.bind(ctx, methodRelease, bindCall{Filter: wireOf(f)})
	}
	r := x.router
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	b := r.bindings[(&Binding{Filter: f, Box: x.boxID(), Several: true}).key()]
	if b == nil {
		return nil
	}
	return r.dropRoute(ctx, b)
}

// Receive opens the session's inbox to its owner, as a subscription to be started. It returns nil while there is no inbox,
// which is before the first Bind.
func (x *DurableSession) Receive(receiver Receiver, credit int) (*Subscription, error) {
	if x.remote != nil {
		return x.remote.receive(receiver, credit)
	}
	return x.receive(receiver, credit, nil)
}

// receive is Receive for a client that may have messages in hands.
func (x *DurableSession) receive(receiver Receiver, credit int, inHands []uint64) (*Subscription, error) {
	x.boxMu.Lock()
	box := x.box
	x.boxMu.Unlock()
	if box == nil {
		return nil, nil
	}
	s := x.owner
	sub := &Subscription{session: s, receiver: receiver, box: box, credit: max(credit, 1), inHands: inHands}
	if err := box.attach(sub); err != nil {
		return nil, err
	}
	if !s.remember(sub) {
		box.detach(sub, nil)
		return nil, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	return sub, nil
}
