package router

import (
	"strconv"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/router/selector"
)

// selects reports whether s wants m.
func (s *Subscription) selects(m *Message) bool {
	return s.selector == nil || s.selector.Matches(m.property)
}

// takes reports whether the binding has m stored in its mailbox when s publishes it.
func (b *Binding) takes(m *Message, box *Mailbox, s *Session) bool {
	if b.NoLocal && box.servedBy(s) {
		return false
	}
	return b.Selector == nil || b.Selector.Matches(m.property)
}

func selectorText(s *selector.Selector) string {
	if s == nil {
		return ""
	}
	return s.String()
}

// property returns what a selector may name: the JMS names of the standard
// fields, their STOMP names, and the user headers.
func (m *Message) property(name string) (string, bool) {
	switch name {
	case "JMSPriority", "priority":
		return strconv.Itoa(int(m.Priority)), true
	case "JMSTimestamp", "timestamp":
		return strconv.FormatInt(m.TimestampMs, 10), true
	case "JMSExpiration", "expires":
		return strconv.FormatInt(expiry(m), 10), true
	case "JMSCorrelationID", "correlation-id":
		return m.CorrelationID, m.CorrelationID != ""
	case "JMSReplyTo", "reply-to":
		return m.ReplyTo, m.ReplyTo != ""
	case "JMSMessageID", "message-id":
		return m.ID.String(), true
	case "JMSDestination", "destination":
		return m.To.Text(StyleDot), true
	case "JMSDeliveryMode":
		if m.Has(FlagPersistent) {
			return "PERSISTENT", true
		}
		return "NON_PERSISTENT", true
	case "JMSType":
		return m.Header("type")
	case "content-type":
		return m.ContentType, m.ContentType != ""
	}
	return m.Header(name)
}

// search is how far a consumer that chooses has looked into its queue: it knows
// every ready message up to a sequence, unless some came back since.
type search struct {
	upto    uint64
	returns uint64
}

// rouse puts the consumers that choose back in line for which there is something
// that they have not looked at; with the lock held.
func (b *Mailbox) rouse() {
	if b.selective == 0 && b.groups == nil && !b.shared() {
		return
	}
	for _, s := range b.subs {
		if b.chooses(s) && (s.search.returns != b.ledger.returns || b.ledger.tail != nil && b.ledger.tail.Seq > s.search.upto) {
			b.enqueue(s)
		}
	}
}

// offer gives a consumer that chooses the first ready message that it wants and
// may have, if there is one among those that are loaded. A queue that is full of
// what nobody selects is not looked at beyond that: windowEntries messages.
func (b *Mailbox) offer(s *Subscription, w *outbox.Batch) {
	if !s.wants() {
		return
	}
	d := b.selected(s)
	switch {
	case d == nil:
	case d.Seq > b.reserved:
		s.search.upto = d.Seq - 1
		b.handed = max(b.handed, d.Seq) // so that the record allows it
		b.save(w)
	default:
		b.bindGroup(s, d.Message)
		b.give(d, s, w)
	}
}

// selected returns the first ready message that s wants and has not passed over.
func (b *Mailbox) selected(s *Subscription) *Delivery {
	now := time.Now().UnixMilli()
	for d := b.unseen(s); d != nil; d = d.next {
		s.search.upto = d.Seq
		at := expiry(d.Message)
		if d.state == stateReady && (at == 0 || at > now) && s.selects(d.Message) && b.mayHave(s, d.Message) {
			return d
		}
	}
	return nil
}

// unseen returns the first entry that s has not looked at: the whole list if
// something came back into it.
func (b *Mailbox) unseen(s *Subscription) *Delivery {
	if s.search.returns != b.ledger.returns {
		s.search = search{returns: b.ledger.returns}
		return b.ledger.head
	}
	// From both ends: what was passed over is few at the head, or what is new is few
	// at the tail.
	head, tail := b.ledger.head, b.ledger.tail
	for tail != nil && tail.Seq > s.search.upto {
		if head.Seq > s.search.upto {
			return head
		}
		head, tail = head.next, tail.prev
	}
	if tail == nil {
		return b.ledger.head
	}
	return tail.next
}
