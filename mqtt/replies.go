package mqtt

import (
	"sync"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// reply is the answer to a PUBLISH, whose outcome the store decides, or one that must not overtake such an answer. Kind 0
// stands for a publish of QoS 0: nothing is said, but what is under way is bounded.
type reply struct {
	conn   *conn
	stored router.Done // done, bound once
	kind   byte
	id     uint16
	code   reason
	ready  bool
	size   int // bytes that count as unconfirmed
	next   *reply
}

// replyPool makes a publish free of garbage here.
var replyPool sync.Pool

func init() {
	replyPool.New = func() any {
		r := &reply{}
		r.stored = r.done
		return r
	}
}

func (r *reply) recycle() {
	*r = reply{stored: r.stored}
	replyPool.Put(r)
}

// replyQueue holds the replies in the order of the packets that they answer [MQTT-4.6.0-2] [MQTT-4.6.0-3].
type replyQueue struct{ head, tail *reply }

func (q *replyQueue) push(r *reply) {
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.next = r
	}
	q.tail = r
}

func (q *replyQueue) pop() *reply {
	r := q.head
	q.head = r.next
	if q.head == nil {
		q.tail = nil
	}
	r.next = nil
	return r
}

// expect begins the reply to a publish: r.stored is given to the router, or its done called. While too much is unconfirmed it
// waits, which holds back this client only; it returns nil if the connection ends meanwhile.
func (c *conn) expect(kind byte, id uint16, size int) *reply {
	c.mu.Lock()
	if !c.roomFor(size) {
		c.mu.Unlock()
		if !c.await(func() bool { return c.roomFor(size) }) {
			return nil
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	r := replyPool.Get().(*reply)
	r.conn, r.kind, r.id, r.size = c, kind, id, size
	c.unconfirmed.count++
	c.unconfirmed.bytes += size
	if kind != 0 {
		c.replies.push(r)
	}
	return r
}

func (c *conn) roomFor(size int) bool {
	o := &c.server.opt
	return c.unconfirmed.count == 0 || c.unconfirmed.count < o.ReceiveMaximum && c.unconfirmed.bytes+size <= o.MaxUnconfirmedBytes
}

// done is the store's answer, on any goroutine.
func (r *reply) done(_ router.Stored, err error, w *outbox.Batch) {
	c := r.conn
	if err != nil && r.kind != 0 {
		c.publishFailed(r, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unconfirmed.count--
	c.unconfirmed.bytes -= r.size
	if r.kind == typePubrec {
		c.answered(r, err == nil)
	} else {
		r.ready = true
	}
	if r.kind == 0 {
		r.recycle()
	} else {
		c.emit(w)
	}
	c.changed.Broadcast()
}

// publishFailed notes why a publish failed. MQTT 3 has no words for it: the connection ends, and the client sends it again.
func (c *conn) publishFailed(r *reply, err error) {
	r.code = reasonOf(err)
	if c.version != v5 {
		c.stop(&fault{code: r.code, text: "a message could not be stored", cause: err})
	}
}

// emit writes the replies at the head of the queue that are ready; with mu held, which keeps their order.
func (c *conn) emit(w *outbox.Batch) {
	for r := c.replies.head; r != nil && r.ready; r = c.replies.head {
		c.replies.pop()
		if r.code < unspecified || c.version == v5 {
			c.writeReply(w, r.kind, r.id, r.code)
		}
		r.recycle()
	}
}

// answer writes a reply behind all earlier ones; with mu held.
func (c *conn) answer(w *outbox.Batch, kind byte, id uint16, code reason) {
	if c.replies.head == nil {
		c.writeReply(w, kind, id, code)
		return
	}
	r := replyPool.Get().(*reply)
	r.conn, r.kind, r.id, r.code, r.ready = c, kind, id, code, true
	c.replies.push(r)
}

func (c *conn) writeReply(w *outbox.Batch, kind byte, id uint16, code reason) {
	if kind == typePuback || kind == typePubcomp || kind == typePubrec && code >= unspecified {
		c.quota--
	}
	buf, ok := c.out.BeginControl(5)
	if ok {
		buf = appendAck(buf, kind, id, code, c.version)
	}
	c.out.End(w, buf)
}
