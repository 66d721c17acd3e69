package router

import (
	"context"
	"fmt"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// Will is a message that is published when a client is gone without having said so.
type Will struct {
	Message *Message
	// Delay is how long after the connection's end; a session that ends earlier publishes it then [MQTT-3.1.3-9].
	Delay time.Duration
	// Expiry is that of the message, from its publication; 0: none.
	Expiry time.Duration
}

// due returns the message as it is published now.
func (w *Will) due() *Message {
	return w.Message.With(func(m *Message) {
		if w.Expiry > 0 {
			m.ExpiresUnixMs = time.Now().Add(w.Expiry).UnixMilli()
		}
	})
}

// CheckWill reports why the session's principal may not publish m, nil if it may.
func (s *Session) CheckWill(m *Message) error { return s.mayPublish(m) }

// PublishWill publishes a will for the session's principal, also while the session ends. It does not wait for the store.
func (s *Session) PublishWill(ctx context.Context, w *Will) error {
	if err := s.mayPublish(w.Message); err != nil {
		s.router.Stats.Refused.Add(1)
		return err
	}
	if s.remote != nil {
		return s.remote.publishWill(ctx, w)
	}
	return s.router.publishFor(ctx, s.Principal, s.Vhost, w.due())
}

// publishFor publishes what was authorised before, from no session that exists.
func (r *Router) publishFor(ctx context.Context, p *Principal, vhost string, m *Message) error {
	if m.To.Reserved() {
		return &Error{Op: "publish", Class: Denied, Text: fmt.Sprintf("%s belongs to the gateway", m.To.MQTTText())}
	}
	r.mu.Lock()
	r.nextID++
	s := &Session{ID: SessionID{Boot: r.boot, N: r.nextID}, Principal: p, Vhost: vhost, router: r, routes: map[Address]*route{}}
	r.mu.Unlock()
	rt, err := s.route(ctx, m.To)
	if err != nil {
		return err
	}
	s.stamp(m)
	var w outbox.Batch
	defer w.Flush()
	if _, err := s.storeAll(rt, m, ignoreDone); err != nil {
		return err
	}
	r.Stats.Published.Add(1)
	s.deliverLive(rt, m, &w)
	return nil
}

// willPatience is how long the end of a connection waits for the store to forget its will.
const willPatience = 5 * time.Second

// keepWill has the stored will of a session that ends with its connection forgotten then.
func (s *Session) keepWill(x *DurableSession) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.will = x
	}
	s.mu.Unlock()
	if closed {
		x.forgetWill()
	}
}

// forgetWill ends what keepWill began: the will is published by now, or is not to be.
func (x *DurableSession) forgetWill() {
	ctx, cancel := context.WithTimeout(context.Background(), willPatience)
	defer cancel()
	x.dropWill(ctx)
}

// dropWill removes the record of a will that stands without a session; where the store cannot, it is tried again.
func (x *DurableSession) dropWill(ctx context.Context) {
	d := x.router.durables
	x.will = nil
	err := x.putAndWait(ctx, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.all, x.key)
	} else {
		x.rec.Will, x.rec.WillAtMs, x.rec.Online, x.rec.ExpiresAtMs = nil, 0, false, time.Now().UnixMilli()+retryMs
		d.schedule(x)
	}
	x.release()
}
