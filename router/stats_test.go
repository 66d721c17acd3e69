package router

import "testing"

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
