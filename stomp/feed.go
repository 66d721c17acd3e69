package stomp

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// feed is one element of a subscription: what the router delivers from one queue, inbox or topic filter becomes MESSAGE
// frames. A frame is a prefix that is the subscription's own, a few headers of the one delivery, and a tail that all
// subscribers of the same version share.
type feed struct {
	sub    *subscription
	source *router.Subscription
	filter router.Filter
	prefix []byte
	tail   tailForm
	closed atomic.Bool
	offer  atomic.Pointer[router.Offer] // nil unless retained messages are being sent

	// The writer goroutine's: the last delivery of auto mode that was written, and how many are not settled yet.
	settled  *router.Delivery
	settling int
}

var _ router.Receiver = (*feed)(nil)

// prepare makes the prefix; before deliveries start. Stores tells that they are to be settled.
func (fd *feed) prepare(p place, stores bool) {
	s, c := fd.sub, fd.sub.conn
	fd.tail = makeTailForm(c.version, c.dialect)
	b := frame.AppendCommand(nil, frame.MESSAGE)
	if s.hasID {
		b = frame.AppendHeader(b, c.version, "subscription", s.id)
	}
	a, concrete := p.filter.Address()
	switch {
	case p.shown != "":
		b = frame.AppendHeader(b, c.version, "destination", p.shown)
		fd.tail = fd.tail.with(destinationGiven)
	case a.Kind() == router.KindQueue:
		b = frame.AppendHeader(b, c.version, "destination", a.Text(p.style))
		fd.tail = fd.tail.with(destinationQueue)
	case concrete:
		b = frame.AppendHeader(b, c.version, "destination", a.Text(p.style))
		fd.tail = fd.tail.with(destinationGiven)
	case p.style == router.StyleSlash:
		fd.tail = fd.tail.with(destinationSlash)
	default:
		fd.tail = fd.tail.with(destinationDot)
	}
	if !stores {
		if c.dialect.rabbit() {
			b = append(b, "redelivered:false\n"...)
		}
		if s.mode != ackAuto {
			fd.tail |= withoutID // each MESSAGE gets one that says that nothing is to be settled
		}
	}
	fd.prefix = b
}

// Live appends a message that is kept nowhere. In auto mode it takes no lock but the outbox's and allocates nothing.
func (fd *feed) Live(m *router.Message, w *outbox.Batch) bool {
	if fd.closed.Load() {
		return true // the client has unsubscribed meanwhile: nothing was lost
	}
	if o := fd.offer.Load(); o != nil && m.Has(router.FlagRetain) {
		return o.Live(m, func() bool { return fd.live(m, w) }) || fd.overrun()
	}
	return fd.live(m, w) || fd.overrun()
}

// live reports whether there was room.
func (fd *feed) live(m *router.Message, w *outbox.Batch) bool {
	c := fd.sub.conn
	shared := m.Encoded(fd.tail.key(), fd.tail.build())
	buf, ok := c.out.Begin(len(fd.prefix) + len(shared) + ackBytes)
	if !ok {
		c.out.End(w, buf)
		return false
	}
	buf = append(buf, fd.prefix...)
	if fd.tail&withoutID != 0 {
		buf = appendLiveID(buf, m.ID, c.version)
	}
	c.out.EndShared(w, buf, shared)
	return true
}

// overrun is what happens to a live message that the outbox has no room for: false counts it as dropped.
func (fd *feed) overrun() bool {
	return fd.sub.conn.ending.Load() != nil // not slow, but leaving
}

// Stored appends a message that is to be settled: by the client, or in auto mode once it is written.
func (fd *feed) Stored(d *router.Delivery, w *outbox.Batch) bool {
	s, c, m := fd.sub, fd.sub.conn, d.Message
	if o := fd.offer.Load(); o != nil && m.Has(router.FlagRetain) {
		o.Superseded(m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || fd.closed.Load() {
		return false
	}
	var shared []byte
	if len(m.Body) >= sharedBytes {
		shared = m.Encoded(fd.tail.key(), fd.tail.build()) // rather than to copy it into the outbox
	}
	buf, ok := c.out.Begin(len(fd.prefix) + m.Size() + ackBytes)
	if !ok {
		c.out.End(w, buf)
		c.paused = append(c.paused, fd) // once: the router gives it nothing before Resume
		return false
	}
	h := c.hold(fd, d)
	buf = append(buf, fd.prefix...)
	buf = fd.appendDelivery(buf, h, d)
	if shared == nil {
		buf = appendTail(buf, m, fd.tail)
	}
	h.end = c.out.EndShared(w, buf, shared)
	if s.mode == ackAuto {
		s.unwritten++
		c.unwritten.push(h)
	}
	return true
}

const (
	// sharedBytes is the body size from which a stored message's tail is made apart and given to the outbox by reference.
	sharedBytes = 16 << 10
	// ackBytes is more than the headers of one delivery take.
	ackBytes = 256
)

// appendDelivery appends the headers of one delivery.
func (fd *feed) appendDelivery(b []byte, h *held, d *router.Delivery) []byte {
	c := fd.sub.conn
	if fd.sub.mode != ackAuto && c.version >= frame.V12 {
		b = append(b, "ack:"...)
		b = appendAckID(b, h.id, h.tag)
		b = append(b, '\n')
	}
	redelivered := d.Redelivered() || d.Count > 1
	switch {
	case c.dialect.rabbit():
		b = append(b, "redelivered:"...)
		b = strconv.AppendBool(b, redelivered)
		b = append(b, '\n')
	case redelivered: // ActiveMQ leaves it out when it is false
		b = append(b, "redelivered:true\n"...)
	}
	b = frame.AppendIntHeader(b, "x-delivery-count", int64(d.Count))
	return frame.AppendIntHeader(b, "JMSXDeliveryCount", int64(d.Count))
}

// appendLiveID gives a live message in a client ack mode an id of its own kind: an ACK of it is accepted, for its client
// means well, and has nothing to settle.
func appendLiveID(b []byte, id router.MessageID, v frame.Version) []byte {
	b = append(b, "message-id:"...)
	b = appendAckID(b, id, liveTag)
	if v >= frame.V12 {
		b = append(b, "\nack:"...)
		b = appendAckID(b, id, liveTag)
	}
	return append(b, '\n')
}

// Written settles what auto mode waited for: the bytes are with the kernel. The writer goroutine calls it.
func (c *conn) Written(total uint64) {
	if c.beat != nil {
		c.beat.writtenMs.Store(time.Now().UnixMilli())
	}
	feeds := c.takeWritten(total)
	if len(feeds) == 0 {
		return
	}
	for _, fd := range feeds {
		// All that the feed was given before was written before. An error means that the mailbox has it back: the session
		// ended meanwhile.
		_ = fd.settled.AckUpTo(&c.wakes, nil)
	}
	c.mu.Lock()
	for _, fd := range feeds {
		fd.sub.unwritten -= fd.settling
		fd.settled, fd.settling = nil, 0
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	c.wakes.Flush()
}

// takeWritten takes the deliveries of auto mode whose bytes are written, and gives the feeds that they belong to.
func (c *conn) takeWritten(total uint64) []*feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written = total
	c.feeds = c.feeds[:0]
	for h := c.unwritten.head; h != nil && h.end <= total; h = c.unwritten.head {
		c.unwritten.pop()
		if h.feed.settled == nil {
			c.feeds = append(c.feeds, h.feed)
		}
		h.feed.settled = h.delivery
		h.feed.settling++
		h.recycle()
	}
	return c.feeds
}

// Drained has the feeds go on that were refused, and who waits for room. The writer goroutine calls it.
func (c *conn) Drained() {
	c.mu.Lock()
	paused := c.paused
	c.paused = nil
	c.drained++
	c.changed.Broadcast()
	c.mu.Unlock()
	for _, fd := range paused {
		fd.source.Resume(&c.wakes)
	}
	c.wakes.Flush()
}
