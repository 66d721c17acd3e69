package ws

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// apiError is an error that a client is told.
type apiError struct {
	code         string
	text         string
	retry        bool // the same request may succeed later
	retryAfterMs int64
	fatal        *closeError // the connection ends
}

// Error returns the code and the text.
func (e *apiError) Error() string { return e.code + ": " + e.text }

// mistake is an error of the client's making.
func mistake(format string, args ...any) *apiError {
	return &apiError{code: "bad-request", text: fmt.Sprintf(format, args...)}
}

// classRetry is the one table of which router classes may succeed later. The
// code is the class's name.
var classRetry = [...]bool{router.Full: true, router.Unavailable: true}

// explain makes an apiError of any error that an operation returned.
func (c *client) explain(err error) *apiError {
	return c.server.explain(err, c.socket.RemoteAddr().String())
}

func (s *Server) explain(err error, remote string) *apiError {
	var a *apiError
	if errors.As(err, &a) {
		return a
	}
	class := router.ClassOf(err)
	if class == router.Internal {
		s.opt.Log.Error("cannot do what a client asked for", "protocol", "ws", "remote", remote, "error", err)
	}
	e := &apiError{code: class.String(), text: router.TextOf(err), retry: int(class) < len(classRetry) && classRetry[class]}
	var r *router.Error
	if errors.As(err, &r) {
		e.retryAfterMs = r.RetryAfter.Milliseconds()
	}
	return e
}

func (e *apiError) append(dst []byte) []byte {
	dst = append(dst, `{"code":`...)
	dst = appendQuoted(dst, e.code)
	dst = append(dst, `,"message":`...)
	dst = appendQuoted(dst, e.text)
	dst = append(dst, `,"retry":`...)
	dst = strconv.AppendBool(dst, e.retry)
	if e.retryAfterMs > 0 {
		dst = append(dst, `,"retryAfterMs":`...)
		dst = strconv.AppendInt(dst, e.retryAfterMs, 10)
	}
	return append(dst, '}')
}

// reply is the answer to one request, in its place in the order of requests.
type reply struct {
	client  *client
	id      uint64
	op      string
	size    int    // bytes that count as unconfirmed
	members []byte // of a success, each with its comma before it
	err     *apiError
	done    bool
	next    *reply
}

type replyQueue struct{ head, tail *reply }

func (q *replyQueue) push(r *reply) {
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
}

func (q *replyQueue) pop() {
	if q.head = q.head.next; q.head == nil {
		q.tail = nil
	}
}

// expect begins a reply that the store decides. It waits while too much is unconfirmed.
func (c *client) expect(r *request, size int) *reply {
	p := &reply{client: c, id: r.ID, op: r.Op, size: size}
	o := &c.server.opt
	c.await(func() bool {
		return c.unconfirmed.count == 0 || c.unconfirmed.count < o.MaxUnconfirmed && c.unconfirmed.bytes+size <= o.MaxUnconfirmedBytes
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unconfirmed.count++
	c.unconfirmed.bytes += size
	c.replies.push(p)
	return p
}

// stored is the store's answer, on any goroutine.
func (p *reply) stored(_ router.Stored, err error, w *outbox.Batch) {
	var refused *apiError
	if err != nil {
		refused = p.client.explain(err)
	}
	c := p.client
	c.mu.Lock()
	defer c.mu.Unlock()
	p.err, p.done = refused, true
	c.unconfirmed.count--
	c.unconfirmed.bytes -= p.size
	c.emit(w)
	c.changed.Broadcast()
}

// answer replies to a request behind all earlier replies.
func (c *client) answer(r *request, members []byte, err *apiError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replies.push(&reply{client: c, id: r.ID, op: r.Op, members: members, err: err, done: true})
	c.emit(&c.batch)
}

// emit writes the replies at the head of the queue that are decided; with mu held.
func (c *client) emit(w *outbox.Batch) {
	for p := c.replies.head; p != nil && p.done; p = c.replies.head {
		c.replies.pop()
		c.writeReply(w, p)
	}
}

// writeReply writes one; with mu held.
func (c *client) writeReply(w *outbox.Batch, p *reply) {
	b := c.scratch[:0]
	switch {
	case p.err == nil && p.id == 0:
		return
	case p.err == nil:
		b = append(b, `{"reply":`...)
		b = strconv.AppendUint(b, p.id, 10)
		b = append(b, `,"ok":true`...)
		b = append(b, p.members...)
	default:
		c.server.Stats.Errors.Add(1)
		if p.id == 0 {
			b = append(b, `{"event":"error","op":`...)
			b = appendQuoted(b, p.op[:min(len(p.op), 64)])
		} else {
			b = append(b, `{"reply":`...)
			b = strconv.AppendUint(b, p.id, 10)
		}
		b = append(b, `,"error":`...)
		b = p.err.append(b)
	}
	b = append(b, '}')
	c.control(w, opText, b)
	c.keepScratch(b)
}

// keepScratch keeps a buffer for the next use unless it is large; with mu held.
func (c *client) keepScratch(b []byte) {
	if cap(b) <= keepMessageBytes {
		c.scratch = b[:0]
	} else {
		c.scratch = nil
	}
}

// awaitReplies waits until every reply is in the outbox.
func (c *client) awaitReplies() bool {
	return c.await(func() bool { return c.replies.head == nil })
}
