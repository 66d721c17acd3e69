package stomp

import (
	"strings"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// tailForm is the form of what all subscribers with the same needs share of a MESSAGE: the headers of the message itself,
// the body, and the end of the frame.
type tailForm uint8

const (
	tailVersion   tailForm = 3 // a frame.Version
	tailRabbit    tailForm = 1 << 2
	tailPlace     tailForm = 7 << 3 // where the destination is, one of:
	withoutID     tailForm = 1 << 6 // the message-id is in the delivery's own headers
	tailFormCount          = 1 << 7
)

// Where the destination header of a MESSAGE comes from.
const (
	destinationDot   tailForm = iota << 3 // from the message, in the style of a wildcard subscription
	destinationSlash                      // the same, in the other style
	destinationGiven                      // it is in the prefix
	destinationQueue                      // it is in the prefix, and the message may have been sent to a topic instead
)

func makeTailForm(v frame.Version, d Dialect) tailForm {
	t := tailForm(v)
	if d.rabbit() {
		t |= tailRabbit
	}
	return t
}

func (t tailForm) with(place tailForm) tailForm { return t&^tailPlace | place }
func (t tailForm) version() frame.Version       { return frame.Version(t & tailVersion) }
func (t tailForm) rabbit() bool                 { return t&tailRabbit != 0 }

// key is the message's key for the encoding.
func (t tailForm) key() uint32 { return router.EncodingKey('S', uint32(t)) }

// tailBuilders has one function for each form: a closure made at each delivery would be garbage.
var tailBuilders = func() (all [tailFormCount]func(*router.Message) []byte) {
	for t := range all {
		all[t] = func(m *router.Message) []byte {
			return appendTail(make([]byte, 0, m.Size()+tailOverhead), m, tailForm(t))
		}
	}
	return all
}()

// tailOverhead is about what the names of the standard headers take.
const tailOverhead = 192

func (t tailForm) build() func(*router.Message) []byte { return tailBuilders[t] }

// appendTail appends the shared part of a MESSAGE. Standard headers come first: of repeated names the first counts, so a
// sender's header cannot pass for one of them.
func appendTail(b []byte, m *router.Message, t tailForm) []byte {
	v := t.version()
	if t&withoutID == 0 {
		b = append(b, "message-id:"...)
		b = m.ID.AppendText(b) // letters, digits and '-': no version escapes them
		b = append(b, '\n')
	}
	switch t & tailPlace {
	case destinationDot:
		b = frame.AppendHeader(b, v, "destination", m.To.Text(router.StyleDot))
	case destinationSlash:
		b = frame.AppendHeader(b, v, "destination", m.To.Text(router.StyleSlash))
	case destinationQueue:
		if m.To.Kind() == router.KindTopic {
			if _, known := m.Header(router.HeaderOriginalDest); !known {
				b = frame.AppendHeader(b, v, router.HeaderOriginalDest, m.To.Text(router.StyleDot))
			}
		}
	}
	b = appendProperties(b, m, t)
	if t.rabbit() || !m.Has(router.FlagText) || frame.NeedsContentLength(m.Body) {
		// ActiveMQ tells text from bytes by this header, and so do its clients.
		b = frame.AppendIntHeader(b, "content-length", int64(len(m.Body)))
	}
	for i := range m.Headers {
		if h := &m.Headers[i]; !hidden(h.Name) {
			b = frame.AppendHeader(b, v, h.Name, h.Value)
		}
	}
	return frame.AppendBody(b, m.Body)
}

// hidden knows the user headers that a MESSAGE must not have, whichever protocol they came by: those that mean something to
// who reads the frame, or to this server when a client sends them back with its ACK, as php-stomp does with all of them.
func hidden(name string) bool {
	// A client of 1.0 trims names: " content-length" would be one to it.
	switch strings.Trim(name, " \t\r") {
	case "", "subscription", "message-id", "ack", "destination", "content-length", "redelivered", "retained",
		"receipt", "transaction", "login", "passcode", "x-delivery-count", "JMSXDeliveryCount":
		return true
	}
	return false
}

// appendProperties appends the standard headers. ActiveMQ always gives expires, priority and timestamp.
func appendProperties(b []byte, m *router.Message, t tailForm) []byte {
	v := t.version()
	if m.ExpiresUnixMs != 0 || !t.rabbit() {
		b = frame.AppendIntHeader(b, "expires", max(m.ExpiresUnixMs, 0))
	}
	if m.Priority != router.DefaultPriority || !t.rabbit() {
		b = frame.AppendIntHeader(b, "priority", int64(m.Priority))
	}
	b = frame.AppendIntHeader(b, "timestamp", m.TimestampMs)
	if m.Has(router.FlagPersistent) {
		b = append(b, "persistent:true\n"...)
	}
	for _, h := range [...]struct{ name, value string }{
		{"correlation-id", m.CorrelationID}, {"reply-to", m.ReplyTo}, {"content-type", m.ContentType},
	} {
		if h.value != "" {
			b = frame.AppendHeader(b, v, h.name, h.value)
		}
	}
	return b
}
