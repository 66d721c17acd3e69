package router

import (
	"context"
	"strings"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// systemRoot is the first level of the topics by which the gateway tells of itself. Wildcards do not match it, and clients
// cannot publish below it.
const systemRoot = "$SYS"

// SystemValue is something that the gateway tells of itself, under a topic below "$SYS".
type SystemValue struct {
	Topic string // as MQTT writes it
	Text  string
}

// system are the values that Router.Tell was given.
type system struct{ values func() []SystemValue }

// Tell has the router publish values at an interval, in the default vhost, to those who subscribe to them and may read them,
// until it closes. Who subscribes gets the present ones first, like retained messages. Nothing is asked for while nobody is
// subscribed. It is called once, before sessions begin.
func (r *Router) Tell(every time.Duration, values func() []SystemValue) {
	r.system = system{values}
	r.goFunc(func(ctx context.Context) {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if r.subs.system.Load() > 0 {
					r.tell()
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// tell publishes the present values.
func (r *Router) tell() {
	var w outbox.Batch
	defer w.Flush()
	for _, m := range r.systemMessages() {
		for _, sub := range r.subs.match(m.To, nil) {
			switch {
			case sub.share == nil && r.auth.Authorize(sub.session.Principal, ActionRead, m.To) != nil:
			case sub.live(m, &w):
				r.Stats.Delivered.Add(1)
			default:
				r.Stats.Drop(DropSlowConsumer, 1)
			}
		}
	}
}

func (r *Router) systemMessages() []*Message {
	now := time.Now().UnixMilli()
	values := r.system.values()
	out := make([]*Message, 0, len(values))
	for _, v := range values {
		to, err := ParseMQTTTopic(DefaultVhost, v.Topic)
		if err != nil || !strings.HasPrefix(v.Topic, systemRoot+"/") {
			continue // a queue can have a name that no topic has
		}
		out = append(out, &Message{To: to, Body: []byte(v.Text), Priority: DefaultPriority, TimestampMs: now, ContentType: "text/plain",
			ID: MessageID{Session: SessionID{Boot: r.boot}, N: r.systemCount.Add(1)}})
	}
	return out
}

// systemRetained returns the present values that match a filter and that the session may read.
func (s *Session) systemRetained(f Filter) []*Message {
	if s.router.system.values == nil || f.vhost != DefaultVhost {
		return nil
	}
	var out []*Message
	for _, m := range s.router.systemMessages() {
		if f.Matches(m.To) && s.router.auth.Authorize(s.Principal, ActionRead, m.To) == nil {
			out = append(out, m)
		}
	}
	return out
}

// System reports whether the filter is for what the gateway tells of itself, which is never stored.
func (f Filter) System() bool {
	return f.kind == KindTopic && (f.name == systemRoot || strings.HasPrefix(f.name, systemRoot+"/"))
}

// Subscriptions returns how many filters have receivers: live subscriptions, and bindings.
func (r *Router) Subscriptions() int {
	r.bindMu.Lock()
	defer r.bindMu.Unlock()
	return r.subs.len() + len(r.bindings)
}
