package mqtt

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// appendVarint appends a variable byte integer (MQTT 5 section 1.5.5) [MQTT-1.5.5-1].
func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func varintBytes(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// appendAck appends PUBACK, PUBREC, PUBREL or PUBCOMP. A success is written in its short form, which all versions share.
func appendAck(b []byte, kind byte, id uint16, code reason, version byte) []byte {
	first := kind << 4
	if kind == typePubrel {
		first |= 2 // [MQTT-3.6.1-1]
	}
	if version != v5 || code == success { // [MQTT-2.2.1-5]
		return append(b, first, 2, byte(id>>8), byte(id))
	}
	return append(b, first, 3, byte(id>>8), byte(id), byte(code))
}

// Variants of a message's encoding.
const (
	variantV3 uint32 = iota
	variantV3Retain
	variantV5
	variantV5Retain
	variantTail
)

var (
	keyV3       = router.EncodingKey('m', variantV3)
	keyV3Retain = router.EncodingKey('m', variantV3Retain)
	keyV5       = router.EncodingKey('m', variantV5)
	keyV5Retain = router.EncodingKey('m', variantV5Retain)
	keyTail     = router.EncodingKey('m', variantTail)
)

// whole returns the complete PUBLISH packet of QoS 0 of a message without per-subscriber parts; all subscribers share it.
func whole(m *router.Message, version byte, retain bool) []byte {
	switch {
	case version != v5 && !retain:
		return m.Encoded(keyV3, func(m *router.Message) []byte { return buildWhole(m, version, false) })
	case version != v5:
		return m.Encoded(keyV3Retain, func(m *router.Message) []byte { return buildWhole(m, version, true) })
	case !retain:
		return m.Encoded(keyV5, func(m *router.Message) []byte { return buildWhole(m, version, false) })
	}
	return m.Encoded(keyV5Retain, func(m *router.Message) []byte { return buildWhole(m, version, true) })
}

func buildWhole(m *router.Message, version byte, retain bool) []byte {
	o := outgoing{version: version, retain: retain, topic: m.To.MQTTText()}
	o.measure(m)
	b := o.appendHead(make([]byte, 0, o.size()))
	return append(b, o.tail...)
}

// tailLength is what stands before the shared tail of MQTT 5 packets: how many bytes of it are properties.
const tailLength = 4

// sharedTail is the part of an MQTT 5 PUBLISH that all subscribers share: the properties, behind their length in four
// bytes, and the payload.
func sharedTail(m *router.Message) []byte {
	return m.Encoded(keyTail, func(m *router.Message) []byte {
		b := appendProperties(make([]byte, tailLength, tailLength+m.Size()), m)
		binary.BigEndian.PutUint32(b, uint32(len(b)-tailLength))
		return append(b, m.Body...)
	})
}

// appendProperties appends the properties of a message that do not depend on who gets it when.
func appendProperties(b []byte, m *router.Message) []byte {
	if m.Has(router.FlagUTF8) { // [MQTT-3.3.2-4]
		b = append(b, packets.PropPayloadFormat, 1)
	}
	if m.ContentType != "" && sendable(m.ContentType) { // [MQTT-3.3.2-20]
		b = appendText(append(b, packets.PropContentType), m.ContentType)
	}
	if t := responseTopic(m.To.Vhost(), m.ReplyTo); t != "" { // [MQTT-3.3.2-15]
		b = appendText(append(b, packets.PropResponseTopic), t)
	}
	if m.CorrelationID != "" { // [MQTT-3.3.2-16]
		if data := correlationData(m.CorrelationID); len(data) <= 65535 {
			b = append(binary.BigEndian.AppendUint16(append(b, packets.PropCorrelationData), uint16(len(data))), data...)
		}
	}
	if m.Priority != router.DefaultPriority {
		b = appendUserProperty(b, propertyPriority, strconv.Itoa(int(m.Priority)))
	}
	if m.Has(router.FlagTimed) {
		b = appendUserProperty(b, propertyTimestamp, strconv.FormatInt(m.TimestampMs, 10))
	}
	for _, h := range m.Headers { // [MQTT-3.3.2-17] [MQTT-3.3.2-18]
		if sendable(h.Name) && sendable(h.Value) {
			b = appendUserProperty(b, h.Name, h.Value)
		}
	}
	return b
}

// sendable reports whether MQTT can carry a text that another protocol brought.
func sendable(s string) bool {
	return len(s) <= 65535 && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

func appendUserProperty(b []byte, name, value string) []byte {
	return appendText(appendText(append(b, packets.PropUser), name), value)
}

// outgoing is one PUBLISH packet to one client.
type outgoing struct {
	version     byte
	qos         byte
	dup, retain bool
	id          uint16
	topic       string
	alias       uint16
	ids         []int // subscription identifiers
	expires     bool
	expirySec   uint32

	tail      []byte // shared
	common    int    // how much of tail is properties
	own       int    // bytes of properties that are not in tail
	remaining int
}

// measure finds the tail and the sizes.
func (o *outgoing) measure(m *router.Message) {
	o.remaining = 2 + len(o.topic)
	if o.qos > 0 {
		o.remaining += 2
	}
	if o.version != v5 {
		o.tail = m.Body
		o.remaining += len(o.tail)
		return
	}
	shared := sharedTail(m)
	o.common, o.tail = int(binary.BigEndian.Uint32(shared)), shared[tailLength:]
	o.own = 0
	if o.alias != 0 {
		o.own += 3
	}
	if o.expires {
		o.own += 5
	}
	for _, id := range o.ids {
		o.own += 1 + varintBytes(id)
	}
	o.remaining += varintBytes(o.own+o.common) + o.own + len(o.tail)
}

// size is what the packet takes on the wire.
func (o *outgoing) size() int { return 1 + varintBytes(o.remaining) + o.remaining }

// appendHead appends all that stands before the tail.
func (o *outgoing) appendHead(b []byte) []byte {
	first := byte(typePublish<<4) | o.qos<<1
	if o.dup {
		first |= 8
	}
	if o.retain {
		first |= 1
	}
	b = appendVarint(append(b, first), o.remaining)
	b = appendText(b, o.topic)
	if o.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, o.id)
	}
	if o.version != v5 {
		return b
	}
	b = appendVarint(b, o.own+o.common)
	if o.alias != 0 {
		b = binary.BigEndian.AppendUint16(append(b, packets.PropTopicAlias), o.alias)
	}
	if o.expires {
		b = binary.BigEndian.AppendUint32(append(b, packets.PropMessageExpiryInterval), o.expirySec)
	}
	for _, id := range o.ids { // [MQTT-3.3.4-3]
		b = appendVarint(append(b, packets.PropSubscriptionIdentifier), id)
	}
	return b
}

// encode has the codec write a packet that is not frequent.
func encode(pk *packets.Packet) []byte {
	var b bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case typeConnack:
		err = pk.ConnackEncode(&b)
	case typeDisconnect:
		err = pk.DisconnectEncode(&b)
	}
	if err != nil {
		return nil // these never fail: they write to memory
	}
	return b.Bytes()
}
