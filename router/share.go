package router

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// sharePrefix begins the names of the mailboxes of shared groups.
const sharePrefix = "share:"

// shares are the groups of subscribers of which one gets each message: MQTT's "$share/group/filter".
//
// A group none of whose members has a durable session is live: it hands each message to a member that has room, and drops
// it, counted, when none has. From the moment that a durable session becomes a member, the group has a mailbox, for which
// its connected members compete as the consumers of a queue do; while none is connected the messages wait there.
type shares struct {
	router  *Router
	mu      sync.Mutex
	members map[shareKey]*share
}

type shareKey struct {
	group  string
	filter Filter
}

// share is one group on one filter. It stands among the live subscribers as one, and hands on what it gets.
type share struct {
	key    shareKey
	stands *Subscription
	box    *Mailbox    // under the lock of shares; nil: live
	kept   atomic.Bool // it has a mailbox

	mu      sync.Mutex
	members []*Subscription // copied on write
	next    int
}

var _ Receiver = (*share)(nil)

// SubscribeShared opens a subscription that shares what matches the filter with the others of its group. Start begins its
// deliveries, as for other subscriptions; Credit counts if the group has a mailbox.
func (s *Session) SubscribeShared(group string, o SubscribeOptions) (*Subscription, error) {
	if o.Filter.kind != KindTopic || o.Durable != "" {
		return nil, &Error{Op: "subscribe", Class: Invalid, Text: "a group shares topics: consumers of a queue share it by themselves"}
	}
	if err := s.router.auth.AuthorizeFilter(s.Principal, ActionRead, o.Filter); err != nil {
		return nil, err
	}
	sub := &Subscription{session: s, receiver: o.Receiver, filter: o.Filter, group: group, credit: max(o.Credit, 1), inHands: o.inHands}
	if s.remote != nil {
		if err := s.remote.subscribe(context.Background(), sub, o); err != nil {
			return nil, err
		}
	}
	if !s.remember(sub) {
		return nil, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	return sub, nil
}

// group returns a group, and makes it; with the lock held.
func (x *shares) group(key shareKey) *share {
	g := x.members[key]
	if g == nil {
		g = &share{key: key}
		stand := &Session{Principal: NewPrincipal(fmt.Sprintf("$share/%s", key.group), "", false, nil), Vhost: key.filter.vhost, router: x.router}
		g.stands = &Subscription{session: stand, receiver: g, filter: key.filter, share: g}
		x.members[key] = g
		x.router.live.add(g.stands)
	}
	return g
}

// add begins to give to a member.
func (x *shares) add(sub *Subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := x.group(shareKey{sub.group, sub.filter})
	g.mu.Lock()
	g.members = append(g.members[:len(g.members):len(g.members)], sub)
	g.mu.Unlock()
	if g.box != nil {
		x.consume(g, sub)
	}
}

// consume has a member compete for the group's mailbox; with the lock held.
func (x *shares) consume(g *share, sub *Subscription) {
	c := &Subscription{session: sub.session, receiver: sub.receiver, filter: sub.filter, box: g.box, credit: sub.credit, inHands: sub.inHands}
	sub.inHands = nil
	if err := g.box.attach(c); err != nil {
		x.router.log.Warn("a member cannot take from its shared group", "group", g.key.group, "filter", g.key.filter.String(), "error", err)
		return
	}
	sub.consumer.Store(c)
	var w outbox.Batch
	g.box.resume(c, &w)
	w.Flush()
}

// remove ends that.
func (x *shares) remove(sub *Subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := x.members[shareKey{sub.group, sub.filter}]
	if g == nil {
		return
	}
	g.mu.Lock()
	g.members, _ = without(g.members, sub)
	left := len(g.members)
	g.mu.Unlock()
	if c := sub.consumer.Swap(nil); c != nil {
		var w outbox.Batch
		c.box.detach(c, &w)
		w.Flush()
	}
	switch {
	case left > 0:
	case g.box == nil:
		x.forget(g)
	default:
		x.router.goFunc(func(ctx context.Context) { x.router.dropAbandoned(ctx, g.key) })
	}
}

// forget removes a group that has neither members nor a mailbox; with the lock held.
func (x *shares) forget(g *share) {
	x.router.live.remove(g.stands)
	delete(x.members, g.key)
}

// keep gives a group its mailbox, for which the members compete from now on. What was routed to them before still reaches
// them live.
func (x *shares) keep(key shareKey, box *Mailbox) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := x.group(key)
	if g.box != nil {
		return
	}
	g.box = box
	g.kept.Store(true)
	g.mu.Lock()
	members := g.members
	g.mu.Unlock()
	for _, sub := range members {
		x.consume(g, sub)
	}
}

// busy reports whether a group has members that are connected.
func (x *shares) busy(key shareKey) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := x.members[key]
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members) > 0
}

// release takes a group's mailbox away: nobody is connected, and no session is a member.
func (x *shares) release(key shareKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	g := x.members[key]
	if g == nil {
		return
	}
	g.box = nil
	g.kept.Store(false)
	g.mu.Lock()
	members := g.members // of the last moment: they are live members again
	g.mu.Unlock()
	for _, sub := range members {
		if c := sub.consumer.Swap(nil); c != nil {
			var w outbox.Batch
			c.box.detach(c, &w)
			w.Flush()
		}
	}
	if len(members) == 0 {
		x.forget(g)
	}
}

// Live hands a message to the next member that may read the topic and has room.
func (g *share) Live(m *Message, w *outbox.Batch) bool {
	g.mu.Lock()
	members, first := g.members, g.next
	g.next++
	g.mu.Unlock()
	r := g.stands.session.router
	for i := range members {
		sub := members[(first+i)%len(members)]
		if r.auth.Authorize(sub.session.Principal, ActionRead, m.To) == nil && sub.receiver.Live(m, w) {
			return true
		}
	}
	return false
}

// Stored is never called: the members are the consumers of the mailbox.
func (g *share) Stored(*Delivery, *outbox.Batch) bool { return false }

// CloseAndReturn ends a member's subscription to a live group, and gives what its client has not acknowledged to others of
// the group. What none of them takes is dropped, and counted.
func (s *Subscription) CloseAndReturn(ms []*Message, w *outbox.Batch) {
	if s.remote != nil {
		s.remote.giveBack(ms)
		s.Close(w)
		return
	}
	s.Close(w)
	s.session.router.giveBack(shareKey{s.group, s.filter}, ms, w)
}

func (r *Router) giveBack(key shareKey, ms []*Message, w *outbox.Batch) {
	r.shares.mu.Lock()
	g := r.shares.members[key]
	r.shares.mu.Unlock()
	for _, m := range ms {
		switch {
		case m.Expired(time.Now().UnixMilli()):
			r.Stats.Drop(DropExpired, 1)
		case g == nil || !g.Live(m, w):
			r.Stats.Drop(DropNoMember, 1)
		}
	}
}

// addMember begins to route live messages to a member of a group.
func (r *Router) addMember(s *Subscription) {
	if s.remote != nil {
		s.remote.start(nil)
		return
	}
	r.shares.add(s)
}

// removeLive ends that.
func (r *Router) removeLive(s *Subscription) {
	if s.remote != nil {
		s.remote.close()
		return
	}
	if s.group != "" {
		r.shares.remove(s)
		return
	}
	r.live.remove(s)
}

// shareBox is the identity of a group's mailbox. A group's name has no '/'.
func shareBox(key shareKey) MailboxID {
	return MailboxID{KindInbox, key.filter.vhost, sharePrefix + key.group + "/" + key.filter.name}
}

// shared reports whether the mailbox is that of a group.
func (b *Mailbox) shared() bool {
	return b.id.Kind == KindInbox && strings.HasPrefix(b.id.Name, sharePrefix)
}

// unreadable settles a message of a group's mailbox that none of the members which are connected may read.
func (b *Mailbox) unreadable(d *Delivery) bool {
	if !b.shared() || d.Message.To.IsZero() {
		return false
	}
	for _, s := range b.subs {
		if b.mayHave(s, d.Message) {
			return false
		}
	}
	b.ledger.take()
	b.settled(d)
	b.router.Stats.Drop(DropDenied, 1)
	return true
}

// shareKey returns the group that a binding is of; ok is false if it is of none.
func (b *Binding) shareKey() (key shareKey, ok bool) {
	if b.Box.Kind != KindInbox || !strings.HasPrefix(b.Box.Name, sharePrefix) {
		return key, false
	}
	group, _, _ := strings.Cut(strings.TrimPrefix(b.Box.Name, sharePrefix), "/")
	return shareKey{group, b.Filter}, true
}

// BindShared makes the session a member of a shared group, which has a mailbox from then on: messages wait there while no
// member is connected. To receive, the owner subscribes with SubscribeShared.
func (x *DurableSession) BindShared(ctx context.Context, group string, f Filter) error {
	s, r := x.owner, x.router
	if err := s.router.auth.AuthorizeFilter(s.Principal, ActionRead, f); err != nil {
		return err
	}
	if x.remote != nil {
		return x.remote.bind(ctx, methodBind, bindCall{Filter: wireOf(f), Group: group})
	}
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	return r.bindShare(ctx, shareKey{group, f}, x.key.id, s.Principal.Name())
}

// bindShare makes a client a member; with bindMu held. The client "" stands for those without a durable session.
func (r *Router) bindShare(ctx context.Context, key shareKey, member, user string) error {
	b := &Binding{Filter: key.filter, Box: shareBox(key), User: user, Member: member, Since: time.Now()}
	if r.bindings[b.key()] != nil {
		return nil
	}
	box, err := r.open(ctx, b.Box)
	if err != nil {
		return err
	}
	r.shares.keep(key, box)
	return r.addBinding(ctx, b)
}

// UnbindShared ends the membership. With the last one the mailbox goes, when nobody is connected that takes from it.
func (x *DurableSession) UnbindShared(ctx context.Context, group string, f Filter) error {
	if x.remote != nil {
		return x.remote.bind(ctx, methodRelease, bindCall{Filter: wireOf(f), Group: group})
	}
	x.router.bindMu.Lock()
	defer x.router.bindMu.Unlock()
	return x.router.unbindShare(ctx, shareKey{group, f}, x.key.id)
}

// unbindShare ends a membership; with bindMu held.
func (r *Router) unbindShare(ctx context.Context, key shareKey, member string) error {
	b := r.bindings[(&Binding{Filter: key.filter, Box: shareBox(key), Member: member}).key()]
	if b == nil {
		return nil
	}
	last := true
	for _, o := range r.bindings {
		last = last && (o == b || o.mailbox != b.mailbox)
	}
	if last && member != "" && r.shares.busy(key) { // it goes on for those that are connected
		if err := r.bindShare(ctx, key, "", b.User); err != nil {
			return err
		}
		last = false
	}
	if err := r.dropRoute(ctx, b); err != nil || !last {
		return err
	}
	r.shares.release(key)
	if err := b.mailbox.vacate("unsubscribe"); err != nil {
		return err
	}
	return r.remove(ctx, b.mailbox)
}

// dropAbandoned removes the mailbox of a group that no durable session is a member of and nobody takes from any more.
func (r *Router) dropAbandoned(ctx context.Context, key shareKey) {
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	if r.shares.busy(key) {
		return
	}
	if err := r.unbindShare(ctx, key, ""); err != nil && ctx.Err() == nil {
		r.log.Warn("the mailbox of a shared group could not be removed", "group", key.group, "filter", key.filter.String(), "error", err)
	}
}

// withoutKept takes out of the live subscribers the groups that get a stored copy.
func withoutKept(live []*Subscription, bindings []*Binding) []*Subscription {
	var kept map[shareKey]bool
	for _, b := range bindings {
		if key, ok := b.shareKey(); ok {
			if kept == nil {
				kept = map[shareKey]bool{}
			}
			kept[key] = true
		}
	}
	if kept == nil {
		return live
	}
	return slices.DeleteFunc(live, func(s *Subscription) bool { return s.share != nil && kept[s.share.key] })
}
