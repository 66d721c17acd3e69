package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// taker consumes and acks everything, on a goroutine of its own.
type taker struct {
	t    testing.TB
	sess *router.Session
	ch   chan *router.Delivery
	end  sync.WaitGroup
	mu   sync.Mutex
	got  []string
}

func newTaker(t testing.TB, r *router.Router, from string, credit int) *taker {
	t.Helper()
	sess, err := r.Connect(router.SessionOptions{Principal: operator})
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := router.ParseFilter("", from)
	if err != nil {
		t.Fatal(err)
	}
	c := &taker{t: t, sess: sess, ch: make(chan *router.Delivery, credit)}
	sub, err := sess.Subscribe(context.Background(), router.SubscribeOptions{Filter: f, Receiver: c, Credit: credit})
	if err != nil {
		t.Fatal(err)
	}
	c.end.Go(func() {
		for d := range c.ch {
			if err := d.Ack(nil, nil); err == nil {
				c.mu.Lock()
				c.got = append(c.got, string(d.Message.Body))
				c.mu.Unlock()
			}
		}
	})
	sub.Start(nil)
	return c
}

func (c *taker) Live(*router.Message, *outbox.Batch) bool { return true }

func (c *taker) Stored(d *router.Delivery, _ *outbox.Batch) bool { c.ch <- d; return true }

func (c *taker) stop() {
	c.sess.Close()
	close(c.ch)
	c.end.Wait()
}

func (c *taker) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.got...)
}

// has waits for the last message that a test sent.
func (c *taker) has(suffix string) error {
	got := c.all()
	if len(got) < 5 || got[len(got)-1] != "4"+suffix {
		return fmt.Errorf("%d messages, the last ones not there", len(got))
	}
	return nil
}

// soak is what a long run knows of each message.
type soak struct {
	mu        sync.Mutex
	confirmed map[string]bool
	delivered map[string]int
	settled   map[string]int
	unmarked  []string // delivered again without a mark
}

func (s *soak) see(body string, marked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivered[body] > 0 && !marked {
		s.unmarked = append(s.unmarked, body)
	}
	s.delivered[body]++
}

func (s *soak) note(m map[string]int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m[body]++
}

// unsure is a consumer that acks, nacks, rejects nothing, and dies at random.
type unsure struct {
	s  *soak
	ch chan *router.Delivery
}

func (c *unsure) Live(*router.Message, *outbox.Batch) bool { return true }

func (c *unsure) Stored(d *router.Delivery, _ *outbox.Batch) bool {
	select {
	case c.ch <- d:
		c.s.see(string(d.Message.Body), d.Redelivered())
		return true
	default:
		return false // full, at random
	}
}

func (s *soak) consume(r *router.Router, queue router.Address, until *atomic.Bool, rnd *rand.Rand) {
	for !until.Load() {
		sess, err := r.Connect(router.SessionOptions{Principal: operator})
		if err != nil {
			return // it stops
		}
		c := &unsure{s: s, ch: make(chan *router.Delivery, 1+rnd.IntN(30))}
		sub, err := sess.Subscribe(context.Background(), router.SubscribeOptions{Filter: router.FilterOf(queue), Receiver: c, Credit: 1 + rnd.IntN(50)})
		if err != nil {
			sess.Close()
			return
		}
		sub.Start(nil)
		life := 50 + rnd.IntN(500)
		idle := time.NewTimer(50 * time.Millisecond)
		for range life {
			if until.Load() {
				break
			}
			var d *router.Delivery
			idle.Reset(50 * time.Millisecond)
			select {
			case d = <-c.ch:
			case <-idle.C:
				continue
			}
			body := string(d.Message.Body)
			switch n := rnd.IntN(20); {
			case n == 0:
				_ = d.Nack(0, "not now", nil, nil)
			case n == 1:
				_ = d.Nack(time.Duration(rnd.IntN(20))*time.Millisecond, "later", nil, nil)
			case n < 5:
				if d.AckUpTo(nil, nil) == nil {
					s.note(s.settled, body)
				}
			case n < 8:
				if d.Ack(nil, func(router.Stored, error, *outbox.Batch) {}) == nil {
					s.note(s.settled, body)
				}
			case n < 18:
				if d.Ack(nil, nil) == nil {
					s.note(s.settled, body)
				}
			} // else it keeps the message until it dies
			sub.Resume(nil)
		}
		sess.Close()
	}
}

func (s *soak) publish(r *router.Router, queues []router.Address, name string, until *atomic.Bool, rnd *rand.Rand) {
	sess, err := r.Connect(router.SessionOptions{Principal: operator})
	if err != nil {
		return
	}
	defer sess.Close()
	window := make(chan struct{}, 32)
	var left sync.WaitGroup
	for i := 0; !until.Load(); i++ {
		window <- struct{}{}
		left.Add(1)
		body := name + " " + strconv.Itoa(i)
		done := func(bodies ...string) router.Done {
			return func(_ router.Stored, err error, _ *outbox.Batch) {
				if err == nil {
					s.mu.Lock()
					for _, b := range bodies {
						s.confirmed[b] = true
					}
					s.mu.Unlock()
				}
				<-window
				left.Done()
			}
		}
		to := queues[rnd.IntN(len(queues))]
		m := &router.Message{To: to, Body: []byte(body)}
		if rnd.IntN(40) == 0 {
			two := &router.Message{To: queues[rnd.IntN(len(queues))], Body: []byte(body + " two")}
			err = sess.Commit(context.Background(), []*router.Message{m, two}, nil, nil, done(body, body+" two"))
		} else {
			_, err = sess.Publish(context.Background(), m, nil, done(body))
		}
		if err != nil {
			<-window
			left.Done()
			if router.ClassOf(err) == router.Unavailable {
				break
			}
		}
		if i%50 == 0 {
			time.Sleep(time.Millisecond) // paces the load; nothing is asserted of it
		}
	}
	left.Wait()
}

// TestSoak has publishers and unsure consumers on a durable store, and stops and
// starts the whole in between. What was confirmed is consumed, and what comes
// twice is marked.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("several seconds")
	}
	dir := t.TempDir()
	s := &soak{confirmed: map[string]bool{}, delivered: map[string]int{}, settled: map[string]int{}}
	var queues []router.Address
	for _, name := range []string{"/queue/one", "/queue/two", "/queue/three"} {
		a, _, err := router.ParseDestination("", name)
		if err != nil {
			t.Fatal(err)
		}
		queues = append(queues, a)
	}
	for phase, always := range []bool{false, true, false} {
		store := openStore(t, dir, always)
		r := newRouter(t, store)
		var quit atomic.Bool
		var group sync.WaitGroup
		for i := range 8 {
			rnd := rand.New(rand.NewPCG(uint64(phase), uint64(i)))
			group.Go(func() { s.publish(r, queues, fmt.Sprint(phase, " ", i), &quit, rnd) })
			rnd2 := rand.New(rand.NewPCG(uint64(phase), uint64(100+i)))
			group.Go(func() { s.consume(r, queues[i%3], &quit, rnd2) })
		}
		time.Sleep(1500 * time.Millisecond) // the length of a phase
		if phase == 1 {
			// The middle one ends while everybody is at work.
			if err := r.Close(context.Background()); err != nil {
				t.Error(err)
			}
			quit.Store(true)
			group.Wait()
		} else {
			quit.Store(true)
			group.Wait()
			if err := r.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
		store.Close()
	}
	s.drain(t, dir, queues)
	s.judge(t)
}

// drain consumes what is left.
func (s *soak) drain(t *testing.T, dir string, queues []router.Address) {
	store := openStore(t, dir, false)
	defer store.Close()
	r := newRouter(t, store)
	for _, q := range queues {
		c := &unsure{s: s, ch: make(chan *router.Delivery, 1000)}
		sess, err := r.Connect(router.SessionOptions{Principal: operator})
		if err != nil {
			t.Fatal(err)
		}
		sub, err := sess.Subscribe(context.Background(), router.SubscribeOptions{Filter: router.FilterOf(q), Receiver: c, Credit: 500})
		if err != nil {
			t.Fatal(err)
		}
		sub.Start(nil)
		eventually(t, func() error {
			for {
				select {
				case d := <-c.ch:
					if err := d.Ack(nil, nil); err != nil {
						return err
					}
					s.note(s.settled, string(d.Message.Body))
					continue
				default:
				}
				break
			}
			info, err := r.QueueInfo(operator, q)
			if err == nil && info.Depth > 0 {
				err = fmt.Errorf("%d messages are left in %s: %+v", info.Depth, q, info)
			}
			return err
		})
		sess.Close()
	}
	if err := r.Close(context.Background()); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func (s *soak) judge(t *testing.T) {
	if len(s.confirmed) < 1000 {
		t.Errorf("only %d messages were confirmed", len(s.confirmed))
	}
	if len(s.unmarked) > 0 {
		t.Errorf("%d deliveries came again without a mark, such as %q", len(s.unmarked), s.unmarked[0])
	}
	lost := 0
	for body := range s.confirmed {
		if s.delivered[body] == 0 {
			lost++
			if lost < 5 {
				t.Errorf("%q was confirmed and never delivered", body)
			}
		}
	}
	twice := 0
	for _, n := range s.settled {
		if n > 1 {
			twice++
		}
	}
	if twice > 0 {
		t.Errorf("%d messages were settled and came back after orderly stops", twice)
	}
	t.Logf("%d confirmed, %d delivered, %d lost", len(s.confirmed), len(s.delivered), lost)
}
