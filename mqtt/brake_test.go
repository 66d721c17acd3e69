package mqtt

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// A client that takes what waits for it is waited for, one that does not is not, until it does again.
func TestBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conn{server: &Server{opt: Options{}.withDefaults()}}
		c.changed.L = &c.mu
		q, b := &c.window.queue, &c.window.brake
		for range c.server.opt.MaxQueued/8 + 1 {
			q.push(waitingMessage{message: &router.Message{}})
		}
		if !q.long(&c.server.opt) || q.short(&c.server.opt) {
			t.Fatal("the queue is long")
		}
		var released atomic.Int64
		hold := func() bool { return c.Hold(func(*outbox.Batch) { released.Add(1) }) }
		pass := func(d time.Duration, progress uint64) {
			time.Sleep(d)
			synctest.Wait()
			c.mu.Lock()
			b.progress += progress
			c.mu.Unlock()
		}
		first, second := hold(), hold()
		if !first || !second {
			t.Fatal("nobody knows yet that the client is slow")
		}
		pass(brakePeriod-1, brakeProgress)
		pass(brakePeriod, 0)
		if released.Load() != 0 {
			t.Fatal("the client keeps up, and its publishers were let go")
		}
		if pass(1, 0); released.Load() != 2 || hold() {
			t.Fatalf("the client is slow: %d of 2 were let go", released.Load())
		}
		if pass(brakePeriod, brakeProgress-1); hold() {
			t.Fatal("the client is still slow")
		}
		if pass(brakePeriod, brakeProgress); !hold() {
			t.Fatal("the client keeps up again")
		}
		c.mu.Lock()
		q.items = nil
		n := c.pump(nil)
		c.mu.Unlock()
		if resume(n, nil); released.Load() != 3 || hold() {
			t.Fatalf("the queue is short: %d of 3 were let go", released.Load())
		}
		pass(brakePeriod, 0) // the timer ends
		c.mu.Lock()
		defer c.mu.Unlock()
		if b.timer != nil {
			t.Error("a timer runs for nothing")
		}
	})
}

// A subscription whose queue is long asks publishers to wait; one that takes nothing slows them for a moment only.
func TestAStuckQoS1SubscriberStopsNoPublisher(t *testing.T) {
	eachVersion(t, func(t *testing.T, v byte) {
		fx := start(t, func(s *settings) { s.options.MaxQueued, s.options.MaxInflight = 16, 1 })
		s, p := fx.login(v, "s"), fx.login(v, "p")
		s.subscribe(1, 1, "a")
		const publishes = 40
		for id := range uint16(publishes) {
			p.publish("a", "x", 1, id+1) // awaits its PUBACK
		}
		// One is in flight, 16 wait.
		if n := fx.router.Stats.Dropped()[router.DropSlowConsumer]; n != publishes-17 {
			t.Errorf("%d dropped, want %d", n, publishes-17)
		}
		var w outbox.Batch
		fd, m := fx.feed(s), &router.Message{}
		fd.conn.mu.Lock()
		fd.conn.window.queue.reset()
		fd.conn.mu.Unlock()
		m.Flags |= router.FlagPersistent
		for n := range 3 {
			if fd.Live(m, &w); len(w.Brakes()) != n/2 { // a queue of three is long, of 16
				t.Errorf("%d waiting: %d brakes", n+1, n/2)
			}
		}
	})
}

// feed is the only subscription of a client.
func (fx *fixture) feed(c *client) *feed {
	fx.t.Helper()
	for _, s := range fx.served(c).subs {
		return s.feed
	}
	fx.t.Fatal("the client has no subscription")
	return nil
}
