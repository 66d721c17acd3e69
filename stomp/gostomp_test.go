package stomp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	gostomp "github.com/go-stomp/stomp/v3"
)

// These tests use the Go client that people have, as one judge among others: it shares the leniency of its own codec.

func dialGoStomp(t *testing.T, fx *fixture, d Dialect, version gostomp.Version) *gostomp.Conn {
	t.Helper()
	// Every wait of the client is bounded: by default some are not.
	c, err := gostomp.Dial("tcp", fx.addr[d],
		gostomp.ConnOpt.AcceptVersion(version), gostomp.ConnOpt.HeartBeat(0, 0), gostomp.ConnOpt.Host("/"),
		gostomp.ConnOpt.ReadBufferSize(4096), gostomp.ConnOpt.WriteBufferSize(4096),
		gostomp.ConnOpt.RcvReceiptTimeout(patience), gostomp.ConnOpt.DisconnectReceiptTimeout(patience),
		gostomp.ConnOpt.UnsubscribeReceiptTimeout(time.Second), gostomp.ConnOpt.MsgSendTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func receive(t *testing.T, s *gostomp.Subscription) *gostomp.Message {
	t.Helper()
	select {
	case m := <-s.C:
		if m == nil || m.Err != nil {
			t.Fatalf("got %+v", m)
		}
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
		return nil
	}
}

// endGoStomp unsubscribes. The client may miss its own wake-up and report a timeout though the receipt came; that it came
// is seen by the closed channel.
func endGoStomp(t *testing.T, s *gostomp.Subscription) {
	t.Helper()
	if err := s.Unsubscribe(); err != nil && !strings.Contains(err.Error(), "unsubscribe receipt timeout") {
		t.Fatal(err)
	}
	late := time.After(patience)
	for {
		select {
		case _, open := <-s.C:
			if !open {
				return
			}
		case <-late:
			t.Fatal("no receipt of UNSUBSCRIBE came")
		}
	}
}

func TestGoStomp(t *testing.T) {
	for _, d := range []Dialect{ActiveMQ, RabbitMQ} {
		for _, v := range []gostomp.Version{gostomp.V10, gostomp.V11, gostomp.V12} {
			t.Run(fmt.Sprint(d, " ", v), func(t *testing.T) {
				fx := start(t)
				c := dialGoStomp(t, fx, d, v)
				if c.Version() != v {
					t.Fatalf("version %s", c.Version())
				}
				send := func(body string) {
					t.Helper()
					if err := c.Send("/queue/go", "text/plain", []byte(body), gostomp.SendOpt.Receipt, gostomp.SendOpt.Header("k", `a:b\c`+"\n")); err != nil {
						t.Fatal(err)
					}
				}
				send("one")
				s, err := c.Subscribe("/queue/go", gostomp.AckClientIndividual)
				if err != nil {
					t.Fatal(err)
				}
				m := receive(t, s)
				if string(m.Body) != "one" || m.ContentType != "text/plain" || v != gostomp.V10 && m.Header.Get("k") != `a:b\c`+"\n" {
					t.Errorf("got %q %v", m.Body, m.Header)
				}
				if err := c.Ack(m); err != nil {
					t.Fatal(err)
				}
				fx.depth(t, "go", 0, 0)

				send("two")
				tx := c.Begin()
				if err := tx.Ack(receive(t, s)); err != nil {
					t.Fatal(err)
				}
				if err := tx.Send("/queue/out", "", []byte("answer"), gostomp.SendOpt.Receipt); err != nil {
					t.Fatal(err)
				}
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
				fx.depth(t, "go", 0, 0)
				fx.depth(t, "out", 1, 0)

				if v != gostomp.V10 { // the client has no NACK there
					send("three")
					m = receive(t, s)
					if err := c.Nack(m); err != nil {
						t.Fatal(err)
					}
					if d == RabbitMQ {
						if m = receive(t, s); m.Header.Get("redelivered") != "true" {
							t.Errorf("headers %v", m.Header)
						}
						if err := c.Ack(m); err != nil {
							t.Fatal(err)
						}
					}
					fx.depth(t, "go", 0, 0)
				}
				endGoStomp(t, s)
				if err := c.Disconnect(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestGoStompTopic(t *testing.T) {
	fx := start(t)
	sender, c := dialGoStomp(t, fx, ActiveMQ, gostomp.V12), dialGoStomp(t, fx, ActiveMQ, gostomp.V12)
	s, err := c.Subscribe("/topic/go.*", gostomp.AckAuto)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // the client cannot ask for a receipt of SUBSCRIBE: it would close the subscription's channel
		if err := sender.Send("/topic/go.x", "", []byte("?"), gostomp.SendOpt.Receipt); err != nil {
			return err
		}
		select {
		case <-s.C:
			return nil
		case <-time.After(10 * time.Millisecond):
			return fmt.Errorf("not subscribed")
		}
	})
	for i := range 100 {
		if err := sender.Send("/topic/go.y", "", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < 100; {
		m := receive(t, s)
		if m.Destination == "/topic/go.x" {
			continue
		}
		if string(m.Body) != fmt.Sprint(i) || m.Destination != "/topic/go.y" {
			t.Fatalf("got %q from %s, want %d", m.Body, m.Destination, i)
		}
		i++
	}
	for _, conn := range []*gostomp.Conn{sender, c} {
		if err := conn.Disconnect(); err != nil {
			t.Error(err)
		}
	}
}
