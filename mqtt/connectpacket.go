package mqtt

import (
	"github.com/mochi-mqtt/server/v2/packets"
)

// connect is a CONNECT packet. The codec's own reading of it lets bytes pass that belong to no field, and properties that
// stand twice or are out of range.
type connect struct {
	version   byte // 0: it is not known how to answer
	clean     bool
	keepAlive uint16
	id        string

	hasUser, hasPassword bool
	user                 string
	password             []byte

	will, willRetain bool
	willQoS          byte
	willTopic        string
	willPayload      []byte
	willProps        []byte // as they came, without their length

	expirySec     uint32
	receiveMax    uint16
	aliasMax      uint16
	maxPacket     uint32
	noProblemInfo bool // of its properties: the default is to send it
	authMethod    string
}

// Flags of CONNECT (MQTT 5 section 3.1.2.3).
const (
	flagReserved   = 0x01
	flagClean      = 0x02
	flagWill       = 0x04
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUser       = 0x80
)

// decode reads the packet. Version is set as soon as it is known.
func (k *connect) decode(b []byte) error {
	b, err := k.protocol(b)
	if err != nil {
		return err
	}
	if len(b) < 3 {
		return errShort
	}
	flags := b[0]
	if err := k.setFlags(flags); err != nil {
		return err
	}
	k.keepAlive, b = uint16(b[1])<<8|uint16(b[2]), b[3:]
	if k.version == v5 {
		props, rest, err := cutProperties(b)
		if err != nil {
			return err
		}
		if err := k.properties(props); err != nil {
			return err
		}
		b = rest
	}
	return k.payload(flags, b) // [MQTT-3.1.3-1]
}

// protocol reads the protocol name and level, by which alone it is known how to answer.
func (k *connect) protocol(b []byte) (rest []byte, err error) {
	name, b, err := cutBytes(b)
	if err != nil || len(b) == 0 {
		return nil, errShort
	}
	level := b[0]
	switch {
	case string(name) == "MQIsdp" && level == v31, string(name) == "MQTT" && (level == v311 || level == v5):
		k.version = level
		return b[1:], nil
	case string(name) == "MQTT" || string(name) == "MQIsdp": // [MQTT-3.1.2-2]
		return nil, faulty(badVersion, "protocol level %d of %s is not supported; 3.1, 3.1.1 and 5.0 are", level, name)
	}
	return nil, faulty(malformed, "the protocol name %.16q is not MQTT", name) // [MQTT-3.1.2-1]
}

func (k *connect) setFlags(f byte) error {
	k.clean, k.will, k.willRetain = f&flagClean != 0, f&flagWill != 0, f&flagWillRetain != 0
	k.willQoS = f >> 3 & 3
	k.hasUser, k.hasPassword = f&flagUser != 0, f&flagPassword != 0
	switch {
	case f&flagReserved != 0: // [MQTT-3.1.2-3]
		return faulty(malformed, "the reserved flag of CONNECT is set")
	case k.willQoS > 2: // [MQTT-3.1.2-12]
		return faulty(malformed, "the will has QoS 3")
	case !k.will && (k.willQoS != 0 || k.willRetain): // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		return faulty(malformed, "CONNECT has will options and no will")
	case k.version != v5 && k.hasPassword && !k.hasUser: // [MQTT-3.1.2-22] of 3.1.1; MQTT 5 allows it
		return faulty(malformed, "CONNECT has a password and no user name")
	}
	return nil
}

func (k *connect) properties(props []byte) error {
	authData := false
	err := eachProperty(props, typeConnect, func(p property) error {
		switch p.id {
		case packets.PropSessionExpiryInterval:
			k.expirySec = p.number
		case packets.PropReceiveMaximum:
			k.receiveMax = uint16(p.number)
		case packets.PropMaximumPacketSize:
			k.maxPacket = p.number
		case packets.PropTopicAliasMaximum:
			k.aliasMax = uint16(p.number)
		case packets.PropRequestProblemInfo:
			k.noProblemInfo = p.number == 0
		case packets.PropAuthenticationMethod:
			k.authMethod = string(p.text)
		case packets.PropAuthenticationData:
			authData = true
		}
		return nil
	})
	if err == nil && authData && k.authMethod == "" {
		err = faulty(protocolError, "CONNECT has authentication data and no authentication method")
	}
	return err
}

// payload reads the fields that the flags announce, in their order. What is left over belongs to none.
func (k *connect) payload(flags byte, b []byte) (err error) {
	var v []byte
	if v, b, err = cutText(b); err != nil { // [MQTT-3.1.3-3] [MQTT-3.1.3-4]
		return err
	}
	k.id = string(v)
	if k.will { // [MQTT-3.1.2-9]
		if k.version == v5 {
			if v, b, err = cutProperties(b); err != nil {
				return err
			}
			k.willProps = append([]byte(nil), v...)
		}
		if v, b, err = cutText(b); err != nil { // [MQTT-3.1.3-11]
			return err
		}
		k.willTopic = string(v)
		if v, b, err = cutBytes(b); err != nil {
			return err
		}
		k.willPayload = append([]byte(nil), v...)
	}
	if flags&flagUser != 0 { // [MQTT-3.1.2-17]
		if v, b, err = cutText(b); err != nil { // [MQTT-3.1.3-12]
			return err
		}
		k.user = string(v)
	}
	if flags&flagPassword != 0 { // [MQTT-3.1.2-19]
		if v, b, err = cutBytes(b); err != nil {
			return err
		}
		k.password = append([]byte(nil), v...)
	}
	if len(b) > 0 { // [MQTT-3.1.2-16] [MQTT-3.1.2-18]
		return faulty(malformed, "CONNECT has %d bytes that no flag announces", len(b))
	}
	return nil
}
