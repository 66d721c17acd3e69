package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// failingStore refuses everything while it is told to.
type failingStore struct {
	*router.MemoryStore
	fails   atomic.Bool
	silent  atomic.Bool  // what is appended is stored, and said to have failed
	touched atomic.Int64 // calls that would write, or make a log
}

var errDisk = &router.Error{Op: "store", Class: router.Unavailable, Text: "the disk is gone", Err: errors.New("input/output error")}

// refuses counts a touch, and answers it if the store fails.
func (s *failingStore) refuses(done router.Done) bool {
	s.touched.Add(1)
	if !s.fails.Load() {
		return false
	}
	if done != nil {
		go func() { // as a store answers: on another goroutine; ends with done
			var w outbox.Batch
			done(router.Stored{}, errDisk, &w)
			w.Flush()
		}()
	}
	return true
}

func (s *failingStore) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	if s.refuses(nil) {
		return nil, errDisk
	}
	l, err := s.MemoryStore.OpenLog(ctx, id)
	return &failingLog{l, s}, err
}

func (s *failingStore) PutBinding(ctx context.Context, key string, value []byte) error {
	if s.refuses(nil) {
		return errDisk
	}
	return s.MemoryStore.PutBinding(ctx, key, value)
}

func (s *failingStore) PutValue(class router.ValueClass, key string, value []byte, done router.Done) {
	if !s.refuses(done) {
		s.MemoryStore.PutValue(class, key, value, done)
	}
}

type failingLog struct {
	router.Log
	store *failingStore
}

func (l *failingLog) Append(envelope []byte, dedup string, done router.Done) {
	if l.store.silent.Load() {
		l.Log.Append(envelope, dedup, func(s router.Stored, _ error, w *outbox.Batch) { done(s, errDisk, w) })
		return
	}
	if !l.store.refuses(done) {
		l.Log.Append(envelope, dedup, done)
	}
}

func (l *failingLog) SaveRecord(rec []byte, done router.Done) {
	if !l.store.refuses(done) {
		l.Log.SaveRecord(rec, done)
	}
}

// TestStoreFailureIsNeverASuccess: what the store refuses is answered with a reason code, or by closing the connection of a
// client whose version has none. The client may try again, and then it works.
func TestStoreFailureIsNeverASuccess(t *testing.T) {
	store := &failingStore{MemoryStore: router.NewMemoryStore()}
	fx := start(t, func(s *settings) { s.router.Store = store })
	fx.login(v5, "p").publish("$queue/q", "before", 1, 1)
	away := fx.login(v5, "away", durableFor(600))
	away.subscribe(1, 1, "inbox")
	fx.gone(away)
	for name, pk := range map[string]func(qos byte) *packets.Packet{
		"queue":     func(qos byte) *packets.Packet { return publishPacket("$queue/q", "x", qos, 1) },
		"new queue": func(qos byte) *packets.Packet { return publishPacket("$queue/new", "x", qos, 1) },
		"inbox":     func(qos byte) *packets.Packet { return publishPacket("inbox", "x", qos, 1) },
		"retained": func(qos byte) *packets.Packet {
			pk := publishPacket("retained", "x", qos, 1)
			pk.FixedHeader.Retain = true
			return pk
		},
	} {
		for _, qos := range []byte{1, 2} {
			for _, durable := range [][]connectOption{nil, {durableFor(600)}} {
				c, old := fx.login(v5, "c", durable...), fx.login(v311, "old", durable...)
				store.fails.Store(true)
				c.send(pk(qos))
				switch a, err := c.next(); {
				case err == nil && (a.FixedHeader.Type == typePuback || a.FixedHeader.Type == typePubrec) && a.ReasonCode >= byte(unspecified):
				case err == nil && a.FixedHeader.Type == typeDisconnect && a.ReasonCode >= byte(unspecified) && qos == 2 && durable != nil:
				default:
					t.Errorf("%s, QoS %d, durable %v: packet type %d, reason %#x, %v", name, qos, durable != nil, a.FixedHeader.Type, a.ReasonCode, err)
				}
				old.send(pk(qos))
				if a, err := old.next(); err == nil {
					t.Errorf("%s, QoS %d, durable %v: version 3.1.1 is answered with packet type %d", name, qos, durable != nil, a.FixedHeader.Type)
				}
				fx.gone(c)
				fx.gone(old)
				store.fails.Store(false)
				c, old = fx.login(v5, "c", durable...), fx.login(v311, "old", durable...)
				c.publishAs(pk(qos))
				old.publishAs(pk(qos))
				fx.gone(c)
				fx.gone(old)
			}
		}
	}
}

// publishAs sends a publish and completes its flow.
func (c *client) publishAs(pk *packets.Packet) {
	c.t.Helper()
	c.send(pk)
	c.complete(pk.FixedHeader.Qos, pk.PacketID)
}

// TestStoreFailureOfSubscriptions: a subscription that could not be stored is not granted, and a session that could not be
// stored not begun.
func TestStoreFailureOfSubscriptions(t *testing.T) {
	for v, code := range map[byte]byte{v311: 0x80, v5: byte(unspecified)} {
		store := &failingStore{MemoryStore: router.NewMemoryStore()}
		fx := start(t, func(s *settings) { s.router.Store = store })
		p := fx.login(v5, "p")
		c := fx.login(v, "c", durableFor(600))
		store.fails.Store(true)
		for _, filter := range []string{"a", "$share/g/a", "$queue/q"} {
			if codes := c.subscribe(1, 1, filter); codes[0] != code {
				t.Errorf("version %d, %s: SUBACK says %#x", v, filter, codes[0])
			}
		}
		late := fx.dial(v)
		late.send(connectPacket(v, "late", durableFor(600)))
		want := map[byte]byte{v311: 3, v5: byte(unavailable)}[v]
		if ack := late.expect(typeConnack); ack.ReasonCode != want {
			t.Errorf("version %d: CONNACK says %#x, want %#x", v, ack.ReasonCode, want)
		}
		store.fails.Store(false)
		fx.gone(c)
		c = fx.login(v, "c", durableFor(600))
		c.subscribe(1, 1, "a")
		p.publish("a", "x", 1, 1)
		c.message("a", "x", 1)
	}
}

// TestCleanSessionsNeverTouchTheStore: publishers and subscribers whose sessions end with their connections, at every QoS,
// alone and in groups. Only a will is stored, once, and forgotten; a store that cannot does not keep its client out.
func TestCleanSessionsNeverTouchTheStore(t *testing.T) {
	store := &failingStore{MemoryStore: router.NewMemoryStore()}
	fx := start(t, func(s *settings) { s.router.Store = store })
	store.touched.Store(0)
	wills := 0
	for _, v := range []byte{v31, v311, v5} {
		s, p := fx.login(v, fmt.Sprint("s", v)), fx.login(v, fmt.Sprint("p", v), withWill("a", "will", 0))
		s.subscribe(1, 2, "a")
		s.subscribe(2, 1, "$share/g/b")
		for qos := byte(0); qos <= 2; qos++ {
			for i := range 20 {
				p.publish("a", "x", qos, uint16(i+1))
				m := s.message("a", "x", qos)
				s.finish(m)
				p.publish("b", "y", qos, uint16(i+1))
				s.finish(s.message("b", "y", min(qos, 1)))
			}
		}
		p.conn.Close()
		s.finish(s.message("a", "will", 1))
		fx.gone(s)
		wills++
	}
	eventually(t, func() error {
		if n := int(store.touched.Load()); n != 2*wills {
			return fmt.Errorf("the store was touched %d times, want twice for each of %d wills", n, wills)
		}
		return nil
	})
	store.fails.Store(true)
	s, p := fx.login(v5, "s"), fx.login(v5, "p", withWill("a", "will", 0))
	s.subscribe(1, 0, "a")
	p.conn.Close()
	s.message("a", "will", 0)
	store.fails.Store(false)
}

// finish acknowledges a message to the end of its flow.
func (c *client) finish(m packets.Packet) {
	c.t.Helper()
	switch m.FixedHeader.Qos {
	case 1:
		c.ack(typePuback, m.PacketID)
	case 2:
		c.ack(typePubrec, m.PacketID)
		c.wantAck(typePubrel, m.PacketID, 0)
		c.ack(typePubcomp, m.PacketID)
	}
}

// TestOfflineLimits: a session whose client stays away keeps what came first up to its limits; the rest is dropped for it
// alone, and counted.
func TestOfflineLimits(t *testing.T) {
	for name, policy := range map[string]router.Policy{"messages": {MaxLength: 10}, "bytes": {MaxBytes: 10 * 1100}} {
		t.Run(name, func(t *testing.T) {
			fx := start(t, func(s *settings) { s.router.InboxPolicy = policy })
			s, other := fx.login(v5, "s", durableFor(600)), fx.login(v5, "other", durableFor(600))
			s.subscribe(1, 1, "a")
			other.subscribe(1, 1, "a")
			fx.gone(s)
			p := fx.login(v5, "p")
			body := func(i int) string { return fmt.Sprintf("%01000d", i) }
			for i := range 30 {
				p.publish("a", body(i), 1, uint16(i+1))
				other.finish(other.message("a", body(i), 1))
				other.barrier() // else its own inbox may be full as well
			}
			dropped := func() uint64 { return fx.router.Stats.Dropped()[router.DropInboxFull] }
			kept := 30 - int(dropped())
			if kept < 9 || kept > 10 {
				t.Fatalf("%d of 30 messages were dropped", 30-kept)
			}
			s = fx.login(v5, "s", durableFor(600))
			for i := range kept {
				s.finish(s.message("a", body(i), 1))
			}
			s.subscribe(2, 1, "end")
			eventually(t, func() error { // there is room again once the store has forgotten what was acknowledged
				before := dropped()
				p.publish("end", "end", 1, 999)
				if dropped() != before {
					return errors.New("the session is still full")
				}
				return nil
			})
			s.message("end", "end", 1) // and nothing of what was dropped
		})
	}
}

// TestQoS2OfUnknownOutcomeIsStoredOnce: when nobody can say whether a publish of QoS 2 is stored, a client of MQTT 5 with a durable
// session is not told that it is not, or it would send it as another one.
func TestQoS2OfUnknownOutcomeIsStoredOnce(t *testing.T) {
	store := &failingStore{MemoryStore: router.NewMemoryStore()}
	fx := start(t, func(s *settings) { s.router.Store = store })
	q := fx.login(v5, "q")
	q.subscribe(1, 1, "$queue/q")
	c := fx.login(v5, "c", durableFor(600))
	store.silent.Store(true)
	c.send(publishPacket("$queue/q", "once", 2, 7))
	if a := c.expect(typeDisconnect); a.ReasonCode != byte(serverBusy) {
		t.Errorf("DISCONNECT says %#x", a.ReasonCode)
	}
	store.silent.Store(false)
	fx.gone(c)
	c = fx.login(v5, "c", durableFor(600))
	again := publishPacket("$queue/q", "once", 2, 7)
	again.FixedHeader.Dup = true
	c.publishAs(again)
	q.finish(q.message("$queue/q", "once", 1))
	c.publish("$queue/q", "next", 2, 8)
	q.finish(q.message("$queue/q", "next", 1))
}

// forgetfulStore is a stalling one that does not know again what it has stored, as another does two minutes later.
type forgetfulStore struct{ *stallingStore }

func (s forgetfulStore) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := s.stallingStore.OpenLog(ctx, id)
	return forgetfulLog{l}, err
}

type forgetfulLog struct{ router.Log }

func (l forgetfulLog) Append(envelope []byte, _ string, done router.Done) {
	l.Log.Append(envelope, "", done)
}

// publishAndLeave publishes with QoS 2 to a store that does not answer, and ends the connection. It returns what the client is to
// send when it is back.
func (fx *pipeFixture) publishAndLeave(version byte, id string) *packets.Packet {
	fx.t.Helper()
	c := fx.client(version, id, durableFor(3600))
	pk := publishPacket("$queue/q", "once", 2, 7)
	c.send(pk)
	synctest.Wait()
	c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeDisconnect}})
	c.conn.Close()
	synctest.Wait()
	pk.FixedHeader.Dup = true
	return pk
}

// wantOnce fails the test if not exactly one message is stored.
func (fx *pipeFixture) wantOnce() {
	fx.t.Helper()
	if boxes := fx.router.MailboxInfos(router.NewPrincipal("op", "", true, nil)); len(boxes) != 1 || boxes[0].Depth != 1 {
		fx.t.Errorf("stored: %+v", boxes)
	}
}

// TestLateOutcomeIsKnownToTheSession: a client publishes with QoS 2 and disconnects while a cluster elects; the next leader answers
// shortly before the publish would be given up. The session says that it is stored, whenever the client comes back.
func TestLateOutcomeIsKnownToTheSession(t *testing.T) {
	for _, v := range []byte{v311, v5} {
		var gate chan error
		inBubble(t, func(fx *pipeFixture) {
			pk := fx.publishAndLeave(v, "c")
			time.Sleep(10 * time.Second)
			close(gate) // now, and whatever is stored later
			synctest.Wait()
			fx.client(v, "c", durableFor(3600)).publishAs(pk)
			fx.wantOnce()
		}, func(s *settings) {
			gate = make(chan error) // in the bubble
			s.router.Store = forgetfulStore{&stallingStore{router.NewMemoryStore(), gate}}
		})
	}
}

// TestTakeoverHurriesTheOldConnection: a client that is back does not wait for the store's answer to its connection before, but for
// the while that others have, and what it sends again is stored once.
func TestTakeoverHurriesTheOldConnection(t *testing.T) {
	for away, longest := range map[time.Duration]time.Duration{0: closeTimeout, closeTimeout + time.Second: 0} {
		var gate chan error
		inBubble(t, func(fx *pipeFixture) {
			pk := fx.publishAndLeave(v5, "c")
			time.Sleep(away)
			begin := time.Now()
			c := fx.client(v5, "c", durableFor(3600))
			if d := time.Since(begin); d > longest {
				t.Errorf("back after %v, the client waited %v for its session", away, d)
			}
			close(gate)
			c.publishAs(pk)
			fx.wantOnce()
		}, func(s *settings) {
			gate = make(chan error) // in the bubble
			s.router.Store = &stallingStore{router.NewMemoryStore(), gate}
		})
	}
}

// TestDrainHurriesConnectionsThatEnd: a server that has waited long enough does not wait for the store either.
func TestDrainHurriesConnectionsThatEnd(t *testing.T) {
	var gate chan error
	inBubble(t, func(fx *pipeFixture) {
		fx.publishAndLeave(v5, "c")
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout+time.Second)
		defer cancel()
		begin := time.Now()
		if err := fx.server.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain says %v", err)
		}
		if d := time.Since(begin); d > closeTimeout+time.Second {
			t.Errorf("it took %v", d)
		}
		close(gate)
	}, func(s *settings) {
		gate = make(chan error) // in the bubble
		s.router.Store = &stallingStore{router.NewMemoryStore(), gate}
	})
}

// TestLastWordsFollowALateAnswer: a client whose connection ends for its mistake is told so, however long the store took to answer.
func TestLastWordsFollowALateAnswer(t *testing.T) {
	var gate chan error
	inBubble(t, func(fx *pipeFixture) {
		c := fx.client(v5, "c", durableFor(3600))
		c.send(publishPacket("$queue/q", "once", 2, 7))
		synctest.Wait()
		c.write([]byte{typePingreq << 4, 1, 0})
		time.Sleep(10 * time.Second)
		gate <- nil
		c.wantAck(typePubrec, 7, 0)
		if code := c.expectClosed(); code != byte(malformed) {
			t.Errorf("DISCONNECT says %#x", code)
		}
	}, func(s *settings) {
		gate = make(chan error) // in the bubble
		s.router.Store, s.options.FlushTimeout = &stallingStore{router.NewMemoryStore(), gate}, time.Second
	})
}
