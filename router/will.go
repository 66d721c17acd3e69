package router

import (
	"context"
	"crypto/rand"
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

// name gives the will's message an id: where a crash, or the loss of a node, has it published twice, what is stored of it is
// stored once.
func (w *Will) name() {
	if w.Message.DedupID == "" {
		w.Message = w.Message.With(func(m *Message) { m.DedupID = "will\x00" + rand.Text() })
	}
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

// PublishWill publishes a will for the session's principal, also while the session ends, and waits for the store. Close, which
// must come after, forgets what is stored of the will (ClaimOptions); where the store could not confirm, it is kept and the
// will published later.
func (s *Session) PublishWill(ctx context.Context, w *Will) error {
	if err := s.mayPublish(w.Message); err != nil {
		s.router.Stats.Refused.Add(1)
		return err
	}
	if s.remote != nil {
		return s.remote.publishWill(ctx, w)
	}
	err := s.router.publishFor(ctx, s.Principal, s.Vhost, w.due())
	if ClassOf(err) == Unavailable {
		s.postponeWill()
	}
	return err
}

// publishFor publishes what was authorised before, from no session that exists, and waits until it is stored, for a while: a
// record that says it is still to be published may be forgotten then.
func (r *Router) publishFor(ctx context.Context, p *Principal, vhost string, m *Message) error {
	err := r.publishNow(ctx, p, vhost, m)
	if err != nil && ClassOf(err) != Unavailable {
		r.Stats.Drop(DropUnpublishable, 1)
	}
	return err
}

func (r *Router) publishNow(ctx context.Context, p *Principal, vhost string, m *Message) error {
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
	stored := make(chan error, 1)
	pending, err := s.storeAll(rt, m, func(_ Stored, err error, _ *outbox.Batch) { stored <- err })
	if err != nil {
		return err
	}
	if pending {
		ctx, cancel := context.WithTimeout(ctx, willPatience)
		defer cancel()
		select {
		case err := <-stored:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return &Error{Op: "publish", Class: Unavailable, Text: "the store did not confirm the message", Err: context.Cause(ctx)}
		}
	}
	r.Stats.Published.Add(1)
	s.deliverLive(rt, m, &w) // not before: it may be tried again
	w.Flush()
	return nil
}

// willPatience is how long the end of a connection waits for the store to take its will, and to forget the record of it.
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

// takeWill returns the stored will, which Close does not forget then; nil if there is none.
func (s *Session) takeWill() *DurableSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.will
	s.will = nil
	return x
}

// postponeWill has the stored will published later, though the session ends.
func (s *Session) postponeWill() {
	if x := s.takeWill(); x != nil {
		d := x.router.durables
		d.mu.Lock()
		defer d.mu.Unlock()
		x.postpone()
		x.release()
	}
}

// awaitNode has the stored will wait until the session's node must have said what has become of the client.
func (s *Session) awaitNode() {
	if x := s.takeWill(); x != nil {
		x.awaitNode()
	}
}

// postpone has the will tried again soon; with the lock held.
func (x *DurableSession) postpone() {
	x.rec.Online, x.rec.WillAtMs = false, time.Now().UnixMilli()+retryMs
	x.rec.ExpiresAtMs = max(x.rec.ExpiresAtMs, x.rec.WillAtMs)
	x.router.durables.schedule(x)
}

// forgetWill ends what keepWill began: the will is published by now, or is not to be.
func (x *DurableSession) forgetWill() {
	ctx, cancel := context.WithTimeout(context.Background(), willPatience)
	defer cancel()
	x.dropWill(ctx)
}

// publishWill publishes the will of a durable session, and reports whether that has an end: where the store cannot confirm, the
// will stays to be tried again. Its record is changed after, by the caller: a crash between has it published twice, never not at
// all.
func (x *DurableSession) publishWill(ctx context.Context) bool {
	m := x.will.due()
	if x.principal != nil && x.router.auth.Authorize(x.principal, ActionWrite, m.To) != nil {
		x.router.Stats.Refused.Add(1)
	} else if err := x.router.publishFor(ctx, x.principal, x.key.vhost, m); err != nil {
		again := ClassOf(err) == Unavailable
		if !x.warned || !again {
			x.router.log.Warn("a will could not be published", "client_id", x.key.id, "topic", m.To.String(), "again", again, "error", err)
		}
		if x.warned = again; again {
			return false
		}
	}
	x.will, x.rec.Will, x.rec.WillAtMs = nil, nil, 0
	return true
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
