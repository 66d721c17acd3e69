package mqtt

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// TestSystemTopics: what the gateway tells of itself comes to those who ask for it, first marked as retained and then again and
// again, and to nobody else.
func TestSystemTopics(t *testing.T) {
	mayNot := authorizer(func(p *router.Principal, a router.Action, addr router.Address) error {
		if a == router.ActionRead && p.Name() == "guest" && addr.Name() == "$SYS/broker/secret" {
			return &router.Error{Op: "read", Class: router.Denied, Text: "no"}
		}
		return nil
	})
	fx := start(t, func(s *settings) { s.router.Authorize = mayNot })
	var asked atomic.Int64
	fx.router.Tell(5*time.Millisecond, func() []router.SystemValue {
		n := asked.Add(1)
		return []router.SystemValue{{Topic: "$SYS/broker/count", Text: fmt.Sprint(n)}, {Topic: "$SYS/broker/secret", Text: "x"}, {Topic: "$SYS/broker/queues/a#/ready", Text: "1"}}
	})
	wild := fx.login(v5, "wild")
	wild.subscribe(1, 0, "#", "+/broker/count", "+/#", "$share/g/#", "$share/g/+/broker/count")
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times while nobody listens", n)
	}
	for _, opts := range [][]connectOption{{withUser("guest", "")}, {withUser("guest", ""), durableFor(600)}} {
		s := fx.login(v5, "s", opts...)
		for _, filter := range []string{"$SYS/#", "$SYS/broker/+", "$SYS/broker/count"} {
			if codes := s.subscribe(1, 1, filter); codes[0] != 1 {
				t.Fatalf("SUBACK %#x", codes[0])
			}
			for i := range 4 {
				m := s.expect(typePublish)
				if m.TopicName != "$SYS/broker/count" || m.FixedHeader.Retain != (i == 0) || m.FixedHeader.Qos != 0 {
					t.Errorf("%s, message %d: %q on %q, retain %v, QoS %d", filter, i, m.Payload, m.TopicName, m.FixedHeader.Retain, m.FixedHeader.Qos)
				}
			}
			if len(opts) == 2 && filter == "$SYS/#" { // the subscription outlives its connection, what is told does not
				fx.gone(s)
				s = fx.login(v5, "s", opts...)
				if m := s.expect(typePublish); m.FixedHeader.Retain {
					t.Error("a restored subscription gets retained messages")
				}
			}
			s.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: filter}}})
			for pk := s.expectAny(); pk.FixedHeader.Type != typeUnsuback; pk = s.expectAny() {
			}
		}
		if rest := s.barrier(); len(rest) > 0 {
			t.Errorf("after UNSUBSCRIBE came %d messages", len(rest))
		}
		fx.gone(s)
	}
	if rest := wild.barrier(); len(rest) > 0 {
		t.Errorf("wildcards matched: %v", bodies(rest))
	}
	for _, topic := range []string{"$SYS/broker/count", "$SYS/x", "$other"} { // read-only
		wild.send(publishPacket(topic, "x", 1, 1))
		wild.wantAck(typePuback, 1, byte(notAuthorized))
	}
	if log := fx.log.String(); strings.Contains(log, "panic") {
		t.Error(log)
	}
}

// expectAny reads a packet of any type.
func (c *client) expectAny() packets.Packet {
	c.t.Helper()
	pk, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	return pk
}
