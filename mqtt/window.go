package mqtt

import (
	"maps"
	"slices"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// window is what the client was sent with QoS 1 or 2 and has not completed, and what waits for a place there. Its packet
// identifiers are the gateway's own: those of the client's packets are another space (MQTT 5 section 2.2.1).
type window struct {
	max      int // the client's receive maximum, or ours
	flight   map[uint16]*flight
	finished int // of those: completed by the client
	lastID   uint16
	queue    waitQueue
	brake    brake
}

// flight is one message that the client has not completed [MQTT-3.10.4-3].
type flight struct {
	id       uint16
	qos      byte
	released bool             // PUBREC came: PUBREL is sent, or about to be
	saving   bool             // must not be sent before the session's record has it
	delivery *router.Delivery // nil: the message is kept nowhere else
	seq      uint64           // of the delivery, in the session's inbox
	finished bool             // PUBCOMP came
	gone     bool             // the session's inbox has it no more
	options  sendOptions
	message  *router.Message
}

// sendOptions are what a subscription makes of a message.
type sendOptions struct {
	qos    byte
	retain bool
	dup    bool // [MQTT-4.3.2-2] [MQTT-4.3.3-2]
	ids    []int
	member *feed // of a shared group that others may take it over from
}

// waiting is a message that waits for a place in the window, or for room in the outbox.
type waitingMessage struct {
	message *router.Message
	options sendOptions
	kept    bool // by someone else
}

// waitQueue is bounded by the number and the bytes of messages.
type waitQueue struct {
	items []waitingMessage
	kept  int // of items
	bytes int // of the others
}

func (q *waitQueue) reset() { *q = waitQueue{} }

func (q *waitQueue) push(w waitingMessage) {
	q.items = append(q.items, w)
	q.bytes += w.message.Size()
}

// pushKept adds a message that is in memory anyway, and counts against no bound.
func (q *waitQueue) pushKept(w waitingMessage) {
	w.kept = true
	q.items = append(q.items, w)
	q.kept++
}

// full reports whether one more message of a size is too much.
func (q *waitQueue) full(size int, o *Options) bool {
	return len(q.items)-q.kept >= o.MaxQueued || q.bytes+size > o.MaxQueuedBytes
}

// long reports whether publishers are to wait, and short whether they may go on.
func (q *waitQueue) long(o *Options) bool {
	return len(q.items) > o.MaxQueued/8 || q.bytes > o.MaxQueuedBytes/8
}

func (q *waitQueue) short(o *Options) bool {
	return len(q.items) <= o.MaxQueued/16 && q.bytes <= o.MaxQueuedBytes/16
}

func (q *waitQueue) pop() {
	if q.items[0].kept {
		q.kept--
	} else {
		q.bytes -= q.items[0].message.Size()
	}
	q.items[0] = waitingMessage{}
	if q.items = q.items[1:]; len(q.items) == 0 {
		q.items = nil
	}
}

// open reports whether one more message may be sent [MQTT-4.9.0-2]. What the client has completed does not count, though its
// identifier is in use until the store has forgotten the message: after a crash the inbox may give older messages before it
// comes to that one.
func (w *window) open() bool {
	return len(w.flight)-w.finished < w.max && len(w.flight) < 65535
}

// remove gives back the place and the identifier of a flight.
func (w *window) remove(f *flight) {
	delete(w.flight, f.id)
	if f.finished {
		w.finished--
	}
}

// find returns what is under way of the session's inbox with a sequence, which the client has not completed or the inbox not forgotten.
func (w *window) find(seq uint64) *flight {
	for _, f := range w.flight {
		if f.seq == seq {
			return f
		}
	}
	return nil
}

// take reserves a packet identifier: the wanted one if it is free, else the next [MQTT-2.2.1-4].
func (w *window) take(wanted uint16) *flight {
	id := wanted
	if _, used := w.flight[id]; id == 0 || used {
		for {
			w.lastID++
			if _, used := w.flight[w.lastID]; w.lastID != 0 && !used {
				break
			}
		}
		id = w.lastID
	}
	f := &flight{id: id} // [MQTT-4.3.2-1] [MQTT-4.3.3-1]
	if w.flight == nil {
		w.flight = map[uint16]*flight{}
	}
	w.flight[id] = f
	return f
}

// send appends a PUBLISH to the outbox; with mu held, since identifiers and aliases must leave in the order in which they
// are given. Sent is false if there is no room. A message that is larger than the client takes is left out
// [MQTT-3.1.2-25]: then sent is true, and the number of bytes is 0.
func (c *conn) send(m *router.Message, id uint16, s sendOptions, w *outbox.Batch) (end uint64, sent bool) {
	o := outgoing{version: c.version, qos: s.qos, dup: s.dup, retain: s.retain, id: id, topic: m.To.MQTTText(), ids: s.ids}
	if c.version == v5 && m.ExpiresUnixMs > 0 { // [MQTT-3.3.2-6]
		left := max(m.ExpiresUnixMs-time.Now().UnixMilli(), 0)
		o.expires, o.expirySec = true, uint32(min((left+999)/1000, 1<<32-1))
	}
	fresh := c.alias(&o, m)
	o.measure(m)
	if c.maxPacket > 0 && o.size() > c.maxPacket {
		return 0, true
	}
	buf, ok := c.out.Begin(o.size())
	if !ok {
		c.out.End(w, buf)
		return 0, false
	}
	if fresh {
		c.sentAliases[m.To] = o.alias
	}
	return c.out.EndShared(w, o.appendHead(buf), o.tail), true
}

// sendLive is send for a message that is kept nowhere else.
func (c *conn) sendLive(m *router.Message, id uint16, s sendOptions, w *outbox.Batch) (end uint64, sent bool) {
	end, sent = c.send(m, id, s, w)
	if sent && end == 0 {
		c.dropTooLarge()
	}
	return end, sent
}

// dropTooLarge counts a message that is kept nowhere else and larger than the client takes.
func (c *conn) dropTooLarge() { c.server.opt.Router.Stats.Drop(router.DropTooLarge, 1) }

// alias uses a topic alias if the client takes them, and reports whether the packet sets a new one: then it carries the
// topic as well [MQTT-3.3.2-11] [MQTT-3.3.2-7].
func (c *conn) alias(o *outgoing, m *router.Message) (fresh bool) {
	if c.aliasMax == 0 { // [MQTT-3.1.2-27]
		return false
	}
	if n, known := c.sentAliases[m.To]; known {
		o.alias, o.topic = n, ""
		return false
	}
	if len(c.sentAliases) >= c.aliasMax { // [MQTT-3.1.2-26]
		return false
	}
	if c.sentAliases == nil {
		c.sentAliases = map[router.Address]uint16{}
	}
	o.alias = uint16(len(c.sentAliases) + 1)
	return true
}

// sendTracked sends a message with QoS 1 or 2 that is kept nowhere else; with mu held.
func (c *conn) sendTracked(m *router.Message, s sendOptions, w *outbox.Batch) bool {
	f := c.window.take(0)
	f.qos = s.qos
	if s.member != nil {
		f.message, f.options = m, s
	}
	end, sent := c.sendLive(m, f.id, s, w)
	if end == 0 { // no room, or too large for the client
		delete(c.window.flight, f.id)
		c.window.lastID = f.id - 1
	}
	return sent
}

// next is what may go on since the window is open, or the queue short: to be resumed without the lock.
type next struct {
	feeds []*feed
	held  []func(*outbox.Batch) // confirmations
}

// pump sends what waits, as far as the window and the outbox allow, and returns what may go on; with mu held.
func (c *conn) pump(w *outbox.Batch) (n next) {
	if c.closed {
		return n
	}
	c.sendWaiting(w)
	if c.window.queue.short(&c.server.opt) {
		n.held = c.window.brake.release()
	}
	if len(c.waiting) > 0 && len(c.window.queue.items) == 0 && c.window.open() {
		n.feeds = c.waiting
		c.waiting = nil
	}
	return n
}

func (c *conn) sendWaiting(w *outbox.Batch) {
	q := &c.window.queue
	for len(q.items) > 0 {
		x := &q.items[0]
		switch {
		case x.message.ExpiresUnixMs > 0 && x.message.Expired(time.Now().UnixMilli()): // [MQTT-3.3.2-5]
			c.server.opt.Router.Stats.Drop(router.DropExpired, 1)
		case x.options.qos == 0: // [MQTT-4.9.0-3]
			if _, sent := c.sendLive(x.message, 0, x.options, w); !sent {
				return
			}
		case !c.window.open() || !c.sendTracked(x.message, x.options, w):
			return
		}
		q.pop()
		c.window.brake.progress++
	}
}

// resume has feeds go on, and publishers; without locks.
func resume(n next, w *outbox.Batch) {
	for _, fd := range n.feeds {
		fd.source.Resume(w)
	}
	for _, confirm := range n.held {
		confirm(w)
	}
}

// puback completes a delivery of QoS 1 [MQTT-4.3.2-3].
func (c *conn) puback(a acknowledgement) error {
	c.mu.Lock()
	f := c.window.flight[a.id]
	if f == nil || f.saving && f.qos == 1 { // acknowledged twice, or on the connection before
		c.mu.Unlock()
		return nil
	}
	if f.qos != 1 {
		c.mu.Unlock()
		return faulty(protocolError, "PUBACK came for packet identifier %d, which has QoS %d", a.id, f.qos)
	}
	// The session's record is not written for this: should it name the message after a crash, and the inbox not hold it any
	// more, that does no harm; see forgetBefore.
	delete(c.window.flight, a.id)
	feeds := c.pump(&c.batch)
	c.mu.Unlock()
	c.settle(f.delivery, a.code, nil)
	resume(feeds, &c.batch)
	return nil
}

// settle tells the mailbox that the client took a message, or why not: MQTT 5 says that one which was refused is not to be
// sent again either.
func (c *conn) settle(d *router.Delivery, code reason, done router.Done) {
	if d == nil {
		return
	}
	var err error
	if code >= unspecified { // [MQTT-4.4.0-2]
		err = d.Reject("the client refused it", &c.batch, done) // [MQTT-4.8.2-6]
	} else {
		err = d.Ack(&c.batch, done)
	}
	if err != nil && done != nil { // the mailbox has it back: the session ended meanwhile
		done(router.Stored{}, err, &c.batch)
	}
}

// pubrec is the client's word that it has a message of QoS 2 [MQTT-4.3.3-3].
func (c *conn) pubrec(a acknowledgement) error {
	c.mu.Lock()
	f := c.window.flight[a.id]
	switch {
	case f == nil:
		code := idNotFound // [MQTT-3.6.2-1]
		if c.version != v5 {
			code = success
		}
		c.answer(&c.batch, typePubrel, a.id, code)
		c.mu.Unlock()
		return nil
	case f.qos != 2:
		c.mu.Unlock()
		return faulty(protocolError, "PUBREC came for packet identifier %d, which has QoS %d", a.id, f.qos)
	case a.code >= unspecified: // [MQTT-4.3.3-4] ends here
		delete(c.window.flight, a.id)
		c.sessionChanged()
		feeds := c.pump(&c.batch)
		c.mu.Unlock()
		c.settle(f.delivery, a.code, nil)
		resume(feeds, &c.batch)
		return nil
	case f.saving:
		c.mu.Unlock()
		return faulty(protocolError, "PUBREC came for packet identifier %d before its PUBLISH was sent", a.id)
	}
	f.released = true
	if f.seq != 0 {
		c.durable.awaitReleased(f) // PUBREL follows when the session's record says so
		c.mu.Unlock()
		return nil
	}
	d := f.delivery
	f.delivery, f.message = nil, nil // the message is the client's now; only its identifier is in use
	c.answer(&c.batch, typePubrel, a.id, success)
	c.mu.Unlock()
	c.settle(d, success, nil)
	return nil
}

// pubcomp ends a delivery of QoS 2 [MQTT-4.3.3-5].
func (c *conn) pubcomp(a acknowledgement) error {
	c.mu.Lock()
	f := c.window.flight[a.id]
	if f == nil || f.finished {
		c.mu.Unlock()
		return nil
	}
	if f.qos != 2 || !f.released {
		c.mu.Unlock()
		return faulty(protocolError, "PUBCOMP came for packet identifier %d, which was not released", a.id)
	}
	if f.seq != 0 {
		c.mu.Unlock()
		c.completeStored(f)
		return nil
	}
	delete(c.window.flight, a.id)
	feeds := c.pump(&c.batch)
	c.mu.Unlock()
	resume(feeds, &c.batch)
	return nil
}

// leftOver gives, by member, what a live shared group chose this client for and it has not acknowledged; with mu held. The
// order is that in which it came.
func (w *window) leftOver() map[*feed][]*router.Message {
	var out map[*feed][]*router.Message
	add := func(m *router.Message, s sendOptions) {
		if s.member == nil || s.qos == 0 {
			return
		}
		if out == nil {
			out = map[*feed][]*router.Message{}
		}
		out[s.member] = append(out[s.member], m)
	}
	for _, f := range w.inOrder() {
		add(f.message, f.options)
	}
	for _, x := range w.queue.items {
		add(x.message, x.options)
	}
	return out
}

// inOrder lists what is under way, oldest first: identifiers are given out in ascending order, around the end of their range.
func (w *window) inOrder() []*flight {
	fs := slices.Collect(maps.Values(w.flight))
	slices.SortFunc(fs, func(a, b *flight) int { return int(a.id-w.lastID-1) - int(b.id-w.lastID-1) })
	return fs
}
