package stomp

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// target is what the destination of a SEND means: one address, or those of a composite.
type target struct {
	to   router.Address
	many []router.Address
}

// maxTargets bounds the connection's cache of targets.
const maxTargets = 32

// send publishes. The RECEIPT waits for the store, unless the frame is in a transaction.
func (c *conn) send(f *frame.Frame) error {
	t, err := c.target(f)
	if err != nil {
		return err
	}
	tx, err := c.transactionOf(f)
	if err != nil {
		return err
	}
	m, when, err := c.message(f)
	if err != nil {
		return err
	}
	if err := checkRetain(m, tx, &t); err != nil {
		return err
	}
	switch {
	case !when.IsZero():
		ms, err := t.scheduled(f, m, when)
		if err != nil {
			return err
		}
		return c.sendAll(f, tx, ms)
	case tx != nil || t.many != nil:
		return c.sendAll(f, tx, t.messages(f, m))
	}
	m.To = t.to
	return c.publish(f, m)
}

// sendAll publishes the messages of one SEND: all of them or none.
func (c *conn) sendAll(f *frame.Frame, tx *transaction, ms []*router.Message) error {
	switch {
	case tx != nil:
		return c.sendLater(f, tx, ms)
	case len(ms) == 1:
		return c.publish(f, ms[0])
	}
	if err := c.commitNow(ms, nil); err != nil {
		return err
	}
	c.confirm(f)
	return nil
}

// publish publishes one message; the answer follows the store's.
func (c *conn) publish(f *frame.Frame, m *router.Message) error {
	r := c.expect(f, m.Size())
	pending, err := c.session.Publish(c.life, m, &c.batch, r.stored)
	if !pending {
		r.finish(err)
	}
	return nil
}

// messages gives the copies of a message for each address of the target.
func (t *target) messages(f *frame.Frame, m *router.Message) []*router.Message {
	if t.many == nil {
		m.To = t.to
		return []*router.Message{m}
	}
	out := make([]*router.Message, len(t.many))
	original := router.Header{Name: router.HeaderOriginalDest, Value: f.Value("destination")}
	for i, to := range t.many {
		out[i] = m.With(func(m *router.Message) {
			m.To = to
			m.Headers = append(m.Headers, original)
		})
	}
	return out
}

// target reads the destination, from the cache if it was used before.
func (c *conn) target(f *frame.Frame) (target, error) {
	text, found := f.Get("destination")
	if !found {
		return target{}, mistake("Add a header such as destination:/queue/NAME.", "SEND has no destination header")
	}
	if t, known := c.targets[string(text)]; known {
		return t, nil
	}
	name := string(text)
	places, err := c.places(name)
	if err != nil {
		return target{}, err
	}
	var t target
	keep := true
	for _, p := range places {
		to, concrete := p.filter.Address()
		if !concrete {
			return target{}, mistake("Name one topic: only subscriptions may have wildcards.", "destination %.64q has a wildcard", name)
		}
		if p.foreign {
			keep = false
			if err := c.checkTemporary(to); err != nil {
				return target{}, err
			}
		}
		t.to = to
		if len(places) > 1 {
			t.many = append(t.many, to)
		}
	}
	if keep {
		c.rememberTarget(name, t)
	}
	return t, nil
}

func (c *conn) rememberTarget(name string, t target) {
	if c.targets == nil || len(c.targets) >= maxTargets {
		c.targets = map[string]target{}
	}
	c.targets[name] = t
}

// checkTemporary refuses a reply to a connection that is gone: publishing would make a queue that nobody reads. An edge of a
// cluster does not know: there it is the leader who refuses.
func (c *conn) checkTemporary(a router.Address) error {
	if c.server.opt.Router.IsEdge() && a.Temporary() {
		return nil
	}
	_, err := c.server.opt.Router.QueueInfo(c.session.Principal, a)
	if router.ClassOf(err) == router.NotFound && err != nil {
		return mistake("The client that asked has disconnected; drop the reply.", "temporary queue %.128q does not exist", a.Name())
	}
	return nil // that the sender may not look into it does not matter
}

// message makes the router's message of a SEND frame, with copies of all that must outlive the frame, and tells when it is
// to be published.
func (c *conn) message(f *frame.Frame) (*router.Message, router.Schedule, error) {
	m := &router.Message{Priority: router.DefaultPriority, Flags: router.FlagText}
	var local [16]router.Header
	b := builder{conn: c, m: m, headers: local[:0]}
	for i := range f.Len() {
		name, value := f.Header(i)
		b.bound += len(name) + len(value)
	}
	for i := range f.Len() {
		name, value := f.Header(i)
		if err := b.header(name, value); err != nil {
			return nil, b.when, err
		}
	}
	if len(b.headers) > 0 {
		m.Headers = slices.Clone(b.headers)
	}
	if len(f.Body) > 0 {
		m.Body = append(make([]byte, 0, len(f.Body)), f.Body...)
	}
	if b.typed {
		m.Flags = m.Flags&^router.FlagText | b.text
	}
	return m, b.when, nil
}

// builder gathers the headers of one message. All strings are parts of one.
type builder struct {
	conn    *conn
	m       *router.Message
	headers []router.Header
	bound   int // no more bytes than these are kept
	bytes   strings.Builder
	typed   bool // amq-msg-type has the last word on
	text    router.Flags
	when    router.Schedule
}

func (b *builder) keep(v []byte) string {
	switch string(v) { // the usual content types and values need no copy
	case "":
		return ""
	case "text/plain":
		return "text/plain"
	case "application/json":
		return "application/json"
	case "application/octet-stream":
		return "application/octet-stream"
	}
	if b.bytes.Cap() == 0 {
		b.bytes.Grow(b.bound)
	}
	start := b.bytes.Len()
	b.bytes.Write(v)
	return b.bytes.String()[start:]
}

// header takes one header of SEND. Those that say something to the gateway, or that only it may say, are not passed on.
func (b *builder) header(name, value []byte) (err error) {
	m := b.m
	switch string(name) {
	case "destination", "receipt", "transaction", "subscription", "redelivered", "JMSXUserID", "ack",
		"login", "passcode", "JMSXDeliveryCount", "x-delivery-count":
	case "message-id":
		if b.conn.dialect.rabbit() {
			return mistake("Leave it out, or use correlation-id or a header of your own.", "header message-id is not allowed on SEND")
		}
	case "content-length":
		m.Flags &^= router.FlagText
	case "amq-msg-type":
		b.typed = true
		if string(value) == "text" {
			b.text = router.FlagText
		}
	case "content-type":
		m.ContentType = b.keep(value)
	case "correlation-id":
		m.CorrelationID = b.keep(value)
	case "reply-to":
		m.ReplyTo, err = b.conn.replyTo(b.keep(value))
	case "persistent":
		if string(value) == "true" {
			m.Flags |= router.FlagPersistent
		}
	case "retain", "ActiveMQ.Retain":
		if string(value) == "true" {
			m.Flags |= router.FlagRetain
		}
	case "priority":
		n, err := number(name, value)
		m.Priority = uint8(min(max(n, 0), 9))
		return err
	case "expires":
		n, err := number(name, value)
		m.ExpiresUnixMs = max(n, 0)
		return err
	case "timestamp":
		if m.TimestampMs, err = number(name, value); m.TimestampMs > 0 {
			m.Flags |= router.FlagTimed
		}
	default:
		return b.userHeader(name, value)
	}
	return err
}

func (b *builder) userHeader(name, value []byte) error {
	switch {
	case reserved(name):
		return nil
	case string(name) == "x-dedup-id":
		if len(value) > maxDedupID {
			return mistake("Use a hash or a UUID.", "header x-dedup-id has %d bytes; at most %d are allowed", len(value), maxDedupID)
		}
		b.m.DedupID = b.keep(value)
		b.headers = append(b.headers, router.Header{Name: "x-dedup-id", Value: b.m.DedupID})
		return nil
	case b.conn.dialect.rabbit():
		if string(name) == "expiration" {
			n, err := number(name, value)
			if err != nil || n < 0 {
				return mistake("Write the time to live in milliseconds.", "header expiration: %.32q is not a time to live", value)
			}
			b.m.ExpiresUnixMs = time.Now().UnixMilli() + min(n, maxDelay.Milliseconds()*100)
			return nil
		}
	}
	if known, err := b.schedule(name, value); known {
		return err
	}
	b.headers = append(b.headers, router.Header{Name: b.keep(name), Value: b.keep(value)})
	return nil
}

// maxDedupID bounds the header x-dedup-id: the store remembers it for a while.
const maxDedupID = 256

// reserved knows the names that only the gateway and its store may use.
func reserved(name []byte) bool {
	return hasPrefixFold(name, "x-mqgate-") || hasPrefixFold(name, "nats-")
}

// hasPrefixFold ignores the case of ASCII letters.
func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && strings.EqualFold(string(b[:len(prefix)]), prefix)
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// number reads the value of a header as a whole number.
func number(name, value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	if err != nil {
		return 0, mistake("Write a whole number.", "header %s: %.32q is not a whole number", name, value)
	}
	return n, nil
}
