package mqtt

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"github.com/mqgate/mqgate/router"
)

// unhex reads a packet that is written as hexadecimal digits and 'quoted text'.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var out bytes.Buffer
	for i, part := range bytes.Split([]byte(s), []byte("'")) {
		if i%2 == 1 {
			out.Write(part)
			continue
		}
		b, err := hex.DecodeString(string(bytes.ReplaceAll(part, []byte(" "), nil)))
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		out.Write(b)
	}
	return out.Bytes()
}

// framed puts the fixed header before a body.
func framed(first byte, body []byte) []byte {
	return append(appendVarint([]byte{first}, len(body)), body...)
}

// TestMalformedPackets sends, for each packet type, what breaks one rule each, to a client's connection that is logged in.
// One of MQTT 5 reads DISCONNECT with the reason; one of MQTT 3.1.1 sees the connection close without a word, and so does
// every one that sends it before CONNECT. A connection beside it is not disturbed [MQTT-4.13.1-1] [MQTT-4.13.2-1].
func TestMalformedPackets(t *testing.T) {
	fx := start(t)
	beside := fx.login(v5, "beside")
	for _, c := range []struct {
		clause string
		first  byte
		v3, v5 string // the body of each version; "-" if it has no such rule
		code   reason
	}{
		{"MQTT-2.1.2 type 0", 0x00, "", "", malformed},
		{"MQTT-3.1.0-2 second CONNECT", 0x10, "0004'MQTT'04020000 0001'c'", "0004'MQTT'05020000 00 0001'c'", protocolError},
		{"MQTT-2.1.3-1 CONNECT with flags", 0x11, "0004'MQTT'04020000 0001'c'", "0004'MQTT'05020000 00 0001'c'", malformed},
		{"CONNACK from a client", 0x20, "0000", "000000", protocolError},

		{"MQTT-3.3.1-4 QoS 3", 0x36, "0001'a'0001", "0001'a'0001 00", malformed},
		{"MQTT-3.3.1-2 DUP with QoS 0", 0x38, "0001'a'", "0001'a'00", malformed},
		{"MQTT-2.2.1-3 packet identifier 0", 0x32, "0001'a'0000", "0001'a'0000 00", protocolError},
		{"MQTT-2.2.1-2 QoS 1 without an identifier", 0x32, "0001'a'", "0001'a'", malformed},
		{"MQTT-4.7.3-1 empty topic", 0x30, "0000", "0000 00", protocolError},
		{"MQTT-3.3.2-1 topic is not UTF-8", 0x30, "0001 ff", "0001 ff 00", malformed},
		{"MQTT-1.5.4-1 topic with a surrogate", 0x30, "0003 eda080", "0003 eda080 00", malformed},
		{"MQTT-1.5.4-2 MQTT-4.7.3-2 topic with U+0000", 0x30, "0003'a'00'b'", "0003'a'00'b'00", malformed},
		{"MQTT-3.3.2-2 topic with #", 0x30, "0003'a/#'", "0003'a/#'00", badTopic},
		{"MQTT-4.7.0-1 topic with +", 0x32, "0001'+'0001", "0001'+'0001 00", badTopic},
		{"topic longer than the packet", 0x30, "0009'a'", "0009'a'00", malformed},
		{"MQTT-3.3.2-8 topic alias 0", 0x30, "-", "0001'a'03 230000", badAlias},
		{"MQTT-3.3.2-9 MQTT-3.2.2-17 alias above the maximum", 0x30, "-", "0001'a'03 237fff", badAlias},
		{"alias that was not set", 0x30, "-", "0000 03 230007", protocolError},
		{"MQTT-3.3.4-6 subscription identifier from a client", 0x30, "-", "0001'a'02 0b01", protocolError},
		{"MQTT-3.3.2-14 response topic with a wildcard", 0x30, "-", "0001'a'06 080003'a/+'", badTopic},
		{"MQTT-3.3.2-13 response topic is not UTF-8", 0x30, "-", "0001'a'04 080001ff", malformed},
		{"MQTT-3.3.2-19 content type is not UTF-8", 0x30, "-", "0001'a'04 030001ff", malformed},
		{"MQTT-1.5.7-1 user property is not UTF-8", 0x30, "-", "0001'a'07 260001'k'0001ff", malformed},
		{"payload format 2", 0x30, "-", "0001'a'02 0102", protocolError},
		{"payload that is not the UTF-8 it says", 0x30, "-", "0001'a'02 0101 ff", badPayloadFormat},
		{"a property twice", 0x30, "-", "0001'a'04 01000100", protocolError},
		{"MQTT-2.2.2-1 no property length", 0x30, "-", "0001'a'", malformed},
		{"properties longer than the packet", 0x30, "-", "0001'a'09 0100", malformed},
		{"MQTT-1.5.5-1 property length of five bytes", 0x30, "-", "0001'a'80808080 01", malformed},
		{"a property of another packet", 0x30, "-", "0001'a'05 1100000001", protocolError},
		{"a property that does not exist", 0x30, "-", "0001'a'02 7f00", protocolError},

		{"PUBACK too short", 0x40, "00", "00", malformed},
		{"PUBACK with identifier 0", 0x40, "0000", "0000", protocolError},
		{"PUBACK with flags", 0x42, "0001", "0001", malformed},
		{"PUBACK too long", 0x40, "0001 00", "0001 00 00 00", malformed},
		{"PUBREC too short", 0x50, "00", "00", malformed},
		{"PUBREC with flags", 0x51, "0001", "0001", malformed},
		{"PUBREC with a wrong property", 0x50, "-", "0001 00 02 0100", protocolError},
		{"PUBREL too short", 0x62, "00", "00", malformed},
		{"MQTT-3.6.1-1 PUBREL with flags 0", 0x60, "0001", "0001", malformed},
		{"PUBREL with identifier 0", 0x62, "0000", "0000", protocolError},
		{"PUBCOMP too short", 0x70, "00", "00", malformed},
		{"PUBCOMP with flags", 0x78, "0001", "0001", malformed},

		{"MQTT-3.8.1-1 SUBSCRIBE with flags 0", 0x80, "0001 0001'a'00", "0001 00 0001'a'00", malformed},
		{"MQTT-3.8.3-2 SUBSCRIBE without a filter", 0x82, "0001", "0001 00", protocolError},
		{"SUBSCRIBE with identifier 0", 0x82, "0000 0001'a'00", "0000 00 0001'a'00", protocolError},
		{"MQTT-3.8.3-1 filter is not UTF-8", 0x82, "0001 0001ff 00", "0001 00 0001ff 00", malformed},
		{"SUBSCRIBE without options", 0x82, "0001 0001'a'", "0001 00 0001'a'", malformed},
		{"SUBSCRIBE with QoS 3", 0x82, "0001 0001'a'03", "0001 00 0001'a'03", malformed},
		{"MQTT-3.8.3-5 reserved bits", 0x82, "0001 0001'a'04", "0001 00 0001'a'40", malformed},
		{"retain handling 3", 0x82, "-", "0001 00 0001'a'30", protocolError},
		{"MQTT-3.8.3-4 no local on a shared subscription", 0x82, "-", "0001 00 000a'$share/g/a'04", protocolError},
		{"subscription identifier 0", 0x82, "-", "0001 02 0b00 0001'a'00", protocolError},
		{"subscription identifier twice", 0x82, "-", "0001 04 0b010b02 0001'a'00", protocolError},
		{"SUBACK from a client", 0x90, "0001 00", "0001 00 00", protocolError},

		{"MQTT-3.10.1-1 UNSUBSCRIBE with flags 0", 0xa0, "0001 0001'a'", "0001 00 0001'a'", malformed},
		{"MQTT-3.10.3-2 UNSUBSCRIBE without a filter", 0xa2, "0001", "0001 00", protocolError},
		{"MQTT-3.10.3-1 filter is not UTF-8", 0xa2, "0001 0001ff", "0001 00 0001ff", malformed},
		{"UNSUBSCRIBE with identifier 0", 0xa2, "0000 0001'a'", "0000 00 0001'a'", protocolError},
		{"UNSUBACK from a client", 0xb0, "0001", "0001 00", protocolError},

		{"PINGREQ with a body", 0xc0, "00", "00", malformed},
		{"PINGREQ with flags", 0xc1, "", "", malformed},
		{"PINGRESP from a client", 0xd0, "", "", protocolError},
		{"MQTT-3.14.1-1 DISCONNECT with flags", 0xe1, "", "", malformed},
		{"DISCONNECT with a body", 0xe0, "00", "-", malformed},
		{"MQTT-3.14.2-1 DISCONNECT with a reason that does not exist", 0xe0, "-", "03", protocolError},
		{"DISCONNECT with a reason of servers", 0xe0, "-", "8b", protocolError},
		{"DISCONNECT too long", 0xe0, "-", "00 00 00", malformed},
		{"DISCONNECT that makes a session durable", 0xe0, "-", "00 05 1100000001", protocolError},
		{"DISCONNECT with a server reference", 0xe0, "-", "00 04 1c0001'x'", protocolError},
		{"MQTT-3.15.1-1 AUTH with flags", 0xf1, "", "", malformed},
		{"MQTT-4.12.0-7 AUTH without a method", 0xf0, "", "", protocolError},
		{"AUTH with a method that was not agreed on", 0xf0, "-", "18 08 150005'PLAIN'", protocolError},
	} {
		for version, body := range map[byte]string{v311: c.v3, v5: c.v5} {
			if body == "-" {
				continue
			}
			packet := framed(c.first, unhex(t, body))
			name := fmt.Sprintf("%s, version %d", c.clause, version)
			want := []byte{}
			if version == v5 {
				want = []byte{typeDisconnect << 4, byte(c.code)}
			}
			if got := fx.answerTo(version, packet); !bytes.Equal(got, want) {
				t.Errorf("%s: % x is answered with % x, want % x", name, packet, got, want)
			}
			if c.first>>4 == typeConnect {
				continue
			}
			stranger := fx.dial(version) // [MQTT-3.1.0-1] [MQTT-3.14.0-1]
			stranger.write(packet)
			if b, _ := io.ReadAll(stranger.conn); len(b) > 0 {
				t.Errorf("%s: before CONNECT it is answered with % x", name, b)
			}
		}
	}
	beside.barrier()
}

// answerTo sends a packet on a new connection and returns what comes until the server closes: of DISCONNECT its type and
// reason, nothing if nothing comes.
func (fx *fixture) answerTo(version byte, packet []byte) []byte {
	fx.t.Helper()
	c := fx.login(version, "victim")
	c.write(packet)
	out := []byte{}
	for {
		pk, err := c.next()
		if err != nil {
			if err == io.EOF {
				return out
			}
			return append(out, "the connection stays open"...)
		}
		out = append(out, pk.FixedHeader.Type<<4, pk.ReasonCode)
	}
}

// TestMalformedConnect breaks one rule of CONNECT each. Where the client's version has words for it they are CONNACK's, with
// no session present, and the connection closes in any case.
func TestMalformedConnect(t *testing.T) {
	fx := start(t)
	const closed = 0xff // without a word
	for _, c := range []struct {
		clause string
		first  byte
		body   string
		code   byte
	}{
		{"MQTT-3.1.2-1 protocol name", 0x10, "0004'MQTX'05020000 00 0001'c'", closed},
		{"MQTT-3.1.2-2 level 6", 0x10, "0004'MQTT'06020000 00 0001'c'", 0x01},
		{"MQTT-3.1.2-2 level 4 of MQIsdp", 0x10, "0006'MQIsdp'04020000 0001'c'", 0x01},
		{"MQTT-3.1.2-3 reserved flag", 0x10, "0004'MQTT'05030000 00 0001'c'", 0x81},
		{"MQTT-3.1.2-3 reserved flag", 0x10, "0004'MQTT'04030000 0001'c'", closed},
		{"MQTT-3.1.2-9 will flag without a will", 0x10, "0004'MQTT'05060000 00 0001'c'", 0x81},
		{"MQTT-3.1.2-11 will QoS without a will", 0x10, "0004'MQTT'050a0000 00 0001'c'", 0x81},
		{"MQTT-3.1.2-12 will QoS 3", 0x10, "0004'MQTT'051e0000 00 0001'c' 00 0001'w' 0000", 0x81},
		{"MQTT-3.1.2-13 will retain without a will", 0x10, "0004'MQTT'05220000 00 0001'c'", 0x81},
		{"MQTT-3.1.2-16 user name without its flag", 0x10, "0004'MQTT'05020000 00 0001'c' 0001'u'", 0x81},
		{"MQTT-3.1.2-17 user name flag without one", 0x10, "0004'MQTT'05820000 00 0001'c'", 0x81},
		{"MQTT-3.1.2-18 password without its flag", 0x10, "0004'MQTT'05820000 00 0001'c' 0001'u' 0001'p'", 0x81},
		{"MQTT-3.1.2-19 password flag without one", 0x10, "0004'MQTT'05420000 00 0001'c'", 0x81},
		{"MQTT-3.1.2-22 of 3.1.1 password without a user", 0x10, "0004'MQTT'04420000 0001'c' 0001'p'", closed},
		{"MQTT-3.1.3-3 no client id", 0x10, "0004'MQTT'05020000 00", 0x81},
		{"MQTT-3.1.3-4 client id is not UTF-8", 0x10, "0004'MQTT'05020000 00 0001ff", 0x81},
		{"MQTT-3.1.3-8 client id with a control character", 0x10, "0004'MQTT'05020000 00 0001 07", 0x85},
		{"MQTT-3.1.3-11 will topic is not UTF-8", 0x10, "0004'MQTT'05060000 00 0001'c' 00 0001ff 0000", 0x81},
		{"will topic with a wildcard", 0x10, "0004'MQTT'05060000 00 0001'c' 00 0001'#' 0000", 0x90},
		{"will payload that is not the UTF-8 it says", 0x10, "0004'MQTT'05060000 00 0001'c' 02 0101 0001'w' 0001ff", 0x99},
		{"MQTT-3.1.3-12 user name is not UTF-8", 0x10, "0004'MQTT'05820000 00 0001'c' 0001ff", 0x81},
		{"MQTT-3.1.4-1 flags of the fixed header", 0x11, "0004'MQTT'05020000 00 0001'c'", closed},
		{"MQTT-3.1.4-1 no keep alive", 0x10, "0004'MQTT'0502", 0x81},
		{"a property of another packet", 0x10, "0004'MQTT'05020000 02 0101 0001'c'", 0x82},
		{"a property twice", 0x10, "0004'MQTT'05020000 06 210001210001 0001'c'", 0x82},
		{"receive maximum 0", 0x10, "0004'MQTT'05020000 03 210000 0001'c'", 0x82},
		{"maximum packet size 0", 0x10, "0004'MQTT'05020000 05 2700000000 0001'c'", 0x82},
		{"request problem information 2", 0x10, "0004'MQTT'05020000 02 1702 0001'c'", 0x82},
		{"MQTT-4.12.0-1 authentication method", 0x10, "0004'MQTT'05020000 08 150005'PLAIN' 0001'c'", 0x8c},
		{"authentication data without a method", 0x10, "0004'MQTT'05020000 04 160001'x' 0001'c'", 0x82},
	} {
		body := unhex(t, c.body)
		p := fx.dial(body[2+int(body[1])])
		p.version = map[byte]byte{v5: v5}[p.version]
		if p.version == 0 {
			p.version = v311
		}
		p.write(append(framed(c.first, body), 0xc0, 0)) // [MQTT-3.1.4-6]: the PINGREQ behind it is not answered
		got := byte(closed)
		if pk, err := p.next(); err == nil {
			got = pk.ReasonCode
			if pk.FixedHeader.Type != typeConnack || pk.SessionPresent { // [MQTT-3.2.2-6]
				t.Errorf("%s: packet type %d, session present %v", c.clause, pk.FixedHeader.Type, pk.SessionPresent)
			}
		}
		if got != c.code {
			t.Errorf("%s: CONNACK says %#x, want %#x", c.clause, got, c.code)
		}
		if pk, err := p.next(); err == nil { // [MQTT-3.2.2-7]
			t.Errorf("%s: packet type %d comes after the refusal", c.clause, pk.FixedHeader.Type)
		}
	}
	fx.waitConnections(0)
	if n := len(fx.router.Sessions()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestPanicEndsThatConnectionOnly: a fault of ours, here in an authorizer, ends the connection that met it.
func TestPanicEndsThatConnectionOnly(t *testing.T) {
	bomb := authorizer(func(_ *router.Principal, _ router.Action, a router.Address) error {
		if a.Name() == "bomb" {
			panic("a fault")
		}
		return nil
	})
	fx := start(t, func(s *settings) { s.router.Authorize = bomb })
	fx.panics = 1
	beside, c := fx.login(v5, "beside"), fx.login(v5, "c")
	c.send(publishPacket("bomb", "x", 0, 0))
	if code := c.expectClosed(); code != byte(unspecified) {
		t.Errorf("DISCONNECT %#x", code)
	}
	beside.publish("a", "x", 1, 1)
}
