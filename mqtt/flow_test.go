package mqtt

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// It holds the gateway to MQTT-2.2.1-5, MQTT-3.3.4-1, MQTT-3.8.4-8.
func TestPublishReachesSubscribersWithTheLowerQoS(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		fx := start(t)
		for sub := byte(0); sub <= 2; sub++ {
			s := fx.login(v, fmt.Sprint("s", sub))
			if codes := s.subscribe(1, sub, "plant/+/temp"); codes[0] != sub {
				t.Fatalf("SUBACK grants %d, want %d", codes[0], sub)
			}
			p := fx.login(v, "p")
			for pub := byte(0); pub <= 2; pub++ {
				p.publish("plant/7/temp", "x", pub, 9)
				m := s.message("plant/7/temp", "x", min(sub, pub))
				if m.FixedHeader.Dup || m.FixedHeader.Retain {
					t.Error("a new message is marked DUP or RETAIN")
				}
				switch min(sub, pub) {
				case 1:
					s.ack(typePuback, m.PacketID)
				case 2:
					s.ack(typePubrec, m.PacketID)
					s.wantAck(typePubrel, m.PacketID, 0)
					s.ack(typePubcomp, m.PacketID)
				}
			}
			if rest := s.barrier(); len(rest) > 0 {
				t.Errorf("more came: %v", bodies(rest))
			}
		}
	})
}

// It holds the gateway to MQTT-4.3.3-10.
func TestQoS2IsPublishedOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		fx := start(t)
		s, p := fx.login(v, "s"), fx.login(v, "p")
		s.subscribe(1, 0, "a")
		pk := publishPacket("a", "once", 2, 5)
		p.send(pk)
		p.wantAck(typePubrec, 5, 0)
		pk.FixedHeader.Dup = true
		p.send(pk)
		p.wantAck(typePubrec, 5, 0) // R12: not 0x91
		p.ack(typePubrel, 5)
		p.wantAck(typePubcomp, 5, 0)
		p.publish("a", "again", 2, 5) // the id is free
		s.message("a", "once", 0)
		s.message("a", "again", 0)
		if rest := s.barrier(); len(rest) > 0 {
			t.Errorf("more came: %v", bodies(rest))
		}
		if n := fx.server.Stats.Duplicates.Load(); n != 1 {
			t.Errorf("%d duplicates counted, want 1", n)
		}
	})
}

// It holds the gateway to MQTT-3.6.2-1, MQTT-3.7.2-1, MQTT-4.3.3-11.
func TestPubrelOfUnknownID(t *testing.T) {
	for v, code := range map[byte]byte{v311: 0, v5: byte(idNotFound)} {
		fx := start(t)
		c := fx.login(v, "c")
		c.ack(typePubrel, 7)
		c.wantAck(typePubcomp, 7, code)
		c.ack(typePubrec, 8)
		c.wantAck(typePubrel, 8, code)
	}
}

// It holds the gateway to MQTT-3.3.2-4, MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-18, MQTT-3.3.2-20.
func TestPropertiesTravel(t *testing.T) {
	fx := start(t)
	s, p := fx.login(v5, "s"), fx.login(v5, "p")
	sub := &packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "#", Qos: 1, Identifier: 300}}}
	sub.Properties.SubscriptionIdentifier = []int{300}
	s.send(sub)
	s.expect(typeSuback)
	pk := publishPacket("a/b", "body", 1, 3)
	pk.Properties = packets.Properties{
		PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "text/plain", ResponseTopic: "re/ply.x", CorrelationData: []byte{0, 1, 255},
		MessageExpiryInterval: 100, User: []packets.UserProperty{{Key: "k", Val: "1"}, {Key: "k", Val: "2"}, {Key: "priority", Val: "7"}, {Key: "timestamp", Val: "1700000000000"}},
	}
	p.send(pk)
	p.wantAck(typePuback, 3, 0)
	m := s.message("a/b", "body", 1)
	q := m.Properties
	if q.PayloadFormat != 1 || q.ContentType != "text/plain" || q.ResponseTopic != "re/ply.x" || string(q.CorrelationData) != "\x00\x01\xff" {
		t.Errorf("properties became %+v", q)
	}
	if q.MessageExpiryInterval == 0 || q.MessageExpiryInterval > 100 {
		t.Errorf("expiry became %d", q.MessageExpiryInterval)
	}
	if fmt.Sprint(q.SubscriptionIdentifier) != "[300]" {
		t.Errorf("subscription identifiers %v", q.SubscriptionIdentifier)
	}
	if got, want := fmt.Sprint(q.User), "[{priority 7} {timestamp 1700000000000} {k 1} {k 2}]"; got != want {
		t.Errorf("user properties %s, want %s", got, want)
	}
}

func TestUserPropertiesAreHeaders(t *testing.T) {
	m := &router.Message{Priority: router.DefaultPriority}
	for _, p := range [][2]string{{"a", "1"}, {"priority", "9"}, {"priority", "3"}, {"timestamp", "5"}, {"timestamp", "x"}} {
		setUserProperty(m, p[0], p[1])
	}
	if m.Priority != 9 || m.TimestampMs != 5 {
		t.Errorf("priority %d, timestamp %d", m.Priority, m.TimestampMs)
	}
	if got, want := fmt.Sprint(m.Headers), "[{a 1} {priority 3} {timestamp x}]"; got != want {
		t.Errorf("headers %s, want %s", got, want)
	}
}

func TestResponseTopicTranslates(t *testing.T) {
	for topic, replyTo := range map[string]string{"a/b": "/topic/a/b", "/a": "/topic//a", "one": "/topic/one", "dot.ted": "/topic/dot%2Eted", "$queue/q": "/queue/q"} {
		got := replyToOf(topic)
		if back := responseTopic("", got); back != topic {
			t.Errorf("%q became %q and then %q", topic, got, back)
		}
		if a, _, err := router.ParseDestination("", replyTo); err != nil || a.MQTTText() != topic {
			t.Errorf("%q means %q (%v), want %q", replyTo, a.MQTTText(), err, topic)
		}
	}
}

func replyToOf(topic string) string { return replyTo("", topic) }

func TestCorrelationData(t *testing.T) {
	for _, data := range []string{"", "plain", "base64:x", "\x00\xff", "a\nb", "é"} {
		id := correlationID([]byte(data))
		if back := string(correlationData(id)); back != data {
			t.Errorf("%q became %q and then %q", data, id, back)
		}
		for i := range len(id) {
			if id[i] < ' ' {
				t.Errorf("%q became %q, which no header can carry", data, id)
			}
		}
	}
}

// It holds the gateway to MQTT-3.1.2-26, MQTT-3.1.2-27, MQTT-3.3.2-11, MQTT-3.3.2-12.
func TestTopicAliases(t *testing.T) {
	fx := start(t)
	s := fx.login(v5, "s", func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = 1 })
	s.subscribe(1, 0, "#")
	none := fx.login(v5, "none")
	none.subscribe(1, 0, "again")
	p := fx.login(v5, "p")
	set := publishPacket("long/topic", "1", 0, 0)
	set.Properties.TopicAlias, set.Properties.TopicAliasFlag = 4, true
	p.send(set)
	use := publishPacket("", "2", 0, 0)
	use.Properties.TopicAlias, use.Properties.TopicAliasFlag = 4, true
	p.send(use)
	p.publish("other", "3", 0, 0)
	m := s.message("long/topic", "1", 0)
	if m.Properties.TopicAlias != 1 {
		t.Errorf("alias %d, want 1", m.Properties.TopicAlias)
	}
	if m = s.message("", "2", 0); m.Properties.TopicAlias != 1 {
		t.Errorf("alias %d, want 1", m.Properties.TopicAlias)
	}
	if m = s.message("other", "3", 0); m.Properties.TopicAliasFlag {
		t.Errorf("alias %d is above the client's maximum", m.Properties.TopicAlias)
	}
	for range 2 { // a client that takes none
		p.publish("again", "x", 0, 0)
		s.message("again", "x", 0)
		if m = none.message("again", "x", 0); m.Properties.TopicAliasFlag {
			t.Errorf("alias %d for a client that takes none", m.Properties.TopicAlias)
		}
	}
	for n := uint16(1); n <= 32; n++ { // all that CONNACK announces
		set.TopicName, set.Properties.TopicAlias = fmt.Sprint("alias/", n), n
		p.send(set)
	}
	for n := uint16(1); n <= 32; n++ {
		use.Properties.TopicAlias = n
		p.send(use)
	}
	for i := range 64 {
		s.message(fmt.Sprint("alias/", i%32+1), []string{"1", "2"}[i/32], 0)
	}
	unset := publishPacket("", "x", 0, 0)
	unset.Properties.TopicAlias, unset.Properties.TopicAliasFlag = 5, true
	u := fx.login(v5, "u")
	u.send(unset)
	if code := u.expectClosed(); code != byte(protocolError) {
		t.Errorf("an alias that was not set: %#x", code)
	}
	q := fx.login(v5, "q")
	set.Properties.TopicAlias = 33
	q.send(set)
	if code := q.expectClosed(); code != byte(badAlias) {
		t.Errorf("an alias above the maximum: %#x", code)
	}
}

// It holds the gateway to MQTT-3.3.1-13, MQTT-3.8.3-3.
func TestNoLocalAndRetainAsPublished(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "c")
	c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: 1, Filters: packets.Subscriptions{
		{Filter: "mine", NoLocal: true}, {Filter: "kept", RetainAsPublished: true}, {Filter: "plain"}}})
	c.expect(typeSuback)
	c.publish("mine", "x", 0, 0)
	for _, topic := range []string{"kept", "plain"} {
		pk := publishPacket(topic, topic, 0, 0)
		pk.FixedHeader.Retain = true
		c.send(pk)
	}
	if m := c.message("kept", "kept", 0); !m.FixedHeader.Retain {
		t.Error("retain as published was not kept")
	}
	if m := c.message("plain", "plain", 0); m.FixedHeader.Retain {
		t.Error("a live message is marked retained")
	}
}

func TestQueueIsShared(t *testing.T) {
	fx := start(t)
	a, b := fx.login(v5, "a", receiveMax(1)), fx.login(v311, "b")
	p := fx.login(v311, "p")
	a.subscribe(1, 1, "$queue/jobs")
	p.publish("$queue/jobs", "1", 1, 1)
	p.publish("$queue/jobs", "2", 1, 2)
	m := a.message("$queue/jobs", "1", 1)
	if rest := a.barrier(); len(rest) > 0 { // the receive maximum is exact
		t.Fatalf("more came: %v", bodies(rest))
	}
	b.subscribe(1, 1, "$queue/jobs")
	m2 := b.message("$queue/jobs", "2", 1)
	b.ack(typePuback, m2.PacketID)
	b.barrier()
	a.conn.Close() // unacknowledged: it goes to the other, marked
	m = b.message("$queue/jobs", "1", 1)
	if !m.FixedHeader.Dup {
		t.Error("a redelivered message is not marked DUP")
	}
	b.ack(typePuback, m.PacketID)
	b.barrier()
	eventually(t, func() error {
		q, err := router.QueueAddress("", "jobs")
		if err != nil {
			t.Fatal(err)
		}
		info, err := fx.router.QueueInfo(router.NewPrincipal("op", "", true, nil), q)
		if err == nil && info.Depth != 0 {
			err = fmt.Errorf("depth %d", info.Depth)
		}
		return err
	})
}

func TestQueueWithQoS0IsSettledWhenWritten(t *testing.T) {
	fx := start(t)
	a, p := fx.login(v311, "a"), fx.login(v311, "p")
	a.subscribe(1, 0, "$queue/jobs")
	p.publish("$queue/jobs", "1", 2, 1)
	a.message("$queue/jobs", "1", 0)
	eventually(t, func() error {
		q, _ := router.QueueAddress("", "jobs")
		info, err := fx.router.QueueInfo(router.NewPrincipal("op", "", true, nil), q)
		if err == nil && info.Depth != 0 {
			err = fmt.Errorf("depth %d", info.Depth)
		}
		return err
	})
}

func TestUnsubscribe(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		fx := start(t)
		c := fx.login(v, "c")
		c.subscribe(1, 1, "a", "b")
		c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: "a"}, {Filter: "nothing"}}})
		ack := c.expect(typeUnsuback)
		if v == v5 && fmt.Sprintf("%x", ack.ReasonCodes) != "0011" {
			t.Errorf("UNSUBACK %x", ack.ReasonCodes)
		}
		c.publish("a", "1", 0, 0)
		c.publish("b", "2", 0, 0)
		c.message("b", "2", 0)
	})
}

func TestRetained(t *testing.T) {
	fx := start(t)
	p := fx.login(v5, "p")
	for _, topic := range []string{"r/1", "r/2", "r"} {
		p.send(retainedPacket(topic, topic))
		p.wantAck(typePuback, 77, 0)
	}
	p.send(retainedPacket("r/2", ""))
	p.wantAck(typePuback, 77, 0)
	fx.restart()
	s := fx.login(v311, "s")
	s.subscribe(1, 0, "r/#")
	got := map[string]bool{}
	for range 2 {
		m := s.expect(typePublish)
		if !m.FixedHeader.Retain {
			t.Error("a retained message is not marked")
		}
		got[m.TopicName] = true
	}
	if !got["r"] || !got["r/1"] {
		t.Errorf("got %v", got)
	}
	if rest := s.barrier(); len(rest) > 0 {
		t.Errorf("more came: %v", bodies(rest))
	}
	h := fx.login(v5, "h")
	for i, want := range []int{1, 0} { // retain handling 1: for new subscriptions only
		h.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "r/1", RetainHandling: 1}}})
		h.expect(typeSuback)
		if got := h.barrier(); len(got) != want {
			t.Errorf("SUBSCRIBE %d gives %d retained messages, want %d", i, len(got), want)
		}
	}
}

func TestShareGivesEachMessageToOneMember(t *testing.T) {
	fx := start(t)
	a, b, p := fx.login(v5, "a"), fx.login(v5, "b"), fx.login(v5, "p")
	a.subscribe(1, 0, "$share/g/t/#")
	b.subscribe(1, 0, "$share/g/t/#")
	for i := range 10 {
		p.publish("t/x", fmt.Sprint(i), 0, 0)
	}
	p.barrier()
	na, nb := len(a.barrier()), len(b.barrier())
	if na != 5 || nb != 5 {
		t.Errorf("members got %d and %d, want 5 each", na, nb)
	}
	b.conn.Close()
	fx.waitConnections(2)
	for i := range 4 {
		p.publish("t/x", fmt.Sprint(i), 0, 0)
	}
	p.barrier()
	if got := bodies(a.barrier()); got != "0 1 2 3" { // R19: never a member that is gone
		t.Errorf("the member that is left got %q", got)
	}
}
