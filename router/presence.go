package router

import (
	"context"
	"time"
)

// Presence is a session that receives what is published to a topic.
type Presence struct {
	Session  SessionID
	User     string
	ClientID string
	Name     string `json:",omitempty"` // what the client calls itself
	Protocol string
	Since    time.Time
}

// Present tells who receives what is published to a topic on any node, whatever
// their protocol and however their filter says it; sorted by session. It needs
// the right to read the topic.
func (s *Session) Present(ctx context.Context, topic Address) ([]Presence, error) {
	r := s.router
	if err := r.auth.Authorize(s.Principal, ActionRead, topic); err != nil {
		return nil, err
	}
	return r.Present(ctx, topic)
}

// presentLive lists the live subscribers of this node.
func (r *Router) presentLive(topic Address) []Presence {
	seen := map[*Session]bool{}
	var out []Presence
	for _, sub := range r.subs.match(topic, nil) {
		s := sub.session
		if sub.share == nil && !seen[s] && r.auth.Authorize(s.Principal, ActionRead, topic) == nil {
			seen[s] = true
			out = append(out, s.presence())
		}
	}
	return out
}

func (s *Session) presence() Presence {
	return Presence{Session: s.ID, User: s.Principal.Name(), ClientID: s.client.id, Name: s.Name, Protocol: s.Protocol, Since: s.Since}
}

// Present is Session.Present for who acts for several sessions.
func (r *Router) Present(ctx context.Context, topic Address) ([]Presence, error) {
	if topic.kind != KindTopic {
		return nil, &Error{Op: "presence", Class: Invalid, Text: "presence is for topics; " + topic.String() + " is none"}
	}
	if r.edge != nil {
		return r.edge.present(ctx, topic)
	}
	kept, err := r.presentKept(ctx, topic)
	if err != nil {
		return nil, err
	}
	return mergePresence(r.presentLive(topic), kept), nil
}

// presentKept lists the sessions that receive a topic by what is kept for them: durable subscribers and followers.
func (r *Router) presentKept(ctx context.Context, topic Address) ([]Presence, error) {
	seen := map[*Session]bool{}
	for _, b := range r.binds.match(topic, nil) {
		if b.Box.Kind == KindInbox {
			for _, sub := range b.mailbox.consumers() {
				seen[sub.session] = true
			}
		}
	}
	h, err := r.histories.of(ctx, topic)
	if err != nil {
		return nil, err
	}
	if h != nil {
		h.mu.Lock()
		for _, f := range h.followers {
			seen[f.session] = true
		}
		h.mu.Unlock()
	}
	out := make([]Presence, 0, len(seen))
	for s := range seen {
		out = append(out, s.presence())
	}
	return out, nil
}

// PresenceRevision changes whenever a live subscriber or follower came or went.
func (r *Router) PresenceRevision() uint64 {
	n := r.subs.generation.Load() + r.binds.generation.Load() + r.histories.changed.Load()
	if r.edge != nil {
		n += r.edge.revision.Load()
	}
	return n
}
