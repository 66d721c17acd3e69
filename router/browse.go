package router

import (
	"context"
	"time"

	"github.com/mqgate/mqgate/router/selector"
)

// Browsing looks through the messages that a queue holds when it begins, and
// changes nothing.
type Browsing struct {
	box        *Mailbox       // nil: there is no such queue
	remote     *remoteSession // on an edge: the leader has the queue
	queue      Address
	next, last uint64
	selector   *selector.Selector
}

// Browse begins to look through a queue. It needs the right to consume from it. A
// selector leaves out what it does not match.
func (s *Session) Browse(q Address, sel *selector.Selector) (*Browsing, error) {
	if err := s.router.auth.Authorize(s.Principal, ActionConsume, q); err != nil {
		return nil, err
	}
	b := &Browsing{selector: sel, queue: q, remote: s.remote}
	if s.remote != nil {
		return b, nil
	}
	box, err := s.router.existing(q)
	switch {
	case ClassOf(err) == NotFound:
		return b, nil
	case err != nil:
		return nil, err
	case box.owner != nil && box.owner != s:
		return nil, &Error{Op: "browse", Class: Denied, Text: "only the connection that made a temporary queue may look into it"}
	}
	b.box, b.last = box, box.lastStored()
	return b, nil
}

// Next looks at up to n more messages and returns those that are selected and have
// not expired, oldest first; more is false at the end.
func (b *Browsing) Next(ctx context.Context, n int) (out []PeekedMessage, more bool, err error) {
	if b.remote != nil {
		return b.remote.browse(ctx, b, n)
	}
	if b.box == nil {
		return nil, false, nil
	}
	page, err := b.box.peek(ctx, b.next, n)
	if err != nil {
		return nil, false, err
	}
	now := time.Now().UnixMilli()
	for _, p := range page {
		if p.Seq > b.last { // it came later
			return out, false, nil
		}
		b.next = p.Seq + 1
		if at := expiry(p.Message); at != 0 && at <= now {
			continue
		}
		if b.selector == nil || b.selector.Matches(p.Message.property) {
			out = append(out, p)
		}
	}
	return out, len(page) == n, nil
}
