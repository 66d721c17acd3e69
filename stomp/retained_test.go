package stomp

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// retainedBodies reads so many retained messages, by destination.
func (c *client) retainedBodies(n int) map[string]string {
	c.t.Helper()
	got := map[string]string{}
	for range n {
		m := c.want(frame.MESSAGE)
		if m.header("retained") != "true" {
			c.t.Errorf("not marked retained: %v", m)
		}
		got[m.header("destination")] = m.body
	}
	return got
}

func TestRetainedMessages(t *testing.T) {
	fx := start(t)
	for _, v := range []frame.Version{frame.V10, frame.V11, frame.V12} {
		t.Run(v.String(), func(t *testing.T) {
			root := "/topic/r" + strings.ReplaceAll(v.String(), ".", "")
			c := fx.login(t, ActiveMQ, v)
			c.frame("SEND", "old", "destination:"+root+".a", "retain:true")
			c.frame("SEND", "new", "destination:"+root+".a", "retain:true")
			c.frame("SEND", "other", "destination:"+root+".b", "ActiveMQ.Retain:true")
			c.frame("SEND", "plain", "destination:"+root+".c")
			for i, ack := range []string{"auto", "client", "client-individual"} {
				id := fmt.Sprint("id:", i)
				c.do("SUBSCRIBE", id, "destination:"+root+".*", "ack:"+ack, []string{"retained:true", "activemq.retroactive:true"}[i%2])
				want := map[string]string{root + ".a": "new", root + ".b": "other"}
				if got := c.retainedBodies(2); !maps.Equal(got, want) {
					t.Errorf("ack %s: got %v, want %v", ack, got, want)
				}
				c.frame("SEND", "live", "destination:"+root+".d", "retained:true")
				if m := c.message("live"); m.header("retained") != "" {
					t.Errorf("a live message is marked retained: %v", m)
				}
				c.do("UNSUBSCRIBE", id, "destination:"+root+".*")
			}
			c.frame("SEND", "", "destination:"+root+".a", "retain:true")
			c.do("SUBSCRIBE", "id:x", "destination:"+root+".>", "retained:true")
			if got, want := c.retainedBodies(1), map[string]string{root + ".b": "other"}; !maps.Equal(got, want) {
				t.Errorf("after the removal: got %v, want %v", got, want)
			}
			c.do("SUBSCRIBE", "id:y", "destination:"+root+".b") // who does not ask gets none
			c.nothing()
		})
	}
}

// TestRetainedCanBeAcknowledged: a client in an ack mode acknowledges all that it gets.
func TestRetainedCanBeAcknowledged(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12, "client-id:d")
	c.frame("SEND", "kept", "destination:/topic/k", "retain:true")
	c.do("SUBSCRIBE", "id:1", "destination:/topic/k", "ack:client-individual", "activemq.subscriptionName:s", "retained:true")
	m := c.message("kept")
	c.do("ACK", "id:"+m.header("ack"))
	c.frame("SEND", "next", "destination:/topic/k")
	m = c.message("next")
	c.do("ACK", "id:"+m.header("ack"))
}

// TestRetainedBeyondTheOutbox asks for far more than may wait for one client: all of it comes, while the client reads.
func TestRetainedBeyondTheOutbox(t *testing.T) {
	const n = 400
	fx := start(t, func(s *settings) { s.options.OutboundBytes = 64 << 10 })
	c := fx.login(t, ActiveMQ, frame.V12)
	body := strings.Repeat("x", 4<<10)
	for i := range n {
		c.frame("SEND", body, fmt.Sprintf("destination:/topic/big.%d", i), "retain:true")
	}
	c.do("SUBSCRIBE", "id:1", "destination:/topic/big.*", "retained:true")
	if got := c.retainedBodies(n); len(got) != n {
		t.Errorf("%d topics came, want %d", len(got), n)
	}
	for reason, d := range fx.router.Stats.Dropped() {
		if d != 0 {
			t.Errorf("%d messages were dropped: %s", d, reason)
		}
	}
}

func TestRetainIsRefusedWhereItWouldBePartial(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("BEGIN", "transaction:t")
	c.frame("SEND", "x", "destination:/topic/a", "retain:true", "transaction:t")
	c.fails("cannot be retained")
	c.frame("SEND", "x", "destination:/topic/a,/topic/b", "retain:true")
	c.fails("cannot be retained")
}

// TestRetainedNewestLast sets topics while subscribers ask for them, and while what they were sent fills the outbox: the
// last message of each topic that a subscriber gets is the newest one.
func TestRetainedNewestLast(t *testing.T) {
	const topics, rounds = 60, 6
	fx := start(t, func(s *settings) { s.options.OutboundBytes = 64 << 10 })
	sender, err := fx.router.Connect(router.SessionOptions{Principal: router.NewPrincipal("s", "", false, nil), Vhost: router.DefaultVhost})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	var to []router.Address
	for i := range topics {
		a, _, err := router.ParseDestination(router.DefaultVhost, fmt.Sprintf("/topic/n.%d", i))
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, a)
	}
	publish := func(value string) {
		var w outbox.Batch
		defer w.Flush()
		for _, a := range to {
			m := &router.Message{To: a, Body: []byte(value), ContentType: strings.Repeat("x", 8<<10), Flags: router.FlagRetain}
			if _, err := sender.Publish(context.Background(), m, &w, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("first")
	for round := range rounds {
		c := fx.pipe(t, ActiveMQ) // which buffers nothing
		c.login(frame.V12)
		c.frame("SUBSCRIBE", "", "id:1", "destination:/topic/n.*", "retained:true", "receipt:r")
		if round%2 == 0 {
			c.want(frame.RECEIPT) // so the subscription has begun, and what it is offered fills the outbox
		}
		newest := fmt.Sprint(round)
		publish("before " + newest)
		publish(newest)
		last, late := map[string]string{}, 0
		for late < topics { // a topic whose newest value did not come leaves the client waiting
			m, err := c.read()
			if err != nil {
				t.Fatalf("round %d: %v of %d topics came with their newest value", round, late, topics)
			}
			if m.command != frame.MESSAGE {
				continue
			}
			d := m.header("destination")
			if last[d] == newest && m.body != newest {
				t.Fatalf("round %d: the stale %q came last to %s", round, m.body, d)
			}
			if last[d] != newest && m.body == newest {
				late++
			}
			last[d] = m.body
		}
		c.frame("DISCONNECT", "", "receipt:end")
		for m := range c.rest() {
			if m.command == frame.MESSAGE && m.body != newest {
				t.Fatalf("round %d: the stale %q came last to %s", round, m.body, m.header("destination"))
			}
		}
	}
}

// rest gives what comes until the connection ends.
func (c *client) rest() func(func(received) bool) {
	return func(yield func(received) bool) {
		for {
			m, err := c.read()
			if err != nil || !yield(m) {
				return
			}
		}
	}
}
