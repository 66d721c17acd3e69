package mqtt

import (
	"crypto/rand"
	"strconv"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// receipt is what is known of a QoS 2 publish of the client that it has not released.
//
// One of a durable session is in the session's record, with a number of its own, before it is published. Whoever finds it
// there after a crash cannot know whether it was stored: when the client sends it again it is published again, and its
// stored copies carry the number, so that no mailbox takes it twice.
type receipt struct {
	number uint64 // within the durable session
	state  receiptState
}

type receiptState uint8

const (
	receiptBusy   receiptState = iota // it is about to be published, or the store has not answered
	receiptUnsure                     // an earlier connection began with it
	receiptStored                     // its PUBREC was sent, or is about to be
)

// enter counts a publish of QoS 1 or 2 against the receive maximum, and reports whether it is one of QoS 2 that came before
// and is not to be published again.
func (c *conn) enter(p *publish) (again bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.qos == 2 {
		if in, known := c.received[p.id]; known {
			c.server.Stats.Duplicates.Add(1)
			return c.cameBefore(p.id, in), nil
		}
	}
	if c.version == v5 && c.quota >= c.server.opt.ReceiveMaximum { // [MQTT-3.3.4-9] [MQTT-3.3.4-7]
		return false, faulty(receiveMaximum, "more than %d publishes of QoS 1 and 2 are not completed", c.server.opt.ReceiveMaximum)
	}
	c.quota++
	if p.qos == 2 {
		in := receipt{}
		if c.durable != nil {
			c.durable.lastNumber++
			in.number = c.durable.lastNumber
		}
		if c.received == nil {
			c.received = map[uint16]receipt{}
		}
		c.received[p.id] = in
	}
	return false, nil
}

// cameBefore handles a QoS 2 publish whose identifier is in use; with mu held. It reports false if it must be published, or
// published again.
func (c *conn) cameBefore(id uint16, in receipt) bool {
	switch in.state {
	case receiptStored: // [MQTT-4.3.3-10]: acknowledged again, not published again
		c.answer(&c.batch, typePubrec, id, success)
	case receiptUnsure:
		in.state = receiptBusy
		c.received[id] = in
		return false
	}
	return true // the answer to the first one answers this one
}

// refuse forgets a QoS 2 publish that failed; with mu held. The client of MQTT 5 is told so; an older one, or one that is not told,
// sends it again, and then it may turn out to have been stored.
func (c *conn) refuse(id uint16, told bool) {
	in, known := c.received[id]
	switch {
	case !known:
	case told || c.durable == nil: // [MQTT-4.3.3-9]
		delete(c.received, id)
	default:
		in.state = receiptUnsure
		c.received[id] = in
	}
}

// answered has the PUBREC of a publish leave, or wait for the session's record; with mu held [MQTT-4.3.3-8].
func (c *conn) answered(r *reply, stored bool) {
	if !stored {
		c.refuse(r.id, c.version == v5 && !r.untold())
	} else if in, open := c.received[r.id]; open { // else the client has released it meanwhile
		in.state = receiptStored
		c.received[r.id] = in
	}
	d := c.durable
	if d == nil {
		r.ready = true
		return
	}
	d.unanswered--
	if r.ready = stored; !stored { // the client may use the identifier for another message when it hears of the failure
		d.waiting.replies = append(d.waiting.replies, r)
	}
	d.touch()
}

// pubrel completes a publish of QoS 2 by the client.
func (c *conn) pubrel(a acknowledgement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.received[a.id]
	delete(c.received, a.id) // [MQTT-4.3.3-12]
	switch {
	case known && c.durable != nil:
		// The client may use the identifier for another message as soon as it reads PUBCOMP: the record must not
		// know it any more, or that one would be taken for this one after a crash.
		c.durable.waiting.completed = append(c.durable.waiting.completed, a.id)
		c.durable.touch()
	case known:
		c.answer(&c.batch, typePubcomp, a.id, success)
	case c.version == v5:
		c.quota++                                         // writeReply takes off what was not counted
		c.answer(&c.batch, typePubcomp, a.id, idNotFound) // [MQTT-3.7.2-1]
	default:
		c.quota++
		c.answer(&c.batch, typePubcomp, a.id, success) // [MQTT-4.3.3-11]
	}
}

// notedPublish is a QoS 2 publish whose receipt is to be stored before it is published.
type notedPublish struct {
	message *router.Message
	reply   *reply
}

// noteAndPublish publishes m when the session's record has its receipt.
func (d *durable) noteAndPublish(m *router.Message, r *reply) {
	c := d.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	m.DedupID = d.dedupID(c.received[r.id].number)
	d.waiting.publishes = append(d.waiting.publishes, notedPublish{m, r})
	d.touch()
}

// dedupID identifies a publish in the store. Nobody can guess the session's part.
func (d *durable) dedupID(number uint64) string {
	return "mqtt\x00" + d.identity + "\x00" + strconv.FormatUint(number, 36)
}

func newIdentity() string { return rand.Text() }

// publishNoted publishes what is noted, in order. It runs while there is some.
func (d *durable) publishNoted() {
	var w outbox.Batch
	defer w.Flush()
	c := d.conn
	for {
		c.mu.Lock()
		ps := d.noted
		d.noted = nil
		if len(ps) == 0 || c.closed { // then the client sends them again, to another connection
			d.publishing = false
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
		d.unanswered += len(ps)
		c.mu.Unlock()
		for _, p := range ps {
			c.hand(p.message, p.reply, &w)
		}
		w.Flush()
	}
}

// awaitAnswers waits until the router has answered all QoS 2 publishes that it was given, for a while: what the session's
// record says of them at the connection's end is then true. None is published twice to live subscribers either, nor stored
// twice for a client that comes back when the store does not remember it any more.
func (d *durable) awaitAnswers() {
	c := d.conn
	began := time.Now()
	for _, limit := range []time.Duration{closeTimeout, answersTimeout} {
		defer time.AfterFunc(limit, func() {
			c.mu.Lock()
			c.changed.Broadcast()
			c.mu.Unlock()
		}).Stop()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for (d.publishing || d.unanswered > 0) && time.Since(began) < c.answersPatience() {
		c.changed.Wait()
	}
}

// answersPatience is how long a connection that ends waits for the router's answers; with mu held. Who waits for its end waits no
// longer for what is not known: a client that is back sends it again at once, and the store knows it still.
func (c *conn) answersPatience() time.Duration {
	if c.hurried {
		return closeTimeout
	}
	return answersTimeout
}
