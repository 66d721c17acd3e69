package mqtt

import (
	"context"
	"fmt"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// TestOnJetStream runs on the durable store what must survive a restart of the process.
func TestOnJetStream(t *testing.T) {
	dir := t.TempDir()
	open := func() *jetstream.Store {
		s, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, SyncAlways: true, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	store := open()
	fx := start(t, func(s *settings) { s.router.Store = store })
	restart := func() {
		fx.close()
		store.Close()
		store = open()
		fx.set.router.Store = store
		fx.open()
	}
	defer func() { fx.close(); store.Close() }()

	s := fx.login(v5, "s", durableFor(600), withWill("will/s", "gone", 3600))
	s.subscribe(1, 2, "a/#", "a/+")
	p := fx.login(v5, "p", durableFor(600))
	p.send(retainedPacket("kept", "1"))
	p.wantAck(typePuback, 77, 0)
	p.send(retainedPacket("dropped", "1"))
	p.wantAck(typePuback, 77, 0)
	p.send(retainedPacket("dropped", ""))
	p.wantAck(typePuback, 77, 0)
	p.publish("a/1", "one", 2, 1)
	m := s.message("a/1", "one", 2)
	fx.gone(s)
	for i := range 20 {
		p.publish("a/2", fmt.Sprint(i), 1, uint16(i+1))
	}
	p.send(publishPacket("a/3", "open", 2, 9))
	p.wantAck(typePubrec, 9, 0)
	fx.gone(p)
	restart()

	p = fx.login(v5, "p", durableFor(600))
	again := publishPacket("a/3", "open", 2, 9)
	again.FixedHeader.Dup = true
	p.send(again)
	p.complete(2, 9)
	s, ack := fx.connect(v5, "s", durableFor(600))
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	if m2 := s.message("a/1", "one", 2); m2.PacketID != m.PacketID || !m2.FixedHeader.Dup {
		t.Errorf("id %d DUP %v, want %d and DUP", m2.PacketID, m2.FixedHeader.Dup, m.PacketID)
	}
	s.ack(typePubrec, m.PacketID)
	var got []string
	for len(got) < 21 {
		pk, err := s.next()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		switch pk.FixedHeader.Type {
		case typePubrel:
			s.ack(typePubcomp, pk.PacketID)
		case typePublish:
			got = append(got, string(pk.Payload))
			if pk.FixedHeader.Qos == 1 {
				s.ack(typePuback, pk.PacketID)
				continue
			}
			s.ack(typePubrec, pk.PacketID)
		}
	}
	if want := "[0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 open]"; fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	r := fx.login(v5, "r")
	r.subscribe(1, 0, "kept", "dropped")
	if rest := bodies(r.barrier()); rest != "1" {
		t.Errorf("retained: %q", rest)
	}
}

// TestWillSurvivesACrash: the session's record has the will of a client that was connected when the gateway died.
// It holds the gateway to MQTT-3.1.2-7.
func TestWillSurvivesACrash(t *testing.T) {
	fx := start(t)
	fx.login(v5, "s", durableFor(600), withWill("will/s", "gone", 1))
	crashed := copyStore(t, fx.set.router.Store.(*router.MemoryStore))
	fx.close()
	fx.set.router.Store = crashed
	fx.open()
	w := fx.login(v5, "w")
	w.subscribe(1, 0, "will/#")
	w.message("will/s", "gone", 0)
}

// TestWillOfACleanSessionSurvivesACrash: a will is stored also where nothing else is, and forgotten with its connection.
// It holds the gateway to MQTT-3.1.2-7 and MQTT-3.1.2-10.
func TestWillOfACleanSessionSurvivesACrash(t *testing.T) {
	fx := start(t)
	store := fx.set.router.Store.(*router.MemoryStore)
	p := fx.login(v5, "parts", withWill("will/parts", "x", 0))
	p.write([]byte{typeDisconnect << 4, 0})
	p.expectClosed()
	fx.gone(fx.login(v311, "lost", withWill("will/lost", "x", 0)))
	fx.login(v5, "plain")
	fx.waitConnections(1)
	eventually(t, func() error {
		if n := storedSessions(t, store); n != 0 {
			return fmt.Errorf("%d records of wills are left behind their connections", n)
		}
		return nil
	})
	fx.login(v311, "old", withWill("will/old", "gone", 0))
	fx.login(v5, "new", withWill("will/new", "gone", 3600)) // its session ends with the connection, whatever the delay
	fx.login(v5, "back", withWill("will/back", "gone", 0))
	crashed := copyStore(t, store)
	fx.close()
	fx.set.router.Store = crashed
	fx.open()
	w := fx.login(v5, "w")
	w.subscribe(1, 0, "will/#")
	if _, ack := fx.connect(v5, "back", durableFor(60)); ack.SessionPresent {
		t.Error("a will alone was taken for a session")
	}
	got := map[string]bool{}
	for range 3 {
		got[w.expect(typePublish).TopicName] = true
	}
	for _, topic := range []string{"will/old", "will/new", "will/back"} {
		if !got[topic] {
			t.Errorf("the will for %s is lost; published: %v", topic, got)
		}
	}
	eventually(t, func() error {
		if n := storedSessions(t, crashed); n != 1 {
			return fmt.Errorf("%d records are left", n)
		}
		return nil
	})
}

func storedSessions(t *testing.T, s *router.MemoryStore) int {
	t.Helper()
	n := 0
	if err := s.Values(context.Background(), router.ValueSession, func(string, []byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// copyStore takes what the store holds now, as a crash would leave it.
func copyStore(t *testing.T, s *router.MemoryStore) *router.MemoryStore {
	t.Helper()
	out := router.NewMemoryStore()
	err := s.Values(context.Background(), router.ValueSession, func(key string, value []byte) error {
		out.PutValue(router.ValueSession, key, value, func(router.Stored, error, *outbox.Batch) {})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
