package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// crashingStore is a store whose process dies at one of its writes: that one is stored or not, its answer is lost, and
// nothing is stored after it.
type crashingStore struct {
	*jetstream.Store
	crash func()

	mu     sync.Mutex
	count  int
	at     int  // the write at which the process dies, 0: never
	stored bool // whether that one reaches the disk
	dead   bool
}

var errCrashed = errors.New("the process is dead")

// write counts a write. Goes tells whether it is to be done, and heard whether anyone hears of it.
func (s *crashingStore) write() (goes, heard bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	switch {
	case s.dead:
		return false, false
	case s.count == s.at:
		s.dead = true
		s.crash()
		return s.stored, false
	}
	return true, true
}

// arm has the process die at the nth write from now on.
func (s *crashingStore) arm(n int, stored bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.stored = s.count+n, stored
}

// do does a write with an answer. After the crash answers are errors, so that what is left of the process can end.
func (s *crashingStore) do(done router.Done, write func(router.Done)) {
	goes, heard := s.write()
	fail := func() {
		var w outbox.Batch
		done(router.Stored{}, errCrashed, &w)
		w.Flush()
	}
	switch {
	case heard:
		write(done)
	case goes:
		write(func(router.Stored, error, *outbox.Batch) { go fail() })
	default:
		go fail() // ends with done, which never blocks
	}
}

func (s *crashingStore) PutValue(class router.ValueClass, key string, value []byte, done router.Done) {
	s.do(done, func(done router.Done) { s.Store.PutValue(class, key, value, done) })
}

func (s *crashingStore) PutBinding(ctx context.Context, key string, value []byte) error {
	goes, heard := s.write()
	if goes {
		if err := s.Store.PutBinding(ctx, key, value); err != nil {
			return err
		}
	}
	if !heard {
		return errCrashed
	}
	return nil
}

func (s *crashingStore) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := s.Store.OpenLog(ctx, id)
	return &crashingLog{l, s}, err
}

type crashingLog struct {
	router.Log
	store *crashingStore
}

func (l *crashingLog) Append(envelope []byte, dedup string, done router.Done) {
	l.store.do(done, func(done router.Done) { l.Log.Append(envelope, dedup, done) })
}

func (l *crashingLog) SaveRecord(rec []byte, done router.Done) {
	l.store.do(done, func(done router.Done) { l.Log.SaveRecord(rec, done) })
}

func (l *crashingLog) Trim(ctx context.Context, upto uint64) error {
	if goes, heard := l.store.write(); !goes || !heard {
		return errCrashed
	}
	return l.Log.Trim(ctx, upto)
}

// TestQoS2IsPublishedOnceWhereverTheGatewayDies kills the gateway at each write to the store, once before it and once after
// it, while a client publishes with QoS 2 under one packet identifier. The client then goes on as the specification has it
// go on. Each message is in the queue and in the subscriber's session exactly once.
func TestQoS2IsPublishedOnceWhereverTheGatewayDies(t *testing.T) {
	const writes, surely = 16, 12 // how many there are depends on how they are coalesced
	for n := 1; n <= writes; n++ {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, stored %v", n, stored), func(t *testing.T) {
				t.Parallel()
				if !publishOnceThoughItDies(t, n, stored) && n <= surely {
					t.Errorf("fewer than %d writes were seen", n)
				}
			})
		}
	}
}

// publishOnceThoughItDies reports whether the gateway died.
func publishOnceThoughItDies(t *testing.T, n int, stored bool) (died bool) {
	dir := t.TempDir()
	open := func() *jetstream.Store {
		s, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, SyncAlways: true, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	store := &crashingStore{Store: open(), crash: func() {}}
	fx := start(t, func(s *settings) { s.router.Store = store })
	s := fx.login(v5, "s", durableFor(600))
	s.subscribe(1, 1, "t")
	fx.gone(s)
	p := fx.login(v5, "p", durableFor(600))
	p.publish("$queue/q", "0", 2, 1)
	p.barrier()
	store.crash = func() { p.conn.Close() }
	store.arm(n, stored)
	restart := func() {
		fx.stop()
		fx.stop = nil
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = fx.server.Drain(ctx)
		_ = fx.router.Close(ctx) // it cannot save any more
		store.Close()
		store = &crashingStore{Store: open()}
		fx.set.router.Store = store
		fx.open()
		p, _ = fx.connect(v5, "p", durableFor(600))
	}
	// exchange sends a packet until its answer comes, through a crash if it must be.
	exchange := func(pk *packets.Packet, answer byte) {
		t.Helper()
		for {
			pk.ProtocolVersion = p.version
			if _, err := p.conn.Write(encodePacket(t, pk)); err == nil {
				if a, err := p.next(); err == nil && a.FixedHeader.Type == answer {
					if a.ReasonCode != 0 && !(died && a.ReasonCode == byte(idNotFound)) {
						t.Fatalf("packet type %d is answered with reason %#x", pk.FixedHeader.Type, a.ReasonCode)
					}
					return
				}
			}
			if died {
				t.Fatal("the connection failed twice")
			}
			died = true
			restart()
			pk.FixedHeader.Dup = pk.FixedHeader.Type == typePublish // [MQTT-3.3.1-1]
		}
	}
	for _, body := range []string{"1", "2"} {
		for _, topic := range []string{"$queue/q", "t"} {
			exchange(publishPacket(topic, body, 2, 1), typePubrec)
			exchange(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typePubrel}, PacketID: 1}, typePubcomp)
		}
	}
	store.mu.Lock()
	dead := store.dead
	store.at = 0 // no more
	store.mu.Unlock()
	if dead && !died { // at a write that nobody waits for
		died = true
		restart()
	}
	fx.gone(p)
	r := fx.login(v5, "r")
	r.subscribe(1, 1, "$queue/q")
	for _, want := range []string{"0", "1", "2"} {
		r.ack(typePuback, r.message("$queue/q", want, 1).PacketID)
	}
	if rest := r.barrier(); len(rest) > 0 {
		t.Fatalf("the queue has besides: %v", bodies(rest))
	}
	s = fx.login(v5, "s", durableFor(600))
	for _, want := range []string{"1", "2"} {
		s.ack(typePuback, s.message("t", want, 1).PacketID)
	}
	if rest := s.barrier(); len(rest) > 0 {
		t.Fatalf("the session has besides: %v", bodies(rest))
	}
	fx.gone(r)
	fx.gone(s)
	fx.close()
	store.Close()
	return died
}
