package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// changeState changes the stored state of a session while its gateway is down, as a crash before its last save leaves it.
func (fx *fixture) changeState(client string, change func(*storedState)) {
	fx.t.Helper()
	store := fx.set.router.Store.(*router.MemoryStore)
	key, changed := router.DefaultVhost+"\x00"+client, []byte(nil)
	err := store.Values(context.Background(), router.ValueSession, func(k string, value []byte) error {
		if k != key {
			return nil
		}
		var record map[string]any
		var text struct{ State []byte }
		var state storedState
		for _, err := range []error{json.Unmarshal(value, &record), json.Unmarshal(value, &text), json.Unmarshal(text.State, &state)} {
			if err != nil {
				return err
			}
		}
		change(&state)
		b, err := json.Marshal(state)
		if err != nil {
			return err
		}
		record["state"] = b
		changed, err = json.Marshal(record)
		return err
	})
	if err != nil || changed == nil {
		fx.t.Fatalf("the session of %s cannot be read: %v", client, err)
	}
	stored := make(chan error, 1)
	store.PutValue(router.ValueSession, key, changed, func(_ router.Stored, err error, _ *outbox.Batch) { stored <- err })
	if err := <-stored; err != nil {
		fx.t.Fatal(err)
	}
}

// TestForgottenFlightsLeaveTheWindow: the gateway dies when the session's inbox has forgotten the messages that the client
// completed, and the record has not. Their identifiers are released again, and their places in the window are free then,
// whether the next message comes before or after the client's answers.
func TestForgottenFlightsLeaveTheWindow(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprintf("message before the answers %v", early), func(t *testing.T) {
			fx := start(t)
			c := fx.login(v5, "dev", durableFor(3600), receiveMax(2))
			c.subscribe(1, 2, "a")
			for i := range 2 {
				fx.login(v5, "").publish("a", fmt.Sprint(i), 2, 1)
				m := c.message("a", fmt.Sprint(i), 2)
				c.ack(typePubrec, m.PacketID)
				c.wantAck(typePubrel, m.PacketID, 0)
				c.ack(typePubcomp, m.PacketID)
			}
			c.barrier()
			c.conn.Close()
			fx.close()
			fx.changeState("dev", func(s *storedState) {
				s.Flights = []storedFlight{{ID: 1, QoS: 2, Seq: 1, Released: true}, {ID: 2, QoS: 2, Seq: 2, Released: true}}
			})
			fx.open()
			if early {
				fx.login(v5, "").publish("a", "next", 2, 1)
			}
			c = fx.login(v5, "dev", durableFor(3600), receiveMax(2))
			for id := range uint16(2) {
				c.wantAck(typePubrel, id+1, 0)
			}
			for id := range uint16(2) {
				c.ack(typePubcomp, id+1)
			}
			if !early {
				c.barrier()
				fx.login(v5, "").publish("a", "next", 2, 1)
			}
			m := c.message("a", "next", 2)
			c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typePubrec}, PacketID: m.PacketID})
			c.wantAck(typePubrel, m.PacketID, 0)
			c.ack(typePubcomp, m.PacketID)
			c.barrier()
			c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typeDisconnect}})
			c.expectClosed()
			fx.close()
			fx.changeState("dev", func(s *storedState) {
				for _, f := range s.Flights { // of the last one the mailbox may not have said yet that it has forgotten it
					if f.Seq <= 2 {
						t.Errorf("the record still has %+v", s.Flights)
					}
				}
			})
		})
	}
}

// TestReleasedBehindOlderMessages: the session's inbox gives older messages before it comes to the one that the client has
// completed meanwhile, and that one must not take their place in the window.
func TestReleasedBehindOlderMessages(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "dev", durableFor(3600), receiveMax(1))
	c.subscribe(1, 2, "a")
	c.conn.Close()
	fx.waitConnections(0)
	p := fx.login(v5, "")
	p.publish("a", "older", 1, 1)
	p.publish("a", "released", 2, 2)
	p.publish("a", "newer", 2, 3)
	fx.close()
	fx.changeState("dev", func(s *storedState) {
		s.Flights = []storedFlight{{ID: 9, QoS: 2, Seq: 2, Released: true}}
	})
	fx.open()
	c = fx.login(v5, "dev", durableFor(3600), receiveMax(1))
	c.wantAck(typePubrel, 9, 0)
	c.ack(typePubcomp, 9)
	m := c.message("a", "older", 1)
	c.ack(typePuback, m.PacketID)
	c.message("a", "newer", 2)
}

// doomedStore holds back the records of mailboxes once it is doomed, and stores nothing any more once it is dead: then all of them are
// said to be stored, so that what is left of the process can end.
type doomedStore struct {
	*router.MemoryStore

	mu           sync.Mutex
	doomed, dead bool
	held         []router.Done
}

func (s *doomedStore) doom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doomed = true
}

func (s *doomedStore) die() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	for _, done := range s.held {
		confirmLater(done)
	}
}

// confirmLater confirms as a store does: on another goroutine, which ends with done.
func confirmLater(done router.Done) {
	go func() {
		var w outbox.Batch
		done(router.Stored{}, nil, &w)
		w.Flush()
	}()
}

func (s *doomedStore) PutValue(class router.ValueClass, key string, value []byte, done router.Done) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		confirmLater(done)
		return
	}
	s.MemoryStore.PutValue(class, key, value, done)
}

func (s *doomedStore) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := s.MemoryStore.OpenLog(ctx, id)
	return &doomedLog{l, s}, err
}

type doomedLog struct {
	router.Log
	store *doomedStore
}

func (l *doomedLog) SaveRecord(rec []byte, done router.Done) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	switch {
	case l.store.dead:
		confirmLater(done)
	case l.store.doomed:
		l.store.held = append(l.store.held, done)
	default:
		l.Log.SaveRecord(rec, done)
	}
}

func (l *doomedLog) Trim(ctx context.Context, upto uint64) error {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.store.dead {
		return nil
	}
	return l.Log.Trim(ctx, upto)
}

// TestCompletedBeforeItComesIsNotSentAgain: PUBCOMP comes before the session's inbox gives the message, and the gateway dies before
// the inbox's record is stored, though the session's was meanwhile. The inbox gives the message once more, and the client must not
// get it: it is released again, and its identifier is free when the inbox has forgotten it.
func TestCompletedBeforeItComesIsNotSentAgain(t *testing.T) {
	eachVersion(t, func(t *testing.T, version byte) {
		memory := router.NewMemoryStore()
		fx := start(t, func(s *settings) { s.router.Store, s.options.MaxInflight = memory, 1 })
		c := fx.login(version, "dev", durableFor(3600))
		c.subscribe(1, 2, "a")
		fx.gone(c)
		p := fx.login(v5, "")
		p.publish("a", "older", 1, 1)
		p.publish("a", "released", 2, 2)
		p.publish("a", "newer", 2, 3)
		fx.close()
		fx.changeState("dev", func(s *storedState) {
			s.Flights = []storedFlight{{ID: 9, QoS: 2, Seq: 2, Released: true}}
		})
		complete := func() {
			t.Helper()
			c = fx.login(version, "dev", durableFor(3600))
			c.wantAck(typePubrel, 9, 0)
			c.ack(typePubcomp, 9)
			m := c.message("a", "older", 1)
			c.ack(typePuback, m.PacketID)
			c.message("a", "newer", 2) // its identifier was stored before, and with it that the other one is in use
		}
		store := &doomedStore{MemoryStore: memory}
		fx.set.router.Store = store
		fx.open()
		store.doom()
		complete()
		store.die()
		fx.close()
		fx.set.router.Store = memory
		fx.open()
		complete()
		eventually(t, func() error {
			if fx.inUse(c, 9) {
				return errors.New("the identifier of the completed message is still in use")
			}
			return nil
		})
		if rest := c.barrier(); len(rest) > 0 {
			t.Errorf("more came: %v", bodies(rest))
		}
	})
}

// inUse reports whether a packet identifier of what a client is sent is in use.
func (fx *fixture) inUse(c *client, id uint16) bool {
	served := fx.served(c)
	served.mu.Lock()
	defer served.mu.Unlock()
	return served.window.flight[id] != nil
}
