package router

import "strconv"

// The headers of message groups, as JMS names them.
const (
	HeaderGroup    = "JMSXGroupID"
	HeaderGroupSeq = "JMSXGroupSeq"
)

// groups tells which consumer of a queue has which message group: it alone gets
// the group's messages until it goes away, so they are worked on one after the
// other. A queue has none before its first message with a group.
//
// A group that its consumer holds nothing of may be forgotten, since the next one
// who gets it cannot overtake anybody.
type groups struct {
	owners  map[string]*Subscription
	sweepAt int
}

// maxIdleGroups is how many groups are remembered besides those that consumers
// hold messages of.
const maxIdleGroups = 4096

// groupOf returns the group of a message, "" for none.
func groupOf(m *Message) string {
	g, _ := m.Header(HeaderGroup)
	return g
}

// lastOfGroup reports whether the sender ended the group with m: a negative
// JMSXGroupSeq.
func lastOfGroup(m *Message) bool {
	text, ok := m.Header(HeaderGroupSeq)
	n, err := strconv.Atoi(text)
	return ok && err == nil && n < 0
}

// noticeGroups begins to keep groups if a queue's next message has one; with the
// mailbox's lock held.
func (b *Mailbox) noticeGroups(d *Delivery) {
	if b.groups == nil && b.id.Kind == KindQueueBox && groupOf(d.Message) != "" {
		b.groups = &groups{owners: map[string]*Subscription{}, sweepAt: maxIdleGroups}
	}
}

// chooses reports whether s may have to pass over ready messages.
func (b *Mailbox) chooses(s *Subscription) bool {
	return s.selector != nil || b.groups != nil && !s.operator || b.shared()
}

// mayHave reports whether the group of m, if it has one, may go to s.
func (b *Mailbox) mayHave(s *Subscription, m *Message) bool {
	if b.shared() {
		return b.router.auth.Authorize(s.session.Principal, ActionRead, m.To) == nil
	}
	if b.groups == nil || b.sole == s {
		return true
	}
	g := groupOf(m)
	if g == "" {
		return true
	}
	owner := b.groups.owners[g]
	return owner == nil || owner == s || !owner.selects(m)
}

// bindGroup has s keep the group of m, which it is about to get.
func (b *Mailbox) bindGroup(s *Subscription, m *Message) {
	if b.groups == nil {
		return
	}
	g := groupOf(m)
	switch owners := b.groups.owners; {
	case g == "":
	case lastOfGroup(m):
		delete(owners, g)
		b.ledger.returns++ // others have passed over what came after it
		b.rouse()
	case owners[g] == nil || b.sole == s:
		if len(owners) >= b.groups.sweepAt {
			b.sweepGroups()
		}
		owners[g] = s
	}
}

// sweepGroups forgets the groups that nobody holds a message of.
func (b *Mailbox) sweepGroups() {
	held := map[string]*Subscription{}
	for _, s := range b.subs {
		for d := s.held.head; d != nil; d = d.heldNext {
			if g := groupOf(d.Message); g != "" && b.groups.owners[g] == s {
				held[g] = s
			}
		}
	}
	b.groups.owners, b.groups.sweepAt = held, len(held)+maxIdleGroups
}

// freeGroups gives the groups of a consumer that goes away to whoever is next.
func (b *Mailbox) freeGroups(s *Subscription) {
	if b.groups == nil {
		return
	}
	for g, owner := range b.groups.owners {
		if owner == s {
			delete(b.groups.owners, g)
		}
	}
	b.ledger.returns++ // others have passed over its messages
	if len(b.subs) == 0 {
		b.groups = nil
	}
}

// elect makes the longest-standing consumer of those that ask for the queue alone
// its only one, and lets all others have messages if there is none. One that holds
// messages, since before this node led, goes before all.
func (b *Mailbox) elect() {
	b.sole = nil
	for _, s := range b.subs {
		if s.exclusive && (b.sole == nil || s.holds() && !b.sole.holds()) {
			b.sole = s
		}
	}
	for _, s := range b.subs {
		b.enqueue(s)
	}
}
