package mqtt

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Packet types (MQTT 5 section 2.1.2).
const (
	typeConnect     = 1
	typeConnack     = 2
	typePublish     = 3
	typePuback      = 4
	typePubrec      = 5
	typePubrel      = 6
	typePubcomp     = 7
	typeSubscribe   = 8
	typeSuback      = 9
	typeUnsubscribe = 10
	typeUnsuback    = 11
	typePingreq     = 12
	typePingresp    = 13
	typeDisconnect  = 14
	typeAuth        = 15
)

// Protocol levels (MQTT 5 section 3.1.2.2).
const (
	v31  = 3
	v311 = 4
	v5   = 5
)

// checkFirst holds the flags of the fixed header to what each type must have.
func checkFirst(first byte) error {
	switch first >> 4 {
	case typePublish:
		switch {
		case first&0x06 == 0x06: // [MQTT-3.3.1-4]
			return faulty(malformed, "PUBLISH says QoS 3")
		case first&0x0e == 0x08: // [MQTT-3.3.1-2]
			return faulty(malformed, "PUBLISH of QoS 0 is marked as a duplicate")
		}
		return nil
	case typePubrel, typeSubscribe, typeUnsubscribe: // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
		if first&0x0f != 0x02 {
			return faulty(malformed, "packet type %d has flags %d instead of 2", first>>4, first&0x0f)
		}
		return nil
	case 0: // [MQTT-2.1.2-1]
		return faulty(malformed, "packet type 0 is forbidden")
	}
	if first&0x0f != 0 { // [MQTT-2.1.3-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
		return faulty(malformed, "packet type %d has flags %d instead of 0", first>>4, first&0x0f)
	}
	return nil
}

// publish is a PUBLISH packet; its slices are parts of the read buffer.
type publish struct {
	dup, retain bool
	qos         byte
	id          uint16
	topic       []byte
	payload     []byte
	props       []byte // as they came, without their length
	alias       uint16
	expires     bool
	expirySec   uint32
}

var errShort = faulty(malformed, "the packet ends early")

// cutUint16 reads two bytes.
func cutUint16(b []byte) (uint16, []byte, error) {
	if len(b) < 2 {
		return 0, nil, errShort
	}
	return binary.BigEndian.Uint16(b), b[2:], nil
}

// cutBytes reads a length of two bytes and so many bytes.
func cutBytes(b []byte) (v, rest []byte, err error) {
	n, rest, err := cutUint16(b)
	if err != nil {
		return nil, nil, err
	}
	if int(n) > len(rest) {
		return nil, nil, errShort
	}
	return rest[:n], rest[n:], nil
}

// cutVarint reads a variable byte integer.
func cutVarint(b []byte) (int, []byte, error) {
	n := 0
	for i := range min(len(b), 4) {
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return n, b[i+1:], nil
		}
	}
	if len(b) < 4 {
		return 0, nil, errShort
	}
	return 0, nil, faulty(malformed, "a variable byte integer takes more than four bytes") // [MQTT-1.5.5-1]
}

// cutProperties reads the properties' length and so many bytes.
func cutProperties(b []byte) (props, rest []byte, err error) {
	n, rest, err := cutVarint(b)
	if err != nil {
		return nil, nil, err
	}
	if n > len(rest) {
		return nil, nil, errShort
	}
	return rest[:n], rest[n:], nil
}

// decodePublish reads a PUBLISH packet.
func decodePublish(p *publish, first byte, b []byte, version byte) (err error) {
	*p = publish{dup: first&8 != 0, qos: first >> 1 & 3, retain: first&1 != 0}
	if p.topic, b, err = cutBytes(b); err != nil {
		return err
	}
	if p.qos > 0 { // [MQTT-2.2.1-2]
		if p.id, b, err = cutUint16(b); err != nil {
			return err
		}
		if p.id == 0 { // [MQTT-2.2.1-3]
			return faulty(protocolError, "PUBLISH has packet identifier 0")
		}
	}
	if version == v5 {
		if p.props, b, err = cutProperties(b); err != nil {
			return err
		}
		if len(p.props) > 0 {
			if err := eachProperty(p.props, typePublish, p.property); err != nil {
				return err
			}
		}
	}
	p.payload = b
	return nil
}

// property checks and notes what the gateway itself must know before it makes a message.
func (p *publish) property(v property) error {
	switch v.id {
	case packets.PropTopicAlias:
		if v.number == 0 { // [MQTT-3.3.2-8]
			return faulty(badAlias, "topic alias 0 is not allowed")
		}
		p.alias = uint16(v.number)
	case packets.PropMessageExpiryInterval:
		p.expires, p.expirySec = true, v.number
	case packets.PropSubscriptionIdentifier: // [MQTT-3.3.4-6]
		return faulty(protocolError, "a client's PUBLISH must not carry a subscription identifier")
	}
	return nil
}

// property is one property of a packet: a number, or bytes, or a pair. The slices are parts of the packet.
type property struct {
	id     byte
	number uint32
	text   []byte
	value  []byte // of a user property, whose name is text
}

type propertyKind uint8

const (
	kindByte propertyKind = iota + 1
	kindUint16
	kindUint32
	kindVarint
	kindBytes
	kindText
	kindPair
)

// propertyKinds is the table of MQTT 5 section 2.2.2.2.
var propertyKinds = [...]propertyKind{
	packets.PropPayloadFormat:          kindByte,
	packets.PropMessageExpiryInterval:  kindUint32,
	packets.PropContentType:            kindText, // [MQTT-3.3.2-19]
	packets.PropResponseTopic:          kindText, // [MQTT-3.3.2-13]
	packets.PropCorrelationData:        kindBytes,
	packets.PropSubscriptionIdentifier: kindVarint,
	packets.PropSessionExpiryInterval:  kindUint32,
	packets.PropAssignedClientID:       kindText,
	packets.PropServerKeepAlive:        kindUint16,
	packets.PropAuthenticationMethod:   kindText,
	packets.PropAuthenticationData:     kindBytes,
	packets.PropRequestProblemInfo:     kindByte,
	packets.PropWillDelayInterval:      kindUint32,
	packets.PropRequestResponseInfo:    kindByte,
	packets.PropResponseInfo:           kindText,
	packets.PropServerReference:        kindText,
	packets.PropReasonString:           kindText,
	packets.PropReceiveMaximum:         kindUint16,
	packets.PropTopicAliasMaximum:      kindUint16,
	packets.PropTopicAlias:             kindUint16,
	packets.PropMaximumQos:             kindByte,
	packets.PropRetainAvailable:        kindByte,
	packets.PropUser:                   kindPair,
	packets.PropMaximumPacketSize:      kindUint32,
	packets.PropWildcardSubAvailable:   kindByte,
	packets.PropSubIDAvailable:         kindByte,
	packets.PropSharedSubAvailable:     kindByte,
}

// willProperties stands for the properties of a will where packet types are named.
const willProperties = 0

// allowedProperties are those that a client may send, by packet type (MQTT 5 table 2-4), as a set of bits.
var allowedProperties = map[byte]uint64{
	willProperties: bits(packets.PropPayloadFormat, packets.PropMessageExpiryInterval, packets.PropContentType, packets.PropResponseTopic,
		packets.PropCorrelationData, packets.PropWillDelayInterval, packets.PropUser),
	typeConnect: bits(packets.PropSessionExpiryInterval, packets.PropAuthenticationMethod, packets.PropAuthenticationData,
		packets.PropRequestProblemInfo, packets.PropRequestResponseInfo, packets.PropReceiveMaximum, packets.PropTopicAliasMaximum,
		packets.PropUser, packets.PropMaximumPacketSize),
	typePublish: bits(packets.PropPayloadFormat, packets.PropMessageExpiryInterval, packets.PropContentType, packets.PropResponseTopic,
		packets.PropCorrelationData, packets.PropSubscriptionIdentifier, packets.PropTopicAlias, packets.PropUser),
	typePuback:      bits(packets.PropReasonString, packets.PropUser),
	typePubrec:      bits(packets.PropReasonString, packets.PropUser),
	typePubrel:      bits(packets.PropReasonString, packets.PropUser),
	typePubcomp:     bits(packets.PropReasonString, packets.PropUser),
	typeSubscribe:   bits(packets.PropSubscriptionIdentifier, packets.PropUser),
	typeUnsubscribe: bits(packets.PropUser),
	typeDisconnect:  bits(packets.PropSessionExpiryInterval, packets.PropReasonString, packets.PropUser, packets.PropServerReference),
}

func bits(ids ...byte) uint64 {
	var s uint64
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

// eachProperty walks the properties of a packet. What may not be there, or not twice, is refused.
func eachProperty(b []byte, packet byte, f func(property) error) error {
	var seen uint64
	allowed := allowedProperties[packet]
	for len(b) > 0 {
		p := property{id: b[0]}
		if int(p.id) >= len(propertyKinds) || allowed&(1<<p.id) == 0 {
			return faulty(protocolError, "property %d is not allowed in packet type %d", p.id, packet)
		}
		if seen&(1<<p.id) != 0 && p.id != packets.PropUser {
			return faulty(protocolError, "property %d stands twice in a packet", p.id)
		}
		seen |= 1 << p.id
		var err error
		if b, err = p.cut(b[1:]); err != nil {
			return err
		}
		if err := p.check(); err != nil {
			return err
		}
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}

// cut reads the property's value and returns what follows it.
func (p *property) cut(b []byte) (rest []byte, err error) {
	switch propertyKinds[p.id] {
	case kindByte:
		if len(b) < 1 {
			return nil, errShort
		}
		p.number, rest = uint32(b[0]), b[1:]
	case kindUint16:
		var n uint16
		n, rest, err = cutUint16(b)
		p.number = uint32(n)
	case kindUint32:
		if len(b) < 4 {
			return nil, errShort
		}
		p.number, rest = binary.BigEndian.Uint32(b), b[4:]
	case kindVarint:
		var n int
		n, rest, err = cutVarint(b)
		p.number = uint32(n)
	case kindBytes:
		p.text, rest, err = cutBytes(b)
	case kindText:
		p.text, rest, err = cutText(b)
	case kindPair: // [MQTT-1.5.7-1]
		if p.text, rest, err = cutText(b); err == nil {
			p.value, rest, err = cutText(rest)
		}
	default:
		err = faulty(malformed, "property %d does not exist", p.id)
	}
	return rest, err
}

// check holds the values to their ranges.
func (p *property) check() error {
	switch p.id {
	case packets.PropPayloadFormat, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
		if p.number > 1 {
			return faulty(protocolError, "property %d is %d; it can be 0 or 1", p.id, p.number)
		}
	case packets.PropReceiveMaximum, packets.PropMaximumPacketSize, packets.PropSubscriptionIdentifier:
		if p.number == 0 {
			return faulty(protocolError, "property %d is 0", p.id)
		}
	}
	return nil
}

// cutText reads a UTF-8 string [MQTT-1.5.4-1] [MQTT-1.5.4-2].
func cutText(b []byte) (v, rest []byte, err error) {
	if v, rest, err = cutBytes(b); err == nil && !validText(v) {
		return nil, nil, faulty(malformed, "a string is not valid UTF-8, or contains U+0000")
	}
	return v, rest, err
}

// validText reports whether v may stand in a string. A byte order mark is a character like others [MQTT-1.5.4-3].
func validText(v []byte) bool {
	for _, c := range v {
		if c == 0 || c >= utf8.RuneSelf {
			return utf8.Valid(v) && !strings.ContainsRune(string(v), 0)
		}
	}
	return true
}

// acknowledgement is PUBACK, PUBREC, PUBREL or PUBCOMP.
type acknowledgement struct {
	id   uint16
	code reason
}

func decodeAcknowledgement(kind byte, b []byte, version byte) (a acknowledgement, err error) {
	if a.id, b, err = cutUint16(b); err != nil {
		return a, err
	}
	if a.id == 0 {
		return a, faulty(protocolError, "an acknowledgement has packet identifier 0")
	}
	if version != v5 {
		if len(b) > 0 {
			return a, faulty(malformed, "an acknowledgement has %d bytes too many", len(b))
		}
		return a, nil
	}
	if len(b) == 0 {
		return a, nil
	}
	a.code = reason(b[0])
	if len(b) == 1 {
		return a, nil
	}
	props, rest, err := cutProperties(b[1:])
	if err == nil && len(rest) > 0 {
		err = faulty(malformed, "an acknowledgement has %d bytes too many", len(rest))
	}
	if err != nil {
		return a, err
	}
	return a, eachProperty(props, kind, func(property) error { return nil })
}
