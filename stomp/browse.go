package stomp

import (
	"context"
	"strconv"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// browsePage is how many messages are looked at in one step.
const browsePage = 64

// browse answers SUBSCRIBE with browser:true: what the queue holds now, whoever has it in hands, and then a MESSAGE with
// browser:end, as ActiveMQ says it. Nothing is taken, and an ACK of what it gave settles nothing. The connection's other
// frames wait meanwhile; the client's reading sets the pace.
func (c *conn) browse(f *frame.Frame, s *subscription, p place, o router.SubscribeOptions) error {
	queue, concrete := p.filter.Address()
	if !concrete || queue.Kind() != router.KindQueue || s.durable != "" {
		return mistake("Leave out the browser header to subscribe to a topic.", "browser:true is for a queue, and %.64q is none", s.destination)
	}
	look, err := c.session.Browse(queue, o.Selector)
	if err != nil {
		return err
	}
	if !c.confirmFirst(f) {
		return errLeft
	}
	fd := &feed{sub: s}
	fd.prepare(p, false)
	c.begun(s)
	for more := true; more; {
		var page []router.PeekedMessage
		if page, more, err = c.look(look); err != nil {
			// The RECEIPT has left: this is an ERROR of its own, and the end that does not come.
			c.refuse(nil, false, c.explain(err))
			return nil
		}
		for _, m := range page {
			if !c.show(fd, m) {
				return errLeft
			}
		}
		if e := c.ending.Load(); e != nil {
			return *e
		}
	}
	return c.showEnd(fd)
}

func (c *conn) look(b *router.Browsing) ([]router.PeekedMessage, bool, error) {
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	return b.Next(ctx, browsePage)
}

// show writes one message, and waits for room. It returns false if the socket is gone.
func (c *conn) show(fd *feed, p router.PeekedMessage) bool {
	m := p.Message
	return c.appendWhenRoom(len(fd.prefix)+m.Size()+ackBytes, func(b []byte) []byte {
		b = append(b, fd.prefix...)
		if fd.tail&withoutID != 0 {
			b = appendLiveID(b, m.ID, c.version)
		}
		b = frame.AppendIntHeader(b, "x-delivery-count", int64(p.Deliveries))
		return appendTail(b, m, fd.tail)
	})
}

// showEnd writes the MESSAGE that says that there are no more.
func (c *conn) showEnd(fd *feed) error {
	ok := c.appendWhenRoom(len(fd.prefix)+ackBytes, func(b []byte) []byte {
		b = append(b, fd.prefix...)
		b = append(b, "message-id:0\nbrowser:end\n"...)
		return frame.AppendBody(b, "")
	})
	if !ok {
		return errLeft
	}
	return nil
}

// appendWhenRoom appends a frame to the outbox once it has room for it. Only the reader may call it, since it waits.
func (c *conn) appendWhenRoom(size int, write func([]byte) []byte) bool {
	for {
		wait := c.room()
		buf, ok := c.out.Begin(size)
		if ok {
			buf = write(buf)
		}
		c.out.End(&c.batch, buf)
		if ok {
			return true
		}
		if !wait() {
			return false
		}
	}
}

// wantsBrowser reads the browser header.
func wantsBrowser(f *frame.Frame) (bool, error) {
	value, found := f.Get("browser")
	if !found {
		return false, nil
	}
	b, err := strconv.ParseBool(string(value))
	if err != nil {
		return false, mistake("Write browser:true.", "header browser: %.32q is neither true nor false", value)
	}
	return b, nil
}
