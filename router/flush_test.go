package router

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// flushing begins a flush and returns where its answer comes.
func flushing(s *Session) <-chan error {
	answer := make(chan error, 1)
	s.Flush(nil, func(_ Stored, err error, _ *outbox.Batch) { answer <- err })
	return answer
}

// comesAgain returns what a queue gives to another client.
func comesAgain(t *testing.T, s *Session, queue string) string {
	t.Helper()
	_, in := consume(t, s, queue, 100)
	time.Sleep(3 * leaderPatience)
	return fmt.Sprint(in.bodies())
}

// settlers are the ways to end a delivery for good.
var settlers = map[string]func(*Delivery) error{
	"ack":    func(d *Delivery) error { return d.Ack(nil, nil) },
	"upTo":   func(d *Delivery) error { return d.AckUpTo(nil, nil) },
	"reject": func(d *Delivery) error { return d.Reject("no", nil, nil) },
}

// TestClusterFlushCoversWhatNoLeaderHeard: what a client settles without asking to hear of it, while there is no leader, or on a link that
// loses it, or told to a leader that dies before it is stored, is settled when a flush is confirmed.
func TestClusterFlushCoversWhatNoLeaderHeard(t *testing.T) {
	for how, settle := range settlers {
		for _, lost := range []string{"no leader", "link", "crash"} {
			t.Run(how+" "+lost, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startCluster(t, 2, nil)
					c.edges[0].Hold(10 * time.Second)
					a := c.edges[0].session()
					_, in := consume(t, a, "/queue/q", 2)
					mustPublish(t, a, "/queue/q", "0")
					mustPublish(t, a, "/queue/q", "1")
					ds := in.wait(t, "0", "1")
					time.Sleep(time.Second)
					switch lost {
					case "no leader":
						c.crash()
					case "link":
						c.wires.setCut("n0", true)
					}
					if how != "upTo" {
						if err := settle(ds[0]); err != nil {
							t.Fatal(err)
						}
					}
					if err := settle(ds[1]); err != nil {
						t.Fatal(err)
					}
					if lost == "crash" {
						synctest.Wait()
						c.crash()
					}
					answer := flushing(a)
					time.Sleep(100 * time.Millisecond)
					if lost == "link" {
						c.wires.setCut("n0", false)
					} else {
						c.succeed()
					}
					if err := <-answer; err != nil {
						t.Error(err)
					}
					a.Close()
					if got := comesAgain(t, c.edges[1].session(), "/queue/q"); got != "[]" {
						t.Errorf("%s come again", got)
					}
				})
			})
		}
	}
}

// TestClusterGivenBackIsToldOnce: what was given back is with the client again, and would be taken from it. Where no leader was told, the next
// one is.
func TestClusterGivenBackIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, nil)
		s := c.edges[0].session()
		_, in := consume(t, s, "/queue/q", 1)
		mustPublish(t, s, "/queue/q", "x")
		nack := func(d *Delivery, delay time.Duration) {
			t.Helper()
			if err := d.Nack(delay, "not now", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		nack(in.wait(t, "x")[0], 0)
		d := in.wait(t, "x", "x")[1]
		c.crash()
		c.succeed()
		time.Sleep(10 * time.Second)
		in.wait(t, "x", "x")
		c.crash()
		nack(d, time.Minute)
		c.succeed()
		time.Sleep(10 * time.Second)
		if got := in.bodies(); len(got) != 2 {
			t.Errorf("it does not wait: %v", got)
		}
		time.Sleep(time.Minute)
		ack(t, in.wait(t, "x", "x", "x")[2])
	})
}

// TestClusterFlushTellsOfDoubt: what can be told to no other leader, since its subscription has ended, makes the flush fail that would cover it,
// if the leader was lost before it confirmed.
func TestClusterFlushTellsOfDoubt(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored=", stored), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startCluster(t, 1, nil)
				c.edges[0].Hold(10 * time.Second)
				s := c.edges[0].session()
				sub, in := consume(t, s, "/queue/q", 1)
				mustPublish(t, s, "/queue/q", "x")
				d := in.wait(t, "x")[0]
				time.Sleep(time.Second)
				if err := d.Ack(nil, nil); err != nil {
					t.Fatal(err)
				}
				sub.Close(nil)
				if stored {
					time.Sleep(2 * saveEveryMs * time.Millisecond)
				}
				c.crash()
				answer := flushing(s)
				c.succeed()
				if err := <-answer; (ClassOf(err) == Unavailable) == stored {
					t.Errorf("the flush says %v", err)
				}
			})
		})
	}
}

// TestClusterFlushTellsOfWhatWasNotKept: there is a bound to what is kept of a session. A flush tells if something beyond it may be lost.
func TestClusterFlushTellsOfWhatWasNotKept(t *testing.T) {
	for _, lost := range []string{"", "told", "untold"} {
		t.Run(lost, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startCluster(t, 1, nil)
				c.edges[0].Hold(10 * time.Second)
				s := c.edges[0].session()
				_, in := consume(t, s, "/queue/q", 1)
				mustPublish(t, s, "/queue/q", "x")
				d := in.wait(t, "x")[0]
				e := c.edges[0].edge
				e.mu.Lock()
				s.remote.unconfirmed.bytes = maxUnconfirmedBytes
				e.mu.Unlock()
				if lost == "untold" {
					c.crash()
				}
				if err := d.Ack(nil, nil); err != nil {
					t.Fatal(err)
				}
				if lost == "told" {
					c.crash()
				}
				answer := flushing(s)
				if lost != "" {
					c.succeed()
				}
				if err := <-answer; (ClassOf(err) == Unavailable) != (lost != "") {
					t.Errorf("the flush says %v", err)
				}
			})
		})
	}
}

// TestFlushCoversSubscriptionsThatHaveEnded: a client settles, unsubscribes and asks whether all is stored.
func TestFlushCoversSubscriptionsThatHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		sub, in := consume(t, s, "/queue/q", 1)
		mustPublish(t, s, "/queue/q", "x")
		d := in.wait(t, "x")[0]
		time.Sleep(time.Second)
		for range 3 { // the first is saved at once
			if err := d.Ack(nil, nil); err != nil {
				t.Fatal(err)
			}
			sub.Close(nil)
			sub, in = consume(t, s, "/queue/q", 1)
			mustPublish(t, s, "/queue/q", "x")
			d = in.wait(t, "x")[0]
		}
		if err := d.Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
		sub.Close(nil)
		if err := <-flushing(s); err != nil {
			t.Fatal(err)
		}
		h.crash()
		if got := comesAgain(t, h.session(), "/queue/q"); got != "[]" {
			t.Errorf("%s come again", got)
		}
	})
}

// TestClusterUnconfirmedIsBounded: what a session settles is kept until the leader has stored it, and no longer; nothing is kept of a session that
// has ended.
func TestClusterUnconfirmedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, nil)
		s := c.edges[0].session()
		_, in := consume(t, s, "/queue/q", 1)
		e := c.edges[0].edge
		kept := func() (n, held int) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return len(s.remote.unconfirmed.kept), e.held
		}
		most := 0
		for i := range 10 * confirmEvery {
			mustPublish(t, s, "/queue/q", "x")
			eventually(t, func() error {
				if n := len(in.got()); n != i+1 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			if err := in.got()[i].Ack(nil, nil); err != nil {
				t.Fatal(err)
			}
			if i%confirmEvery == 0 {
				time.Sleep(2 * saveEveryMs * time.Millisecond)
			}
			n, _ := kept()
			most = max(most, n)
		}
		if most < confirmEvery || most > 2*confirmEvery {
			t.Errorf("up to %d are kept", most)
		}
		time.Sleep(2 * confirmEveryMs * time.Millisecond)
		if n, held := kept(); n != 0 || held != 0 || len(e.keeping) > 0 {
			t.Errorf("%d settlements and %d bytes are kept of a session that does nothing", n, held)
		}
		mustPublish(t, s, "/queue/q", "x")
		if err := in.wait(t, slices.Repeat([]string{"x"}, 10*confirmEvery+1)...)[10*confirmEvery].Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
		if n, held := kept(); n != 1 || held == 0 {
			t.Errorf("%d settlements and %d bytes are kept of one", n, held)
		}
		s.Close()
		if n, held := kept(); n != 0 || held != 0 || len(e.keeping) > 0 {
			t.Errorf("%d settlements and %d bytes are kept of a session that has ended", n, held)
		}
	})
}

// TestClusterFlushWaitsForWhatIsLoadedFirst: a settlement that is repeated waits until the next leader has loaded its message, and a flush
// behind it waits, too.
func TestClusterFlushWaitsForWhatIsLoadedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, func(o *Options) {
			o.Store = &tampered{MemoryStore: o.Store.(*MemoryStore), read: func(l Log, _ MailboxID, from uint64, n, size int) ([]Entry, error) {
				time.Sleep(time.Second)
				return l.Read(context.Background(), from, n, size)
			}}
		})
		c.edges[0].Hold(10 * time.Second)
		a := c.edges[0].session()
		_, in := consume(t, a, "/queue/q", 1)
		mustPublish(t, a, "/queue/q", "x")
		d := in.wait(t, "x")[0]
		c.crash()
		if err := d.Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
		answer := flushing(a)
		c.succeed()
		if err := <-answer; err != nil {
			t.Error(err)
		}
		a.Close()
		if got := comesAgain(t, c.edges[1].session(), "/queue/q"); got != "[]" {
			t.Errorf("%s comes again", got)
		}
	})
}
