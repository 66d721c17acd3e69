package router

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// settlingOf begins a settlement and returns what waits for its answer.
func settlingOf(t *testing.T, settle func(Done) error) (await func()) {
	t.Helper()
	answer := make(chan error, 1)
	if err := settle(func(_ Stored, err error, _ *outbox.Batch) { answer <- err }); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		select {
		case err := <-answer:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("a settlement has no answer")
		}
	}
}

// TestCumulativeAckAfterALeaderChange: it settles what the client was given before, in the order in which the client was given it. The
// next leader loads the messages in another.
func TestCumulativeAckAfterALeaderChange(t *testing.T) {
	for _, x := range []struct {
		upTo int // of 1, 2, 0
		left string
	}{{0, "[0 2]"}, {1, "[0]"}, {2, "[]"}} {
		for _, change := range []string{"none", "before", "meanwhile"} {
			t.Run(fmt.Sprint(x.upTo, " ", change), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startCluster(t, 2, nil)
					for _, e := range c.edges {
						e.Hold(10 * time.Second)
					}
					a, b, p := c.edges[0].session(), c.edges[1].session(), c.edges[0].session()
					_, inB := consume(t, b, "/queue/q", 1)
					mustPublish(t, p, "/queue/q", "0")
					inB.wait(t, "0")
					_, inA := consume(t, a, "/queue/q", 3)
					mustPublish(t, p, "/queue/q", "1")
					mustPublish(t, p, "/queue/q", "2")
					inA.wait(t, "1", "2")
					b.Close()
					ds := inA.wait(t, "1", "2", "0")
					if change != "none" {
						c.crash()
					}
					if change == "before" {
						c.succeed()
					}
					await := settlingOf(t, func(done Done) error { return ds[x.upTo].AckUpTo(nil, done) })
					if change == "meanwhile" {
						time.Sleep(time.Second)
						c.succeed()
					}
					await()
					for _, d := range ds[:x.upTo+1] {
						if err := d.Ack(nil, nil); ClassOf(err) != NotFound {
							t.Errorf("%s is settled again: %v", d.Message.Body, err)
						}
					}
					a.Close()
					_, in := consume(t, c.edges[1].session(), "/queue/q", 9)
					time.Sleep(2 * leaderPatience)
					if left := fmt.Sprint(in.bodies()); left != x.left {
						t.Errorf("acknowledged up to %s of [1 2 0]: %s come again, want %s", ds[x.upTo].Message.Body, left, x.left)
					}
				})
			})
		}
	}
}

// TestWhatIsInHandMayLieBeyondTheWindow: a leader that begins with large messages whose settlement was not stored yet has no room left, and finds
// the one in the client's hands behind them all the same.
func TestWhatIsInHandMayLieBeyondTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, nil)
		s := c.edges[0].session()
		_, in := consume(t, s, "/queue/q", 1)
		const settled = windowBytes>>20 + 3
		for i := range settled + 3 {
			mustPublish(t, s, "/queue/q", fmt.Sprint(i)+strings.Repeat("x", 1<<20))
		}
		await := func(n int) *Delivery {
			t.Helper()
			eventually(t, func() error {
				if got := len(in.got()); got != n {
					return fmt.Errorf("%d messages came, want %d", got, n)
				}
				return nil
			})
			return in.got()[n-1]
		}
		for i := range settled {
			if err := await(i+1).Ack(nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		d := await(settled + 1)
		c.crash()
		c.succeed()
		settlingOf(t, func(done Done) error { return d.Ack(nil, done) })()
	})
}

// TestTwoHoldersOfOneMessage: a message may be in two clients' hands, when one was out of reach and it was given to another. The next leader, which
// hears of both, gives each of them others afterwards.
func TestTwoHoldersOfOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, func(o *Options) {
			o.Store = &tampered{MemoryStore: o.Store.(*MemoryStore), read: func(l Log, _ MailboxID, from uint64, n, size int) ([]Entry, error) {
				time.Sleep(100 * time.Millisecond) // both speak before a message is loaded
				return l.Read(context.Background(), from, n, size)
			}}
		})
		a, b, p := c.edges[0].session(), c.edges[1].session(), c.edges[1].session()
		_, inA := consume(t, a, "/queue/q", 1)
		mustPublish(t, p, "/queue/q", "0")
		dA := inA.wait(t, "0")[0]
		_, inB := consume(t, b, "/queue/q", 1)
		c.wires.setCut("n0", true)
		c.waitLinked(c.edges[0], false)
		dB := inB.wait(t, "0")[0]
		c.wires.setCut("n0", false)
		c.waitLinked(c.edges[0], true)
		time.Sleep(time.Second) // it says what its client holds, to no effect
		c.crash()
		c.succeed()
		time.Sleep(2 * leaderPatience)
		for _, d := range []*Delivery{dA, dB} {
			settlingOf(t, func(done Done) error { return d.Ack(nil, done) })()
		}
		mustPublish(t, p, "/queue/q", "1")
		mustPublish(t, p, "/queue/q", "2")
		eventually(t, func() error {
			if n, m := len(inA.got()), len(inB.got()); n != 2 || m != 2 {
				return fmt.Errorf("they have %q and %q", inA.bodies(), inB.bodies())
			}
			return nil
		})
	})
}

// TestTemporaryQueueBeginsAnew: its messages are lost with their leader. What its consumer has or acknowledged of them is no message of the next one's.
func TestTemporaryQueueBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 2, nil)
		a, p := c.edges[0].session(), c.edges[1].session()
		replies, err := a.TemporaryQueue("replies")
		if err != nil {
			t.Fatal(err)
		}
		_, in := subscribe(t, a, SubscribeOptions{Filter: FilterOf(replies), Credit: 2})
		reply := func(body string) {
			t.Helper()
			if err := publish(t, p, &Message{To: replies, Body: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}
		reply("1")
		if err := in.wait(t, "1")[0].Ack(nil, nil); err != nil {
			t.Fatal(err)
		}
		reply("2")
		old := in.wait(t, "1", "2")[1]
		c.crash()
		c.succeed()
		for _, body := range []string{"3", "4"} {
			reply(body)
		}
		ds := in.wait(t, "1", "2", "3", "4")
		settlingOf(t, func(done Done) error { return old.Ack(nil, done) })()
		settlingOf(t, func(done Done) error { a.Flush(nil, done); return nil })()
		for _, d := range ds[2:] {
			settlingOf(t, func(done Done) error { return d.Ack(nil, done) })()
		}
		reply("5")
		in.wait(t, "1", "2", "3", "4", "5")
	})
}
