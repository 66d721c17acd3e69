package router

import (
	"sync/atomic"

	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/router/selector"
)

// Receiver is a front-end's end of a subscription. Its methods are called from
// any goroutine, one at a time for stored messages; they append to the
// connection's outbox, must not block, and must not call back into the router.
type Receiver interface {
	// Live takes a message that is kept nowhere. False means that it was dropped
	// since the buffer is full.
	Live(m *Message, w *outbox.Batch) bool
	// Stored takes a message that the receiver must settle. False means that the
	// buffer is full: the message stays in its mailbox until Resume.
	Stored(d *Delivery, w *outbox.Batch) bool
}

// Subscription is what a session receives: live messages of a topic filter, or
// what a mailbox gives for credit.
type Subscription struct {
	session   *Session
	receiver  Receiver
	filter    Filter
	box       *Mailbox                     // nil: live, or the leader's
	remote    *remoteSubscription          // to what the leader keeps
	share     *share                       // which this stands for
	group     string                       // of whose share this is a member
	gate      atomic.Pointer[gate]         // of a live one that is not started
	consumer  atomic.Pointer[Subscription] // a member's end of the group's mailbox
	noLocal   bool
	started   bool // of a member of a share, under the session's lock
	selector  *selector.Selector
	exclusive bool     // asks for the mailbox alone
	operator  bool     // takes what it finds, whoever it is for
	inHands   []uint64 // what the client holds since before this node led

	// The rest is the mailbox's, under its lock.
	credit   int
	held     heldList
	adopting int  // in its client's hands, and not loaded yet
	queued   bool // waits in the mailbox's line of consumers
	paused   bool
	detached bool
	search   search // with a selector
}

// SubscribeOptions say what and how a session receives.
type SubscribeOptions struct {
	Filter   Filter
	Receiver Receiver
	// Credit is how many unsettled messages of a mailbox the receiver may hold,
	// at least 1. Live messages need none.
	Credit int
	// NoLocal leaves out what the same session published to the topic.
	NoLocal bool
	// Selector, if set, is a condition on the headers: other messages are left out.
	// In a queue they stay for others.
	Selector *selector.Selector
	// inHands are messages that the client has had since before this node led.
	inHands []uint64
	// Exclusive asks for a queue alone: other consumers get nothing of it while this
	// one lives. Of several that ask the first has it.
	Exclusive bool
	// Durable, if set, names an inbox that keeps the topic's messages while the
	// subscriber is away. It is unique within the vhost.
	Durable string
}

// wants reports whether s can take one more; with the mailbox's lock held.
func (s *Subscription) wants() bool {
	alone := s.box.sole == nil || s.box.sole == s || s.operator
	return alone && !s.paused && !s.detached && s.held.n+s.adopting < s.credit
}

// holds reports whether the client has messages in hands; with the mailbox's lock held.
func (s *Subscription) holds() bool { return s.held.n+s.adopting > 0 }

// Start lets deliveries begin. Between Subscribe and Start a front-end confirms
// the subscription to its client.
func (s *Subscription) Start(w *outbox.Batch) {
	switch {
	case s.remote != nil:
		s.remote.start(w)
		return
	case s.box != nil:
		s.box.resume(s, w)
		return
	case s.group == "":
		s.openGate(w)
		return
	}
	c := s.session
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, open := c.subs[s]; open && !s.started { // else nothing would ever remove it
		s.started = true
		c.router.addMember(s)
	}
}

// Resume lets deliveries go on after the receiver had no room.
func (s *Subscription) Resume(w *outbox.Batch) {
	switch {
	case s.remote != nil:
		s.remote.resume(w)
	case s.box != nil:
		s.box.resume(s, w)
	case s.group != "":
		if c := s.consumer.Load(); c != nil {
			c.box.resume(c, w)
		}
	}
}

// SetCredit changes the credit.
func (s *Subscription) SetCredit(n int, w *outbox.Batch) {
	if s.remote != nil {
		s.remote.setCredit(n)
		return
	}
	if s.box == nil {
		return
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.credit = n
	s.box.enqueue(s)
	s.box.dispatch(w)
}

// Filter returns what the subscription matches.
func (s *Subscription) Filter() Filter { return s.filter }

// Stores reports whether deliveries must be settled.
func (s *Subscription) Stores() bool { return s.box != nil || s.remote != nil && s.group == "" }

// mailbox is what it takes from, as a member of a shared group too; nil if there is none.
func (s *Subscription) mailbox() *Mailbox {
	if c := s.consumer.Load(); c != nil {
		return c.box
	}
	return s.box
}

// Close ends the subscription. What it held goes back to its mailbox. A durable
// subscription's inbox stays.
func (s *Subscription) Close(w *outbox.Batch) {
	if !s.session.forget(s) {
		return
	}
	defer s.session.part(s, s.mailbox())
	if s.Stores() {
		s.detach(w)
		return
	}
	s.session.router.removeLive(s)
}

// detach ends what a mailbox gives.
func (s *Subscription) detach(w *outbox.Batch) {
	switch {
	case s.remote != nil:
		s.remote.close()
	case s.box != nil:
		s.box.detach(s, w)
	}
}
