package ws

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// A lease is a message that was taken from a queue over HTTP: there is no
// connection whose end could give it back, so its time does. Until then it is
// settled by an address that only the taker knows, and only as the same user.
type lease struct {
	owner *caller
	id    string
	timer *time.Timer

	mu      sync.Mutex
	d       *router.Delivery
	over    bool
	arrived chan struct{} // closed with d
}

// leases are those of a server.
type leases struct {
	server *Server

	mu   sync.Mutex
	held map[string]*lease
	used int // held, waiting, or being settled
}

const (
	maxWait  = 2 * time.Minute
	maxLease = 12 * time.Hour
)

func (ls *leases) init(s *Server) { ls.server, ls.held = s, map[string]*lease{} }

// Live is not called: a queue stores.
func (l *lease) Live(*router.Message, *outbox.Batch) bool { return false }

// Stored takes the message.
func (l *lease) Stored(d *router.Delivery, _ *outbox.Batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.d = d
	close(l.arrived)
	return true
}

// giveUp returns what came, if anything did, and takes nothing any more.
func (l *lease) giveUp() *router.Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	return l.d
}

// apiNext answers with the next message of a queue, when there is one, or with
// 204 when the wait is over.
func (s *Server) apiNext(w http.ResponseWriter, r *http.Request, p *router.Principal) error {
	if err := known(r, "wait", "lease"); err != nil {
		return err
	}
	wait, err := duration(r, "wait", 0, maxWait)
	if err != nil {
		return err
	}
	period, err := duration(r, "lease", s.opt.Lease, maxLease)
	if err != nil {
		return err
	}
	// The request's own deadline, for the headers, would end the wait.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a recorder in a test has none
	l, err := s.leases.take(r, p, wait)
	if err != nil {
		return err
	}
	if l == nil {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	answer := l.describe(period)
	s.leases.hold(l, period)
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// describe is the answer to the taker.
func (l *lease) describe(period time.Duration) []byte {
	address := "/api/leases/" + l.id
	b := appendQuoted([]byte(`{"lease":`), l.id)
	b = strconv.AppendInt(append(b, `,"leaseMs":`...), period.Milliseconds(), 10)
	b = textMember(b, "ack", address+"/ack")
	b = textMember(b, "nack", address+"/nack")
	b = strconv.AppendInt(append(b, `,"message":{"count":`...), int64(l.d.Count), 10)
	b = strconv.AppendBool(append(b, `,"redelivered":`...), l.d.Redelivered() || l.d.Count > 1)
	return append(appendTail(append(b, ','), l.d.Message, router.StyleDot), "}\n"...)
}

// reserve counts a lease that is to be.
func (ls *leases) reserve() error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.used >= ls.server.opt.MaxLeases {
		return &apiError{code: router.Full.String(), text: "too many messages are taken over HTTP and not settled", retry: true, retryAfterMs: 1000}
	}
	ls.used++
	return nil
}

func (ls *leases) unreserve() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.used--
}

// take waits for a message of the queue in the path; nil: none came.
func (ls *leases) take(r *http.Request, p *router.Principal, wait time.Duration) (*lease, error) {
	queue, err := router.QueueAddress(router.DefaultVhost, r.PathValue("queue"))
	if err != nil {
		return nil, err
	}
	if err := ls.reserve(); err != nil {
		return nil, err
	}
	c, err := ls.server.connectHTTP(r, p)
	if err != nil {
		ls.unreserve()
		return nil, err
	}
	l := &lease{owner: c, id: rand.Text(), arrived: make(chan struct{})}
	if err := l.waitFor(r.Context(), queue, wait); err != nil || l.giveUp() == nil {
		ls.end(l)
		return nil, err
	}
	return l, nil
}

// waitFor returns when a message has come, or none will.
func (l *lease) waitFor(ctx context.Context, queue router.Address, wait time.Duration) error {
	s := l.owner.server
	opening, cancel := context.WithTimeout(ctx, operationTimeout)
	sub, err := l.owner.Subscribe(opening, router.SubscribeOptions{Filter: router.FilterOf(queue), Receiver: l, Credit: 1})
	cancel()
	if err != nil {
		return err
	}
	var w outbox.Batch
	sub.Start(&w)
	w.Flush()
	// What is in the store only is read by a goroutine: even who does not want to
	// wait gives it a moment.
	timer := time.NewTimer(max(wait, leastWait))
	defer timer.Stop()
	waiter := &waiting{stop: make(chan struct{})}
	s.register(waiter)
	defer s.forget(waiter)
	select {
	case <-l.arrived:
	case <-timer.C:
	case <-waiter.stop:
		err = errStopping
	case <-ctx.Done():
		err = errStopping // nobody reads it
	}
	if err != nil {
		if d := l.giveUp(); d != nil {
			_ = d.Undeliver(&w) // it never left; an error means that it is back already
			w.Flush()
		}
	}
	return err
}

// leastWait is how long a request waits that says nothing of it.
const leastWait = 100 * time.Millisecond

// waiting is a request that Drain ends.
type waiting struct {
	once sync.Once
	stop chan struct{}
}

func (w *waiting) tick(int64)   {}
func (w *waiting) depart(error) { w.once.Do(func() { close(w.stop) }) }
func (w *waiting) abort(error)  { w.depart(nil) }

// hold begins the lease's time.
func (ls *leases) hold(l *lease, period time.Duration) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.held[l.id] = l
	l.timer = time.AfterFunc(period, func() { ls.expire(l.id) })
}

// claim takes a lease out; nil: there is none, or not of this user.
func (ls *leases) claim(id, user string) *lease {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.held[id]
	if l == nil || l.owner.Principal.Name() != user {
		return nil
	}
	delete(ls.held, id)
	l.timer.Stop() // if it has fired already it finds nothing
	return l
}

// expire gives a message back whose taker has let its time pass.
func (ls *leases) expire(id string) {
	ls.mu.Lock()
	l := ls.held[id]
	delete(ls.held, id)
	ls.mu.Unlock()
	if l != nil {
		ls.server.Stats.LeasesExpired.Add(1)
		ls.end(l)
	}
}

// end gives back what is not settled.
func (ls *leases) end(l *lease) {
	l.giveUp()
	l.owner.leave()
	ls.unreserve()
}

// closeAll ends all leases: the server stops.
func (ls *leases) closeAll() {
	ls.mu.Lock()
	held := ls.held
	ls.held = map[string]*lease{}
	ls.mu.Unlock()
	for _, l := range held {
		l.timer.Stop()
		ls.end(l)
	}
}

// apiSettle acknowledges a message, gives it back, or prolongs its lease. It
// answers once that is stored.
func (s *Server) apiSettle(w http.ResponseWriter, r *http.Request, p *router.Principal) error {
	verb := r.PathValue("verb")
	parameters, ok := map[string][]string{"ack": nil, "nack": {"delay", "reject", "cause"}, "extend": {"lease"}}[verb]
	if !ok {
		return &apiError{code: router.NotFound.String(), text: "a lease has the addresses ack, nack and extend"}
	}
	if err := known(r, parameters...); err != nil {
		return err
	}
	settle, err := settlement(verb, r)
	if err != nil {
		return err
	}
	period, err := duration(r, "lease", s.opt.Lease, maxLease)
	if err != nil {
		return err
	}
	l := s.leases.claim(r.PathValue("lease"), p.Name())
	if l == nil {
		return &apiError{code: router.NotFound.String(), text: "there is no such lease, or not any more: the message was settled, or went back"}
	}
	if verb == "extend" {
		s.leases.hold(l, period)
		writeJSON(w, http.StatusOK, append(strconv.AppendInt([]byte(`{"ok":true,"leaseMs":`), period.Milliseconds(), 10), "}\n"...))
		return nil
	}
	defer s.leases.end(l)
	ctx, cancel := context.WithTimeout(s.life, operationTimeout)
	defer cancel()
	stored := make(chan error, 1)
	var b outbox.Batch
	if err := settle(l.d, &b, func(_ router.Stored, err error, _ *outbox.Batch) { stored <- err }); err != nil {
		return err
	}
	b.Flush()
	if err := await(ctx, stored); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, []byte("{\"ok\":true}\n"))
	return nil
}

// settlement is what a verb does to a delivery.
func settlement(verb string, r *http.Request) (func(*router.Delivery, *outbox.Batch, router.Done) error, error) {
	if verb != "nack" {
		return (*router.Delivery).Ack, nil
	}
	delay, err := duration(r, "delay", -1, maxNackDelay)
	if err != nil {
		return nil, err
	}
	cause := r.URL.Query().Get("cause")
	switch r.URL.Query().Get("reject") {
	case "", "false":
		return func(d *router.Delivery, w *outbox.Batch, done router.Done) error {
			return d.Nack(delay, cause, w, done)
		}, nil
	case "true":
		return func(d *router.Delivery, w *outbox.Batch, done router.Done) error { return d.Reject(cause, w, done) }, nil
	}
	return nil, mistake("reject must be true or false")
}
