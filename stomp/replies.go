package stomp

import (
	"sync"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// reply is the answer to one frame whose outcome the store decides. With a receipt it has its place in the connection's
// queue of replies from the start; without one it is heard of only if it fails.
type reply struct {
	conn    *conn
	stored  router.Done // done, bound once
	receipt []byte
	asked   bool // there is a receipt
	queued  bool // it has a place in the queue
	left    int  // answers that are awaited
	size    int  // bytes that count as unconfirmed
	refusal *refusal
	next    *reply
}

// replyPool makes a publish without failure free of garbage here.
var replyPool sync.Pool

func init() {
	replyPool.New = func() any {
		r := &reply{}
		r.stored = r.done
		return r
	}
}

// replyQueue holds the replies in the order of the frames that they answer.
type replyQueue struct{ head, tail *reply }

func (q *replyQueue) push(r *reply) {
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail, r.queued = r, true
}

func (q *replyQueue) pop() *reply {
	r := q.head
	q.head = r.next
	if q.head == nil {
		q.tail = nil
	}
	r.next, r.queued = nil, false
	return r
}

// expect begins a reply to f that awaits one answer: r.stored given to the router, or finish. It waits while too much is
// unconfirmed; size is what a publish adds to that.
func (c *conn) expect(f *frame.Frame, size int) *reply {
	r := replyPool.Get().(*reply)
	r.conn, r.left, r.size = c, 1, size
	receipt, asked := f.Get("receipt")
	r.receipt, r.asked = append(r.receipt[:0], receipt...), asked
	c.mu.Lock()
	if !c.roomFor(size) {
		c.mu.Unlock()
		c.await(func() bool { return c.roomFor(size) })
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	c.unconfirmed.count++
	c.unconfirmed.bytes += size
	if asked {
		c.replies.push(r)
	}
	return r
}

// roomFor reports whether one more may be unconfirmed; with mu held.
func (c *conn) roomFor(size int) bool {
	o := &c.server.opt
	return c.unconfirmed.count == 0 || c.unconfirmed.count < o.MaxUnconfirmed && c.unconfirmed.bytes+size <= o.MaxUnconfirmedBytes
}

// more has the reply await one more answer; r.stored is to be given to what will answer.
func (r *reply) more() {
	r.conn.mu.Lock()
	r.left++
	r.conn.mu.Unlock()
}

// done is one answer, on any goroutine. The first failure is the reply's.
func (r *reply) done(_ router.Stored, err error, w *outbox.Batch) {
	c := r.conn
	var refused *refusal
	if err != nil {
		refused = c.explain(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.refusal == nil {
		r.refusal = refused
	}
	if r.left--; r.left > 0 {
		return
	}
	c.unconfirmed.count--
	c.unconfirmed.bytes -= r.size
	switch {
	case r.queued:
		c.emit(w)
	case r.refusal != nil:
		c.replies.push(r)
		c.emit(w)
	default:
		r.recycle()
	}
	c.changed.Broadcast()
}

// finish is the answer of the caller, on the reader's goroutine.
func (r *reply) finish(err error) { r.done(router.Stored{}, err, &r.conn.batch) }

func (r *reply) recycle() {
	if cap(r.receipt) > 1<<10 {
		r.receipt = nil
	}
	*r = reply{stored: r.stored, receipt: r.receipt[:0]}
	replyPool.Put(r)
}

// emit writes the replies at the head of the queue that are complete; with mu held, which keeps their order.
func (c *conn) emit(w *outbox.Batch) {
	for r := c.replies.head; r != nil && r.left == 0; r = c.replies.head {
		c.replies.pop()
		if r.refusal != nil {
			c.writeError(w, r.receipt, r.asked, r.refusal)
		} else {
			c.writeReceipt(w, r.receipt)
		}
		r.recycle()
	}
}

// confirm answers a frame that has been done with a RECEIPT, if it asked for one, behind all earlier replies.
func (c *conn) confirm(f *frame.Frame) {
	receipt, asked := f.Get("receipt")
	if !asked {
		return
	}
	c.answer(receipt, true, nil)
}

// refuse answers with an ERROR, behind all earlier replies.
func (c *conn) refuse(receipt []byte, asked bool, r *refusal) {
	if r.fatal {
		c.takeNoMore()
	}
	c.answer(receipt, asked, r)
}

func (c *conn) answer(receipt []byte, asked bool, refused *refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replies.head == nil {
		if refused != nil {
			c.writeError(&c.batch, receipt, asked, refused)
		} else {
			c.writeReceipt(&c.batch, receipt)
		}
		return
	}
	r := replyPool.Get().(*reply)
	r.conn, r.refusal, r.asked = c, refused, asked
	r.receipt = append(r.receipt[:0], receipt...)
	c.replies.push(r)
}

// awaitReplies waits until everything is confirmed and every reply is in the outbox.
func (c *conn) awaitReplies() bool {
	return c.await(func() bool { return c.replies.head == nil && c.unconfirmed.count == 0 })
}

func (c *conn) writeReceipt(w *outbox.Batch, receipt []byte) {
	buf, ok := c.out.BeginControl(len(receipt) + 32)
	if ok {
		buf = append(buf, "RECEIPT\n"...)
		buf = frame.AppendHeader(buf, c.version, "receipt-id", receipt)
		buf = frame.AppendBody(buf, "")
	}
	c.out.End(w, buf)
}

func (c *conn) writeError(w *outbox.Batch, receipt []byte, asked bool, r *refusal) {
	if !r.fatal {
		c.server.Stats.Errors.Add(1)
	}
	buf, ok := c.out.BeginControl(len(receipt) + 2*len(r.message) + len(r.hint) + 96)
	if ok {
		buf = c.appendError(buf, receipt, asked, r)
	}
	c.out.End(w, buf)
}
