package stomp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// fill sends numbered messages to a destination and waits until they are stored.
func (c *client) fill(destination string, n int) {
	c.t.Helper()
	for i := range n {
		c.frame("SEND", fmt.Sprint(i), "destination:"+destination)
	}
	c.nothing()
}

// take reads n numbered messages from a number on.
func (c *client) take(from, n int) []received {
	c.t.Helper()
	var out []received
	for i := range n {
		out = append(out, c.message(fmt.Sprint(from+i)))
	}
	return out
}

func TestCumulativeAck(t *testing.T) {
	for _, receipts := range []bool{true, false} {
		t.Run(fmt.Sprint("receipts ", receipts), func(t *testing.T) {
			fx := start(t)
			c := fx.login(t, ActiveMQ, frame.V12)
			c.fill("/queue/c", 10)
			c.do("SUBSCRIBE", "id:1", "destination:/queue/c", "ack:client", "activemq.prefetchSize:10")
			ms := c.take(0, 10)
			if receipts {
				c.do("ACK", "id:"+ms[5].header("ack"))
			} else {
				c.frame("ACK", "", "id:"+ms[5].header("ack"))
			}
			fx.depth(t, "c", 4, 4)
			c.frame("ACK", "", "id:"+ms[3].header("ack"), "receipt:r") // covered already
			c.fails("Unexpected ACK")
			c.do("ACK", "id:"+ms[9].header("ack"))
			fx.depth(t, "c", 0, 0)
		})
	}
}

func TestIndividualAck(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/i", 3)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/i", "ack:client-individual", "activemq.prefetchSize:3")
	ms := c.take(0, 3)
	c.do("ACK", "id:"+ms[2].header("ack"))
	fx.depth(t, "i", 2, 2)
	c.do("ACK", "id:"+ms[0].header("ack"))
	c.do("ACK", "id:"+ms[1].header("ack"))
	fx.depth(t, "i", 0, 0)
}

// TestCumulativeAcrossSubscriptions: RabbitMQ counts deliveries of the connection, ActiveMQ those of the subscription.
func TestCumulativeAcrossSubscriptions(t *testing.T) {
	for d, left := range map[Dialect]int{ActiveMQ: 2, RabbitMQ: 0} {
		t.Run(d.String(), func(t *testing.T) {
			fx := start(t)
			c := fx.login(t, d, frame.V12)
			c.fill("/queue/a", 2)
			c.fill("/queue/b", 2)
			c.do("SUBSCRIBE", "id:a", "destination:/queue/a", "ack:client", "activemq.prefetchSize:9")
			c.take(0, 2)
			c.do("SUBSCRIBE", "id:b", "destination:/queue/b", "ack:client", "activemq.prefetchSize:9")
			ms := c.take(0, 2)
			c.do("ACK", "id:"+ms[1].header("ack"))
			fx.depth(t, "b", 0, 0)
			fx.depth(t, "a", left, left)
		})
	}
}

func TestAckByMessageIDNamesTheSubscription(t *testing.T) {
	fx := start(t)
	for _, v := range []frame.Version{frame.V10, frame.V11} {
		// Two durable subscriptions hold copies of one message, with one message-id.
		c := fx.login(t, ActiveMQ, v, "client-id:c"+v.String())
		for _, id := range []string{"1", "2"} {
			c.do("SUBSCRIBE", "id:"+id, "destination:/topic/both", "ack:client", "activemq.subscriptionName:n"+id)
		}
		c.frame("SEND", "", "destination:/topic/both")
		m1, m2 := c.want(frame.MESSAGE), c.want(frame.MESSAGE)
		if m1.header("message-id") != m2.header("message-id") {
			t.Fatal("the copies have different ids")
		}
		if v == frame.V11 {
			c.frame("ACK", "", "message-id:"+m1.header("message-id"), "subscription:3", "receipt:no")
			c.fails("Unexpected ACK")
		}
		c.do("ACK", "message-id:"+m1.header("message-id"), "subscription:2")
		c.do("ACK", "message-id:"+m1.header("message-id"), "subscription:1")
		c.frame("ACK", "", "message-id:"+m1.header("message-id"), "subscription:1")
		c.fails("Unexpected ACK")
		for _, id := range []string{"1", "2"} {
			c.do("UNSUBSCRIBE", "id:"+id, "activemq.subscriptionName:n"+id)
		}
	}
}

func TestLiveTopicsAcceptAcks(t *testing.T) {
	for _, v := range []frame.Version{frame.V10, frame.V11, frame.V12} {
		fx := start(t)
		c := fx.login(t, ActiveMQ, v)
		c.do("SUBSCRIBE", "id:1", "destination:/topic/live", "ack:client")
		c.frame("SEND", "x", "destination:/topic/live")
		m := c.message("x")
		c.do("ACK", "message-id:"+m.header("message-id"), "subscription:1")
		if v == frame.V12 {
			c.do("NACK", "id:"+m.header("ack"))
		}
		c.frame("ACK", "", "message-id:other", "subscription:1")
		c.fails("Unexpected ACK")
	}
}

func TestAutoModeSettlesWhenWritten(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/auto", 3000) // more than the credit
	c.do("SUBSCRIBE", "id:1", "destination:/queue/auto")
	ms := c.take(0, 3000)
	fx.depth(t, "auto", 0, 0)
	if _, ok := ms[0].get("ack"); ok {
		t.Error("a MESSAGE in auto mode has an ack header")
	}
	c.frame("ACK", "", "id:"+ms[0].header("message-id"))
	c.fails("auto mode")
}

func TestPrefetch(t *testing.T) {
	cases := []struct {
		name        string
		destination string
		mode        string
		headers     []string
		want        int
	}{
		{"default of client", "/queue/p", "client", nil, 1},
		{"default of client-individual", "/queue/p", "client-individual", nil, 1},
		{"activemq.prefetchSize", "/queue/p", "client", []string{"activemq.prefetchSize:3"}, 3},
		{"option of the destination", "/queue/p?consumer.prefetchSize=4", "client", nil, 4},
		{"unknown options", "/queue/p?consumer.dispatchAsync=true&x=y", "client", nil, 1},
		{"header before option", "/queue/p?consumer.prefetchSize=4", "client", []string{"activemq.prefetchSize:2"}, 2},
		{"prefetch-count", "/queue/p", "client", []string{"prefetch-count:5"}, 5},
		{"prefetch-count 0", "/queue/p", "client", []string{"prefetch-count:0"}, 9},
		{"zero", "/queue/p", "client", []string{"activemq.prefetchSize:0"}, 1},
		{"huge", "/queue/p", "client", []string{"activemq.prefetchSize:99999999999"}, 9},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			fx := start(t)
			c := fx.login(t, ActiveMQ, frame.V12)
			c.fill("/queue/p", 9)
			c.do("SUBSCRIBE", append(tc.headers, "id:1", "destination:"+tc.destination, "ack:"+tc.mode)...)
			c.take(0, tc.want)
			c.nothing()
			fx.depth(t, "p", 9, tc.want)
		})
	}
}

func TestRedeliveryWhenTheConsumerDies(t *testing.T) {
	for _, d := range []Dialect{ActiveMQ, RabbitMQ} {
		t.Run(d.String(), func(t *testing.T) {
			fx := start(t)
			a := fx.login(t, d, frame.V12)
			a.fill("/queue/r", 3)
			a.do("SUBSCRIBE", "id:1", "destination:/queue/r", "ack:client", "activemq.prefetchSize:2")
			a.take(0, 2)
			b := fx.login(t, d, frame.V12)
			b.do("SUBSCRIBE", "id:1", "destination:/queue/r", "ack:client", "activemq.prefetchSize:9")
			b.take(2, 1)
			a.conn.Close()
			for i := range 2 {
				m := b.message(fmt.Sprint(i))
				if m.header("redelivered") != "true" || m.header("x-delivery-count") != "2" {
					t.Errorf("headers %v", m.headers)
				}
			}
		})
	}
}

func TestUnsubscribeGivesBack(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/u", 2)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/u", "ack:client")
	ms := c.take(0, 1)
	c.do("UNSUBSCRIBE", "id:1")
	fx.depth(t, "u", 2, 0)
	c.frame("ACK", "", "id:"+ms[0].header("ack"))
	c.fails("Unexpected ACK")
	c.do("SUBSCRIBE", "id:1", "destination:/queue/u", "ack:client")
	if m := c.message("0"); m.header("redelivered") != "true" {
		t.Errorf("headers %v", m.headers)
	}
}

func TestNack(t *testing.T) {
	cases := []struct {
		name    string
		d       Dialect
		headers []string
		again   bool // delivered again; else a dead letter
		cause   string
	}{
		{name: "ActiveMQ", d: ActiveMQ},
		{name: "ActiveMQ with a cause", d: ActiveMQ, headers: []string{"message:no such customer"}, cause: "no such customer"},
		{name: "ActiveMQ x-error", d: ActiveMQ, headers: []string{"message:a", `x-error:first\nsecond`}, cause: "first second"},
		{name: "ActiveMQ requeue", d: ActiveMQ, headers: []string{"requeue:true"}, again: true},
		{name: "ActiveMQ delay", d: ActiveMQ, headers: []string{"delay:30"}, again: true},
		{name: "RabbitMQ", d: RabbitMQ, again: true},
		{name: "RabbitMQ requeue:false", d: RabbitMQ, headers: []string{"requeue:false"}},
		{name: "RabbitMQ delay", d: RabbitMQ, headers: []string{"requeue:true", "delay:30"}, again: true},
	}
	for _, tc := range cases {
		for _, receipt := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s receipt %v", tc.name, receipt), func(t *testing.T) {
				fx := start(t, func(s *settings) {
					s.router.QueuePolicy = func(a router.Address) router.Policy {
						if a.Name() == "n" {
							return router.Policy{DeadLetter: "DLQ", MaxDeliveries: 6}
						}
						return router.Policy{}
					}
				})
				c := fx.login(t, tc.d, frame.V12)
				c.fill("/queue/n", 1)
				c.do("SUBSCRIBE", "id:1", "destination:/queue/n", "ack:client")
				m := c.message("0")
				headers := append(tc.headers, "id:"+m.header("ack"))
				if receipt {
					headers = append(headers, "receipt:nacked")
				}
				c.frame("NACK", "", headers...)
				if tc.again && receipt {
					m = c.either(frame.RECEIPT, frame.MESSAGE)[frame.MESSAGE]
				} else if tc.again {
					m = c.message("0")
				} else if receipt {
					c.want(frame.RECEIPT)
				}
				if tc.again {
					if m.header("redelivered") != "true" || m.header("x-delivery-count") != "2" {
						t.Fatalf("headers %v", m.headers)
					}
					return
				}
				fx.depth(t, "n", 0, 0)
				fx.depth(t, "DLQ", 1, 0)
				c.frame("SUBSCRIBE", "", "id:2", "destination:/queue/DLQ", "ack:client")
				m = c.message("0")
				if m.header("original-destination") != "/queue/n" || m.header("x-dead-letter-reason") != "rejected" || m.header("x-dead-letter-error") != tc.cause {
					t.Errorf("headers %v", m.headers)
				}
			})
		}
	}
}

// TestNackIsForOneMessage in ActiveMQ's client mode, and cumulative in RabbitMQ's.
func TestNackIsForOneMessage(t *testing.T) {
	for d, left := range map[Dialect]int{ActiveMQ: 2, RabbitMQ: 0} {
		fx := start(t)
		c := fx.login(t, d, frame.V12)
		c.fill("/queue/n", 3)
		c.do("SUBSCRIBE", "id:1", "destination:/queue/n", "ack:client", "activemq.prefetchSize:3")
		ms := c.take(0, 3)
		c.do("NACK", "id:"+ms[2].header("ack"), "requeue:false")
		fx.depth(t, "n", left, left)
	}
}

func TestPoisonMessageBecomesDeadLetter(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.router.QueuePolicy = func(a router.Address) router.Policy {
			if a.Name() == "p" {
				return router.Policy{DeadLetter: "DLQ", MaxDeliveries: 3}
			}
			return router.Policy{}
		}
	})
	fx.login(t, ActiveMQ, frame.V12).fill("/queue/p", 1)
	for n := range 3 {
		c := fx.login(t, ActiveMQ, frame.V10)
		c.do("SUBSCRIBE", "destination:/queue/p", "ack:client")
		if m := c.message("0"); m.header("JMSXDeliveryCount") != fmt.Sprint(n+1) {
			t.Errorf("delivery %d: headers %v", n+1, m.headers)
		}
		c.conn.Close()
		fx.depth(t, "p", map[bool]int{true: 1, false: 0}[n < 2], 0)
	}
	fx.depth(t, "DLQ", 1, 0)
}

func TestAckIDsAreStrict(t *testing.T) {
	for _, s := range []string{"", "-", "a", "a-b", "a-b-", "a-b-c-", "a-b-c-d-e", "zzzzzzzzzzzzzz-1-1", "3w5e11264sgsg-1-1", "é-1-1", "1_0-1-1", "+1-1-1", strings.Repeat("1-", 50)} {
		if id, tag, _, ok := parseAckID([]byte(s)); ok {
			t.Errorf("%q was read as %v %d", s, id, tag)
		}
	}
}

func FuzzAckID(f *testing.F) {
	f.Add([]byte("3w5e11264sgsf-2-z"), uint64(1), uint64(2), uint64(3), uint64(4))
	f.Add([]byte("a-b-c-0"), uint64(0), uint64(0), uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, raw []byte, boot, session, n, tag uint64) {
		id := router.MessageID{Session: router.SessionID{Boot: boot, N: session}, N: n}
		got, gotTag, tagged, ok := parseAckID(appendAckID(nil, id, tag))
		if !ok || !tagged || got != id || gotTag != tag {
			t.Fatalf("%v %d came back as %v %d", id, tag, got, gotTag)
		}
		got, _, tagged, ok = parseAckID(id.AppendText(nil))
		if !ok || tagged || got != id {
			t.Fatalf("%v came back as %v", id, got)
		}
		if id, tag, tagged, ok := parseAckID(raw); ok && tagged {
			if again, tag2, _, ok := parseAckID(appendAckID(nil, id, tag)); !ok || again != id || tag2 != tag {
				t.Fatalf("%q is not stable", raw)
			}
		}
	})
}

// TestWhatAnAutoConsumerReadBeforeItLeftIsSettled: the report of the last write must not be lost to the end of the
// connection, or the message would be delivered again without a mark.
func TestWhatAnAutoConsumerReadBeforeItLeftIsSettled(t *testing.T) {
	fx := start(t)
	p := fx.login(t, ActiveMQ, frame.V12)
	for range 200 {
		p.do("SEND", "destination:/queue/auto")
		c := fx.login(t, ActiveMQ, frame.V12)
		c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/auto", "ack:auto")
		c.want(frame.MESSAGE)
		c.send("DISCONNECT\n\n^@")
		c.conn.Close()
		eventually(t, func() error { // or it would get the next message too
			if n := fx.server.Connections(); n != 1 {
				return fmt.Errorf("%d connections, want 1", n)
			}
			return nil
		})
		fx.depth(t, "auto", 0, 0)
	}
}
