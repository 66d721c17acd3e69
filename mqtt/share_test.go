package mqtt

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

const sharedFilter = "$share/g/t/#"

func (c *client) publishNumbers(topic string, from, to int) {
	c.t.Helper()
	for i := from; i < to; i++ {
		c.publish(topic, fmt.Sprint(i), 1, uint16(i+1))
	}
}

// expectNumbers reads messages with the bodies from to to-1, in order, and acknowledges them.
func (c *client) expectNumbers(topic string, from, to int) {
	c.t.Helper()
	for i := from; i < to; i++ {
		c.ack(typePuback, c.message(topic, fmt.Sprint(i), 1).PacketID)
	}
}

// TestShareWaitsForDurableMembers: while no member is connected, messages wait, also through a restart.
func TestShareWaitsForDurableMembers(t *testing.T) {
	fx := start(t)
	a := fx.login(v5, "a", durableFor(600))
	a.subscribe(1, 1, sharedFilter)
	p := fx.login(v5, "p")
	p.publishNumbers("t/x", 0, 2)
	a.ack(typePuback, a.message("t/x", "0", 1).PacketID)
	a.message("t/x", "1", 1) // and leaves without an acknowledgement
	fx.gone(a)
	p.publishNumbers("t/x", 2, 5)
	fx.restart()
	p = fx.login(v5, "p")
	p.publishNumbers("t/x", 5, 7)
	a, ack := fx.connect(v5, "a", durableFor(600))
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	if m := a.message("t/x", "1", 1); !m.FixedHeader.Dup {
		t.Error("a message that comes again is not marked")
	} else {
		a.ack(typePuback, m.PacketID)
	}
	a.expectNumbers("t/x", 2, 7)
	if rest := a.barrier(); len(rest) > 0 {
		t.Errorf("more came: %v", bodies(rest))
	}
}

// TestShareGoesToThoseConnected: an absent member is never chosen while another is there, and what a member had not
// acknowledged when it left goes to another.
func TestShareGoesToThoseConnected(t *testing.T) {
	for name, opts := range map[string][2][]connectOption{
		"live":    {nil, nil},
		"durable": {{durableFor(600)}, {durableFor(600)}},
		"mixed":   {{durableFor(600)}, nil},
		"mixed 2": {nil, {durableFor(600)}},
	} {
		t.Run(name, func(t *testing.T) {
			fx := start(t)
			a, b, p := fx.login(v5, "a", opts[0]...), fx.login(v5, "b", opts[1]...), fx.login(v5, "p")
			a.subscribe(1, 1, sharedFilter)
			b.subscribe(1, 1, sharedFilter)
			p.publishNumbers("t/x", 0, 10)
			heldByA, heldByB := a.barrier(), b.barrier()
			for len(heldByA)+len(heldByB) < 10 {
				heldByA, heldByB = append(heldByA, a.barrier()...), append(heldByB, b.barrier()...)
			}
			if len(heldByA) != 5 { // each gets its share
				t.Errorf("a got %d, b %d", len(heldByA), len(heldByB))
			}
			fx.gone(a) // R19
			for i := range heldByA {
				if m := b.expect(typePublish); string(m.Payload) != string(heldByA[i].Payload) {
					t.Errorf("b gets %q, want %q", m.Payload, heldByA[i].Payload)
				}
			}
			p.publishNumbers("t/x", 10, 20)
			b.expectNumbers("t/x", 10, 20)
			if rest := b.barrier(); len(rest) > 0 {
				t.Errorf("more came: %v", bodies(rest))
			}
		})
	}
}

// TestShareGrants: each member has its own QoS, of 1 at most [MQTT-4.8.2-3]. A message bound to one client, as QoS 2 would
// have it, does not exist [MQTT-4.8.2-4] [MQTT-4.8.2-5].
func TestShareGrants(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		zero, two, p := fx.login(v5, "zero", durable...), fx.login(v5, "two", durable...), fx.login(v5, "p")
		if codes := zero.subscribe(1, 0, sharedFilter); codes[0] != 0 {
			t.Errorf("QoS 0 is granted %d", codes[0])
		}
		if codes := two.subscribe(1, 2, sharedFilter); codes[0] != 1 {
			t.Errorf("QoS 2 is granted %d", codes[0])
		}
		for i := range 4 {
			p.publish("t/x", fmt.Sprint(i), 2, uint16(i+1))
		}
		for range 2 {
			if m := zero.expect(typePublish); m.FixedHeader.Qos != 0 {
				t.Errorf("a member with QoS 0 gets QoS %d", m.FixedHeader.Qos)
			}
			if m := two.expect(typePublish); m.FixedHeader.Qos != 1 {
				t.Errorf("the other gets QoS %d", m.FixedHeader.Qos)
			}
		}
	}
}

// TestShareGetsNoRetained: a shared subscription begins with what is published from then on (MQTT 5 section 4.8.2).
func TestShareGetsNoRetained(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		a, p := fx.login(v5, "a", durable...), fx.login(v5, "p")
		p.send(retainedPacket("t/x", "kept"))
		p.wantAck(typePuback, 77, 0)
		for range 2 {
			a.subscribe(1, 1, sharedFilter)
			p.publishNumbers("t/x", 0, 1)
			a.expectNumbers("t/x", 0, 1)
		}
	}
}

// TestShareRefusedIsDiscarded: what a member refuses is not given to another [MQTT-4.8.2-6].
func TestShareRefusedIsDiscarded(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		a, p := fx.login(v5, "a", durable...), fx.login(v5, "p")
		a.subscribe(1, 1, sharedFilter)
		p.publishNumbers("t/x", 0, 1)
		m := a.message("t/x", "0", 1)
		b := fx.login(v5, "b", durable...)
		b.subscribe(1, 1, sharedFilter)
		a.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typePuback}, PacketID: m.PacketID, ReasonCode: byte(implementation)})
		a.barrier()
		fx.gone(a)
		p.publishNumbers("t/x", 1, 2)
		b.expectNumbers("t/x", 1, 2)
	}
}

// TestShareRespectsRights: a member that may not read a topic is passed over.
func TestShareRespectsRights(t *testing.T) {
	mayNot := authorizer(func(p *router.Principal, a router.Action, addr router.Address) error {
		if a == router.ActionRead && p.Name() == "guest" && addr.Name() == "t/secret" {
			return &router.Error{Op: "read", Class: router.Denied, Text: "no"}
		}
		return nil
	})
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t, func(s *settings) { s.router.Authorize = mayNot })
		guest := fx.login(v5, "guest", append(durable, withUser("guest", ""))...)
		staff := fx.login(v5, "staff", append(durable, withUser("staff", ""))...)
		p := fx.login(v5, "p")
		guest.subscribe(1, 1, sharedFilter)
		staff.subscribe(1, 1, sharedFilter)
		p.publishNumbers("t/secret", 0, 10)
		staff.expectNumbers("t/secret", 0, 10)
		if got := guest.barrier(); len(got) > 0 {
			t.Errorf("came to one who may not read it: %v", bodies(got))
		}
		if durable == nil {
			continue
		}
		fx.gone(staff)
		p.publishNumbers("t/secret", 10, 11)
		p.publishNumbers("t/open", 11, 12)
		guest.expectNumbers("t/open", 11, 12)
		if n := fx.router.Stats.Dropped()[router.DropDenied]; n != 1 {
			t.Errorf("%d counted as denied, want 1", n)
		}
	}
}

// TestShareMailboxEndsWithItsMembers: the group's mailbox goes with the last durable member and the last client that takes from it.
func TestShareMailboxEndsWithItsMembers(t *testing.T) {
	fx := start(t)
	inboxes := func() int {
		n := 0
		boxes, err := fx.set.router.Store.Mailboxes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boxes {
			if b.ID.Kind == router.KindInbox {
				n++
			}
		}
		return n
	}
	want := func(n int) {
		t.Helper()
		eventually(t, func() error {
			if got := inboxes(); got != n {
				return fmt.Errorf("%d mailboxes, want %d", got, n)
			}
			return nil
		})
	}
	live := fx.login(v5, "live")
	live.subscribe(1, 1, sharedFilter)
	want(0)
	a := fx.login(v5, "a", durableFor(600))
	a.subscribe(1, 1, sharedFilter)
	want(1)
	a.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: sharedFilter}}})
	a.expect(typeUnsuback)
	p := fx.login(v5, "p")
	p.publishNumbers("t/x", 0, 4)
	live.expectNumbers("t/x", 0, 4) // the group goes on for the other
	fx.gone(live)
	want(0)
	live = fx.login(v5, "live")
	live.subscribe(1, 1, sharedFilter)
	p.publishNumbers("t/x", 4, 6)
	live.expectNumbers("t/x", 4, 6)
	want(0)
	fx.gone(live)
	b := fx.login(v5, "b", durableFor(600))
	b.subscribe(1, 1, sharedFilter)
	want(1)
	fx.gone(b)
	fx.gone(fx.login(v5, "b", cleanStart)) // its session ends
	want(0)
}

// TestRetainedIsKeptForDurableSessions: the retained messages of a subscription are messages of the session like others.
func TestRetainedIsKeptForDurableSessions(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		fx := start(t)
		p := fx.login(v5, "p")
		for i := range 3 {
			pk := publishPacket(fmt.Sprint("r/", i), fmt.Sprint(i), qos, 1)
			pk.FixedHeader.Retain = true
			p.send(pk)
			p.complete(qos, 1)
		}
		s := fx.login(v5, "s", durableFor(600), receiveMax(1))
		s.subscribe(1, qos, "r/#")
		m := s.expect(typePublish)
		if !m.FixedHeader.Retain || m.FixedHeader.Qos != qos {
			t.Errorf("retain %v, QoS %d", m.FixedHeader.Retain, m.FixedHeader.Qos)
		}
		if rest := s.barrier(); len(rest) > 0 {
			t.Errorf("more came than the receive maximum: %v", bodies(rest))
		}
		fx.gone(s)
		fx.restart()
		s = fx.login(v5, "s", durableFor(600), receiveMax(1))
		got := map[string]bool{}
		for i := range 3 {
			again := s.expect(typePublish)
			if i == 0 && (again.PacketID != m.PacketID || !again.FixedHeader.Dup || string(again.Payload) != string(m.Payload)) {
				t.Errorf("%q comes again as %q with id %d, DUP %v", m.Payload, again.Payload, again.PacketID, again.FixedHeader.Dup)
			}
			if !again.FixedHeader.Retain {
				t.Errorf("%q is not marked as retained", again.Payload)
			}
			got[string(again.Payload)] = true
			if qos == 1 {
				s.ack(typePuback, again.PacketID)
				continue
			}
			s.ack(typePubrec, again.PacketID)
			s.wantAck(typePubrel, again.PacketID, 0)
			s.ack(typePubcomp, again.PacketID)
		}
		if rest := s.barrier(); len(got) != 3 || len(rest) > 0 {
			t.Errorf("got %v, and besides %v", got, bodies(rest))
		}
	}
}

// TestRetainedThatWasReplacedIsNotSent: what waited is not sent behind what took its place.
func TestRetainedThatWasReplacedIsNotSent(t *testing.T) {
	fx := start(t)
	p := fx.login(v5, "p")
	p.send(retainedPacket("r", "old"))
	p.wantAck(typePuback, 77, 0)
	s := fx.login(v5, "s", durableFor(600), receiveMax(1))
	s.subscribe(1, 1, "first")
	p.publish("first", "x", 1, 1)
	first := s.message("first", "x", 1)
	s.subscribe(2, 1, "r")
	p.send(retainedPacket("r", "new"))
	p.wantAck(typePuback, 77, 0)
	s.ack(typePuback, first.PacketID)
	m := s.message("r", "new", 1)
	if m.FixedHeader.Retain {
		t.Error("what came live is marked as retained")
	}
	s.ack(typePuback, m.PacketID)
	if rest := s.barrier(); len(rest) > 0 {
		t.Errorf("more came: %v", bodies(rest))
	}
}
