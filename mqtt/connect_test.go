package mqtt

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// It holds the gateway to MQTT-4.2.0-1: all tests with a fixture work over TCP.
func TestConnackComesFirstAndOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		fx := start(t)
		s := fx.login(v, "s", durableFor(600))
		s.subscribe(1, 1, "a")
		fx.gone(s)
		p := fx.login(v, "p")
		p.publish("a", "x", 1, 1)
		p.send(retainedPacket("r", "x"))
		p.wantAck(typePuback, 77, 0)
		c := fx.dial(v)
		c.write(encodePacket(t, connectPacket(v, "s", durableFor(600))))
		head := make([]byte, 4) // MQTT-3.1.4-5 MQTT-3.2.0-1: before the message that waits
		if _, err := io.ReadFull(c.conn, head); err != nil {
			t.Fatal(err)
		}
		if present := byte(1); head[0] != 0x20 || head[2]&0xfe != 0 || v != v31 && head[2] != present || head[3] != 0 { // MQTT-3.2.2-1
			t.Errorf("CONNACK begins with % x", head)
		}
		if n := int(head[1]) - 2; n > 0 {
			if _, err := io.CopyN(io.Discard, c.conn, int64(n)); err != nil {
				t.Fatal(err)
			}
		}
		c.message("a", "x", 1)
		for _, pk := range c.barrier() { // MQTT-3.2.0-2
			t.Errorf("packet type %d comes besides", pk.FixedHeader.Type)
		}
	})
}

func TestSessionPresent(t *testing.T) {
	fx := start(t)
	for i, c := range []struct {
		clean bool
		want  bool
	}{
		{false, false}, // MQTT-3.1.2-6 MQTT-3.2.2-3: there is none
		{false, true},  // MQTT-3.1.2-5 MQTT-3.2.2-3
		{true, false},  // MQTT-3.1.2-4 MQTT-3.1.4-4 MQTT-3.2.2-2
		{false, true},  // MQTT-3.1.2-23: the clean start made a session that outlives its connection
	} {
		opts := []connectOption{durableFor(600)}
		if c.clean {
			opts = append(opts, cleanStart)
		}
		s, ack := fx.connect(v5, "s", opts...)
		if ack.SessionPresent != c.want {
			t.Errorf("connection %d: session present %v, want %v", i, ack.SessionPresent, c.want)
		}
		fx.gone(s)
	}
	other, ack := fx.connect(v5, "other", durableFor(600)) // MQTT-3.1.3-2: the client id tells sessions apart
	if ack.SessionPresent {
		t.Error("another client finds the session")
	}
	other.barrier()
}

func TestAssignedClientID(t *testing.T) {
	fx := start(t)
	a, ackA := fx.connect(v5, "")
	_, ackB := fx.connect(v5, "")
	id := ackA.Properties.AssignedClientID
	if id == "" || id == ackB.Properties.AssignedClientID { // MQTT-3.1.3-6 MQTT-3.2.2-16
		t.Errorf("the ids %q and %q were assigned", id, ackB.Properties.AssignedClientID)
	}
	_, ack := fx.connect(v5, id) // MQTT-3.1.3-7: it is the client's own, so this one takes over
	if code := a.expectClosed(); code != byte(takenOver) {
		t.Errorf("the first connection hears %#x", code)
	}
	if ack.Properties.AssignedClientID != "" {
		t.Error("an id is assigned to a client that has one")
	}
	for _, id := range []string{"a", strings.Repeat("Az9", 7) + "xy", strings.Repeat("long-", 40)} { // MQTT-3.1.3-5
		fx.login(v311, id).barrier()
	}
}

func TestConnackProperties(t *testing.T) {
	fx := start(t)
	_, ack := fx.connect(v5, "c", func(pk *packets.Packet) {
		pk.Connect.Keepalive = 30
		pk.Properties.RequestResponseInfo = 1
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 1<<32-1, true
	})
	p := ack.Properties
	if p.ServerKeepAliveFlag { // MQTT-3.2.2-22: the client's own is used
		t.Errorf("server keep alive %d", p.ServerKeepAlive)
	}
	if p.ResponseInfo != "" { // MQTT-3.1.2-28: none is given, asked for or not
		t.Errorf("response information %q", p.ResponseInfo)
	}
	if want := uint32(7 * 24 * 3600); p.SessionExpiryInterval != want {
		t.Errorf("session expiry %d, want the limit of %d", p.SessionExpiryInterval, want)
	}
	if p.ReceiveMaximum != 1024 || p.TopicAliasMaximum != 32 || p.MaximumPacketSize != 1<<20+5 {
		t.Errorf("receive maximum %d, topic alias maximum %d, maximum packet size %d", p.ReceiveMaximum, p.TopicAliasMaximum, p.MaximumPacketSize)
	}
	if p.AuthenticationMethod != "" || p.AuthenticationData != nil { // MQTT-4.12.0-6
		t.Errorf("authentication method %q", p.AuthenticationMethod)
	}
	if p.MaximumQosFlag && p.MaximumQos < 2 || p.RetainAvailableFlag && p.RetainAvailable == 0 { // MQTT-3.2.2-9
		t.Errorf("maximum QoS %d, retain available %d", p.MaximumQos, p.RetainAvailable)
	}
}

func noProblemInfo(pk *packets.Packet) {
	pk.Properties.RequestProblemInfo, pk.Properties.RequestProblemInfoFlag = 0, true
}

func takesPackets(n uint32) connectOption {
	return func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = n }
}

// TestReasonStrings: failures are explained to clients of MQTT 5, unless they do not want it or the packet would be larger
// than they take.
func TestReasonStrings(t *testing.T) {
	denied := authorizer(func(_ *router.Principal, _ router.Action, a router.Address) error {
		if a.Name() == "secret" {
			return &router.Error{Op: "publish", Class: router.Denied, Text: "no entry"}
		}
		return nil
	})
	fx := start(t, func(s *settings) { s.router.Authorize = denied })
	for name, c := range map[string]struct {
		opts []connectOption
		text bool
	}{
		"asked for":      {nil, true},
		"not wanted":     {[]connectOption{noProblemInfo}, false},    // MQTT-3.1.2-29
		"small packets":  {[]connectOption{takesPackets(12)}, false}, // MQTT-3.1.2-24 MQTT-3.4.2-2 MQTT-3.5.2-2 MQTT-3.9.2-1
		"larger packets": {[]connectOption{takesPackets(100)}, true},
	} {
		p := fx.login(v5, "p", c.opts...)
		check := func(packet string, pk packets.Packet, want reason) {
			t.Helper()
			if pk.ReasonCode != byte(want) && !(len(pk.ReasonCodes) > 0 && pk.ReasonCodes[0] == byte(want)) {
				t.Errorf("%s, %s: reason %#x %x", name, packet, pk.ReasonCode, pk.ReasonCodes)
			}
			if got := pk.Properties.ReasonString; c.text != (got != "") {
				t.Errorf("%s, %s: reason string %q", name, packet, got)
			}
		}
		p.send(publishPacket("secret", "x", 1, 1))
		check("PUBACK", p.expect(typePuback), notAuthorized) // MQTT-3.4.2-1
		p.send(publishPacket("secret", "x", 2, 2))
		check("PUBREC", p.expect(typePubrec), notAuthorized) // MQTT-3.5.2-1
		p.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: 3, Filters: packets.Subscriptions{{Filter: "a#"}}})
		check("SUBACK", p.expect(typeSuback), badFilter)
		p.write([]byte{0, 0})
		pk := p.expect(typeDisconnect)
		if pk.ReasonCode != byte(malformed) || c.text != (pk.Properties.ReasonString != "") { // MQTT-3.14.2-3
			t.Errorf("%s: DISCONNECT %#x %q", name, pk.ReasonCode, pk.Properties.ReasonString)
		}
		if pk.Properties.SessionExpiryIntervalFlag { // MQTT-3.14.2-2
			t.Errorf("%s: DISCONNECT has a session expiry", name)
		}
		if next, err := p.next(); err != io.EOF { // MQTT-3.14.4-1 MQTT-3.14.4-2
			t.Errorf("%s: after DISCONNECT comes packet type %d, %v", name, next.FixedHeader.Type, err)
		}
	}
	for size, text := range map[uint32]bool{12: false, 200: true} { // MQTT-3.2.2-19
		c := fx.dial(v5)
		c.send(connectPacket(v5, "c", takesPackets(size), func(pk *packets.Packet) { pk.Properties.AuthenticationMethod = "PLAIN" }))
		if ack := c.expect(typeConnack); ack.ReasonCode != byte(badAuthMethod) || (ack.Properties.ReasonString != "") != text {
			t.Errorf("maximum packet size %d: CONNACK %#x %q", size, ack.ReasonCode, ack.Properties.ReasonString)
		}
	}
}

// It holds the gateway to MQTT-3.1.3-1.
func TestWillRetainAndProperties(t *testing.T) {
	fx := start(t)
	w := fx.login(v5, "w")
	w.subscribe(1, 1, "will/#")
	for _, retain := range []bool{false, true} { // MQTT-3.1.2-14 MQTT-3.1.2-15
		topic := fmt.Sprint("will/", retain)
		fx.gone(fx.login(v5, "c", withWill(topic, "x", 0), func(pk *packets.Packet) {
			pk.Connect.WillRetain = retain
			q := &pk.Connect.WillProperties
			q.ContentType, q.ResponseTopic, q.CorrelationData, q.MessageExpiryInterval = "text/plain", "re/ply", []byte("id"), 100
			q.PayloadFormat, q.PayloadFormatFlag = 1, true
			for i := range 4 {
				q.User = append(q.User, packets.UserProperty{Key: "k", Val: fmt.Sprint(3 - i)})
			}
		}))
		m := w.message(topic, "x", 1) // MQTT-3.1.2-7 MQTT-3.1.2-8
		w.ack(typePuback, m.PacketID)
		q := m.Properties
		if got := fmt.Sprint(q.User); got != "[{k 3} {k 2} {k 1} {k 0}]" { // MQTT-3.1.3-10
			t.Errorf("user properties %s", got)
		}
		if q.ContentType != "text/plain" || q.ResponseTopic != "re/ply" || string(q.CorrelationData) != "id" || q.PayloadFormat != 1 || q.MessageExpiryInterval == 0 {
			t.Errorf("properties %+v", q)
		}
		late := fx.login(v5, "late")
		late.subscribe(1, 0, topic)
		if got := bodies(late.barrier()); (got == "x") != retain {
			t.Errorf("will retain %v: a later subscriber gets %q", retain, got)
		}
	}
}
