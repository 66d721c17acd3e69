package mqtt

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// User properties that stand for fields of a router.Message.
const (
	propertyPriority  = "priority"
	propertyTimestamp = "timestamp"
)

// base64Mark begins the correlation id of correlation data that is not plain text.
const base64Mark = "base64:"

// message makes the router's message of a PUBLISH packet, with copies of all that must outlive the read buffer [MQTT-3.3.1-3].
func (c *conn) message(p *publish, to router.Address) (*router.Message, error) {
	m := &router.Message{To: to, Priority: router.DefaultPriority}
	setQoS(m, p.qos)
	if p.retain {
		m.Flags |= router.FlagRetain
	}
	if len(p.payload) > 0 {
		m.Body = append(make([]byte, 0, len(p.payload)), p.payload...)
	}
	if p.expires {
		m.ExpiresUnixMs = time.Now().UnixMilli() + 1000*int64(p.expirySec)
	}
	if len(p.props) == 0 {
		return m, nil
	}
	return m, eachProperty(p.props, typePublish, func(v property) error { return setProperty(m, v) })
}

func setQoS(m *router.Message, qos byte) {
	if qos > 0 {
		m.Flags |= router.FlagPersistent
	}
	if qos == 2 {
		m.Flags |= router.FlagExactlyOnce
	}
}

// qosOf is the QoS that a message was published with; what came by another protocol has 1 if it is persistent, else 0.
func qosOf(m *router.Message) byte {
	switch {
	case m.Has(router.FlagExactlyOnce):
		return 2
	case m.Has(router.FlagPersistent):
		return 1
	}
	return 0
}

// setProperty puts a property of PUBLISH or of a will into the message. The table is that of package router.
func setProperty(m *router.Message, v property) error {
	switch v.id {
	case packets.PropPayloadFormat:
		if v.number == 1 {
			if !utf8.Valid(m.Body) {
				return faulty(badPayloadFormat, "the payload format says UTF-8, and the payload is not")
			}
			m.Flags |= router.FlagUTF8
		}
	case packets.PropContentType:
		m.ContentType = string(v.text)
	case packets.PropResponseTopic:
		if strings.ContainsAny(string(v.text), "+#") || len(v.text) == 0 { // [MQTT-3.3.2-14]
			return faulty(badTopic, "the response topic is empty or has a wildcard")
		}
		m.ReplyTo = replyTo(m.To.Vhost(), string(v.text))
	case packets.PropCorrelationData:
		m.CorrelationID = correlationID(v.text)
	case packets.PropUser:
		setUserProperty(m, string(v.text), string(v.value))
	}
	return nil
}

func setUserProperty(m *router.Message, name, value string) {
	switch name {
	case propertyPriority:
		if n, err := strconv.ParseUint(value, 10, 8); err == nil && n <= 9 && m.Priority == router.DefaultPriority && n != router.DefaultPriority {
			m.Priority = uint8(n)
			return
		}
	case propertyTimestamp:
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 && !m.Has(router.FlagTimed) && strconv.FormatInt(n, 10) == value {
			m.TimestampMs = n
			m.Flags |= router.FlagTimed
			return
		}
	}
	m.Headers = append(m.Headers, router.Header{Name: name, Value: value})
}

// replyTo writes a response topic as a destination, so that clients of other protocols can send to it.
func replyTo(vhost, topic string) string {
	a, err := router.ParseMQTTTopic(vhost, topic)
	if err != nil {
		return topic
	}
	return a.Text(router.StyleSlash)
}

// responseTopic is the reverse; empty if the reply-to is nothing that MQTT can name.
func responseTopic(vhost, replyTo string) string {
	replyTo = router.PlainReplyTo(replyTo)
	if strings.HasPrefix(replyTo, "/queue/") || strings.HasPrefix(replyTo, "/topic/") {
		a, _, err := router.ParseDestination(vhost, replyTo)
		if err != nil {
			return ""
		}
		return a.MQTTText()
	}
	if strings.ContainsAny(replyTo, "+#\x00") || !utf8.ValidString(replyTo) || len(replyTo) > 65535 {
		return ""
	}
	return replyTo
}

// correlationID keeps correlation data as text where other protocols can show it.
func correlationID(data []byte) string {
	plain := utf8.Valid(data) && !strings.HasPrefix(string(data), base64Mark)
	for _, b := range data {
		plain = plain && b >= ' ' && b != 0x7f
	}
	if plain {
		return string(data)
	}
	return base64Mark + base64.StdEncoding.EncodeToString(data)
}

// correlationData is the reverse.
func correlationData(id string) []byte {
	if coded, ok := strings.CutPrefix(id, base64Mark); ok {
		if b, err := base64.StdEncoding.DecodeString(coded); err == nil {
			return b
		}
	}
	return []byte(id)
}
