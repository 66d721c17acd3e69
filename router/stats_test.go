package router

import (
	"fmt"
	"testing"
)

// What clients sent is counted once in the cluster, where they are, as accepted or refused.
func TestClusterCountsWhatIsPublishedOnce(t *testing.T) {
	c := startCluster(t, 2, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{MaxLength: 3} } })
	s := c.edges[0].session()
	mustPublish(t, s, "/topic/nobody", "x")
	mustPublish(t, s, "/queue/q", "1")
	if err := commitAll(t, s, []*Message{{To: dest(t, "/queue/q"), Body: []byte("2")}, {To: dest(t, "/queue/q"), Body: []byte("3")}}); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, s, &Message{To: dest(t, "/queue/q")}); ClassOf(err) != Full {
		t.Errorf("a full queue: %v", err)
	}
	if err := commitAll(t, s, []*Message{{To: dest(t, "/queue/q")}}); ClassOf(err) != Full {
		t.Errorf("a full queue, in a transaction: %v", err)
	}
	for i, want := range []uint64{4, 0} {
		if got := c.edges[i].Stats.Published.Load(); got != want {
			t.Errorf("node %d counts %d published, not %d", i, got, want)
		}
	}
	if got := c.edges[0].Stats.Refused.Load(); got != 2 {
		t.Errorf("%d are counted as refused", got)
	}
}

// What a client cannot take becomes a dead letter or is dropped, and is counted as that where it is stored.
func TestClusterCountsWhatIsTooLarge(t *testing.T) {
	c := startCluster(t, 1, func(o *Options) {
		o.QueuePolicy = func(a Address) Policy {
			if a.Name() == "kept" {
				return Policy{DeadLetter: "dead"}
			}
			return Policy{}
		}
	})
	s := c.edges[0].session()
	_, dead := consume(t, s, "/queue/dead", 1)
	for _, queue := range []string{"/queue/kept", "/queue/lost"} {
		_, in := consume(t, s, queue, 1)
		mustPublish(t, s, queue, queue)
		if err := in.wait(t, queue)[0].RejectTooLarge(nil); err != nil {
			t.Fatal(err)
		}
	}
	d := dead.wait(t, "/queue/kept")[0]
	if reason, _ := d.Message.Header("x-dead-letter-reason"); reason != ReasonTooLarge {
		t.Errorf("the reason is %q", reason)
	}
	eventually(t, func() error {
		if n, settled := c.core.Dropped()[DropTooLarge], c.core.Stats.Settled.Load(); n != 1 || settled != 0 {
			return fmt.Errorf("%d dropped, %d settled", n, settled)
		}
		return nil
	})
}

// What was dropped between nodes counts with the rest, and every reason is told before anything is dropped for it.
func TestDroppedHasEveryReason(t *testing.T) {
	for _, want := range []uint64{0, 3} {
		h := start(t, func(o *Options) {
			if want > 0 {
				o.Carrier = &wireCarrier{newWires()}
			}
		})
		dropped := h.Dropped()
		for _, reason := range DropReasons {
			if n, told := dropped[reason]; !told || n != 0 && reason != DropNodeBacklog {
				t.Errorf("%s: %d, told %v", reason, n, told)
			}
		}
		if n := dropped[DropNodeBacklog]; n != want {
			t.Errorf("%d were dropped between nodes, want %d", n, want)
		}
	}
}
