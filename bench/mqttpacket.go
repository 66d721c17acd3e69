package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The client's half of MQTT 3.1.1 and 5: what it sends is appended to a buffer, what it receives is read where it lies.

// Packet types (MQTT 5 section 2.1.2).
const (
	mqttConnect     = 1
	mqttConnack     = 2
	mqttPublish     = 3
	mqttPuback      = 4
	mqttPubrec      = 5
	mqttPubrel      = 6
	mqttPubcomp     = 7
	mqttSubscribe   = 8
	mqttSuback      = 9
	mqttUnsubscribe = 10
	mqttUnsuback    = 11
	mqttPingreq     = 12
	mqttPingresp    = 13
	mqttDisconnect  = 14
)

// Properties (MQTT 5 section 2.2.2.2).
const (
	mqttSessionExpiry  = 0x11
	mqttReceiveMaximum = 0x21
	mqttUserProperty   = 0x26
)

const (
	mqttFailure = 0x80 // reason codes from here on are refusals
	mqttReserve = 0x02 // the flags that SUBSCRIBE and PUBREL must have
)

// mqttPacket is one packet as it arrived; the body is only valid until the next read.
type mqttPacket struct {
	first byte
	body  []byte
}

func (p mqttPacket) kind() byte { return p.first >> 4 }

var (
	errMQTTLength = errors.New("the broker sent a packet whose length takes more than four bytes")
	errMQTTShort  = errors.New("the broker sent a packet that ends early")
)

// cutMQTT takes a packet off the front of b; size is 0 when there is no whole one yet.
func cutMQTT(b []byte, most int) (p mqttPacket, size int, err error) {
	n := 0
	for i := 1; i < len(b); i++ {
		n |= int(b[i]&0x7f) << (7 * (i - 1))
		switch {
		case n > most:
			return p, 0, fmt.Errorf("the broker sent a packet of %d bytes, the limit is %d", n, most)
		case b[i] >= 0x80 && i == 4:
			return p, 0, errMQTTLength
		case b[i] >= 0x80:
			continue
		case len(b)-i-1 < n:
			return p, 0, nil
		}
		return mqttPacket{first: b[0], body: b[i+1 : i+1+n]}, i + 1 + n, nil
	}
	return p, 0, nil
}

// publication is what a PUBLISH says.
type publication struct {
	dup     bool
	qos     byte
	id      uint16
	payload []byte
}

func (p mqttPacket) publication(five bool) (m publication, err error) {
	m = publication{dup: p.first&8 != 0, qos: p.first >> 1 & 3}
	b := p.body
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return m, errMQTTShort
	}
	b = b[2+int(binary.BigEndian.Uint16(b)):] // the topic
	if m.qos > 0 {
		if len(b) < 2 {
			return m, errMQTTShort
		}
		m.id, b = binary.BigEndian.Uint16(b), b[2:]
	}
	if five {
		if _, b, err = cutMQTTProperties(b); err != nil {
			return m, err
		}
	}
	m.payload = b
	return m, nil
}

// acknowledged reads an acknowledgement: its packet identifier and reason code.
func (p mqttPacket) acknowledged() (id uint16, code byte, err error) {
	if len(p.body) < 2 {
		return 0, 0, errMQTTShort
	}
	if len(p.body) > 2 {
		code = p.body[2]
	}
	return binary.BigEndian.Uint16(p.body), code, nil
}

func cutMQTTProperties(b []byte) (properties, rest []byte, err error) {
	n := 0
	for i := range min(len(b), 4) {
		n |= int(b[i]&0x7f) << (7 * i)
		if b[i] >= 0x80 {
			continue
		}
		if len(b)-i-1 < n {
			break
		}
		return b[i+1 : i+1+n], b[i+1+n:], nil
	}
	return nil, nil, errMQTTShort
}

// connackReceiveMaximum finds the broker's limit among the properties of a CONNACK; 0 when it sets none.
func connackReceiveMaximum(b []byte) int {
	for len(b) > 0 {
		id, size := b[0], 0
		switch b = b[1:]; id {
		case 0x24, 0x25, 0x28, 0x29, 0x2a: // one byte
			size = 1
		case 0x13, mqttReceiveMaximum, 0x22: // two
			size = 2
		case mqttSessionExpiry, 0x27: // four
			size = 4
		case 0x12, 0x15, 0x16, 0x1a, 0x1c, 0x1f: // a string, or bytes
			size = mqttStringBytes(b)
		case mqttUserProperty:
			if size = mqttStringBytes(b); size <= len(b) {
				size += mqttStringBytes(b[size:])
			}
		default:
			return 0
		}
		if size > len(b) {
			return 0
		}
		if id == mqttReceiveMaximum {
			return int(binary.BigEndian.Uint16(b))
		}
		b = b[size:]
	}
	return 0
}

func mqttStringBytes(b []byte) int {
	if len(b) < 2 {
		return 2 // more than there is
	}
	return 2 + int(binary.BigEndian.Uint16(b))
}

func appendMQTTString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendMQTTLength(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// appendMQTTPacket appends a packet of which the body is known.
func appendMQTTPacket(b []byte, first byte, body []byte) []byte {
	return append(appendMQTTLength(append(b, first), len(body)), body...)
}

func appendMQTTAck(b []byte, kind byte, id uint16) []byte {
	first := kind << 4
	if kind == mqttPubrel {
		first |= mqttReserve
	}
	return append(b, first, 2, byte(id>>8), byte(id))
}

// mqttLogin is what a CONNECT says.
type mqttLogin struct {
	five           bool
	clientID       string
	user, password string
	keepAliveSec   uint16
	clean          bool
	expirySec      uint32 // of the session; MQTT 5
	receiveMaximum int    // 0: the default; MQTT 5
}

func (l *mqttLogin) append(b []byte) []byte {
	body := appendMQTTString(nil, "MQTT")
	level, flags := byte(4), byte(0)
	if l.five {
		level = 5
	}
	if l.clean {
		flags |= 0x02
	}
	if l.user != "" || l.password != "" {
		flags |= 0x80
	}
	if l.password != "" {
		flags |= 0x40
	}
	body = binary.BigEndian.AppendUint16(append(body, level, flags), l.keepAliveSec)
	if l.five {
		var properties []byte
		if l.expirySec > 0 {
			properties = binary.BigEndian.AppendUint32(append(properties, mqttSessionExpiry), l.expirySec)
		}
		if l.receiveMaximum > 0 {
			properties = binary.BigEndian.AppendUint16(append(properties, mqttReceiveMaximum), uint16(l.receiveMaximum))
		}
		body = append(appendMQTTLength(body, len(properties)), properties...)
	}
	body = appendMQTTString(body, l.clientID)
	if flags&0x80 != 0 {
		body = appendMQTTString(body, l.user)
	}
	if flags&0x40 != 0 {
		body = appendMQTTString(body, l.password)
	}
	return appendMQTTPacket(b, mqttConnect<<4, body)
}

// mqttRefusals are the reasons of MQTT 3.1.1 (section 3.2.2.3) and the most likely ones of MQTT 5 for people.
var mqttRefusals = map[byte]string{1: "protocol version not supported", 2: "client id refused", 3: "not available", 4: "bad user name or password",
	5: "not authorised", 0x81: "malformed packet", 0x82: "protocol error", 0x84: "protocol version not supported", 0x85: "client id not valid",
	0x86: "bad user name or password", 0x87: "not authorised", 0x88: "not available", 0x89: "server busy", 0x8b: "shutting down",
	0x8d: "keep alive timeout", 0x8e: "session taken over", 0x8f: "topic filter not valid", 0x90: "topic name not valid",
	0x91: "packet identifier in use", 0x93: "receive maximum exceeded", 0x95: "packet too large", 0x96: "message rate too high",
	0x97: "quota exceeded", 0x99: "payload format not valid"}

func mqttRefusal(what string, code byte) error {
	text, known := mqttRefusals[code]
	if !known {
		text = "no text known"
	}
	return fmt.Errorf("the broker refused %s: reason %#x, %s", what, code, text)
}
