package mqtt

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// decodeFilters reads SUBSCRIBE or UNSUBSCRIBE. The codec's own reading of SUBSCRIBE panics where the packet ends early, and
// does not look at the reserved bits.
func decodeFilters(kind byte, b []byte, version byte) (id uint16, filters []packets.Subscription, err error) {
	if id, b, err = cutUint16(b); err != nil {
		return 0, nil, err
	}
	if id == 0 { // [MQTT-2.2.1-3]
		return 0, nil, faulty(protocolError, "packet identifier 0 is not allowed")
	}
	identifier := 0
	if version == v5 {
		var props []byte
		if props, b, err = cutProperties(b); err == nil {
			err = eachProperty(props, kind, func(p property) error {
				if p.id == packets.PropSubscriptionIdentifier {
					identifier = int(p.number)
				}
				return nil
			})
		}
		if err != nil {
			return 0, nil, err
		}
	}
	for len(b) > 0 {
		f := packets.Subscription{Identifier: identifier}
		var text []byte
		if text, b, err = cutText(b); err != nil { // [MQTT-3.8.3-1] [MQTT-3.10.3-1]
			return 0, nil, err
		}
		f.Filter = string(text)
		if kind == typeSubscribe {
			if len(b) == 0 {
				return 0, nil, errShort
			}
			if err := setOptions(&f, b[0], version); err != nil {
				return 0, nil, err
			}
			b = b[1:]
		}
		filters = append(filters, f)
	}
	if len(filters) == 0 { // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
		return 0, nil, faulty(protocolError, "the packet names no topic filter")
	}
	return id, filters, nil
}

// setOptions reads the subscription options (MQTT 5 section 3.8.3.1), of which older versions have the QoS only.
func setOptions(f *packets.Subscription, o byte, version byte) error {
	f.Qos = o & 3
	if version == v5 {
		f.NoLocal, f.RetainAsPublished, f.RetainHandling = o&4 != 0, o&8 != 0, o>>4&3
		o &= 0xc0
	} else {
		o &= 0xfc
	}
	switch {
	case o != 0: // [MQTT-3.8.3-5]
		return faulty(malformed, "reserved bits of the subscription options are set")
	case f.Qos == 3:
		return faulty(malformed, "SUBSCRIBE asks for QoS 3")
	case f.RetainHandling == 3:
		return faulty(protocolError, "retain handling 3 does not exist")
	}
	return nil
}

// appendCodes appends SUBACK or UNSUBACK: a code for each filter, in their order [MQTT-3.9.3-1] [MQTT-3.11.3-1], and why the
// first of them was refused. The UNSUBACK of older versions has none [MQTT-2.2.1-6].
func (c *conn) appendCodes(b []byte, kind byte, id uint16, codes []byte, why string) []byte {
	if c.version != v5 {
		if kind == typeUnsuback {
			codes = nil
		}
		b = appendVarint(append(b, kind<<4), 2+len(codes))
		return append(binary.BigEndian.AppendUint16(b, id), codes...)
	}
	props := c.reasonString(why, 1+4+2+len(codes))
	if props == nil {
		props = []byte{0} // [MQTT-2.2.2-1]
	}
	b = appendVarint(append(b, kind<<4), 2+len(props)+len(codes))
	b = append(binary.BigEndian.AppendUint16(b, id), props...)
	return append(b, codes...)
}
