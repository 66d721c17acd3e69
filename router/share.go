package router

import (
	"context"
	"fmt"
	"sync"

	"github.com/mqgate/mqgate/router/outbox"
)

// shares are the groups of live subscribers of which one gets each message: MQTT's "$share/group/filter". Only members
// that are connected are chosen, and only such as have room: a message is dropped, and counted, when none has.
type shares struct {
	router  *Router
	mu      sync.Mutex
	members map[shareKey]*share
}

type shareKey struct {
	group  string
	filter Filter
}

// share is one group on one filter. It stands among the subscribers as one, and hands on what it gets.
type share struct {
	key     shareKey
	stands  *Subscription
	mu      sync.Mutex
	members []*Subscription // copied on write
	next    int
}

var _ Receiver = (*share)(nil)

// SubscribeShared opens a live subscription that shares what matches the filter with the others of its group. Start begins
// its deliveries, as for other subscriptions.
func (s *Session) SubscribeShared(group string, o SubscribeOptions) (*Subscription, error) {
	if o.Filter.kind != KindTopic || o.Durable != "" {
		return nil, &Error{Op: "subscribe", Class: Invalid, Text: "a group shares topics: consumers of a queue share it by themselves"}
	}
	if err := s.router.auth.AuthorizeFilter(s.Principal, ActionRead, o.Filter); err != nil {
		return nil, err
	}
	sub := &Subscription{session: s, receiver: o.Receiver, filter: o.Filter, group: group, credit: 1}
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

// add begins to route to a member.
func (x *shares) add(sub *Subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := shareKey{sub.group, sub.filter}
	g := x.members[key]
	if g == nil {
		g = &share{key: key}
		stand := &Session{Principal: NewPrincipal(fmt.Sprintf("$share/%s", sub.group), "", false, nil), Vhost: sub.filter.vhost, router: x.router}
		g.stands = &Subscription{session: stand, receiver: g, filter: sub.filter, share: g}
		x.members[key] = g
		x.router.live.add(g.stands)
	}
	g.mu.Lock()
	g.members = append(g.members[:len(g.members):len(g.members)], sub)
	g.mu.Unlock()
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
	if left == 0 {
		x.router.live.remove(g.stands)
		delete(x.members, g.key)
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

// Stored is never called: a group is live.
func (g *share) Stored(*Delivery, *outbox.Batch) bool { return false }

// addLive begins to route live messages to a subscription, by its group if it has one.
func (r *Router) addLive(s *Subscription) {
	if s.remote != nil {
		s.remote.start(nil)
		return
	}
	if s.group != "" {
		r.shares.add(s)
		return
	}
	r.live.add(s)
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
