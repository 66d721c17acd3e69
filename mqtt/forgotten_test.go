package mqtt

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// changeState changes the stored state of a session while its gateway is down, as a crash before its last save leaves it.
func (fx *fixture) changeState(client string, change func(*storedState)) {
	fx.t.Helper()
	store := fx.set.router.Store.(*router.MemoryStore)
	key, changed := router.DefaultVhost+"\x00"+client, []byte(nil)
	err := store.Values(context.Background(), router.ValueSession, func(k string, value []byte) error {
		if k != key {
			return nil
		}
		var record map[string]any
		var text struct{ State []byte }
		var state storedState
		for _, err := range []error{json.Unmarshal(value, &record), json.Unmarshal(value, &text), json.Unmarshal(text.State, &state)} {
			if err != nil {
				return err
			}
		}
		change(&state)
		b, err := json.Marshal(state)
		if err != nil {
			return err
		}
		record["state"] = b
		changed, err = json.Marshal(record)
		return err
	})
	if err != nil || changed == nil {
		fx.t.Fatalf("the session of %s cannot be read: %v", client, err)
	}
	stored := make(chan error, 1)
	store.PutValue(router.ValueSession, key, changed, func(_ router.Stored, err error, _ *outbox.Batch) { stored <- err })
	if err := <-stored; err != nil {
		fx.t.Fatal(err)
	}
}

// TestForgottenFlightsLeaveTheWindow: the gateway dies when the session's inbox has forgotten the messages that the client
// completed, and the record has not. Their identifiers are released again, and their places in the window are free then,
// whether the next message comes before or after the client's answers.
func TestForgottenFlightsLeaveTheWindow(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("message before the answers %v", early), func(t *testing.T) {
			fx := start(t)
			c := fx.login(v5, "dev", durableFor(3600), receiveMax(2))
			c.subscribe(1, 2, "a")
			for i := range 2 {
				fx.login(v5, "").publish("a", fmt.Sprint(i), 2, 1)
				m := c.message("a", fmt.Sprint(i), 2)
				c.ack(typePubrec, m.PacketID)
				c.wantAck(typePubrel, m.PacketID, 0)
				c.ack(typePubcomp, m.PacketID)
			}
			c.barrier()
			c.conn.Close()
			fx.close()
			fx.changeState("dev", func(s *storedState) {
				s.Flights = []storedFlight{{ID: 1, QoS: 2, Seq: 1, Released: true}, {ID: 2, QoS: 2, Seq: 2, Released: true}}
			})
			fx.open()
			if early {
				fx.login(v5, "").publish("a", "next", 2, 1)
			}
			c = fx.login(v5, "dev", durableFor(3600), receiveMax(2))
			for id := range uint16(2) {
				c.wantAck(typePubrel, id+1, 0)
			}
			for id := range uint16(2) {
				c.ack(typePubcomp, id+1)
			}
			if !early {
				c.barrier()
				fx.login(v5, "").publish("a", "next", 2, 1)
			}
			m := c.message("a", "next", 2)
			c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typePubrec}, PacketID: m.PacketID})
			c.wantAck(typePubrel, m.PacketID, 0)
			c.ack(typePubcomp, m.PacketID)
			c.barrier()
			c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeDisconnect}})
			c.expectClosed()
			fx.close()
			fx.changeState("dev", func(s *storedState) {
				for _, f := range s.Flights { // of the last one the mailbox may not have said yet that it has forgotten it
					if f.Seq <= 2 {
						t.Errorf("the record still has %+v", s.Flights)
					}
				}
			})
		})
	}
}

// TestReleasedBehindOlderMessages: the session's inbox gives older messages before it comes to the one that the client has
// completed meanwhile, and that one must not take their place in the window.
func TestReleasedBehindOlderMessages(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "dev", durableFor(3600), receiveMax(1))
	c.subscribe(1, 2, "a")
	c.conn.Close()
	fx.waitConnections(0)
	p := fx.login(v5, "")
	p.publish("a", "older", 1, 1)
	p.publish("a", "released", 2, 2)
	p.publish("a", "newer", 2, 3)
	fx.close()
	fx.changeState("dev", func(s *storedState) {
		s.Flights = []storedFlight{{ID: 9, QoS: 2, Seq: 2, Released: true}}
	})
	fx.open()
	c = fx.login(v5, "dev", durableFor(3600), receiveMax(1))
	c.wantAck(typePubrel, 9, 0)
	c.ack(typePubcomp, 9)
	m := c.message("a", "older", 1)
	c.ack(typePuback, m.PacketID)
	c.message("a", "newer", 2)
}
