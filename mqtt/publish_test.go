package mqtt

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// TestDupIsNotPassedOn: what a subscriber gets for the first time is not a duplicate, whatever the publisher said.
func TestDupIsNotPassedOn(t *testing.T) {
	fx := start(t)
	s, p := fx.login(v311, "s"), fx.login(v311, "p")
	s.subscribe(1, 2, "a")
	for qos := byte(0); qos <= 2; qos++ { // MQTT-3.3.1-1 MQTT-3.3.1-3 MQTT-4.3.1-1 MQTT-4.3.2-2 MQTT-4.3.3-2
		pk := publishPacket("a", "x", qos, 1)
		pk.FixedHeader.Dup = qos > 0
		p.send(pk)
		p.complete(qos, 1)
		if m := s.message("a", "x", qos); m.FixedHeader.Dup {
			t.Errorf("QoS %d: the message is marked as a duplicate", qos)
		}
	}
}

// TestIdentifiersAreFreeAgain: after its PUBACK or PUBCOMP, or a refusal, an identifier stands for a new message.
func TestIdentifiersAreFreeAgain(t *testing.T) {
	denied := authorizer(func(_ *router.Principal, _ router.Action, a router.Address) error {
		if a.Name() == "secret" {
			return &router.Error{Op: "publish", Class: router.Denied, Text: "no"}
		}
		return nil
	})
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t, func(s *settings) { s.router.Authorize = denied })
		s, p := fx.login(v5, "s"), fx.login(v5, "p", durable...)
		s.subscribe(1, 0, "a")
		for i, qos := range []byte{1, 1, 2, 2} { // MQTT-4.3.2-5 MQTT-4.3.3-12
			pk := publishPacket("a", fmt.Sprint(i), qos, 1)
			pk.FixedHeader.Dup = true // which means nothing now
			p.send(pk)
			p.complete(qos, 1) // MQTT-4.3.2-4 MQTT-4.3.3-8 MQTT-4.3.3-11: under the same identifier
			s.message("a", fmt.Sprint(i), 0)
		}
		p.send(publishPacket("secret", "x", 2, 1))
		p.wantAck(typePubrec, 1, byte(notAuthorized))
		p.publish("a", "again", 2, 1) // MQTT-4.3.3-9
		s.message("a", "again", 0)
	}
}

// TestDeliveryFlows walks through the flows towards a subscriber, and stops in the middle of them.
func TestDeliveryFlows(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		s, p := fx.login(v5, "s", durable...), fx.login(v5, "p")
		s.subscribe(1, 2, "a")
		p.publish("a", "one", 1, 1)
		p.publish("a", "two", 2, 2)
		one, two := s.message("a", "one", 1), s.message("a", "two", 2)
		if one.PacketID == two.PacketID || one.PacketID == 0 || two.PacketID == 0 { // MQTT-2.2.1-4 MQTT-4.3.2-1 MQTT-4.3.3-1
			t.Errorf("two messages under way have the identifiers %d and %d", one.PacketID, two.PacketID)
		}
		if rest := s.barrier(); len(rest) > 0 { // MQTT-4.3.2-3 MQTT-4.3.3-3 MQTT-4.4.0-1: nothing is sent again on a connection
			t.Errorf("%d packets come before an acknowledgement", len(rest))
		}
		for range 2 { // MQTT-4.3.3-4; a second PUBREC gets the same answer
			s.ack(typePubrec, two.PacketID)
			s.wantAck(typePubrel, two.PacketID, 0)
		}
		if rest := s.barrier(); len(rest) > 0 { // MQTT-4.3.3-5 MQTT-4.3.3-6
			t.Errorf("%d packets come after PUBREL", len(rest))
		}
		s.ack(typePubcomp, two.PacketID)
		s.ack(typePuback, one.PacketID)
		s.barrier()
	}
}

// TestRefusedDeliveryIsNotSentAgain: a reason code of 0x80 or above ends a delivery as well [MQTT-4.4.0-2].
func TestRefusedDeliveryIsNotSentAgain(t *testing.T) {
	fx := start(t)
	s := fx.login(v5, "s", durableFor(600))
	s.subscribe(1, 2, "a")
	p := fx.login(v5, "p")
	p.publish("a", "one", 1, 1)
	p.publish("a", "two", 2, 2)
	p.publish("a", "three", 1, 3)
	for _, body := range []string{"one", "two"} {
		m := s.expect(typePublish)
		if string(m.Payload) != body {
			t.Fatalf("got %q", m.Payload)
		}
		kind := byte(typePuback)
		if m.FixedHeader.Qos == 2 {
			kind = typePubrec
		}
		s.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: m.PacketID, ReasonCode: byte(quotaExceeded)})
	}
	s.message("a", "three", 1)
	if rest := s.barrier(); len(rest) > 0 { // no PUBREL either
		t.Errorf("%d packets come", len(rest))
	}
	fx.gone(s)
	s = fx.login(v5, "s", durableFor(600))
	s.ack(typePuback, s.message("a", "three", 1).PacketID)
	if rest := s.barrier(); len(rest) > 0 {
		t.Errorf("came again: %v", bodies(rest))
	}
}

func TestMessageExpiry(t *testing.T) {
	fx := start(t)
	live, s := fx.login(v5, "live"), fx.login(v5, "s", durableFor(600))
	live.subscribe(1, 1, "a")
	s.subscribe(1, 1, "a")
	fx.gone(s)
	p := fx.login(v5, "p")
	for i, sec := range []uint32{0, 100} {
		pk := publishPacket("a", fmt.Sprint(sec), 1, uint16(i+1))
		pk.Properties.MessageExpiryInterval = sec
		b := encodePacket(t, &packets.Packet{ProtocolVersion: v5, FixedHeader: pk.FixedHeader, TopicName: "a", Payload: pk.Payload, PacketID: pk.PacketID, Properties: pk.Properties})
		if sec == 0 { // the codec leaves out a zero
			b = framed(0x32, unhex(t, "0001'a'0001 05 0200000000 '0'"))
		}
		p.write(b)
		p.wantAck(typePuback, uint16(i+1), 0) // MQTT-4.3.3-13: the flow is completed all the same
	}
	s = fx.login(v5, "s", durableFor(600))
	for _, c := range []*client{live, s} { // MQTT-3.3.2-5: the expired one is not delivered
		m := c.message("a", "100", 1)
		if e := m.Properties.MessageExpiryInterval; e == 0 || e > 100 { // MQTT-3.3.2-6
			t.Errorf("the interval became %d", e)
		}
	}
	eventually(t, func() error { // of the session that was away, and of the one that was there
		if n := fx.router.Stats.Dropped()[router.DropExpired]; n != 2 {
			return fmt.Errorf("%d counted as expired, want 2", n)
		}
		return nil
	})
}

// TestTopicMatching has the matcher's table of the specification, with clients.
func TestTopicMatching(t *testing.T) {
	fx := start(t)
	c := fx.login(v311, "c")
	for _, x := range []struct{ filter, yes, no string }{
		{"sport/tennis/player1/#", "sport/tennis/player1 sport/tennis/player1/ranking sport/tennis/player1/score/wimbledon", "sport/tennis/player2 sport/tennis"},
		{"#", "sport /sport sport/", "$queue/x"}, // MQTT-4.7.1-1 MQTT-4.7.2-1
		{"sport/tennis/+", "sport/tennis/player1 sport/tennis/", "sport/tennis/player1/ranking sport/tennis"},
		{"+", "finance", "/finance $queue/x"}, // MQTT-4.7.1-2 MQTT-4.7.2-1
		{"+/+", "/finance a/b", "finance"},
		{"/+", "/finance", "finance"},
		{"sport/+/player1", "sport/x/player1 sport//player1", "sport/player1"},
		{"Accounts", "Accounts", "accounts ACCOUNTS"}, // MQTT-4.7.3-4
		{"a/./b", "a/./b", "a/b"},
		{"é", "é", "e\u0301"},
		{"\ufeffbom", "\ufeffbom", "bom"}, // MQTT-1.5.4-3
	} {
		c.subscribe(1, 0, x.filter)
		for _, topics := range []string{x.yes, x.no} {
			for _, topic := range strings.Fields(topics) {
				want := 0
				if topics == x.yes {
					want = 1
				}
				c.send(publishPacket(topic, "x", 0, 0))
				got := c.barrier()
				if len(got) != want || want == 1 && got[0].TopicName != topic { // MQTT-3.3.2-3
					t.Errorf("filter %q, topic %q: %d messages, want %d", x.filter, topic, len(got), want)
				}
			}
		}
		c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: x.filter}}})
		c.expect(typeUnsuback)
	}
}

// TestRetainedIsReplacedAndRemoved follows the retained message of one topic.
func TestRetainedIsReplacedAndRemoved(t *testing.T) {
	for _, qos := range []byte{0, 1, 2} {
		fx := start(t)
		p, live := fx.login(v5, "p"), fx.login(v5, "live")
		live.subscribe(1, 0, "r")
		for i, c := range []struct {
			body   string
			retain bool
			kept   string
		}{
			{"1", true, "1"},
			{"2", true, "2"},  // MQTT-3.3.1-5
			{"3", false, "2"}, // MQTT-3.3.1-8
			{"", false, "2"},
			{"", true, ""}, // MQTT-3.3.1-6 MQTT-3.3.1-7
		} {
			pk := publishPacket("r", c.body, qos, uint16(i+1))
			pk.FixedHeader.Retain = c.retain
			p.send(pk)
			p.complete(qos, uint16(i+1))
			p.barrier()
			if m := live.message("r", c.body, 0); m.FixedHeader.Retain { // MQTT-3.3.1-12
				t.Errorf("a live message is marked as retained")
			}
			s := fx.login(v5, "s")
			s.subscribe(1, 0, "r")
			got := s.barrier()
			if bodies(got) != c.kept || len(got) > 1 || len(got) == 1 && !got[0].FixedHeader.Retain {
				t.Errorf("after message %d with QoS %d a new subscriber gets %d messages: %q, want %q", i, qos, len(got), bodies(got), c.kept)
			}
		}
	}
}

func TestVarints(t *testing.T) { // MQTT-1.5.5-1: as few bytes as the value takes
	for n, want := range map[int]string{0: "00", 127: "7f", 128: "8001", 16383: "ff7f", 16384: "808001", 2097151: "ffff7f", 2097152: "80808001", maxRemaining: "ffffff7f"} {
		b := appendVarint(nil, n)
		if !bytes.Equal(b, unhex(t, want)) || varintBytes(n) != len(b) {
			t.Errorf("%d becomes % x with %d bytes, want %s", n, b, varintBytes(n), want)
		}
		if back, rest, err := cutVarint(b); back != n || len(rest) > 0 || err != nil {
			t.Errorf("% x is read as %d, %v", b, back, err)
		}
	}
}
