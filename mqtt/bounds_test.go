package mqtt

import (
	"bufio"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// client logs in by a pipe.
func (fx *pipeFixture) client(version byte, id string, opts ...connectOption) *client {
	fx.t.Helper()
	peer := fx.dial()
	c := &client{t: fx.t, conn: peer, r: bufio.NewReader(peer), version: version}
	c.send(connectPacket(version, id, opts...))
	if ack := c.expect(typeConnack); ack.ReasonCode != 0 {
		fx.t.Fatalf("CONNACK says %#x", ack.ReasonCode)
	}
	return c
}

func expiring(topic, payload string, qos byte, id uint16, sec uint32) *packets.Packet {
	pk := publishPacket(topic, payload, qos, id)
	pk.Properties.MessageExpiryInterval = sec
	return pk
}

// TestMessagesExpireWhileTheyWait: for a client that is away, and for a place in the window of one that is there; what is sent tells
// how long it is still of use. It holds the gateway to MQTT-3.3.2-5 and MQTT-3.3.2-6.
func TestMessagesExpireWhileTheyWait(t *testing.T) {
	for _, c := range []struct {
		name    string
		opts    []connectOption
		away    bool
		dropped uint64
	}{
		{"clean", []connectOption{receiveMax(1)}, false, 1},
		{"durable", []connectOption{receiveMax(1), durableFor(600)}, false, 1},
		{"away", []connectOption{receiveMax(1), durableFor(600)}, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(fx *pipeFixture) {
				s, p := fx.client(v5, "s", c.opts...), fx.client(v5, "p")
				s.subscribe(1, 1, "a")
				if c.away {
					s.conn.Close()
					synctest.Wait()
				}
				for i, sec := range []uint32{100, 5, 60} {
					p.send(expiring("a", fmt.Sprint(sec), 1, uint16(i+1), sec))
					if !c.away && i == 0 {
						s.message("a", "100", 1) // and it is not acknowledged yet
					}
					p.wantAck(typePuback, uint16(i+1), 0)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if c.away {
					s = fx.client(v5, "s", c.opts...)
					if m := s.message("a", "100", 1); m.Properties.MessageExpiryInterval != 90 {
						t.Errorf("after 10 of 100 s the interval is %d", m.Properties.MessageExpiryInterval)
					}
				}
				s.ack(typePuback, 1)
				if m := s.message("a", "60", 1); m.Properties.MessageExpiryInterval != 50 {
					t.Errorf("after 10 of 60 s the interval is %d", m.Properties.MessageExpiryInterval)
				}
				synctest.Wait()
				if n := fx.router.Stats.Dropped()[router.DropExpired]; n != c.dropped {
					t.Errorf("%d counted as expired, want %d", n, c.dropped)
				}
			})
		})
	}
}

// TestPubackAwaitsEveryCopy: one publish that is stored for two sessions, in a queue and as a retained message is confirmed when the
// last of these is stored.
func TestPubackAwaitsEveryCopy(t *testing.T) {
	for qos, kind := range map[byte]byte{1: typePuback, 2: typePubrec} {
		gate := make(chan error)
		store := &stallingStore{router.NewMemoryStore(), gate}
		fx := start(t, func(s *settings) { s.router.Store = store })
		for _, id := range []string{"one", "two"} {
			s := fx.login(v5, id, durableFor(600))
			s.subscribe(1, 1, "a")
			fx.gone(s)
		}
		op, err := fx.router.Connect(router.SessionOptions{Principal: router.NewPrincipal("op", "", true, nil), Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		filter, err := router.ParseMQTTFilter("", "a")
		if err != nil {
			t.Fatal(err)
		}
		queue, err := router.QueueAddress("", "copies")
		if err != nil {
			t.Fatal(err)
		}
		if err := op.BindQueue(t.Context(), filter, queue); err != nil {
			t.Fatal(err)
		}
		p := fx.login(v5, "p")
		pk := publishPacket("a", "x", qos, 1)
		pk.FixedHeader.Retain = true
		p.send(pk)
		for i := range 3 {
			if early := p.barrier(); len(early) > 0 {
				t.Fatalf("QoS %d: answered when %d of 3 copies were stored", qos, i)
			}
			gate <- nil
		}
		p.wantAck(kind, 1, 0)
		op.Close()
	}
}

// TestUnconfirmedBytesAreBounded: a client that publishes faster than the store confirms is not read from, and goes on when that is
// mended.
func TestUnconfirmedBytesAreBounded(t *testing.T) {
	const bound, size, n = 64 << 10, 4 << 10, 100
	var gate chan error
	inBubble(t, func(fx *pipeFixture) {
		p := fx.client(v311, "p")
		var sent atomic.Int64
		var publisher sync.WaitGroup
		publisher.Go(func() {
			for i := range n {
				p.send(publishPacket("$queue/q", string(make([]byte, size)), 1, uint16(i+1)))
				sent.Add(1)
			}
		})
		synctest.Wait()
		if got := sent.Load(); got < bound/size || got > 2*bound/size {
			t.Errorf("%d messages of %d bytes were taken before the store answered; the bound is %d bytes", got, size, bound)
		}
		publisher.Go(func() {
			for range n {
				gate <- nil
			}
		})
		for i := range n {
			p.wantAck(typePuback, uint16(i+1), 0)
		}
		publisher.Wait()
	}, func(s *settings) {
		gate = make(chan error) // in the bubble
		s.options.MaxUnconfirmedBytes = bound
		s.router.Store = &stallingStore{router.NewMemoryStore(), gate}
	})
}

// TestSubscriptionsAreBounded: one too many is refused by itself, and a place that becomes free may be taken.
func TestSubscriptionsAreBounded(t *testing.T) {
	for v, code := range map[byte]byte{v311: 0x80, v5: byte(quotaExceeded)} {
		for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
			fx := start(t, func(s *settings) { s.options.MaxSubscriptions = 2 })
			c := fx.login(v, "c", durable...)
			if got, want := fmt.Sprintf("% x", c.subscribe(1, 1, "a", "b", "c", "a")), fmt.Sprintf("01 01 %x 01", code); got != want {
				t.Errorf("version %d: SUBACK says %s, want %s", v, got, want)
			}
			c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: "a"}}})
			c.expect(typeUnsuback)
			if codes := c.subscribe(3, 1, "c"); codes[0] != 1 {
				t.Errorf("version %d: SUBACK says %#x", v, codes[0])
			}
		}
	}
}

// TestQueueOfACleanSessionIsBounded: what a client that acknowledges nothing has not got is kept up to the bounds; the rest is dropped
// and counted, and QoS 0 goes on.
func TestQueueOfACleanSessionIsBounded(t *testing.T) {
	for name, bound := range map[string]func(*settings){
		"messages": func(s *settings) { s.options.MaxQueued = 10 },
		"bytes":    func(s *settings) { s.options.MaxQueuedBytes = 10 * 1100 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(fx *pipeFixture) {
				s, p := fx.client(v5, "s", receiveMax(1)), fx.client(v5, "p")
				s.subscribe(1, 1, "a")
				s.subscribe(2, 0, "b")
				var reader sync.WaitGroup
				got := []string{}
				var first uint16
				p.send(publishPacket("a", fmt.Sprintf("%01000d", 0), 1, 1))
				first = s.message("a", fmt.Sprintf("%01000d", 0), 1).PacketID
				reader.Go(func() { _, _ = io.CopyN(io.Discard, p.r, 4*31) }) // PUBACKs
				for i := 1; i < 30; i++ {
					p.send(publishPacket("a", fmt.Sprintf("%01000d", i), 1, uint16(i+1)))
				}
				reader.Go(func() { p.send(publishPacket("b", "live", 0, 0)) })
				s.message("b", "live", 0)
				synctest.Wait()
				dropped := fx.router.Stats.Dropped()[router.DropSlowConsumer]
				if dropped < 19 || dropped > 20 {
					t.Errorf("%d of 30 were dropped", dropped)
				}
				s.ack(typePuback, first)
				for range 29 - int(dropped) {
					m := s.expect(typePublish)
					got = append(got, string(m.Payload[len(m.Payload)-2:]))
					s.ack(typePuback, m.PacketID)
				}
				if len(got) == 0 || got[0] != "01" || got[len(got)-1] != fmt.Sprintf("%02d", len(got)) {
					t.Errorf("kept were %v", got)
				}
				p.conn.Close()
				reader.Wait()
			}, bound)
		})
	}
}
