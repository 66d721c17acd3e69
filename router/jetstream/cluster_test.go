package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// cluster is some nodes in this process.
type cluster struct {
	t     *testing.T
	opts  []jetstream.Options
	nodes []*jetstream.Node
}

// freeAddrs returns addresses that nobody listens on; outgoing connections have higher ports.
func freeAddrs(t *testing.T, n int) (out []string) {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000)))
		if err != nil {
			continue
		}
		defer l.Close()
		if out = append(out, l.Addr().String()); len(out) == n {
			return out
		}
	}
	t.Fatal("no ports are free")
	return nil
}

// logFor is silent unless the test is to be debugged.
func logFor(node string) *slog.Logger {
	if os.Getenv("MQGATE_TEST_LOG") == "" {
		return quiet()
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
}

func newCluster(t *testing.T, edit func(i int, o *jetstream.Options)) *cluster {
	t.Helper()
	return newClusterOf(t, 3, edit)
}

func newClusterOf(t *testing.T, nodes int, edit func(i int, o *jetstream.Options)) *cluster {
	t.Helper()
	c := &cluster{t: t, nodes: make([]*jetstream.Node, nodes)}
	addrs := freeAddrs(t, nodes)
	for i := range c.nodes {
		o := jetstream.Options{
			Dir: t.TempDir(), NodeName: fmt.Sprint("n", i+1), Log: logFor(fmt.Sprint("n", i+1)),
			Cluster: &jetstream.ClusterOptions{Name: "test", Listen: addrs[i], Join: addrs, Secret: "a shared secret"},
		}
		if edit != nil {
			edit(i, &o)
		}
		c.opts = append(c.opts, o)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.stop(i)
		}
	})
	return c
}

func (c *cluster) start(i int) *jetstream.Node {
	c.t.Helper()
	n, err := jetstream.StartNode(c.opts[i])
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[i] = n
	return n
}

func (c *cluster) startAll() {
	c.t.Helper()
	for i := range c.nodes {
		c.start(i)
	}
}

func (c *cluster) stop(i int) {
	if c.nodes[i] != nil {
		c.nodes[i].Close()
		c.nodes[i] = nil
	}
}

// awaitCurrent waits until a node has copied what it missed: until then another must not go.
func (c *cluster) awaitCurrent(i int) {
	c.t.Helper()
	within(c.t, time.Minute, c.nodes[i].Current)
}

func (c *cluster) open(i int) *jetstream.Store {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := c.nodes[i].OpenStore(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// appendN appends bodies and returns when all are answered; the first error ends
// the test.
func appendN(t *testing.T, l router.Log, bodies ...string) []uint64 {
	t.Helper()
	answers := make(chan answer, len(bodies))
	for _, b := range bodies {
		l.Append([]byte(b), "", into(answers))
	}
	var seqs []uint64
	for range bodies {
		a := hear(t, answers)
		if a.err != nil {
			t.Fatal(a.err)
		}
		seqs = append(seqs, a.s.Seq)
	}
	return seqs
}

func numbered(prefix string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint(prefix, i))
	}
	return out
}

// Three nodes keep each stream together; the loss of the one that leads loses
// nothing, and another opens the store.
func TestClusterSurvivesNode(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	if err := s.LeadHere(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := numbered("first ", 500)
	logs := []router.MailboxID{crashQueue, crashInbox}
	for _, id := range logs {
		appendN(t, openLog(t, s, id), want...)
	}
	s.Close()
	c.stop(0)

	s = c.open(1)
	defer s.Close()
	for _, id := range logs {
		l := openLog(t, s, id)
		if got := bodies(readAll(t, l, 1, 100)); !slices.Equal(got, want) {
			t.Fatalf("%v: %d messages after the loss of a node, want %d", id, len(got), len(want))
		}
		appendN(t, l, "more")
	}
}

// A node that stood alone becomes one of three: what it had is on all of them.
func TestClusterGrowsFromOne(t *testing.T) {
	c := newCluster(t, nil)
	alone := c.opts[0]
	alone.Cluster = nil
	s, err := jetstream.Open(context.Background(), alone)
	if err != nil {
		t.Fatal(err)
	}
	want := numbered("alone ", 300)
	logs := []router.MailboxID{crashQueue, crashInbox}
	for _, id := range logs {
		l := openLog(t, s, id)
		appendN(t, l, want...)
		save(t, l, "record of "+id.Name)
	}
	if err := s.PutBinding(context.Background(), "k", []byte("binding")); err != nil {
		t.Fatal(err)
	}
	if err := openLog(t, s, crashQueue).Trim(context.Background(), 100); err != nil {
		t.Fatal(err)
	}
	s.Close()

	c.startAll()
	if !c.nodes[0].BringsData() || c.nodes[1].BringsData() {
		t.Fatal("the first node alone brings data")
	}
	// Another node must not open an empty store first.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// What an attempt left that broke off does not count as brought in.
	if err := c.nodes[0].LeaveHalf(ctx, "MQGATE_BINDINGS", "b.*"); err != nil {
		t.Fatal(err)
	}
	if s, err := c.nodes[1].OpenStore(ctx); err == nil {
		s.Close()
		t.Fatal("a node without data opened the store first")
	}
	c.open(0).Close()
	if c.nodes[0].BringsData() {
		t.Error("the data was not put away")
	}
	c.stop(0)

	s = c.open(1)
	defer s.Close()
	for i, id := range logs {
		l := openLog(t, s, id)
		left := want
		if i == 0 {
			left = want[100:]
		}
		if got := bodies(readAll(t, l, 1, 100)); !slices.Equal(got, left) {
			t.Errorf("%v: %d messages, want %d", id, len(got), len(left))
		}
		if first := appendN(t, l, "more")[0]; i == 0 && first != 301 {
			t.Errorf("the next sequence is %d", first)
		}
	}
	boxes, err := s.Mailboxes(context.Background())
	if err != nil || len(boxes) != 2 || string(boxes[0].Record) != "record of crash" {
		t.Errorf("mailboxes %v, %v", boxes, err)
	}
	if b, err := s.Bindings(context.Background()); err != nil || len(b) != 1 || string(b[0]) != "binding" {
		t.Errorf("bindings %q, %v", b, err)
	}
}

// Three nodes become five: every stream gets as many replicas, that of the lease too. While the new nodes are not there the store opens
// with the replicas that it has.
func TestClusterGrowsFromThreeToFive(t *testing.T) {
	for _, order := range [][]int{{3, 4, 0, 1, 2}, {0, 1, 2, 3, 4}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) { growToFive(t, order) })
	}
}

// growToFive starts the nodes of a cluster of three again as nodes of one of five, and two new ones, in some order.
func growToFive(t *testing.T, order []int) {
	c := newClusterOf(t, 5, func(_ int, o *jetstream.Options) { o.Cluster.Replicas = 3 })
	all := slices.Clone(c.opts[0].Cluster.Join)
	for i := range 3 {
		c.opts[i].Cluster.Join = all[:3]
		c.start(i)
	}
	s := c.open(0)
	want := numbered("message ", 200)
	appendN(t, openLog(t, s, crashQueue), want...)
	for i := range 3 {
		c.awaitCurrent(i)
	}
	s.Close()
	var l router.Log
	var streams func() ([]jetstream.StreamStatus, error)
	for n, i := range order {
		c.stop(i)
		c.opts[i].Cluster.Replicas, c.opts[i].Cluster.Join = 5, all
		c.start(i)
		c.awaitCurrent(i)
		if n == 2 { // the first of the old nodes, or the last
			s = c.open(order[2])
			defer s.Close()
			l = openLog(t, s, crashQueue)
			streams = c.status(order[2])
			if list, err := streams(); err != nil || len(list) < 7 || order[0] == 0 && list[0].Missing != 2 {
				t.Errorf("with new settings on three nodes: %+v, %v", list, err)
			}
		}
	}
	within(t, time.Minute, func() error { return replicated(5, streams) })
	list, err := streams()
	if err != nil || !slices.ContainsFunc(list, func(s jetstream.StreamStatus) bool { return s.Name == "MQGATE_LEASE" }) {
		t.Errorf("the lease has no stream among %+v, %v", list, err)
	}
	if got := bodies(readAll(t, l, 1, 100)); !slices.Equal(got, want) {
		t.Errorf("%d messages, want %d", len(got), len(want))
	}
}

// appender appends numbered messages, some of them under way at a time, until it is told to stop.
type appender struct {
	log      router.Log
	batches  bool
	answered atomic.Int64

	// When it has ended:
	sent []string
	err  error
}

// run ends by itself if there is no answer. It is not the test's goroutine, so it fails nothing.
func (a *appender) run(stop <-chan struct{}) {
	answers := make(chan answer, 64)
	under := 0
	settle := func(most int) bool {
		for ; under > most; under-- {
			select {
			case x := <-answers:
				a.err = errors.Join(a.err, x.err)
				a.answered.Add(1)
			case <-time.After(time.Minute):
				a.err = errors.Join(a.err, fmt.Errorf("%d appends had no answer", under))
				return false
			}
		}
		return true
	}
	for i := 0; a.err == nil && settle(cap(answers)-1); i++ {
		select {
		case <-stop:
			settle(0)
			return
		default:
		}
		under++
		body := fmt.Sprint("message ", i)
		a.sent = append(a.sent, body)
		if a.batches && i%50 == 49 {
			a.sent = append(a.sent, body+" b", body+" c")
			a.log.AppendAll([][]byte{[]byte(body), []byte(body + " b"), []byte(body + " c")}, into(answers))
		} else {
			a.log.Append([]byte(body), "", into(answers))
		}
	}
}

// What is appended while leaders change is stored once and in order, and no append
// fails.
func TestClusterAppendsGoOn(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	t.Cleanup(s.Close)
	all := map[string]*appender{"queue": {log: openLog(t, s, crashQueue), batches: true}, "inbox": {log: openLog(t, s, crashInbox)}}
	stop := make(chan struct{})
	var group sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); group.Wait() })
	t.Cleanup(end) // before the store and the nodes are closed, also if the test fails
	for _, a := range all {
		group.Go(func() { a.run(stop) })
	}
	// progress waits until each has had so many answers more.
	progress := func(n int64) {
		t.Helper()
		for name, a := range all {
			goal := a.answered.Load() + n
			within(t, time.Minute, func() error {
				if got := a.answered.Load(); got < goal {
					return fmt.Errorf("%s: %d answers, waiting for %d", name, got, goal)
				}
				return nil
			})
		}
	}
	for round := range 6 {
		if err := s.LeadElsewhere(context.Background(), c.opts[round%3].NodeName); err != nil {
			t.Log(err) // an election under way
		}
		progress(200)
	}
	_ = s.LeadElsewhere(context.Background(), "n2")
	c.stop(1)
	progress(1000)
	c.start(1)
	c.awaitCurrent(1)
	_ = s.LeadElsewhere(context.Background(), "n3")
	c.stop(2)
	progress(1000)
	end()
	for name, a := range all {
		if a.err != nil {
			t.Fatalf("%s: %v", name, a.err)
		}
		var got []string
		eventually(t, func() error {
			got = bodies(readAll(t, a.log, 1, 1000))
			if len(got) < len(a.sent) {
				return fmt.Errorf("%s: %d of %d", name, len(got), len(a.sent))
			}
			return nil
		})
		if !slices.Equal(got, a.sent) {
			t.Errorf("%s: %d stored, %d sent, or another order", name, len(got), len(a.sent))
		}
		t.Logf("%s: %d appends", name, len(a.sent))
	}
}

// A node with another secret gets no route, and so no majority; the others go on.
func TestClusterRefusesAnotherSecret(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	defer s.Close()
	c.stop(1)
	c.opts[1].Cluster.Secret = "guessed"
	c.start(1)
	appendN(t, openLog(t, s, crashQueue), "without the stranger")
	if n := c.nodes[1].Routes(); n != 0 {
		t.Errorf("the node with another secret has %d routes", n)
	}
	if err := c.nodes[1].Current(); err == nil {
		t.Error("a node that reaches nobody says that it has what the cluster confirmed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s, err := c.nodes[1].OpenStore(ctx); err == nil {
		s.Close()
		t.Error("the node with another secret opened the store")
	} else if !strings.Contains(err.Error(), "majority") && !strings.Contains(fmt.Sprint(errors.Unwrap(err)), "majority") {
		t.Errorf("error %v does not speak of the majority", err)
	}
}

func TestClusterNeedsSecretAndEncryption(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*jetstream.ClusterOptions)
		want string
	}{
		{"no secret", func(c *jetstream.ClusterOptions) { c.Secret = "" }, "needs a secret"},
		{"plaintext over the network", func(c *jetstream.ClusterOptions) { c.Listen = "0.0.0.0:0" }, "without encryption"},
		{"no name", func(c *jetstream.ClusterOptions) { c.Name = "" }, "need a name"},
		{"plaintext by choice", func(c *jetstream.ClusterOptions) { c.Listen, c.Insecure = "0.0.0.0:0", true }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, func(_ int, o *jetstream.Options) { tt.edit(o.Cluster) })
			n, err := jetstream.StartNode(c.opts[0])
			if err == nil {
				n.Close()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// A leader whose lease ends while its appends are under way does not send them again: behind what the next leader has stored they
// would be stored after all, and a record of before replace that one's.
func TestClusterFencedStoreSendsNothingAgain(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	old, now := c.open(0), c.open(1)
	defer old.Close()
	defer now.Close()
	id := router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"}
	logOf := func(s *jetstream.Store) router.Log {
		l, err := s.OpenLog(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	late, l := logOf(old), logOf(now)
	saved := make(chan error, 1)
	l.SaveRecord([]byte("now"), func(_ router.Stored, err error, _ *outbox.Batch) { saved <- err })
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	old.Fence(func() bool { return asked.Add(1) <= 2 }) // as the append comes, and as it is sent first
	var stored atomic.Bool
	late.SaveRecord([]byte("before"), func(_ router.Stored, err error, _ *outbox.Batch) { stored.Store(err == nil) })
	within(t, 30*time.Second, func() error {
		if asked.Load() < 4 && !stored.Load() {
			return fmt.Errorf("asked %d times", asked.Load())
		}
		return nil
	})
	if stored.Load() {
		t.Error("it is stored")
	}
}

// A node that has data of its own, and is too slow to say so, is waited for: an empty store would keep its data out.
func TestClusterWaitsForANodeWithData(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	if err := c.nodes[0].HasDataAndIsSlow(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := c.nodes[0].OpenStore(ctx)
	if err == nil {
		s.Close()
		t.Error("an empty store is open")
	}
}
