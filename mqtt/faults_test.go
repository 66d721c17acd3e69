package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// Faults that other brokers were seen to have, beside those that stand with what they are about.

// TestR2ManyPublishersToOneWindow: publishers at once to subscribers with a small receive maximum, under the race detector.
// Everything arrives, and per publisher in order.
func TestR2ManyPublishersToOneWindow(t *testing.T) {
	const publishers, each = 4, 200
	fx := start(t)
	for name, opts := range map[string][]connectOption{"clean": {receiveMax(5)}, "durable": {receiveMax(5), durableFor(600)}} {
		subs := make([]*client, 2)
		for i := range subs {
			subs[i] = fx.login(v5, fmt.Sprint(name, i), opts...)
			subs[i].subscribe(1, byte(i+1), name+"/#")
		}
		var all sync.WaitGroup
		for n := range publishers {
			p := fx.login(v5, fmt.Sprint("p", n))
			all.Go(func() {
				for i := range each {
					qos := byte(i%2 + 1)
					p.publish(fmt.Sprintf("%s/%d", name, n), fmt.Sprint(i), qos, uint16(i+1))
				}
			})
		}
		for _, s := range subs {
			all.Go(func() {
				next := map[string]map[byte]int{}
				for got := 0; got < publishers*each; {
					pk := s.expectAny()
					switch pk.FixedHeader.Type {
					case typePubrel:
						s.ack(typePubcomp, pk.PacketID)
						continue
					case typePublish:
					default:
						t.Errorf("%s: packet type %d", name, pk.FixedHeader.Type)
						return
					}
					got++
					i := 0
					if _, err := fmt.Sscan(string(pk.Payload), &i); err != nil {
						t.Error(err)
					}
					if next[pk.TopicName] == nil {
						next[pk.TopicName] = map[byte]int{1: 0, 2: 1}
					}
					sentWith := byte(i%2 + 1)
					if want := next[pk.TopicName][sentWith]; i != want {
						t.Errorf("%s: %d on %s, want %d", name, i, pk.TopicName, want)
					}
					next[pk.TopicName][sentWith] = i + 2
					if pk.FixedHeader.Qos == 1 {
						s.ack(typePuback, pk.PacketID)
					} else {
						s.ack(typePubrec, pk.PacketID)
					}
				}
			})
		}
		all.Wait()
	}
}

// TestR6TakeoverOfAStuckConnection: a client that reads nothing, with all buffers to it full, does not keep another connection
// of its id waiting; that one gets everything.
func TestR6TakeoverOfAStuckConnection(t *testing.T) {
	const n = 60
	fx := start(t, func(s *settings) { s.options.OutboundBytes, s.options.FlushTimeout = 1<<20, time.Hour })
	stuck := fx.login(v5, "s", durableFor(600))
	stuck.subscribe(1, 1, "a")
	p := fx.login(v5, "p")
	body := string(make([]byte, 256<<10))
	for i := range n {
		p.publish("a", fmt.Sprint(i, body), 1, uint16(i+1))
	}
	begin := time.Now()
	s := fx.login(v5, "s", durableFor(600))
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("the takeover took %v", d)
	}
	for i := range n {
		m := s.expect(typePublish)
		if want := fmt.Sprint(i, body); string(m.Payload) != want {
			t.Fatalf("message %d is %.5q", i, m.Payload)
		}
		s.ack(typePuback, m.PacketID)
	}
	fx.waitConnections(2)
}

// TestR16NoExpiryIsAdded: a message without an expiry goes out without one.
func TestR16NoExpiryIsAdded(t *testing.T) {
	fx := start(t)
	s, p := fx.login(v5, "s", durableFor(600)), fx.login(v5, "p")
	s.subscribe(1, 1, "a")
	p.publish("a", "x", 1, 1)
	if m := s.message("a", "x", 1); m.Properties.MessageExpiryInterval != 0 {
		t.Errorf("it has %d seconds", m.Properties.MessageExpiryInterval)
	}
}

// TestR17NoLocalIsOfOneSubscription: another one of the client that matches gets the message.
func TestR17NoLocalIsOfOneSubscription(t *testing.T) {
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		fx := start(t)
		c := fx.login(v5, "c", durable...)
		c.send(subscribePacket(1, packets.Subscription{Filter: "a/b", Qos: 1, NoLocal: true}, packets.Subscription{Filter: "a/#", Qos: 1}))
		c.expect(typeSuback)
		c.send(publishPacket("a/b", "x", 0, 0))
		c.message("a/b", "x", 0)
		if rest := c.barrier(); len(rest) > 0 {
			t.Errorf("more came: %v", bodies(rest))
		}
	}
}

// TestR3ResendsInOrderAroundTheEndOfIdentifiers: what is sent again comes in the order in which it came first, also where the
// identifiers began anew in between.
func TestR3ResendsInOrderAroundTheEndOfIdentifiers(t *testing.T) {
	fx := start(t)
	s, p := fx.login(v5, "s", durableFor(600)), fx.login(v5, "p")
	s.subscribe(1, 1, "a")
	served := fx.served(s)
	served.mu.Lock()
	served.window.lastID = 65530
	served.mu.Unlock()
	p.publishNumbers("a", 0, 12)
	for i := range 12 {
		s.message("a", fmt.Sprint(i), 1)
	}
	fx.gone(s)
	s = fx.login(v5, "s", durableFor(600))
	s.expectNumbers("a", 0, 12)
}

// TestClientsThatLeaveAtOnceLeaveNothing: those that are gone before their CONNACK is written leave no session behind, and
// their place is free.
func TestClientsThatLeaveAtOnceLeaveNothing(t *testing.T) {
	fx := start(t)
	for i := range 50 {
		c := fx.dial(v5)
		c.write(encodePacket(t, connectPacket(v5, fmt.Sprint("c", i%5))))
		if tcp := c.conn.(*net.TCPConn); i%2 == 0 {
			_ = tcp.SetLinger(0) // a reset
		}
		c.conn.Close()
	}
	fx.login(v5, "last").barrier() // so all before it were accepted
	fx.waitConnections(1)
	eventually(t, func() error {
		if n := len(fx.router.Sessions()); n != 1 {
			return fmt.Errorf("%d sessions are there, want 1", n)
		}
		return nil
	})
	fx.login(v5, "c0").barrier()
}

// TestUnsubscribeIsForOnesOwn: a filter of another client is none of this one's.
func TestUnsubscribeIsForOnesOwn(t *testing.T) {
	fx := start(t)
	a, b := fx.login(v5, "a"), fx.login(v5, "b")
	a.subscribe(1, 0, "x")
	b.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeUnsubscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "x"}}})
	if ack := b.expect(typeUnsuback); ack.ReasonCodes[0] != byte(noSubscription) {
		t.Errorf("UNSUBACK says %#x", ack.ReasonCodes[0])
	}
	b.publish("x", "1", 0, 0)
	a.message("x", "1", 0)
}

// TestRightsSeeFiltersWithoutTheGroup: who may not read a topic may not by a shared subscription either.
func TestRightsSeeFiltersWithoutTheGroup(t *testing.T) {
	fx := start(t, func(s *settings) { s.router.Authorize = refusesFilters{} })
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		c := fx.login(v5, "c", durable...)
		if codes := c.subscribe(1, 1, "$share/g/secret/#", "secret/#", "$share/g/open"); fmt.Sprintf("%x", codes) != "878701" {
			t.Errorf("SUBACK says %x", codes)
		}
	}
}

// TestR23SlowClientsOfOldVersionsLoseNothing: a client without a receive maximum that acknowledges late has everything all the
// same, its publisher waits for it.
func TestR23SlowClientsOfOldVersionsLoseNothing(t *testing.T) {
	const n = 3000
	fx := start(t, func(s *settings) { s.options.MaxInflight = 10 })
	s, p := fx.login(v311, "s", durableFor(600)), fx.login(v311, "p")
	s.subscribe(1, 1, "a")
	var publishing sync.WaitGroup
	publishing.Go(func() { p.publishNumbers("a", 0, n) })
	s.expectNumbers("a", 0, n)
	publishing.Wait()
	if dropped := fx.router.Stats.Dropped(); len(dropped) > 0 {
		t.Errorf("dropped: %v", dropped)
	}
}

// TestWillWithDelaySurvivesARestart: the will of a client that was gone before the gateway stopped is published when it is due.
func TestWillWithDelaySurvivesARestart(t *testing.T) {
	fx := start(t)
	fx.gone(fx.login(v5, "c", withWill("will/c", "gone", 2), durableFor(600)))
	fx.restart()
	w := fx.login(v5, "w")
	w.subscribe(1, 1, "will/#")
	w.message("will/c", "gone", 1)
	fx.gone(fx.login(v5, "d", withWill("will/d", "gone", 600), durableFor(600)))
	fx.restart()
	w = fx.login(v5, "w")
	w.subscribe(1, 1, "will/#")
	fx.login(v5, "d", durableFor(600)).barrier() // back in time
	if rest := w.barrier(); len(rest) > 0 {
		t.Errorf("came: %v", bodies(rest))
	}
}

// TestWillIsAuthorisedWhenItIsPublished: also by the rights that its user has then.
func TestWillIsAuthorisedWhenItIsPublished(t *testing.T) {
	var mu sync.Mutex
	revoked := false
	fx := start(t, func(s *settings) {
		s.router.Authorize = authorizer(func(_ *router.Principal, a router.Action, addr router.Address) error {
			mu.Lock()
			defer mu.Unlock()
			if revoked && a == router.ActionWrite && addr.Name() == "will" {
				return &router.Error{Op: "publish", Class: router.Denied, Text: "no"}
			}
			return nil
		})
	})
	w := fx.login(v5, "w")
	w.subscribe(1, 0, "will")
	for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
		c := fx.login(v5, "c", append(durable, withWill("will", "x", 0))...)
		mu.Lock()
		revoked = true
		mu.Unlock()
		fx.gone(c)
		mu.Lock()
		revoked = false
		mu.Unlock()
	}
	if rest := w.barrier(); len(rest) > 0 {
		t.Errorf("came: %v", bodies(rest))
	}
	if n := fx.router.Stats.Refused.Load(); n != 2 {
		t.Errorf("%d counted as refused, want 2", n)
	}
}

// exhausted is a listener without file descriptors, for a while.
type exhausted struct {
	net.Listener
	left atomic.Int64
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// TestAcceptGoesOnAfterFailures: a lack of file descriptors does not end the listener for good.
func TestAcceptGoesOnAfterFailures(t *testing.T) {
	fx := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	poor := &exhausted{Listener: l}
	poor.left.Store(3)
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := fx.server.Serve(ctx, poor); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	fx.addr = l.Addr().String()
	fx.login(v5, "c").barrier()
	if n := fx.server.Stats.AcceptErrors.Load(); n != 3 {
		t.Errorf("%d errors counted, want 3", n)
	}
	cancel()
	serving.Wait()
}

// TestSeatsAreCountedBeforeTheLogin: connections that say nothing count as well.
func TestSeatsAreCountedBeforeTheLogin(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.Seats = door.NewSeats(2, 0) })
	for range 2 {
		fx.dial(v5)
	}
	fx.waitConnections(2)
	fx.dial(v5).expectClosed()
	if n := fx.server.Stats.OverLimit.Load(); n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

// TestDrainWithClientsThatComeAndGo: a stop that clients connect into, and leave from, has an end, and leaves none of them.
func TestDrainWithClientsThatComeAndGo(t *testing.T) {
	for range 5 {
		fx := start(t)
		stop := make(chan struct{})
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					c, err := net.Dial("tcp", fx.addr)
					if err != nil {
						continue
					}
					_, _ = c.Write(encodePacket(t, connectPacket(v5, fmt.Sprint("c", i, n%2), durableFor(uint32(i%2)))))
					if n%2 == 0 {
						_, _ = c.Read(make([]byte, 4)) // CONNACK, or the end
					}
					c.Close()
				}
			})
		}
		eventually(t, func() error {
			if fx.server.Stats.Accepted.Load() < 100 {
				return errors.New("the clients do not come")
			}
			return nil
		})
		fx.close() // fails the test if it does not end in time
		close(stop)
		all.Wait()
		if n := fx.server.Connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	}
}

// TestWhatWaitsCostsNothing: sessions that are away, what they have under way and what waits for them with an expiry are not
// looked at from time to time; an hour passes without work for them.
func TestWhatWaitsCostsNothing(t *testing.T) {
	const sessions, messages, hour = 50, 20, 3600
	inBubble(t, func(fx *pipeFixture) {
		for i := range sessions {
			peer := fx.login(fmt.Sprint("s", i), durableFor(0))
			if _, err := peer.Write(encodePacket(t, subscribePacket(1, packets.Subscription{Filter: "a", Qos: 1}))); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(peer, make([]byte, 5)); err != nil { // SUBACK
				t.Fatal(err)
			}
			if i%2 == 0 {
				peer.Close()
				continue
			}
			go func() { _, _ = io.Copy(io.Discard, peer) }() // takes, and never acknowledges; ends with the pipe
		}
		p := fx.dial()
		go func() { _, _ = io.Copy(io.Discard, p) }() // CONNACK and PUBACKs; ends with the pipe
		if _, err := p.Write(encodePacket(t, connectPacket(v5, "p"))); err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			pk := publishPacket("a", "x", 1, uint16(i+1))
			pk.ProtocolVersion, pk.Properties.MessageExpiryInterval = v5, 2*hour
			if _, err := p.Write(encodePacket(t, pk)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		time.Sleep(time.Minute) // for what follows from that
		synctest.Wait()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		time.Sleep(hour * time.Second)
		synctest.Wait()
		runtime.ReadMemStats(&after)
		boxes := fx.router.MailboxInfos(router.NewPrincipal("op", "", true, nil))
		for _, b := range boxes {
			if b.Depth != messages {
				t.Errorf("%s has %d messages, want %d", b.Name, b.Depth, messages)
			}
		}
		if len(boxes) != sessions {
			t.Errorf("%d mailboxes", len(boxes))
		}
		if n := after.Mallocs - before.Mallocs; n > hour/2 {
			t.Errorf("%d allocations in an hour in which nothing happens", n)
		}
	})
}

// FuzzConnection sends anything to a connection, before and behind its login. Nothing makes the server panic or hang.
func FuzzConnection(f *testing.F) {
	r, err := router.New(context.Background(), router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: quiet})
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Options{Router: r, Authenticate: anyone, LoginTimeout: time.Second, FlushTimeout: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = s.Drain(context.Background())
		_ = r.Close(context.Background())
	})
	for _, v := range []byte{v311, v5} {
		hello := encodePacket(f, connectPacket(v, "fuzz", durableFor(5)))
		f.Add(hello)
		f.Add(append(hello[:len(hello):len(hello)], crash...))
		for _, qos := range []byte{0, 1, 2} {
			pk := publishPacket("a/b", "x", qos, 3)
			pk.ProtocolVersion = v
			sub := subscribePacket(2, packets.Subscription{Filter: "a/#", Qos: qos})
			sub.ProtocolVersion = v
			b := append(hello[:len(hello):len(hello)], encodePacket(f, sub)...)
			b = append(b, encodePacket(f, pk)...)
			f.Add(append(b, 0x62, 2, 0, 3, 0x40, 2, 0, 1, 0x50, 2, 0, 1, 0x70, 2, 0, 1, 0xc0, 0, 0xe0, 0))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		var both sync.WaitGroup
		both.Go(func() { s.ServeConn(pipe{theirs}) })
		both.Go(func() {
			buf := make([]byte, 4096)
			for {
				if _, err := ours.Read(buf); err != nil {
					return
				}
			}
		})
		_ = ours.SetWriteDeadline(time.Now().Add(patience))
		_, _ = ours.Write(b)
		ours.Close()
		both.Wait()
		if n := s.Stats.Panics.Load(); n > 0 {
			t.Fatalf("%d panics", n)
		}
	})
}
