package mqtt

import (
	"encoding/binary"
	"strings"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

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
	text   string // why, if it failed
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
	if r.kind == typePubrec { // [MQTT-4.3.2-4]
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
	r.code, r.text = reasonOf(err), publicText(err)
	switch {
	case c.version != v5:
		c.stop(&fault{code: r.code, text: "a message could not be stored", cause: err})
	case r.untold():
		c.stop(&fault{code: serverBusy, text: "a message of QoS 2 may not have been stored: connect and send it again", cause: err})
	}
}

// untold reports whether there is no answer to a publish of QoS 2 that may or may not be stored. A PUBREC that refuses it would
// have the client send it as another message [MQTT-4.3.3-9]; sent again from its session as the same one, it is stored once.
func (r *reply) untold() bool {
	return r.kind == typePubrec && r.code == unspecified && r.conn.durable != nil
}

// emit writes the replies at the head of the queue that are ready; with mu held, which keeps their order.
func (c *conn) emit(w *outbox.Batch) {
	for r := c.replies.head; r != nil && r.ready; r = c.replies.head {
		c.replies.pop()
		if r.code < unspecified || c.version == v5 && !r.untold() {
			c.writeReply(w, r.kind, r.id, r.code, r.text)
		}
		r.recycle()
	}
}

// answer writes a reply behind all earlier ones; with mu held.
func (c *conn) answer(w *outbox.Batch, kind byte, id uint16, code reason) {
	c.answerWhy(w, kind, id, code, "")
}

func (c *conn) answerWhy(w *outbox.Batch, kind byte, id uint16, code reason, text string) {
	if c.replies.head == nil {
		c.writeReply(w, kind, id, code, text)
		return
	}
	r := replyPool.Get().(*reply)
	r.conn, r.kind, r.id, r.code, r.text, r.ready = c, kind, id, code, text, true
	c.replies.push(r)
}

func (c *conn) writeReply(w *outbox.Batch, kind byte, id uint16, code reason, text string) {
	if kind == typePuback || kind == typePubcomp || kind == typePubrec && code >= unspecified {
		c.quota--
	}
	if text != "" && c.version == v5 {
		c.out.End(w, c.appendRefusal(kind, id, code, text))
		return
	}
	buf, ok := c.out.BeginControl(5)
	if ok {
		buf = appendAck(buf, kind, id, code, c.version)
	}
	c.out.End(w, buf)
}

// appendRefusal begins a PUBACK or PUBREC that says why in words, if the client wants them and takes them.
func (c *conn) appendRefusal(kind byte, id uint16, code reason, text string) []byte {
	props := c.reasonString(text, 1+4+2+1)
	n := 3 + len(props)
	buf, ok := c.out.BeginControl(5 + len(props))
	if !ok {
		return buf
	}
	buf = appendVarint(append(buf, kind<<4), n)
	buf = append(binary.BigEndian.AppendUint16(buf, id), byte(code))
	return append(buf, props...)
}

// reasonString gives the properties of a packet that consist of a reason string, with their length; none at all if the
// client does not want it [MQTT-3.1.2-29], or the packet, with so many other bytes, would be larger than it takes
// [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.9.2-1].
func (c *conn) reasonString(text string, others int) []byte {
	const longest = 120 // the length of the properties then fits one byte
	if !c.problemInfo || text == "" {
		return nil
	}
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "")
	}
	props := appendText([]byte{byte(3 + len(text)), packets.PropReasonString}, text)
	if c.maxPacket > 0 && others+len(props) > c.maxPacket { // [MQTT-3.1.2-24]
		return nil
	}
	return props
}
