package stomp

import (
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// fate is what becomes of a delivery.
type fate uint8

const (
	accepted fate = iota
	requeued
	rejected
)

// verdict is what ACK or NACK says.
type verdict struct {
	fate  fate
	delay time.Duration // of requeued; negative: the queue's policy
	cause string
}

// settle handles ACK and NACK. The RECEIPT waits for the store; inside a transaction it comes at once.
func (c *conn) settle(f *frame.Frame) error {
	v, err := c.verdict(f)
	if err != nil {
		return err
	}
	tx, err := c.transactionOf(f)
	if err != nil {
		return err
	}
	if tx != nil {
		if err := c.whyFailed(tx); err != nil {
			return err
		}
	}
	hs, whole, err := c.claim(f, v, tx)
	if err != nil {
		return err
	}
	if tx != nil || len(hs) == 0 {
		c.confirm(f)
		return nil
	}
	return c.carryOut(f, v, hs, whole)
}

// outcome is a delivery with what is to become of it, taken from the client's hands.
type outcome struct {
	delivery *router.Delivery
	feed     *feed
}

// claim finds what the frame covers, and has the transaction claim it, or takes it from the client's hands.
func (c *conn) claim(f *frame.Frame, v verdict, tx *transaction) (taken []outcome, whole bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, live, err := c.acknowledged(f)
	if err != nil || live {
		return nil, false, err
	}
	if h.tx != nil {
		return nil, false, mistake("COMMIT or ABORT the transaction first.", "Unexpected %s: the message is acknowledged in transaction %.64q", f.Command, h.tx.id)
	}
	// ActiveMQ: a NACK is for the one message even in client mode. RabbitMQ: it is cumulative like ACK.
	cumulative := h.feed.sub.mode == ackClient && (v.fate == accepted || c.dialect.rabbit())
	hs, whole := c.covered(h, cumulative)
	if tx != nil {
		tx.claim(hs, v)
	} else {
		taken = c.takeAll(hs)
	}
	clear(hs)
	c.scratch = hs[:0]
	return taken, whole, nil
}

// takeAll takes deliveries from the client's hands; with mu held.
func (c *conn) takeAll(hs []*held) []outcome {
	c.taken = c.taken[:0]
	for _, h := range hs {
		c.taken = append(c.taken, outcome{h.delivery, h.feed})
		c.forget(h)
	}
	return c.taken
}

// carryOut tells the router, without a lock. Whole tells that hs has all that each feed was given up to its last one there.
func (c *conn) carryOut(f *frame.Frame, v verdict, hs []outcome, whole bool) error {
	defer func() { clear(c.taken) }()
	var r *reply
	var done router.Done
	if _, asked := f.Get("receipt"); asked {
		r = c.expect(f, 0)
		done = r.stored
	}
	upTo := v.fate == accepted && whole && len(hs) > 1
	var failed error
	for i, o := range hs {
		if upTo && laterOfFeed(hs[i+1:], o.feed) {
			continue
		}
		if r != nil {
			r.more()
		}
		err := c.tell(v, o.delivery, upTo, done)
		if err != nil {
			failed = err
			if r != nil {
				r.finish(nil) // in place of the answer that will not come
			}
		}
	}
	if r != nil {
		r.finish(failed)
		return nil
	}
	return failed
}

// laterOfFeed looks for a later delivery of a feed. There are as many feeds as a composite has elements, so the first one
// looked at is nearly always it.
func laterOfFeed(hs []outcome, fd *feed) bool {
	for _, o := range hs {
		if o.feed == fd {
			return true
		}
	}
	return false
}

func (c *conn) tell(v verdict, d *router.Delivery, upTo bool, done router.Done) error {
	switch {
	case v.fate == rejected:
		return d.Reject(v.cause, &c.batch, done)
	case v.fate == requeued:
		return d.Nack(v.delay, v.cause, &c.batch, done)
	case upTo:
		return d.AckUpTo(&c.batch, done)
	}
	return d.Ack(&c.batch, done)
}

// verdict reads an ACK or NACK. In ActiveMQ a NACK makes a dead letter at once; in RabbitMQ it returns the message. The
// headers requeue and delay (ms) choose in either dialect; message or x-error says why, for the operator.
func (c *conn) verdict(f *frame.Frame) (verdict, error) {
	if f.Command == frame.ACK {
		return verdict{fate: accepted}, nil
	}
	v := verdict{fate: rejected, delay: -1, cause: nackCause(f)}
	if c.dialect.rabbit() {
		v.fate, v.delay = requeued, 0
	}
	value, _ := f.Get("requeue")
	switch string(value) {
	case "":
	case "true":
		v.fate = requeued
	case "false":
		v.fate = rejected
	default:
		return v, mistake("Write requeue:true or requeue:false.", "header requeue: %.32q is neither true nor false", value)
	}
	ms, found, err := f.Int("delay")
	switch {
	case err != nil:
		return v, mistake("Write milliseconds.", "%s", err)
	case !found:
		return v, nil
	case ms < 0 || ms > maxDelay.Milliseconds():
		return v, mistake("Write milliseconds.", "header delay: %d is not between 0 and %d", ms, maxDelay.Milliseconds())
	case string(value) == "false":
		return v, mistake("Leave out one of them.", "a message is delayed only when it is requeued")
	}
	v.fate, v.delay = requeued, time.Duration(ms)*time.Millisecond
	return v, nil
}

// maxCauseBytes bounds what a consumer may say about why it failed.
const maxCauseBytes = 1024

func nackCause(f *frame.Frame) string {
	cause, found := f.Get("x-error")
	if !found {
		cause, _ = f.Get("message")
	}
	return oneLine(string(cause[:min(len(cause), maxCauseBytes)]))
}
