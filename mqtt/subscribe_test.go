package mqtt

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

func subscribePacket(id uint16, subs ...packets.Subscription) *packets.Packet {
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: id, Filters: subs}
	if subs[0].Identifier > 0 {
		pk.Properties.SubscriptionIdentifier = []int{subs[0].Identifier}
	}
	return pk
}

// refusesFilters denies reading what begins with "secret".
type refusesFilters struct{ router.AllowAll }

func (refusesFilters) AuthorizeFilter(_ *router.Principal, _ router.Action, f router.Filter) error {
	if f.Name() == "secret/#" {
		return &router.Error{Op: "subscribe", Class: router.Denied, Text: "no"}
	}
	return nil
}

func TestSubackAnswersEachFilter(t *testing.T) {
	for v, want := range map[byte]string{v311: "01 80 02 80 00", v5: "01 87 02 8f 00"} {
		fx := start(t, func(s *settings) { s.router.Authorize = refusesFilters{} })
		c := fx.login(v, "c")
		c.send(subscribePacket(513, packets.Subscription{Filter: "a", Qos: 1}, packets.Subscription{Filter: "secret/#"},
			packets.Subscription{Filter: "b", Qos: 2}, packets.Subscription{Filter: "c#"}, packets.Subscription{Filter: "d"}))
		ack := c.expect(typeSuback)                                  // MQTT-3.8.4-1
		if got := fmt.Sprintf("% x", ack.ReasonCodes); got != want { // MQTT-3.8.4-5 MQTT-3.8.4-6 MQTT-3.8.4-7 MQTT-3.9.3-1 MQTT-3.9.3-2
			t.Errorf("version %d: SUBACK says %s, want %s", v, got, want)
		}
		if ack.PacketID != 513 { // MQTT-2.2.1-6 MQTT-3.8.4-2
			t.Errorf("SUBACK has identifier %d", ack.PacketID)
		}
		c.publish("b", "x", 0, 0) // those that were granted hold
		c.message("b", "x", 0)
	}
}

func TestUnsubackAnswersEachFilter(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "c")
	c.subscribe(1, 1, "a", "b/+")
	c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 514,
		Filters: packets.Subscriptions{{Filter: "A"}, {Filter: "a"}, {Filter: "b/x"}, {Filter: "a"}}})
	ack := c.expect(typeUnsuback)                                                                // MQTT-3.10.4-4 MQTT-3.10.4-5 MQTT-3.10.4-6: the second "a" finds nothing
	if got := fmt.Sprintf("% x", ack.ReasonCodes); got != "11 00 11 11" || ack.PacketID != 514 { // MQTT-3.10.4-1 MQTT-3.11.3-1 MQTT-3.11.3-2
		t.Errorf("UNSUBACK %d says %s", ack.PacketID, got)
	}
	c.publish("a", "x", 0, 0)
	c.publish("b/x", "y", 0, 0)
	c.message("b/x", "y", 0) // MQTT-3.10.4-2
}

// TestUnsubscribeCompletesWhatIsUnderWay: deliveries that have begun are completed [MQTT-3.10.4-3].
func TestUnsubscribeCompletesWhatIsUnderWay(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		s, p := fx.login(v5, "s", durable...), fx.login(v5, "p")
		s.subscribe(1, 2, "a")
		p.publish("a", "one", 1, 1)
		p.publish("a", "two", 2, 2)
		one, two := s.message("a", "one", 1), s.message("a", "two", 2)
		s.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 3, Filters: packets.Subscriptions{{Filter: "a"}}})
		s.expect(typeUnsuback)
		s.ack(typePuback, one.PacketID)
		s.ack(typePubrec, two.PacketID)
		s.wantAck(typePubrel, two.PacketID, 0)
		s.ack(typePubcomp, two.PacketID)
		p.publish("a", "three", 1, 3)
		if rest := s.barrier(); len(rest) > 0 { // MQTT-3.10.4-2
			t.Errorf("came: %v", bodies(rest))
		}
	}
}

// TestSubscribeAgainReplaces: the options of the same filter change, nothing is lost and nothing comes twice.
func TestSubscribeAgainReplaces(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		s, p := fx.login(v5, "s", durable...), fx.login(v5, "p")
		p.send(retainedPacket("a", "kept"))
		p.wantAck(typePuback, 77, 0)
		for i, qos := range []byte{1, 0, 2, 1} { // MQTT-3.8.4-3
			s.send(subscribePacket(uint16(i+1), packets.Subscription{Filter: "a", Qos: qos, Identifier: i + 1}))
			s.expect(typeSuback)
			if m := s.message("a", "kept", min(qos, 1)); !m.FixedHeader.Retain { // MQTT-3.8.4-4
				t.Error("the retained message is not marked")
			} else if qos > 0 {
				s.ack(typePuback, m.PacketID)
			}
			p.publish("a", fmt.Sprint(i), 1, uint16(i+1))
			m := s.message("a", fmt.Sprint(i), min(qos, 1)) // MQTT-3.8.4-8
			if got := fmt.Sprint(m.Properties.SubscriptionIdentifier); got != fmt.Sprintf("[%d]", i+1) {
				t.Errorf("SUBSCRIBE %d: identifiers %s", i, got)
			}
			if qos > 0 {
				s.ack(typePuback, m.PacketID)
			}
			if rest := s.barrier(); len(rest) > 0 {
				t.Errorf("SUBSCRIBE %d: besides came %v", i, bodies(rest))
			}
		}
	}
}

// TestOverlappingSubscriptions: a durable session gets one copy with the highest QoS and every identifier, one that is not
// gets a copy for each subscription, with its own.
func TestOverlappingSubscriptions(t *testing.T) {
	fx := start(t)
	p := fx.login(v5, "p")
	subs := []packets.Subscription{{Filter: "a/#", Qos: 1, Identifier: 7}, {Filter: "a/+", Qos: 2, Identifier: 300}, {Filter: "a/b", Qos: 1, Identifier: maxRemaining}}
	one, each := fx.login(v5, "one", durableFor(600)), fx.login(v5, "each")
	for i, s := range subs {
		one.send(subscribePacket(uint16(i+1), s))
		one.expect(typeSuback)
		each.send(subscribePacket(uint16(i+1), s))
		each.expect(typeSuback)
	}
	p.publish("a/b", "x", 2, 1)
	m := one.message("a/b", "x", 2)                                                         // MQTT-3.3.4-2
	if got := fmt.Sprint(m.Properties.SubscriptionIdentifier); got != "[7 300 268435455]" { // MQTT-3.3.4-3 MQTT-3.3.4-4
		t.Errorf("identifiers %s", got)
	}
	if rest := one.barrier(); len(rest) > 0 {
		t.Errorf("more came: %d", len(rest))
	}
	got := map[string]byte{}
	for range subs { // MQTT-3.3.4-5
		m := each.expect(typePublish)
		got[fmt.Sprint(m.Properties.SubscriptionIdentifier)] = m.FixedHeader.Qos
	}
	if want := "map[[268435455]:1 [300]:2 [7]:1]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestSubscriptionOptionsOutliveConnections: a session that is resumed has its subscriptions with all that was asked of them, also
// after a restart.
func TestSubscriptionOptionsOutliveConnections(t *testing.T) {
	fx := start(t)
	subs := []packets.Subscription{
		{Filter: "stored", Qos: 2, Identifier: 7, RetainAsPublished: true}, {Filter: "live", Identifier: 300, RetainAsPublished: true},
		{Filter: "$share/g/shared", Qos: 1, Identifier: 9}, {Filter: "mine/1", Qos: 1, NoLocal: true}, {Filter: "mine/0", NoLocal: true},
	}
	s := fx.login(v5, "s", durableFor(600))
	for _, sub := range subs {
		s.send(subscribePacket(1, sub))
		s.expect(typeSuback)
	}
	for _, again := range []func(){func() { fx.gone(s) }, fx.restart} {
		again()
		s = fx.login(v5, "s", durableFor(600))
		p := fx.login(v5, "p")
		for topic, want := range map[string]string{"stored": "[7] QoS 1 retain true", "live": "[300] QoS 0 retain true", "shared": "[9] QoS 1 retain false"} {
			pk := retainedPacket(topic, "x")
			p.send(pk)
			p.wantAck(typePuback, 77, 0)
			m := s.expect(typePublish)
			s.finish(m)
			got := fmt.Sprintf("%v QoS %d retain %v", m.Properties.SubscriptionIdentifier, m.FixedHeader.Qos, m.FixedHeader.Retain)
			if m.TopicName != topic || got != want {
				t.Errorf("%s: %s came on %s, want %s", topic, got, m.TopicName, want)
			}
		}
		s.publish("mine/1", "x", 1, 1)
		s.publish("mine/0", "x", 1, 1)
		if rest := s.barrier(); len(rest) > 0 {
			t.Errorf("its own messages came: %v", bodies(rest))
		}
		p.publish("mine/1", "x", 1, 1)
		s.finish(s.message("mine/1", "x", 1))
		s.barrier() // the acknowledgement was read
	}
}

func TestRetainHandling(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		p := fx.login(v5, "p")
		p.send(retainedPacket("a", "kept"))
		p.wantAck(typePuback, 77, 0)
		for handling, want := range []string{"1 1", "1 0", "0 0"} { // MQTT-3.3.1-9 MQTT-3.3.1-10 MQTT-3.3.1-11
			s := fx.login(v5, fmt.Sprint("s", handling), durable...)
			got := ""
			for range 2 {
				s.send(subscribePacket(1, packets.Subscription{Filter: "a", Qos: 1, RetainHandling: byte(handling)}))
				s.expect(typeSuback)
				s.send(subscribePacket(2, packets.Subscription{Filter: "end", Qos: 1}))
				n := 0
				for over := false; !over; { // a message behind what is kept tells the end
					switch m, err := s.next(); {
					case err != nil:
						t.Fatal(err)
					case m.FixedHeader.Type == typeSuback:
						p.publish("end", "x", 1, 1)
					case m.TopicName == "end":
						over = true
						s.ack(typePuback, m.PacketID)
					default:
						n++
						s.ack(typePuback, m.PacketID)
					}
				}
				got += fmt.Sprint(n, " ")
			}
			if got != want+" " {
				t.Errorf("durable %v, retain handling %d: %s messages, want %s", durable != nil, handling, got, want)
			}
		}
	}
}
