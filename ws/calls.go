package ws

import (
	"context"
	"strconv"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// calls are a client's requests that wait for someone's reply. The replies come
// to a temporary queue of the session, found by their correlation id.
type calls struct {
	to      router.Address // zero until the first request
	next    uint64
	waiting map[string]call // under the client's lock
}

type call struct {
	id    uint64 // of the client's request
	dueMs int64
}

const (
	maxCalls           = 256
	defaultCallTimeout = 30 * time.Second
	maxCallTimeout     = 10 * time.Minute
)

// request publishes a message and answers with the reply to it. Its answer does
// not wait for those of earlier requests, nor do later ones for it.
func (c *client) request(r *request) error {
	if r.ID == 0 || r.ReplyTo != "" || r.CorrelationID != "" {
		return mistake("request needs an id; replyTo and correlationId are set by the server")
	}
	if r.TimeoutMs < 0 || r.TimeoutMs > maxCallTimeout.Milliseconds() {
		return mistake("timeoutMs must be 0 (default) to %d", maxCallTimeout.Milliseconds())
	}
	m, err := r.message(c.session.Vhost)
	if err != nil {
		return err
	}
	if err := c.openReplies(); err != nil {
		return err
	}
	timeout := defaultCallTimeout
	if r.TimeoutMs > 0 {
		timeout = time.Duration(r.TimeoutMs) * time.Millisecond
	}
	c.calls.next++
	m.CorrelationID = strconv.FormatUint(c.calls.next, 36)
	m.ReplyTo = c.calls.to.Text(router.StyleDot)
	c.mu.Lock()
	if len(c.calls.waiting) >= maxCalls {
		c.mu.Unlock()
		return &apiError{code: router.Full.String(), text: "too many requests wait for their replies", retry: true}
	}
	c.calls.waiting[m.CorrelationID] = call{r.ID, time.Now().Add(timeout).UnixMilli()}
	c.mu.Unlock()
	// The publish itself answers only if it fails.
	done := func(_ router.Stored, err error, w *outbox.Batch) {
		if err != nil {
			c.endCall(m.CorrelationID, c.explain(err), w)
		}
	}
	pending, err := c.session.Publish(c.life, m, &c.batch, done)
	if err != nil && !pending {
		done(router.Stored{}, err, &c.batch)
	}
	return nil
}

// openReplies makes the queue of the replies, and consumes from it.
func (c *client) openReplies() error {
	if !c.calls.to.IsZero() {
		return nil
	}
	to, err := c.session.TemporaryQueue("replies")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	sub, err := c.session.Subscribe(ctx, router.SubscribeOptions{Filter: router.FilterOf(to), Receiver: &replyBox{client: c}, Credit: autoCredit})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.calls.waiting = map[string]call{}
	c.mu.Unlock()
	c.calls.to = to
	sub.Start(&c.batch)
	return nil
}

// replyBox receives the replies.
type replyBox struct{ client *client }

// Live is not called: a queue stores.
func (b *replyBox) Live(*router.Message, *outbox.Batch) bool { return false }

// Stored gives a reply to the request that it belongs to. One that nobody waits
// for any more is done with.
func (b *replyBox) Stored(d *router.Delivery, w *outbox.Batch) bool {
	c := b.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	h := handed{d: d, end: c.written}
	if k, ok := c.calls.waiting[d.Message.CorrelationID]; ok {
		delete(c.calls.waiting, d.Message.CorrelationID)
		out := strconv.AppendUint(append(c.scratch[:0], `{"reply":`...), k.id, 10)
		out = appendTail(append(out, `,"ok":true,"message":{`...), d.Message, router.StyleDot)
		out = append(out, '}')
		buf, ok := c.out.BeginControl(len(out) + headMax)
		if ok {
			buf = append(appendHead(buf, opText, len(out)), out...)
		}
		h.end = c.out.End(w, buf)
		c.keepScratch(out)
	} else {
		c.control(w, opPong, nil) // unsolicited pongs mean nothing: the next write settles it
	}
	c.unwritten.push(h)
	return true
}

// endCall answers a request with an error, if it still waits.
func (c *client) endCall(correlation string, e *apiError, w *outbox.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.calls.waiting[correlation]
	if !ok {
		return
	}
	delete(c.calls.waiting, correlation)
	c.writeReply(w, &reply{client: c, id: k.id, op: "request", err: e})
}

// expire answers the requests whose time is over; on the clock's goroutine.
func (k *calls) expire(c *client, nowMs int64) {
	c.mu.Lock()
	var over []string
	for correlation, call := range k.waiting {
		if call.dueMs <= nowMs {
			over = append(over, correlation)
		}
	}
	c.mu.Unlock()
	for _, correlation := range over {
		c.endCall(correlation, &apiError{code: "timeout", text: "nobody replied in time", retry: true}, nil)
	}
}
