package jetstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// appendDir has the test binary append to a store until it is killed.
const appendDir = "MQGATE_TEST_APPEND_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(appendDir); dir != "" {
		appendForEver(dir)
	}
	// A server that is stopped while it copies a stream may leave these behind, and one that could not make a stream the last.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"))
}

var (
	crashQueue = router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "crash"}
	crashInbox = router.MailboxID{Kind: router.KindInbox, Vhost: "/", Name: "crash"}
)

// appendForEver prints each append that is confirmed.
func appendForEver(dir string) {
	s, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, SyncAlways: true, Log: quiet()})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	out := bufio.NewWriter(os.Stdout)
	window := make(chan struct{}, 64)
	lines := make(chan string, 64)
	go func() {
		for l := range lines {
			fmt.Fprintln(out, l)
			out.Flush()
			<-window
		}
	}()
	var logs []router.Log
	for _, id := range []router.MailboxID{crashQueue, crashInbox} {
		l, err := s.OpenLog(context.Background(), id)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		logs = append(logs, l)
	}
	for i := 0; ; i++ {
		window <- struct{}{}
		n := i % 2
		body := fmt.Sprint(os.Getpid(), " ", i)
		done := func(st router.Stored, err error, _ *outbox.Batch) {
			if err != nil {
				lines <- "error " + err.Error()
				return
			}
			lines <- fmt.Sprint(n, " ", st.Seq, " ", body)
		}
		if i%16 == 15 {
			logs[n].AppendAll([][]byte{[]byte("batch"), []byte(body)}, done)
		} else {
			logs[n].Append([]byte(body), "", done)
		}
	}
}

func TestWhatWasConfirmedOutlivesKill9(t *testing.T) {
	dir := t.TempDir()
	confirmed := [2]map[uint64]string{{}, {}}
	for round := range 5 {
		runAndKill(t, dir, 100+300*round, confirmed)
		s := openStore(t, dir, true)
		for n, id := range []router.MailboxID{crashQueue, crashInbox} {
			got := map[uint64]string{}
			for _, e := range readAll(t, openLog(t, s, id), 1, 500) {
				got[e.Seq] = string(e.Envelope)
			}
			for seq, body := range confirmed[n] {
				if got[seq] != body {
					t.Errorf("round %d: sequence %d was confirmed as %q, the log has %q", round, seq, body, got[seq])
				}
			}
		}
		s.Close()
	}
	if len(confirmed[0]) < 1000 || len(confirmed[1]) < 1000 {
		t.Errorf("only %d and %d were confirmed", len(confirmed[0]), len(confirmed[1]))
	}
}

func runAndKill(t *testing.T, dir string, lines int, confirmed [2]map[uint64]string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), appendDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	for i := 0; scan.Scan(); i++ {
		if i == lines {
			if err := child.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
		f := strings.SplitN(scan.Text(), " ", 3)
		n, err1 := strconv.Atoi(f[0])
		seq, err2 := strconv.ParseUint(f[1], 10, 64)
		if err1 != nil || err2 != nil {
			if i >= lines {
				break // a line that the kill cut
			}
			t.Errorf("the child says %q", scan.Text())
			_ = child.Process.Kill()
			break
		}
		if old, ok := confirmed[n][seq]; ok {
			t.Errorf("sequence %d was confirmed for %q, and again for %q", seq, old, f[2])
		}
		confirmed[n][seq] = f[2]
	}
	_ = child.Wait() // it was killed
}

func TestEverythingIsThereAfterAReopen(t *testing.T) {
	for _, always := range []bool{false, true} {
		dir := t.TempDir()
		s := openStore(t, dir, always)
		ctx := context.Background()
		queue, box := openLog(t, s, crashQueue), openLog(t, s, crashInbox)
		for i := range 10 {
			mustAppend(t, queue, fmt.Sprint("q", i))
			mustAppend(t, box, fmt.Sprint("i", i))
		}
		if err := queue.Trim(ctx, 4); err != nil {
			t.Fatal(err)
		}
		save(t, queue, "queue's")
		save(t, box, "inbox's")
		if err := s.PutBinding(ctx, "b", []byte("binding")); err != nil {
			t.Fatal(err)
		}
		if err := s.PutBinding(ctx, "gone", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := s.PutBinding(ctx, "gone", nil); err != nil {
			t.Fatal(err)
		}
		answers := make(chan answer, 1)
		s.BeginTransaction([]byte("tx"), into(answers))
		if a := hear(t, answers); a.err != nil {
			t.Fatal(a.err)
		}
		if _, err := appendOne(t, queue, "once", "id"); err != nil {
			t.Fatal(err)
		}
		s.Close()

		s = openStore(t, dir, always)
		queue, box = openLog(t, s, crashQueue), openLog(t, s, crashInbox)
		if got := bodies(readAll(t, queue, 1, 3)); fmt.Sprint(got) != "[q4 q5 q6 q7 q8 q9 once]" {
			t.Errorf("the queue holds %v", got)
		}
		if got := bodies(readAll(t, box, 1, 3)); fmt.Sprint(got) != "[i0 i1 i2 i3 i4 i5 i6 i7 i8 i9]" {
			t.Errorf("the inbox holds %v", got)
		}
		if st, err := appendOne(t, queue, "once", "id"); err != nil || !st.Duplicate || st.Seq != 11 {
			t.Errorf("the dedup id after the restart: %+v, %v", st, err)
		}
		if b := bounds(t, queue, 4); b.Count != 7 || b.Last != 11 || b.First != 5 {
			t.Errorf("bounds %+v", b)
		}
		stored, err := s.Mailboxes(ctx)
		if err != nil || len(stored) != 2 {
			t.Errorf("mailboxes %+v, %v", stored, err)
		}
		bindings, err := s.Bindings(ctx)
		if err != nil || len(bindings) != 1 || string(bindings[0]) != "binding" {
			t.Errorf("bindings %q, %v", bindings, err)
		}
		txs, err := s.Transactions(ctx)
		if err != nil || len(txs) != 1 || string(txs[0].Body) != "tx" {
			t.Errorf("transactions %+v, %v", txs, err)
		}
		s.Close()
	}
}

func TestADirectoryHasOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, false)
	_, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, Log: quiet()})
	if err == nil || !strings.Contains(err.Error(), "in use by another mqgate process") {
		t.Errorf("a second store in the directory: %v", err)
	}
	s.Close()
	openStore(t, dir, false).Close()
}

func blockFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", "Q_*", "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no blocks: %v", err)
	}
	slices.Sort(files)
	return files
}

// fillQueue has a router store n messages, of which the first few are settled,
// and stops it.
func fillQueue(t *testing.T, dir string, n int) {
	t.Helper()
	s := openStore(t, dir, false)
	r := newRouter(t, s)
	send(t, r, "/queue/orders", n)
	if err := r.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func send(t *testing.T, r *router.Router, to string, n int) {
	t.Helper()
	sess, err := r.Connect(router.SessionOptions{Principal: operator})
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	a, _, err := router.ParseDestination("", to)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan answer, n)
	for i := range n {
		m := &router.Message{To: a, Body: fmt.Append(nil, i, " ", strings.Repeat("x", 200))}
		if _, err := sess.Publish(context.Background(), m, nil, into(answers)); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if a := hear(t, answers); a.err != nil {
			t.Fatal(a.err)
		}
	}
}

var operator = router.NewPrincipal("operator", "", true, nil)

func TestDamageIsFoundAtTheStart(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, block string){
		"truncated": func(t *testing.T, block string) {
			info, err := os.Stat(block)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(block, info.Size()/2); err != nil {
				t.Fatal(err)
			}
		},
		"flipped": func(t *testing.T, block string) {
			b, err := os.ReadFile(block)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 0x40
			if err := os.WriteFile(block, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"removed": func(t *testing.T, block string) {
			if err := os.Remove(block); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, index := range []bool{true, false} {
			if name == "flipped" && index {
				continue // found when it is read: TestADamagedMessageDoesNotTakeOthersWithIt
			}
			t.Run(fmt.Sprintf("%s/index=%v", name, index), func(t *testing.T) {
				dir := t.TempDir()
				fillQueue(t, dir, 2000)
				block := blockFiles(t, dir)[0]
				harm(t, block)
				if !index {
					if err := os.Remove(filepath.Join(filepath.Dir(block), "index.db")); err != nil {
						t.Fatal(err)
					}
				}
				s := openStore(t, dir, false)
				defer s.Close()
				r, err := router.New(context.Background(), router.Options{Store: s, Authorize: router.AllowAll{}, Log: quiet()})
				if err == nil {
					r.Close(context.Background())
					t.Fatal("the router starts as if nothing were missing")
				}
				if !errors.Is(err, router.ErrDamaged) || !strings.Contains(err.Error(), "queue orders") || !strings.Contains(err.Error(), "on_damage") {
					t.Fatalf("%v", err)
				}
				r, err = router.New(context.Background(), router.Options{Store: s, Authorize: router.AllowAll{}, Log: quiet(), AcceptDamage: true})
				if err != nil {
					t.Fatalf("with damage accepted: %v", err)
				}
				send(t, r, "/queue/orders", 5)
				c := newTaker(t, r, "/queue/orders", 10)
				eventually(t, func() error { return c.has(" " + strings.Repeat("x", 200)) })
				c.stop()
				if err := r.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestADamagedMessageDoesNotTakeOthersWithIt(t *testing.T) {
	dir := t.TempDir()
	const n = 2000
	fillQueue(t, dir, n)
	block := blockFiles(t, dir)[0]
	b, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 0x40
	if err := os.WriteFile(block, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir, false)
	defer s.Close()
	r := newRouter(t, s)
	c := newTaker(t, r, "/queue/orders", 100)
	a, _, err := router.ParseDestination("", "/queue/orders")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if info, err := r.QueueInfo(operator, a); err != nil || info.Depth > 0 {
			return fmt.Errorf("depth %d, %v", info.Depth, err)
		}
		return nil
	})
	c.stop()
	if got, lost := len(c.all()), r.Stats.Damaged.Load(); got != n-1 || lost != 1 {
		t.Errorf("%d of %d delivered, %d counted as damaged", got, n, lost)
	}
	if err := r.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestDamagedRecordsStopTheStart(t *testing.T) {
	for _, stream := range []string{"MQGATE_RECORDS", "MQGATE_BINDINGS"} {
		dir := t.TempDir()
		s := openStore(t, dir, false)
		r := newRouter(t, s)
		sess, err := r.Connect(router.SessionOptions{Principal: operator})
		if err != nil {
			t.Fatal(err)
		}
		f, _, err := router.ParseFilter("", "/topic/a")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			c := &taker{t: t, ch: make(chan *router.Delivery, 1)}
			if _, err := sess.Subscribe(context.Background(), router.SubscribeOptions{Filter: f, Receiver: c, Durable: fmt.Sprint("d", i), Credit: 1}); err != nil {
				t.Fatal(err)
			}
		}
		send(t, r, "/topic/a", 3)
		if err := r.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.Close()
		files, err := filepath.Glob(filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs", "*.blk"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-100] ^= 0x40
		if err := os.WriteFile(files[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, false)
		o := router.Options{Store: s, Authorize: router.AllowAll{}, Log: quiet()}
		if _, err = router.New(context.Background(), o); !errors.Is(err, router.ErrDamaged) || !strings.Contains(err.Error(), stream) {
			t.Fatalf("%s: %v", stream, err)
		}
		o.AcceptDamage = true
		if _, err = router.New(context.Background(), o); !errors.Is(err, router.ErrDamaged) || !strings.Contains(err.Error(), "move the directory") {
			t.Fatalf("%s, damage accepted: %v", stream, err)
		}
		s.Close()
		if err := os.RemoveAll(filepath.Join(dir, "jetstream", "$G", "streams", stream)); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, false)
		o.Store = s
		if r, err = router.New(context.Background(), o); err != nil {
			t.Fatalf("%s, moved away: %v", stream, err)
		}
		inboxes := 0
		for _, info := range r.MailboxInfos(operator) {
			if info.Depth == 3 {
				inboxes++
			}
		}
		if want := map[string]int{"MQGATE_RECORDS": 5, "MQGATE_BINDINGS": 0}[stream]; inboxes != want {
			t.Errorf("%s: %d inboxes, want %d", stream, inboxes, want)
		}
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		s.Close()
	}
}

func TestALowDiskRefusesAppendsAndConsumingGoesOn(t *testing.T) {
	dir := t.TempDir()
	fillQueue(t, dir, 50)
	s, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, MinFreeBytes: 1 << 60, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if !s.DiskLow() {
		t.Error("the disk is not low")
	}
	refusesAndDrains(t, s, 50)
}

// refusesAndDrains expects a full store: what comes is refused, what is there
// can be consumed.
func refusesAndDrains(t *testing.T, s *jetstream.Store, n int) *router.Router {
	t.Helper()
	r := newRouter(t, s)
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	sess, err := r.Connect(router.SessionOptions{Principal: operator})
	if err != nil {
		t.Fatal(err)
	}
	a, _, _ := router.ParseDestination("", "/queue/orders")
	b, _, _ := router.ParseDestination("", "/queue/other")
	answers := make(chan answer, 3)
	if _, err := sess.Publish(context.Background(), &router.Message{To: a}, nil, into(answers)); err != nil {
		t.Fatal(err)
	}
	if err := sess.Commit(context.Background(), []*router.Message{{To: a}, {To: a}}, nil, nil, into(answers)); err != nil {
		t.Fatal(err)
	}
	if err := sess.Commit(context.Background(), []*router.Message{{To: a}, {To: b}}, nil, nil, into(answers)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if x := hear(t, answers); router.ClassOf(x.err) != router.Full {
			t.Errorf("a publish into a full store: %+v, %v", x.s, x.err)
		}
	}
	c := newTaker(t, r, "/queue/orders", 100)
	eventually(t, func() error {
		if got := len(c.all()); got != n {
			return fmt.Errorf("%d of %d consumed", got, n)
		}
		return nil
	})
	c.stop()
	info, err := r.QueueInfo(operator, a)
	if err != nil || info.Depth != 0 {
		t.Errorf("depth %d, %v", info.Depth, err)
	}
	return r
}

func TestAFullStoreRefusesUntilItIsConsumed(t *testing.T) {
	dir := t.TempDir()
	fillQueue(t, dir, 9000) // about 3 MB
	s, err := jetstream.Open(context.Background(), jetstream.Options{Dir: dir, MaxBytes: 1 << 20, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	r := refusesAndDrains(t, s, 9000)
	a, _, _ := router.ParseDestination("", "/queue/orders")
	sess, err := r.Connect(router.SessionOptions{Principal: operator})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // what is settled is trimmed, and there is room again
		answers := make(chan answer, 1)
		if _, err := sess.Publish(context.Background(), &router.Message{To: a}, nil, into(answers)); err != nil {
			return err
		}
		return hear(t, answers).err
	})
}

func TestTooLargeEnvelopesAreRefused(t *testing.T) {
	s, err := jetstream.Open(context.Background(), jetstream.Options{Dir: t.TempDir(), MaxMessageBytes: 1000, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := openLog(t, s, crashQueue)
	if _, err := appendOne(t, l, strings.Repeat("x", 1001), ""); router.ClassOf(err) != router.TooLarge {
		t.Errorf("1001 bytes: %v", err)
	}
	if _, err := appendOne(t, l, strings.Repeat("x", 1000), ""); err != nil {
		t.Errorf("1000 bytes: %v", err)
	}
}

func TestManyBatchesAtOnce(t *testing.T) {
	s := openStore(t, t.TempDir(), false)
	defer s.Close()
	l := openLog(t, s, crashQueue)
	const n = 80 // the server's own limit is 50
	answers := make(chan answer, n)
	for range n {
		l.AppendAll([][]byte{[]byte("1"), []byte("2"), []byte("3")}, into(answers))
	}
	for range n {
		if a := hear(t, answers); a.err != nil {
			t.Fatal(a.err)
		}
	}
	got := bodies(readAll(t, l, 1, 500))
	if len(got) != 3*n {
		t.Fatalf("%d entries", len(got))
	}
	for i, b := range got {
		if b != strconv.Itoa(i%3+1) {
			t.Fatalf("entry %d is %s: a batch is torn", i, b)
		}
	}
}

func TestHealthAndUsage(t *testing.T) {
	s := openStore(t, t.TempDir(), false)
	defer s.Close()
	l := openLog(t, s, crashQueue)
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
	before, _ := s.Usage()
	for range 100 {
		mustAppend(t, l, strings.Repeat("x", 1000))
	}
	eventually(t, func() error {
		if after, limit := s.Usage(); after < before+100_000 || limit == 0 {
			return fmt.Errorf("used %d, before %d, limit %d", after, before, limit)
		}
		return nil
	})
}
