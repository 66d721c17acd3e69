package stomp

import (
	"bytes"
	"strconv"
	"sync"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// held is a delivery in the client's hands. Those of a client ack mode are found by their message's id and are in their
// subscription's list; those of auto mode are in the connection's queue of what is not written yet.
type held struct {
	feed     *feed
	delivery *router.Delivery
	id       router.MessageID
	tag      uint64 // unique on the connection, ascending
	end      uint64 // the outbox's count of bytes behind the frame
	tx       *transaction

	prev, next *held // of the subscription, in order of delivery; next also of heldQueue
	same       *held // another delivery of the same message: of another subscription
}

var heldPool = sync.Pool{New: func() any { return &held{} }}

func (h *held) recycle() {
	*h = held{}
	heldPool.Put(h)
}

// heldQueue is first in, first out.
type heldQueue struct{ head, tail *held }

func (q *heldQueue) push(h *held) {
	if q.tail == nil {
		q.head = h
	} else {
		q.tail.next = h
	}
	q.tail = h
}

func (q *heldQueue) pop() {
	q.head = q.head.next
	if q.head == nil {
		q.tail = nil
	}
}

// liveTag is the tag of what has nothing to settle.
const liveTag = 0

// hold notes a delivery; with mu held.
func (c *conn) hold(fd *feed, d *router.Delivery) *held {
	c.lastTag++
	h := heldPool.Get().(*held)
	*h = held{feed: fd, delivery: d, id: d.Message.ID, tag: c.lastTag}
	if fd.sub.mode == ackAuto {
		return h
	}
	s := fd.sub
	if s.last == nil {
		s.first = h
	} else {
		s.last.next, h.prev = h, s.last
	}
	s.last = h
	if c.held == nil {
		c.held = map[router.MessageID]*held{}
	}
	h.same = c.held[h.id]
	c.held[h.id] = h
	c.holding++
	return h
}

// forget ends the client's claim on a delivery; with mu held.
func (c *conn) forget(h *held) {
	s := h.feed.sub
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		s.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		s.last = h.prev
	}
	if first := c.held[h.id]; first == h && h.same == nil {
		delete(c.held, h.id)
	} else if first == h {
		c.held[h.id] = h.same
	} else {
		for ; first.same != h; first = first.same {
		}
		first.same = h.same
	}
	if c.holding--; c.holding == 0 && c.lastTag > manyTags {
		c.held = nil // a map never gives memory back
		c.lastTag &= manyTags
	}
	h.recycle()
}

// manyTags is after how many deliveries the map of held ones is made anew when it is empty. It is a mask.
const manyTags = 1<<20 - 1

// appendAckID appends the id of one delivery: that of the message, and the tag.
func appendAckID(b []byte, id router.MessageID, tag uint64) []byte {
	b = id.AppendText(b)
	b = append(b, '-')
	return strconv.AppendUint(b, tag, 36)
}

// parseAckID reads an id of a message, with a tag or without.
func parseAckID(b []byte) (id router.MessageID, tag uint64, tagged, ok bool) {
	var parts [4]uint64
	n := 0
	for more := true; more; n++ {
		var part []byte
		part, b, more = bytes.Cut(b, []byte{'-'})
		if n == len(parts) || len(part) > 13 {
			return id, 0, false, false
		}
		v, err := strconv.ParseUint(string(part), 36, 64)
		if err != nil {
			return id, 0, false, false
		}
		parts[n] = v
	}
	id = router.MessageID{Session: router.SessionID{Boot: parts[0], N: parts[1]}, N: parts[2]}
	return id, parts[3], n == 4, n >= 3
}

// idHeaders are the headers that may name a delivery, by what each version says first. Clients that send back all headers
// of the MESSAGE (php-stomp) or use one where the other belongs (stomp-php) are understood as well.
func idHeaders(v frame.Version) [3]string {
	if v >= frame.V12 {
		return [...]string{"id", "ack", "message-id"} // STOMP 1.2 "ACK"
	}
	return [...]string{"message-id", "ack", "id"}
}

// acknowledged finds the delivery that an ACK or NACK names; with mu held. Live tells that it names a message that has
// nothing to settle.
func (c *conn) acknowledged(f *frame.Frame) (h *held, live bool, err error) {
	var named []byte
	for _, header := range idHeaders(c.version) {
		value, found := f.Get(header)
		if !found {
			continue
		}
		if named == nil {
			named = value
		}
		id, tag, tagged, ok := parseAckID(bytes.TrimSpace(value))
		switch {
		case !ok:
		case tagged && tag == liveTag:
			return nil, true, nil
		default:
			if h := c.lookup(f, id, tag, tagged); h != nil {
				return h, false, nil
			}
		}
	}
	if named == nil {
		return nil, false, mistake("Give the ack header of the MESSAGE as id in STOMP 1.2, its message-id before.",
			"%s has no %s header", f.Command, idHeaders(c.version)[0])
	}
	return nil, false, mistake("It was settled before, went back to its queue, or came by a subscription in auto mode, which needs no ACK.",
		"Unexpected %s: no unsettled message has the id %.96q", f.Command, named)
}

// lookup finds a delivery by its message: by the tag if there is one, by the subscription if the frame names one that has
// it; else the oldest that no transaction has a claim on.
func (c *conn) lookup(f *frame.Frame, id router.MessageID, tag uint64, tagged bool) *held {
	subscription, named := f.Get("subscription")
	named = named && !tagged && c.version == frame.V11
	var found *held
	for h := c.held[id]; h != nil; h = h.same {
		s := h.feed.sub
		switch {
		case tagged && h.tag != tag:
		case named && s.hasID && s.id != string(subscription):
		case found == nil, found.tx != nil && h.tx == nil, (found.tx != nil) == (h.tx != nil) && h.tag < found.tag:
			found = h
		}
	}
	return found
}

// covered collects what settling h covers, in order of delivery: h alone, or with cumulative acknowledgement all that its
// subscription (in the RabbitMQ dialect: the connection) was given before, too. What a transaction has claimed is left
// out, which whole reports. With mu held.
func (c *conn) covered(h *held, cumulative bool) (hs []*held, whole bool) {
	hs, whole = c.scratch[:0], true
	if !cumulative {
		return append(hs, h), true
	}
	collect := func(s *subscription) {
		for x := s.first; x != nil && x.tag <= h.tag; x = x.next {
			if x.tx != nil && x != h {
				whole = false
				continue
			}
			hs = append(hs, x)
		}
	}
	if c.dialect.rabbit() {
		for _, s := range c.subs {
			if s.mode == ackClient {
				collect(s)
			}
		}
	} else {
		collect(h.feed.sub)
	}
	return hs, whole
}

// returnUnwritten gives back what never left, so that it does not count as delivered. It is called when the writer has
// ended and no delivery comes any more.
func (c *conn) returnUnwritten() {
	c.mu.Lock()
	if c.disowned {
		c.mu.Unlock()
		return
	}
	var unsent []*router.Delivery
	for h := c.unwritten.head; h != nil; h = h.next {
		unsent = append(unsent, h.delivery)
	}
	for _, s := range c.subs {
		for h := s.first; h != nil; h = h.next {
			if h.end > c.written {
				unsent = append(unsent, h.delivery)
			}
		}
	}
	c.unwritten = heldQueue{}
	c.held = nil
	c.mu.Unlock()
	var w outbox.Batch
	for _, d := range unsent {
		_ = d.Undeliver(&w) // an error means that the session ended before, and it is back already
	}
	w.Flush()
}
