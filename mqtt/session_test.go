package mqtt

import (
	"fmt"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// gone ends the client's connection without DISCONNECT and waits until the server has noticed.
func (fx *fixture) gone(c *client) {
	fx.t.Helper()
	address := c.conn.LocalAddr().String()
	c.conn.Close()
	eventually(fx.t, func() error {
		for _, served := range fx.server.guests.All() {
			if served.socket.RemoteAddr().String() == address {
				return fmt.Errorf("the connection from %s is still served", address)
			}
		}
		return nil
	})
}

// It holds the gateway to MQTT-3.3.1-1, MQTT-4.5.0-1, MQTT-4.6.0-5.
func TestSessionKeepsMessagesInOrder(t *testing.T) {
	for _, v := range []byte{v311, v5} {
		fx := start(t)
		s, ack := fx.connect(v, "s", durableFor(600))
		if ack.SessionPresent {
			t.Error("a new session is present")
		}
		s.subscribe(1, 1, "a/#", "a/+") // R: one copy though two filters match
		fx.gone(s)
		p := fx.login(v, "p")
		for i := range 30 {
			p.publish("a/x", fmt.Sprint(i), 1, uint16(i+1))
		}
		s, ack = fx.connect(v, "s", durableFor(600))
		if !ack.SessionPresent {
			t.Error("the session is not present")
		}
		ids := map[string]uint16{}
		for i := range 30 {
			m := s.message("a/x", fmt.Sprint(i), 1)
			if m.FixedHeader.Dup {
				t.Errorf("message %d was never sent and is marked DUP", i)
			}
			ids[fmt.Sprint(i)] = m.PacketID
		}
		s.ack(typePuback, ids["0"])
		s.barrier()
		fx.gone(s)
		fx.restart()
		s, _ = fx.connect(v, "s", durableFor(600))
		for i := 1; i < 30; i++ {
			m := s.message("a/x", fmt.Sprint(i), 1)
			if !m.FixedHeader.Dup || m.PacketID != ids[fmt.Sprint(i)] { // [MQTT-4.4.0-1]
				t.Errorf("message %d comes again with id %d, DUP %v; it had id %d", i, m.PacketID, m.FixedHeader.Dup, ids[fmt.Sprint(i)])
			}
			s.ack(typePuback, m.PacketID)
		}
		if rest := s.barrier(); len(rest) > 0 {
			t.Errorf("more came: %v", bodies(rest))
		}
	}
}

// It holds the gateway to MQTT-4.3.3-6.
func TestQoS2SurvivesReconnectsAndRestarts(t *testing.T) {
	for _, v := range []byte{v311, v5} {
		fx := start(t)
		s := fx.login(v, "s", durableFor(600))
		s.subscribe(1, 2, "a")
		p := fx.login(v, "p", durableFor(600))
		p.send(publishPacket("a", "one", 2, 5))
		p.wantAck(typePubrec, 5, 0)
		m := s.message("a", "one", 2)
		fx.gone(p)
		fx.gone(s)
		fx.restart()
		// The publisher sends again what it has no word of, the subscriber's PUBLISH comes again.
		p = fx.login(v, "p", durableFor(600))
		again := publishPacket("a", "one", 2, 5)
		again.FixedHeader.Dup = true
		p.send(again)
		p.complete(2, 5)
		s = fx.login(v, "s", durableFor(600))
		m2 := s.message("a", "one", 2)
		if m2.PacketID != m.PacketID || !m2.FixedHeader.Dup {
			t.Errorf("id %d DUP %v, want %d and DUP", m2.PacketID, m2.FixedHeader.Dup, m.PacketID)
		}
		s.ack(typePubrec, m2.PacketID)
		s.wantAck(typePubrel, m2.PacketID, 0)
		fx.gone(s)
		fx.restart()
		s = fx.login(v, "s", durableFor(600))
		s.wantAck(typePubrel, m2.PacketID, 0) // released: the PUBLISH must not come again
		s.ack(typePubcomp, m2.PacketID)
		if rest := s.barrier(); len(rest) > 0 {
			t.Errorf("more came: %v", bodies(rest))
		}
		fx.gone(s)
		s = fx.login(v, "s", durableFor(600))
		for _, pk := range s.barrier() { // if it was gone before its PUBCOMP was stored, it may see PUBREL again
			if pk.FixedHeader.Type != typePubrel {
				t.Errorf("after the end came packet type %d: %q", pk.FixedHeader.Type, pk.Payload)
			}
		}
	}
}

func TestCleanStartForgets(t *testing.T) {
	fx := start(t)
	s := fx.login(v5, "s", durableFor(600))
	s.subscribe(1, 1, "a")
	fx.gone(s)
	fx.login(v5, "p").publish("a", "old", 1, 1)
	s, ack := fx.connect(v5, "s", durableFor(600), cleanStart)
	if ack.SessionPresent {
		t.Error("a clean start finds a session")
	}
	s.publish("a", "x", 1, 1)
	if rest := s.barrier(); len(rest) > 0 { // R10: no subscriptions of the session before
		t.Errorf("came: %v", bodies(rest))
	}
}

func TestSessionBelongsToItsUser(t *testing.T) {
	fx := start(t)
	fx.gone(fx.login(v5, "s", durableFor(600), withUser("alice", "x")))
	c := fx.dial(v5)
	c.send(connectPacket(v5, "s", durableFor(600), withUser("bob", "x")))
	if ack := c.expect(typeConnack); ack.ReasonCode != byte(badClientID) {
		t.Errorf("another user gets %#x", ack.ReasonCode)
	}
}

// It holds the gateway to MQTT-3.1.4-3, MQTT-4.1.0-1.
func TestTakeoverClosesTheOldConnectionFirst(t *testing.T) {
	for _, opts := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		old := fx.login(v5, "s", opts...)
		old.subscribe(1, 1, "a")
		fresh, ack := fx.connect(v5, "s", opts...)
		if code := old.expectClosed(); code != byte(takenOver) {
			t.Errorf("the old connection hears %#x", code)
		}
		if ack.SessionPresent != (opts != nil) {
			t.Errorf("session present: %v", ack.SessionPresent)
		}
		_, _ = old.conn.Write(encodePacket(t, publishPacket("a", "of the old connection", 0, 0))) // which is not read any more
		fx.login(v5, "p").publish("a", "x", 1, 1)
		if opts != nil {
			fresh.message("a", "x", 1)
		}
		if rest := fresh.barrier(); len(rest) > 0 {
			t.Errorf("more came: %v", bodies(rest))
		}
	}
}

func TestSimultaneousConnectsLeaveOne(t *testing.T) {
	fx := start(t)
	for round := range 300 {
		opts := []connectOption{}
		if round%2 == 1 {
			opts = append(opts, durableFor(60))
		}
		var clients [4]*client
		var all sync.WaitGroup
		for i := range clients {
			clients[i] = fx.dial(v311)
			all.Go(func() { _, _ = clients[i].conn.Write(encodePacket(t, connectPacket(v311, "same", opts...))) })
		}
		all.Wait()
		eventually(t, func() error { // all were accepted, and all but one have ended
			if got, want := fx.server.Stats.Accepted.Load(), uint64(4*(round+1)); got != want {
				return fmt.Errorf("%d accepted, want %d", got, want)
			}
			if n := fx.server.Connections(); n != 1 {
				return fmt.Errorf("%d connections, want 1", n)
			}
			return nil
		})
		alive := 0
		for _, c := range clients {
			pk, err := c.next()
			if err != nil {
				continue
			}
			if pk.FixedHeader.Type != typeConnack || pk.ReasonCode != 0 {
				continue
			}
			if _, err := c.conn.Write([]byte{typePingreq << 4, 0}); err != nil {
				continue
			}
			if pk, err := c.next(); err == nil && pk.FixedHeader.Type == typePingresp {
				alive++
			}
		}
		if alive != 1 {
			t.Fatalf("round %d: %d connections are alive, want 1", round, alive)
		}
		if n := len(fx.router.Sessions()); n != 1 {
			t.Fatalf("round %d: %d sessions", round, n)
		}
		for _, c := range clients {
			c.conn.Close()
		}
		fx.waitConnections(0)
	}
}

// It holds the gateway to MQTT-3.3.4-9, MQTT-4.6.0-6, MQTT-4.9.0-1, MQTT-4.9.0-2.
func TestReceiveMaximumIsExact(t *testing.T) {
	for _, opts := range [][]connectOption{{receiveMax(10)}, {receiveMax(10), durableFor(60)}} {
		fx := start(t)
		s := fx.login(v5, "s", opts...)
		s.subscribe(1, 1, "a")
		p := fx.login(v5, "p")
		for i := range 100 {
			p.publish("a", fmt.Sprint(i), 1, uint16(i+1))
		}
		var unacked []uint16
		for i := range 100 { // R1: all of them, in order
			if len(unacked) == 10 {
				s.ack(typePuback, unacked[0])
				unacked = unacked[1:]
			}
			unacked = append(unacked, s.message("a", fmt.Sprint(i), 1).PacketID)
			if i == 9 {
				if rest := s.barrier(); len(rest) > 0 {
					t.Fatalf("more than the receive maximum came: %v", bodies(rest))
				}
			}
		}
	}
}

func TestPacketIDsOfTheDirectionsAreApart(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "c", durableFor(60))
	c.subscribe(9, 1, "a")
	p := fx.login(v5, "p")
	p.publish("a", "x", 1, 1)
	m := c.message("a", "x", 1)
	// R4: a SUBSCRIBE and a PUBLISH with the id of an unacknowledged delivery.
	if codes := c.subscribe(m.PacketID, 1, "b"); codes[0] != 1 {
		t.Errorf("SUBACK %#x", codes[0])
	}
	c.send(publishPacket("c", "y", 2, m.PacketID))
	c.complete(2, m.PacketID)
	p.publish("b", "z", 1, 2)
	c.message("b", "z", 1)
	fx.gone(c)
	c = fx.login(v5, "c", durableFor(60))
	if again := c.message("a", "x", 1); again.PacketID != m.PacketID {
		t.Errorf("id %d, want %d", again.PacketID, m.PacketID)
	}
}

func withWill(topic, payload string, delaySec uint32) connectOption {
	return func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, topic, []byte(payload)
		pk.Connect.WillQos = 1
		pk.Connect.WillProperties.WillDelayInterval = delaySec
	}
}

// It holds the gateway to MQTT-3.1.2-8, MQTT-3.1.2-10, MQTT-3.14.4-3.
func TestWill(t *testing.T) {
	for _, v := range []byte{v311, v5} {
		t.Run(fmt.Sprint("v", v), func(t *testing.T) {
			fx := start(t)
			w := fx.login(v, "watcher")
			w.subscribe(1, 1, "will/#")
			fx.gone(fx.login(v, "a", withWill("will/lost", "", 0))) // R8: a zero-length payload is allowed
			m := w.message("will/lost", "", 1)
			w.ack(typePuback, m.PacketID)
			c := fx.login(v, "b", withWill("will/never", "x", 0))
			c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeDisconnect}})
			c.expectClosed()
			if v == v5 {
				c = fx.login(v, "c", withWill("will/asked", "x", 0))
				c.write([]byte{typeDisconnect << 4, 1, byte(disconnectWithWill)})
				c.expectClosed()
				w.ack(typePuback, w.message("will/asked", "x", 1).PacketID)
			}
			old := fx.login(v, "d", withWill("will/taken", "x", 0))
			fx.login(v, "d")
			old.expectClosed()
			w.ack(typePuback, w.message("will/taken", "x", 1).PacketID)
			fx.gone(fx.login(v, "e", withWill("will/session", "x", 0), durableFor(60)))
			w.ack(typePuback, w.message("will/session", "x", 1).PacketID)
			if rest := w.barrier(); len(rest) > 0 {
				t.Errorf("more came: %v", bodies(rest))
			}
		})
	}
}

// It holds the gateway to MQTT-3.1.3-9.
func TestWillWithDelay(t *testing.T) {
	fx := start(t)
	w := fx.login(v5, "watcher")
	w.subscribe(1, 1, "will/#")
	fx.gone(fx.login(v5, "a", withWill("will/a", "x", 3600), durableFor(7200)))
	fx.login(v5, "a", durableFor(7200)) // back in time: cancelled
	fx.gone(fx.login(v5, "b", withWill("will/b", "x", 3600), durableFor(7200)))
	fx.login(v5, "b", cleanStart) // the session ends: at once
	w.ack(typePuback, w.message("will/b", "x", 1).PacketID)
	fx.gone(fx.login(v5, "c", withWill("will/c", "x", 1), durableFor(7200)))
	w.ack(typePuback, w.message("will/c", "x", 1).PacketID)
	fx.gone(fx.login(v5, "d", withWill("will/d", "x", 3600), durableFor(1)))
	w.ack(typePuback, w.message("will/d", "x", 1).PacketID) // the session expires before
	if rest := w.barrier(); len(rest) > 0 {
		t.Errorf("more came: %v", bodies(rest))
	}
	eventually(t, func() error {
		if n := fx.router.Stats.SessionsExpired.Load(); n != 1 {
			return fmt.Errorf("%d sessions expired, want 1", n)
		}
		return nil
	})
}

// It holds the gateway to MQTT-4.1.0-2.
func TestExpiredSessionIsGone(t *testing.T) {
	fx := start(t)
	s := fx.login(v5, "s", durableFor(1))
	s.subscribe(1, 1, "a")
	fx.gone(s)
	eventually(t, func() error {
		if all, _ := fx.router.DurableSessions(); all != 0 {
			return fmt.Errorf("%d sessions", all)
		}
		return nil
	})
	s, ack := fx.connect(v5, "s", durableFor(600))
	if ack.SessionPresent {
		t.Error("an expired session is present")
	}
	s.publish("a", "x", 1, 1)
	if rest := s.barrier(); len(rest) > 0 {
		t.Errorf("came: %v", bodies(rest))
	}
}

func TestDisconnectChangesTheExpiry(t *testing.T) {
	fx := start(t)
	s := fx.login(v5, "s", durableFor(600))
	s.subscribe(1, 1, "a")
	// [MQTT-3.14.2-2]: session expiry interval 0 ends the session now.
	s.write([]byte{typeDisconnect << 4, 7, 0, 5, packets.PropSessionExpiryInterval, 0, 0, 0, 0})
	s.expectClosed()
	fx.waitConnections(0)
	if all, _ := fx.router.DurableSessions(); all != 0 {
		t.Errorf("%d sessions are left", all)
	}
}

// It holds the gateway to MQTT-3.3.4-10, MQTT-4.9.0-3.
func TestUnacknowledgedReleaseAndManyRetainedKeepTheFlow(t *testing.T) {
	fx := start(t)
	p := fx.login(v5, "p")
	for i := range 20 {
		p.send(retainedPacket(fmt.Sprint("kept/", i), "x"))
		p.wantAck(typePuback, 77, 0)
	}
	s := fx.login(v5, "s", receiveMax(2), durableFor(60))
	s.subscribe(1, 2, "in")
	p.publish("in", "1", 2, 1)
	p.publish("in", "2", 2, 2)
	p.publish("in", "3", 2, 3)
	first, second := s.message("in", "1", 2), s.message("in", "2", 2)
	s.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: 9, Filters: packets.Subscriptions{{Filter: "kept/#", Qos: 0}}})
	s.expect(typeSuback)
	for range 20 { // they need no place in the window
		if m := s.expect(typePublish); !m.FixedHeader.Retain {
			t.Fatalf("%q came", m.Payload)
		}
	}
	for _, m := range []packets.Packet{first, second} {
		s.ack(typePubrec, m.PacketID)
		s.wantAck(typePubrel, m.PacketID, 0)
	}
	s.ack(typePubcomp, first.PacketID)
	s.message("in", "3", 2)
}

// It holds the gateway to MQTT-3.3.2-7.
func TestR5StoredMessagesKeepTheirTopic(t *testing.T) {
	fx := start(t)
	aliased := func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = 10 }
	s := fx.login(v5, "s", durableFor(60), aliased)
	s.subscribe(1, 1, "long/#")
	p := fx.login(v5, "p")
	p.publish("long/topic", "1", 1, 1)
	s.message("long/topic", "1", 1)
	fx.gone(s)
	set := publishPacket("long/topic", "2", 1, 2)
	set.Properties.TopicAlias, set.Properties.TopicAliasFlag = 1, true
	p.send(set)
	p.wantAck(typePuback, 2, 0)
	set.TopicName, set.Payload, set.PacketID = "", []byte("3"), 3
	p.send(set)
	p.wantAck(typePuback, 3, 0)
	s = fx.login(v5, "s", durableFor(60), aliased)
	s.message("long/topic", "1", 1) // aliases of the old connection mean nothing on this one
	s.message("", "2", 1)
	if m := s.message("", "3", 1); m.Properties.TopicAlias != 1 {
		t.Errorf("alias %d, want 1", m.Properties.TopicAlias)
	}
}

func TestR18SharedAndPlainSubscriptionsOfOneClient(t *testing.T) {
	fx := start(t)
	c, p := fx.login(v5, "c"), fx.login(v5, "p")
	c.subscribe(1, 0, "$share/g/a", "a")
	p.publish("a", "x", 0, 0)
	p.barrier()
	if got := bodies(c.barrier()); got != "x x" { // one copy for each
		t.Errorf("got %q", got)
	}
}

// TestInboxKeepsOrderAcrossQoS: a message of QoS 1 does not overtake one of QoS 2, whose identifier is stored first.
func TestInboxKeepsOrderAcrossQoS(t *testing.T) {
	fx := start(t)
	c := fx.login(v311, "dev", durableFor(3600))
	c.subscribe(1, 2, "a")
	c.conn.Close()
	fx.waitConnections(0)
	p := fx.login(v5, "")
	for n := range 40 {
		p.publish("a", fmt.Sprint(n), byte(1+n%2), uint16(n+1))
	}
	c = fx.login(v311, "dev", durableFor(3600))
	for n := range 40 {
		c.message("a", fmt.Sprint(n), byte(1+n%2))
	}
}
