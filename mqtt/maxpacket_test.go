package mqtt

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// takes is a CONNECT option: the client's maximum packet size.
func takes(n uint32) connectOption {
	return func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = n }
}

// droppedAsTooLarge waits until so many messages are counted, of all that are dropped, and nothing as settled that was not.
func droppedAsTooLarge(t *testing.T, fx *fixture, want, settled uint64) {
	t.Helper()
	eventually(t, func() error {
		n, all := fx.router.Dropped()[router.DropTooLarge], uint64(0)
		for _, x := range fx.router.Dropped() {
			all += x
		}
		if s := fx.router.Stats.Settled.Load(); n != want || all != want || s != settled {
			return fmt.Errorf("%d of %d dropped messages were too large, want %d; %d settled, want %d", n, all, want, s, settled)
		}
		return nil
	})
}

// It holds the gateway to MQTT-3.1.2-25: what is larger than the client takes is left out, and counted as that.
func TestMaximumPacketSizeOfTheClient(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "c", takes(100))
	p := fx.login(v5, "p")
	c.subscribe(1, 1, "a", "$queue/q")
	c.subscribe(2, 0, "zero")
	c.send(subscribePacket(3, packets.Subscription{Filter: "named", Identifier: 5}))
	c.expect(typeSuback)
	for topic, qos := range map[string]byte{"a": 1, "$queue/q": 1, "zero": 0, "named": 0} {
		p.publish(topic, string(make([]byte, 200)), 1, 1)
		p.publish(topic, "small", 1, 2)
		c.finish(c.message(topic, "small", qos))
	}
	droppedAsTooLarge(t, fx, 4, 1)
}

func TestMaximumPacketSizeOfASession(t *testing.T) {
	for qos := range byte(3) {
		fx := start(t)
		s := fx.login(v5, "s", durableFor(600), takes(100))
		s.subscribe(1, qos, "a")
		p := fx.login(v5, "p")
		p.publish("a", string(make([]byte, 200)), 2, 1)
		p.publish("a", "small", 2, 2)
		s.finish(s.message("a", "small", qos))
		droppedAsTooLarge(t, fx, 1, uint64(min(qos, 1))) // with QoS 0 nothing is stored
	}
}

// What a queue has may be had from its dead letters still.
func TestMaximumPacketSizeOfAConsumer(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.router.QueuePolicy = func(a router.Address) router.Policy {
			if a.Name() == "q" {
				return router.Policy{DeadLetter: "dead"}
			}
			return router.Policy{}
		}
	})
	c := fx.login(v5, "c", takes(100))
	c.subscribe(1, 1, "$queue/q")
	all := fx.login(v5, "all")
	all.subscribe(1, 1, "$queue/dead")
	large := string(make([]byte, 200))
	p := fx.login(v5, "p")
	p.publish("$queue/q", large, 1, 1)
	pk := all.message("$queue/dead", large, 1)
	all.finish(pk)
	droppedAsTooLarge(t, fx, 0, 1)
	if n := fx.router.Stats.DeadLettered.Load(); n != 1 {
		t.Errorf("%d dead letters", n)
	}
}
