package mqtt

import (
	"slices"
	"sync/atomic"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// feed turns what the router delivers for one subscription, or from a session's inbox, into PUBLISH packets.
type feed struct {
	conn   *conn
	source *router.Subscription
	inbox  bool // the options are those of all subscriptions that match
	topic  bool // of a shared group: what it may store are messages of topics
	closed atomic.Bool

	opening bool             // before SUBACK; under the connection's lock, like
	backlog []waitingMessage // what came meanwhile

	opt atomic.Pointer[feedOptions]
}

// feedOptions are those of the subscription; a later SUBSCRIBE may change them.
type feedOptions struct {
	qos    byte
	asIs   bool  // retain as published
	ids    []int // its identifier, if it has one
	shared bool  // a packet of QoS 0 is the same for all such subscribers
}

// set takes the options of a subscription.
func (fd *feed) set(s *subscription) {
	o := &feedOptions{qos: s.qos, asIs: s.asIs, shared: s.id == 0 && fd.conn.aliasMax == 0 && !fd.opening}
	if s.id > 0 {
		o.ids = []int{s.id} // [MQTT-3.3.4-5]
	}
	fd.opt.Store(o)
}

var _ router.Receiver = (*feed)(nil)

// Live sends a message that is kept nowhere. With QoS 0 it takes no lock but the outbox's and allocates nothing; with QoS 1
// and 2 the window bounds what is under way, and a bounded queue what waits for it.
func (fd *feed) Live(m *router.Message, w *outbox.Batch) bool {
	if fd.closed.Load() {
		return true // the client has unsubscribed meanwhile: nothing was lost
	}
	c, o := fd.conn, fd.opt.Load()
	if o.shared && m.ExpiresUnixMs == 0 && min(o.qos, qosOf(m)) == 0 { // [MQTT-4.3.1-1]
		return fd.share(m, o, w)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return true
	}
	s := o.options(m)
	if fd.topic {
		s.member = fd
	}
	if fd.opening {
		return fd.keepBack(waitingMessage{message: m, options: s})
	}
	if s.qos == 0 { // [MQTT-3.3.4-10]
		_, sent := c.sendLive(m, 0, s, w)
		return sent || c.ending.Load() != nil
	}
	q := &c.window.queue
	if len(q.items) == 0 && c.window.open() && c.sendTracked(m, s, w) {
		return true
	}
	if q.full(m.Size(), &c.server.opt) {
		return false
	}
	q.push(waitingMessage{message: m, options: s})
	if q.long(&c.server.opt) {
		w.Slow(c)
	}
	return true
}

// keepBack has a message wait until the client has SUBACK and the retained messages; with mu held.
func (fd *feed) keepBack(x waitingMessage) bool {
	c := fd.conn
	waits := waitQueue{items: fd.backlog}
	for i := range fd.backlog {
		waits.bytes += fd.backlog[i].message.Size()
	}
	if waits.full(x.message.Size(), &c.server.opt) {
		return false
	}
	fd.backlog = append(fd.backlog, x)
	return true
}

// opened lets the feed go on behind SUBACK: the retained messages come first, then what came meanwhile.
func (fd *feed) opened(s *subscription, retained []*router.Message) {
	c := fd.conn
	c.mu.Lock()
	for _, m := range retained { // [MQTT-3.3.1-8]
		c.window.queue.pushKept(waitingMessage{message: m, options: sendOptions{qos: min(s.qos, qosOf(m)), retain: true, ids: fd.opt.Load().ids}})
	}
	for _, x := range fd.backlog {
		if !slices.Contains(retained, x.message) { // else it is there already
			c.window.queue.push(x)
		}
	}
	fd.backlog = nil
	next := c.pump(&c.batch)
	fd.opening = false
	fd.set(s)
	next.feeds = append(next.feeds, c.paused...)
	c.paused = nil
	c.mu.Unlock()
	resume(next, &c.batch)
}

// options are how a message goes to this subscription: with the lower QoS of the two [MQTT-3.8.4-8], and as a retained one
// only if the subscription wants to know [MQTT-3.3.1-12] [MQTT-3.3.1-13].
func (o *feedOptions) options(m *router.Message) sendOptions {
	return sendOptions{qos: min(o.qos, qosOf(m)), retain: o.asIs && m.Has(router.FlagRetain), ids: o.ids}
}

// share sends a whole packet that all such subscribers share.
func (fd *feed) share(m *router.Message, o *feedOptions, w *outbox.Batch) bool {
	c := fd.conn
	b := whole(m, c.version, o.asIs && m.Has(router.FlagRetain))
	if c.maxPacket > 0 && len(b) > c.maxPacket { // [MQTT-3.1.2-25]
		c.dropTooLarge()
		return true
	}
	buf, ok := c.out.Begin(len(b))
	if !ok {
		c.out.End(w, buf)
		return c.ending.Load() != nil // not slow, but leaving
	}
	c.out.EndShared(w, buf, b)
	return true
}

// Stored sends a message that the client must acknowledge, or that is settled once it is written if the subscription has
// QoS 0.
func (fd *feed) Stored(d *router.Delivery, w *outbox.Batch) bool {
	c := fd.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || fd.closed.Load() {
		return false
	}
	if fd.opening || c.durable != nil && c.durable.held {
		c.paused = append(c.paused, fd)
		return false
	}
	if fd.inbox {
		return c.durable.receive(fd, d, w)
	}
	// What a queue holds is persistent, whoever sent it.
	m, o := d.Message, fd.opt.Load()
	s := sendOptions{qos: o.qos, ids: o.ids}
	if fd.topic {
		s = o.options(m) // [MQTT-4.8.2-3]
	}
	if s.qos == 0 {
		return fd.sendUntracked(d, s, w)
	}
	if !c.window.open() || len(c.window.queue.items) > 0 {
		c.waiting = append(c.waiting, fd) // once: the router gives it nothing before Resume
		return false
	}
	f := c.window.take(0)
	f.qos, f.delivery = s.qos, d
	s.dup = d.Redelivered() // [MQTT-3.3.1-1]
	end, sent := c.send(m, f.id, s, w)
	if end == 0 {
		delete(c.window.flight, f.id)
		c.window.lastID = f.id - 1
	}
	return fd.handled(d, end, sent)
}

// sendUntracked sends a stored message with QoS 0: it is settled once its bytes are with the kernel.
func (fd *feed) sendUntracked(d *router.Delivery, s sendOptions, w *outbox.Batch) bool {
	end, sent := fd.conn.send(d.Message, 0, s, w)
	if end > 0 {
		fd.conn.unwritten = append(fd.conn.unwritten, unwritten{end: end, delivery: d})
	}
	return fd.handled(d, end, sent)
}

// handled notes what a send came to; with mu held. What is too large for the client never will be smaller
// [MQTT-3.1.2-25].
func (fd *feed) handled(d *router.Delivery, end uint64, sent bool) bool {
	c := fd.conn
	switch {
	case !sent:
		c.paused = append(c.paused, fd)
	case end == 0:
		c.rejectLater(d)
	}
	return sent
}

// unsent is a message that ends without having been sent.
type unsent struct {
	delivery *router.Delivery
	tooLarge bool // for the client; else the client has it, or asks for it no more
}

// settleLater settles a message from another goroutine: the router must not be called from within its own call.
func (c *conn) settleLater(d *router.Delivery) { c.endLater(unsent{delivery: d}) }

// rejectLater is settleLater for one that is larger than the client takes.
func (c *conn) rejectLater(d *router.Delivery) { c.endLater(unsent{delivery: d, tooLarge: true}) }

func (c *conn) endLater(u unsent) {
	c.unsent = append(c.unsent, u)
	if c.settling {
		return
	}
	c.settling = true
	c.tasks.Go(c.settleUnsent)
}

func (c *conn) settleUnsent() {
	var w outbox.Batch
	defer w.Flush()
	for {
		c.mu.Lock()
		all := c.unsent
		c.unsent = nil
		if len(all) == 0 {
			c.settling = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, u := range all {
			// An error means that the mailbox has it back: the session ended meanwhile.
			if u.tooLarge {
				_ = u.delivery.RejectTooLarge(&w)
			} else {
				_ = u.delivery.Ack(&w, nil)
			}
		}
	}
}

// unwritten is a stored message of QoS 0 whose bytes wait in the outbox.
type unwritten struct {
	end      uint64
	delivery *router.Delivery
}

// Written settles what was sent with QoS 0. The writer goroutine calls it.
func (c *conn) Written(total uint64) {
	c.server.Stats.BytesSent.Add(total - c.sentBytes)
	c.sentBytes = total
	c.mu.Lock()
	n := 0
	for n < len(c.unwritten) && c.unwritten[n].end <= total {
		n++
	}
	written := c.unwritten[:n]
	if c.unwritten = c.unwritten[n:]; len(c.unwritten) == 0 {
		c.unwritten = nil
	}
	c.mu.Unlock()
	for _, u := range written {
		_ = u.delivery.Ack(&c.wakes, nil) // an error means that the mailbox has it back: the session ended meanwhile
	}
	c.wakes.Flush()
}

// Drained has go on what the outbox had no room for. The writer goroutine calls it.
func (c *conn) Drained() {
	c.mu.Lock()
	if c.durable != nil {
		c.durable.sendReady(&c.wakes)
	}
	next := c.pump(&c.wakes)
	next.feeds = append(next.feeds, c.paused...)
	c.paused = nil
	c.mu.Unlock()
	resume(next, &c.wakes)
	c.wakes.Flush()
}
