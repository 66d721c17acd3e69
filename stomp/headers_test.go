package stomp

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// TestHeadersAreStored: what a queue gives back after the gateway was stopped is what it would have given at once.
func TestHeadersAreStored(t *testing.T) {
	store := router.NewMemoryStore()
	headers := []string{"persistent:true", "priority:0", "expires:99999999999999", `correlation-id:c\c1`, "type:order", "reply-to:/queue/back",
		"timestamp:17", "content-type:text/plain", "JMSXGroupID:g", "JMSXGroupSeq:3", `k\cey:a\nb\\c\rd`, "twice:1", "twice:2", "empty:", "x-dedup-id:d"}
	take := func(fx *fixture) (text, binary received) {
		c := fx.login(t, ActiveMQ, frame.V12)
		c.do("SUBSCRIBE", "id:s", "destination:/queue/h", "ack:auto")
		text, binary = c.message("text"), c.message("a\x00b")
		c.do("DISCONNECT")
		return text, binary
	}
	send := func(fx *fixture) {
		c := fx.login(t, ActiveMQ, frame.V12)
		c.frame("SEND", "text", append(headers, "destination:/queue/h", "receipt:r")...)
		c.want(frame.RECEIPT)
		c.frame("SEND", "a\x00b", "destination:/queue/h", "content-length:3", "receipt:r")
		c.want(frame.RECEIPT)
	}
	var live, stored [2]received
	withStore := func(s *settings) { s.router.Store = store }
	t.Run("at once", func(t *testing.T) {
		fx := start(t)
		send(fx)
		live[0], live[1] = take(fx)
	})
	t.Run("before the stop", func(t *testing.T) { send(start(t, withStore)) })
	t.Run("after it", func(t *testing.T) { stored[0], stored[1] = take(start(t, withStore)) })
	for i := range live {
		for _, r := range []*received{&live[i], &stored[i]} {
			for j := range r.headers {
				if h := &r.headers[j]; h.Name == "message-id" || h.Name == "timestamp" && i == 1 {
					h.Value = "" // each is another message
				}
			}
		}
		if got, want := fmt.Sprint(stored[i].headers), fmt.Sprint(live[i].headers); got != want {
			t.Errorf("after the stop\n%s, before\n%s", got, want)
		}
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ":")
		if unescaped := strings.NewReplacer(`\\`, `\`, `\c`, ":", `\n`, "\n", `\r`, "\r"); name != "twice" {
			if got := stored[0].header(unescaped.Replace(name)); got != unescaped.Replace(value) {
				t.Errorf("%s came back as %q", line, got)
			}
		}
	}
}

// TestTimestamp: without the sender's it is the time of the SEND.
func TestTimestamp(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SUBSCRIBE", "id:s", "destination:/topic/t")
	before := time.Now().UnixMilli()
	c.frame("SEND", "x", "destination:/topic/t")
	m := c.message("x")
	if ms, err := strconv.ParseInt(m.header("timestamp"), 10, 64); err != nil || ms < before || ms > time.Now().UnixMilli() {
		t.Errorf("timestamp %q", m.header("timestamp"))
	}
}

// TestPriorityIsData: it comes back, and changes no order.
func TestPriorityIsData(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	priorities := []string{"0", "9", "4", "7"}
	for _, p := range priorities {
		c.do("SEND", "destination:/queue/p", "priority:"+p)
	}
	c.do("SUBSCRIBE", "id:s", "destination:/queue/p")
	for _, p := range priorities {
		if m := c.want(frame.MESSAGE); m.header("priority") != p {
			t.Errorf("priority %s came, want %s", m.header("priority"), p)
		}
	}
}

// TestExpired: an expired message comes to nobody; what the queue's policy says becomes of it, and its dead letter tells.
func TestExpired(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.router.QueuePolicy = func(a router.Address) router.Policy {
			if a.Name() == "kept" {
				return router.Policy{DeadLetter: "DLQ.kept"}
			}
			return router.Policy{}
		}
	})
	c := fx.login(t, ActiveMQ, frame.V12)
	past := fmt.Sprint("expires:", time.Now().Add(-time.Second).UnixMilli())
	for _, to := range []string{"/queue/kept", "/queue/dropped", "/topic/t"} {
		c.do("SUBSCRIBE", "id:"+to, "destination:"+to)
		c.do("SEND", "destination:"+to, past)
	}
	fx.depth(t, "DLQ.kept", 1, 0)
	fx.depth(t, "dropped", 0, 0)
	c.nothing()
	if n := fx.router.Stats.Dropped()[router.DropExpired]; n != 2 {
		t.Errorf("%d messages are counted as expired, want 2", n)
	}
	c.do("SUBSCRIBE", "id:dead", "destination:/queue/DLQ.kept")
	m := c.want(frame.MESSAGE)
	want := map[string]string{"expires": "0", "originalExpiration": strings.TrimPrefix(past, "expires:"), "original-destination": "/queue/kept",
		"x-dead-letter-reason": "expired", "x-dead-letter-origin": "/queue/kept", "x-dead-letter-count": "0"}
	got := map[string]string{}
	for name := range want {
		got[name] = m.header(name)
	}
	if !maps.Equal(got, want) {
		t.Errorf("headers %v, want %v", got, want)
	}
}

// TestOtherHeadersOfBrokersAreIgnored: what other brokers take on CONNECT and SUBSCRIBE and what changes nothing here.
func TestOtherHeadersOfBrokersAreIgnored(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12, "activemq.prefetchSize:1", "activemq.noSuchThing:x", "x-other:y")
	c.do("SUBSCRIBE", "id:1", "destination:/topic/a", "activemq.dispatchAsync:true", "activemq.priority:5",
		"activemq.maximumPendingMessageLimit:10", "activemq.noSuchThing:x", "consumer-window-size:0", "x-priority:3", "auto-delete:true")
	c.do("SUBSCRIBE", "id:2", "destination:/topic/a", "no-local:true") // Artemis's name of activemq.noLocal
	c.frame("SEND", "x", "destination:/topic/a")
	if m := c.message("x"); m.header("subscription") != "1" {
		t.Errorf("headers %v", m.headers)
	}
	c.nothing()
	c.frame("SUBSCRIBE", "", "id:3", "destination:/topic/a", "x-stream-offset:first")
	c.fails("x-stream-offset is not supported")
	c.frame("SUBSCRIBE", "", "id:3", "destination:/queue/a?consumer.browser=true")
	c.fails("consumer.browser is not supported")
}

// TestReceiptsOnEveryCommand, also on CONNECT, in the order of the frames.
func TestReceiptsOnEveryCommand(t *testing.T) {
	for _, v := range []frame.Version{frame.V10, frame.V11, frame.V12} {
		fx := start(t, func(s *settings) {
			s.router.QueuePolicy = func(router.Address) router.Policy { return router.Policy{} }
		})
		c := fx.dial(t, ActiveMQ)
		if m := c.login(v, "receipt:connect"); m.header("receipt-id") != "connect" {
			t.Errorf("CONNECTED has headers %v", m.headers)
		}
		for _, body := range []string{"0", "1"} {
			c.frame("SEND", body, "destination:/queue/a", "receipt:send")
			if r := c.want(frame.RECEIPT); r.header("receipt-id") != "send" {
				t.Errorf("receipt %v", r.headers)
			}
		}
		c.do("SUBSCRIBE", "id:s", "destination:/queue/a", "ack:client", "activemq.prefetchSize:2")
		ms := c.take(0, 2)
		id := func(m received) []string {
			if v == frame.V12 {
				return []string{"id:" + m.header("ack")}
			}
			return []string{"subscription:s", "message-id:" + m.header("message-id")}
		}
		c.do("BEGIN", "transaction:t")
		c.do("ABORT", "transaction:t")
		c.do("BEGIN", "transaction:t")
		c.do("COMMIT", "transaction:t")
		c.do("ACK", id(ms[0])...)
		c.do("NACK", id(ms[1])...)
		c.do("UNSUBSCRIBE", "id:s")
		c.do("DISCONNECT")
		c.gone()
	}
}
