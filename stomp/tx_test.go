package stomp

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

func TestTransactionCommit(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V10)
	c.do("BEGIN", "transaction:t")
	for i, q := range []string{"a", "b", "a"} {
		c.frame("SEND", fmt.Sprint(i), "destination:/queue/"+q, "transaction:t", "receipt:at-once")
		c.want(frame.RECEIPT)
	}
	watcher := fx.login(t, ActiveMQ, frame.V12)
	watcher.do("SUBSCRIBE", "id:a", "destination:/queue/a", "ack:auto")
	watcher.do("SUBSCRIBE", "id:l", "destination:/topic/live", "ack:auto")
	c.frame("SEND", "live", "destination:/topic/live", "transaction:t")
	watcher.nothing()
	c.do("COMMIT", "transaction:t")
	got := map[string]int{}
	for range 3 {
		got[watcher.want(frame.MESSAGE).body]++
	}
	if got["0"] != 1 || got["2"] != 1 || got["live"] != 1 {
		t.Errorf("got %v", got)
	}
	fx.depth(t, "b", 1, 0)
	c.frame("COMMIT", "", "transaction:t")
	c.fails("has not begun")
}

func TestTransactionAbort(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/a", 2)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client-individual", "activemq.prefetchSize:2")
	ms := c.take(0, 2)
	c.do("BEGIN", "transaction:t")
	c.do("SEND", "destination:/queue/b", "transaction:t")
	c.do("ACK", "id:"+ms[0].header("ack"), "transaction:t")
	c.frame("ACK", "", "id:"+ms[0].header("ack"))
	c.fails("acknowledged in transaction")
	c.do("NACK", "id:"+ms[1].header("ack"), "transaction:t")
	c.do("ABORT", "transaction:t")
	c.nothing() // no redelivery: the client has the message
	fx.depth(t, "a", 2, 2)
	c.do("ACK", "id:"+ms[0].header("ack")) // and may acknowledge it again
	fx.depth(t, "a", 1, 1)
	c.do("ACK", "id:"+ms[1].header("ack")) // as well as the one that was to be refused
	fx.depth(t, "a", 0, 0)
	c.do("SEND", "destination:/queue/b")
	fx.depth(t, "b", 1, 0)
}

func TestTransactionAcks(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.router.QueuePolicy = func(a router.Address) router.Policy { return router.Policy{DeadLetter: "DLQ"} }
	})
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/a", 6)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client", "activemq.prefetchSize:9")
	ms := c.take(0, 6)
	c.do("BEGIN", "transaction:t")
	c.do("ACK", "id:"+ms[2].header("ack"), "transaction:t") // 0, 1 and 2
	c.do("NACK", "id:"+ms[4].header("ack"), "transaction:t")
	c.do("SEND", "destination:/queue/b", "transaction:t")
	fx.depth(t, "a", 6, 6)
	c.do("ACK", "id:"+ms[5].header("ack")) // 3 and 5, since the transaction has the others
	fx.depth(t, "a", 4, 4)
	c.do("COMMIT", "transaction:t")
	fx.depth(t, "a", 0, 0)
	fx.depth(t, "b", 1, 0)
	fx.depth(t, "DLQ", 1, 0)
	c.frame("ACK", "", "id:"+ms[1].header("ack"))
	c.fails("Unexpected ACK")
}

func TestTransactionEndsWithTheConnection(t *testing.T) {
	for _, polite := range []bool{true, false} {
		fx := start(t)
		c := fx.login(t, ActiveMQ, frame.V12)
		c.fill("/queue/a", 1)
		c.do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client")
		m := c.message("0")
		c.do("BEGIN", "transaction:t")
		c.do("ACK", "id:"+m.header("ack"), "transaction:t")
		c.do("SEND", "destination:/queue/a", "transaction:t")
		if polite {
			c.do("DISCONNECT")
		} else {
			c.conn.Close()
		}
		fx.depth(t, "a", 1, 0)
	}
}

func TestTransactionLimits(t *testing.T) {
	cases := map[string]func(c *client){
		"messages": func(c *client) {
			for range 5 {
				c.do("SEND", "destination:/queue/a", "transaction:t")
			}
			c.frame("SEND", "", "destination:/queue/a", "transaction:t", "receipt:over")
			c.fails("more than 5 messages")
		},
		"bytes": func(c *client) {
			c.frame("SEND", strings.Repeat("x", 9000), "destination:/queue/a", "transaction:t")
			c.frame("SEND", strings.Repeat("x", 9000), "destination:/queue/a", "transaction:t", "receipt:over")
			c.fails("more than 10000 bytes")
		},
		"over several transactions": func(c *client) {
			c.do("BEGIN", "transaction:other")
			for range 5 {
				c.do("SEND", "destination:/queue/a", "transaction:other")
			}
			c.frame("SEND", "", "destination:/queue/a", "transaction:t", "receipt:over")
			c.fails("more than 5 messages")
			c.do("ABORT", "transaction:other")
		},
	}
	for name, over := range cases {
		t.Run(name, func(t *testing.T) {
			fx := start(t, func(s *settings) { s.options.MaxTransactionMessages, s.options.MaxTransactionBytes = 5, 10000 })
			c := fx.login(t, ActiveMQ, frame.V12)
			c.fill("/queue/in", 1)
			c.do("SUBSCRIBE", "id:1", "destination:/queue/in", "ack:client")
			m := c.message("0")
			c.do("BEGIN", "transaction:t")
			c.do("ACK", "id:"+m.header("ack"), "transaction:t")
			over(c)
			c.frame("SEND", "", "destination:/queue/a", "transaction:t")
			c.fails("rolled back")
			c.frame("ACK", "", "id:"+m.header("ack"), "transaction:t")
			c.fails("rolled back")
			c.frame("COMMIT", "", "transaction:t", "receipt:c")
			if e := c.fails("rolled back"); e.header("receipt-id") != "c" {
				t.Errorf("receipt-id %q", e.header("receipt-id"))
			}
			c.frame("COMMIT", "", "transaction:t")
			c.fails("has not begun")
			fx.depth(t, "in", 1, 1)
			c.do("ACK", "id:"+m.header("ack"))
			// The room is free again.
			c.do("BEGIN", "transaction:t")
			for range 5 {
				c.do("SEND", "destination:/queue/a", "transaction:t")
			}
			c.do("COMMIT", "transaction:t")
			fx.depth(t, "a", 5, 0)
		})
	}
}

func TestTransactionRefusedByTheRouter(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.router.QueuePolicy = func(router.Address) router.Policy { return router.Policy{MaxLength: 2} }
	})
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/in", 1)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/in", "ack:client")
	m := c.message("0")
	c.do("BEGIN", "transaction:t")
	for range 3 {
		c.do("SEND", "destination:/queue/full", "transaction:t")
	}
	c.do("ACK", "id:"+m.header("ack"), "transaction:t")
	c.frame("COMMIT", "", "transaction:t", "receipt:c")
	c.fails("full")
	fx.depth(t, "full", 0, 0)
	fx.depth(t, "in", 1, 1)
	c.do("ACK", "id:"+m.header("ack"))
}

func TestTransactionWhoseMessagesWentBack(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.fill("/queue/in", 1)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/in", "ack:client")
	m := c.message("0")
	c.do("BEGIN", "transaction:t")
	c.do("ACK", "id:"+m.header("ack"), "transaction:t")
	c.do("SEND", "destination:/queue/out", "transaction:t")
	c.do("UNSUBSCRIBE", "id:1")
	c.frame("COMMIT", "", "transaction:t")
	c.fails("given back by UNSUBSCRIBE")
	fx.depth(t, "in", 1, 0)
	c.do("SEND", "destination:/queue/out")
	fx.depth(t, "out", 1, 0)
}

func TestTransactionCount(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("BEGIN", "transaction:0")
	c.frame("BEGIN", "", "transaction:0")
	c.fails("has begun already")
	for i := range maxTransactions - 1 {
		c.frame("BEGIN", "", fmt.Sprint("transaction:", i+1))
	}
	c.frame("BEGIN", "", "transaction:more")
	c.fails("which is the limit")
}

func TestCommitOfAFailingStore(t *testing.T) {
	store := newGatedStore()
	fx := start(t, func(s *settings) { s.router.Store = store })
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SEND", "destination:/queue/a")
	store.mu.Lock()
	store.fail = &router.Error{Op: "append", Class: router.Unavailable, Text: "no quorum", Err: errors.New("secret detail")}
	store.mu.Unlock()
	c.frame("SEND", "", "destination:/queue/a", "receipt:r")
	e := c.fails("no quorum")
	if e.header("receipt-id") != "r" || strings.Contains(e.body, "secret") {
		t.Errorf("ERROR %v %q", e.headers, e.body)
	}
	c.frame("SEND", "", "destination:/queue/a") // without a receipt the failure is told, too
	if e := c.fails("no quorum"); e.header("receipt-id") != "" {
		t.Errorf("ERROR %v", e.headers)
	}
	c.nothing()
}
