package integration

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// killRounds is how often the gateway is killed.
const killRounds = 20

// ledger is what both sides of TestKillUnderLoad saw.
type ledger struct {
	mu        sync.Mutex
	sends     int
	receipts  map[string]bool
	delivered map[string]int // how often
	unmarked  map[string]int // how often without redelivered:true
	marked    int
	settled   map[string]bool // the RECEIPT of the ACK came
	undone    int             // deliveries of those
}

func (l *ledger) sent() { l.mu.Lock(); l.sends++; l.mu.Unlock() }

func (l *ledger) confirmed(id string) { l.mu.Lock(); l.receipts[id] = true; l.mu.Unlock() }

func (l *ledger) got(id string, marked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delivered[id]++
	if l.settled[id] {
		l.undone++
	}
	if marked {
		l.marked++
	} else {
		l.unmarked[id]++
	}
}

func (l *ledger) acknowledged(id string) { l.mu.Lock(); l.settled[id] = true; l.mu.Unlock() }

func (l *ledger) confirmedCount() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.receipts) }

func (l *ledger) deliveredCount() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.delivered) }

// missing are confirmed messages that did not come.
func (l *ledger) missing() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.receipts {
		if l.delivered[id] == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestKillUnderLoad kills the gateway 20 times while two producers and two
// consumers work. Every message whose RECEIPT came is delivered in the end; of
// several deliveries of a message at most one is not marked redelivered; none comes
// after the RECEIPT of its ACK. One consumer asks for those, one does not; one producer
// repeats what was not confirmed, with its x-dedup-id, one does not. Half of
// the rounds sync always, the others once a second: a process that dies loses
// nothing either way.
func TestKillUnderLoad(t *testing.T) {
	b := harness.New(t, "storage.sync=always")
	b.Start()
	l := &ledger{receipts: map[string]bool{}, settled: map[string]bool{}, delivered: map[string]int{}, unmarked: map[string]int{}}
	stopSending, stopAll := make(chan struct{}), make(chan struct{})
	var producers, consumers sync.WaitGroup
	for i := range 2 {
		producers.Go(func() { (&producer{b: b, l: l, id: i, again: i == 0, stop: stopSending}).run() })
		consumers.Go(func() { (&consumer{b: b, l: l, careful: i == 0, stop: stopAll}).run() })
	}
	endSending := sync.OnceFunc(func() { close(stopSending); producers.Wait() })
	end := sync.OnceFunc(func() { endSending(); close(stopAll); consumers.Wait() })
	defer end()
	for round := range killRounds {
		// A round is some hundred confirmations and deliveries, not a time.
		receipts, deliveries := l.confirmedCount()+800+37*(round%5), l.deliveredCount()+300
		harness.Eventually(t, time.Minute, func() error {
			if r, d := l.confirmedCount(), l.deliveredCount(); r < receipts || d < deliveries {
				return fmt.Errorf("round %d: %d of %d receipts, %d of %d deliveries", round, r, receipts, d, deliveries)
			}
			return nil
		})
		b.Kill()
		sync := "1s"
		if round%2 == 1 {
			sync = "always"
		}
		b.Set = []string{"storage.sync=" + sync}
		b.Start()
	}
	endSending()
	harness.Eventually(t, time.Minute, func() error {
		if ids := l.missing(); len(ids) > 0 {
			return fmt.Errorf("%d confirmed messages did not come, such as %s", len(ids), ids[0])
		}
		return nil
	})
	harness.Eventually(t, time.Minute, func() error {
		if d := b.Depths("load"); d.Depth > 0 {
			return fmt.Errorf("the queue still has %+v", d)
		}
		return nil
	})
	end()
	l.judge(t)
}

func (l *ledger) judge(t *testing.T) {
	doubles := 0
	for _, n := range l.unmarked {
		doubles += max(0, n-1)
	}
	lost := l.missing()
	t.Logf("ledger: rounds %d, sends %d, receipts %d, delivered %d, redelivered %d, lost %d, unmarked duplicates %d, confirmed acks %d, undone %d",
		killRounds, l.sends, len(l.receipts), len(l.delivered), l.marked, len(lost), doubles, len(l.settled), l.undone)
	if len(lost) > 0 || doubles > 0 || l.undone > 0 {
		t.Errorf("%d confirmed messages lost, %d unmarked duplicates, %d deliveries after a confirmed ACK", len(lost), doubles, l.undone)
	}
	if l.marked == 0 || len(l.receipts) == 0 || len(l.settled) == 0 {
		t.Error("nothing was in flight at any kill: the test proves nothing")
	}
}

// producer sends numbered messages and notes their receipts. Of what is unconfirmed
// when the gateway dies it repeats nothing, since a repeated message could come twice;
// or, with again, everything, under the x-dedup-id that it had: then none may.
type producer struct {
	b     *harness.Broker
	l     *ledger
	id    int
	again bool
	stop  chan struct{}
	next  int
	open  []string // sent and unconfirmed
}

// window is how many messages a producer leaves unconfirmed.
const window = 50

func (p *producer) run() {
	for !closed(p.stop) {
		w, err := harness.Login(p.b.Addr())
		if err != nil {
			pause(p.stop)
			continue
		}
		p.session(w)
		w.Close()
	}
}

// session sends until the connection or the test ends, and reads what is confirmed
// to the last byte.
func (p *producer) session(w *harness.Wire) {
	if !p.again {
		p.open = nil
	}
	broken := false
	for _, id := range p.open {
		broken = p.send(w, id) != nil || broken
	}
	for {
		for !broken && len(p.open) < window && !closed(p.stop) {
			id := fmt.Sprintf("p%d-%d", p.id, p.next)
			p.next++
			p.l.sent()
			p.open = append(p.open, id)
			broken = p.send(w, id) != nil
		}
		if len(p.open) == 0 {
			return
		}
		f, err := w.Read(10 * time.Second)
		if err != nil || f.Command != "RECEIPT" {
			return
		}
		id := f.Headers["receipt-id"]
		p.l.confirmed(id)
		if at := slices.Index(p.open, id); at >= 0 {
			p.open = slices.Delete(p.open, at, at+1)
		}
	}
}

func (p *producer) send(w *harness.Wire, id string) error {
	headers := []string{"destination:/queue/load", "receipt:" + id}
	if p.again {
		headers = append(headers, "x-dedup-id:"+id)
	}
	return w.Write("SEND", []byte(id), headers...)
}

// consumer takes messages and acknowledges each, over all lives of the gateway. A
// careful one asks for the receipts of its ACKs.
type consumer struct {
	b       *harness.Broker
	l       *ledger
	careful bool
	stop    chan struct{}
}

func (c *consumer) run() {
	for !closed(c.stop) {
		w, err := harness.Login(c.b.Addr())
		if err != nil {
			pause(c.stop)
			continue
		}
		err = w.Write("SUBSCRIBE", nil, "id:1", "destination:/queue/load", "ack:client-individual", "activemq.prefetchSize:20")
		for err == nil {
			err = c.take(w)
		}
		w.Close()
	}
}

func (c *consumer) take(w *harness.Wire) error {
	f, err := w.Read(250 * time.Millisecond) // idle: look whether the test is over
	if err != nil {
		return err
	}
	switch f.Command {
	case "RECEIPT":
		c.l.acknowledged(f.Headers["receipt-id"])
		return nil
	case "MESSAGE":
	default:
		return fmt.Errorf("unexpected %s", f)
	}
	id := string(f.Body)
	c.l.got(id, f.Headers["redelivered"] == "true")
	headers := []string{"id:" + f.Headers["ack"]}
	if c.careful {
		headers = append(headers, "receipt:"+id)
	}
	// After a failure to write, what the gateway sent before it died can still be read.
	_ = w.Write("ACK", nil, headers...)
	return nil
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func pause(stop chan struct{}) {
	select {
	case <-stop:
	case <-time.After(5 * time.Millisecond):
	}
}

// TestTransactionsAcrossKill kills the gateway while transactions over two queues are
// committed: of each one all messages are there afterwards or none, and all if its
// RECEIPT came.
func TestTransactionsAcrossKill(t *testing.T) {
	const kills, messages = 6, 8 // messages of a transaction in each queue
	b := harness.Start(t)
	confirmed, started := map[string]bool{}, 0
	for range kills {
		w, err := harness.Login(b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		var killed sync.WaitGroup
		for n := 0; ; n++ {
			started++
			id := fmt.Sprintf("t%d", started)
			if w.Write("BEGIN", nil, "transaction:"+id) != nil {
				break
			}
			for range messages {
				for _, queue := range []string{"left", "right"} {
					_ = w.Write("SEND", []byte(id), "destination:/queue/"+queue, "transaction:"+id) // the read below fails as well
				}
			}
			if n == 10 { // in the midst of this commit, or the next
				killed.Go(b.Kill)
			}
			_ = w.Write("COMMIT", nil, "transaction:"+id, "receipt:"+id)
			f, err := w.Read(time.Minute)
			if err != nil {
				break
			}
			if f.Command != "RECEIPT" {
				t.Fatalf("COMMIT: %s", f)
			}
			confirmed[id] = true
		}
		killed.Wait()
		w.Close()
		b.Start()
	}
	counts := map[string][2]int{}
	for i, queue := range []string{"left", "right"} {
		depth := b.Depths(queue).Depth
		w := harness.MustLogin(t, b.Addr())
		w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/"+queue, "ack:auto")
		for range depth {
			id := string(w.Expect(t, "MESSAGE").Body)
			c := counts[id]
			c[i]++
			counts[id] = c
		}
	}
	for id, c := range counts {
		if c != [2]int{messages, messages} {
			t.Errorf("of transaction %s (confirmed: %v) %v messages are there", id, confirmed[id], c)
		}
	}
	for id := range confirmed {
		if _, there := counts[id]; !there {
			t.Errorf("confirmed transaction %s is lost", id)
		}
	}
	t.Logf("ledger: kills %d, transactions %d, confirmed %d, there %d", kills, started, len(confirmed), len(counts))
}

// TestScheduledAcrossKill kills the gateway while scheduled messages become due: each
// one that was confirmed comes, once.
func TestScheduledAcrossKill(t *testing.T) {
	b := harness.Start(t)
	const messages, rounds = 300, 3
	w := harness.MustLogin(t, b.Addr())
	for i := range messages {
		delay := 200 + i*15 // they become due over some seconds
		w.MustConfirm(t, "SEND", fmt.Appendf(nil, "m%03d", i), "destination:/queue/due", fmt.Sprintf("AMQ_SCHEDULED_DELAY:%d", delay))
	}
	for round := range rounds {
		want := (round + 1) * messages / (rounds + 2)
		harness.Eventually(t, time.Minute, func() error {
			if d := b.Depths("due"); d.Depth < want {
				return fmt.Errorf("round %d: %d of %d messages were published", round, d.Depth, want)
			}
			return nil
		})
		b.Kill()
		b.Start()
	}
	harness.Eventually(t, time.Minute, func() error {
		if d := b.Depths("mqgate.scheduled"); d.Depth != 0 {
			return fmt.Errorf("%d messages are still scheduled", d.Depth)
		}
		return nil
	})
	w = harness.MustLogin(t, b.Addr())
	published := b.Depths("due").Depth
	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/due", "ack:auto")
	came := map[string]int{}
	for range published {
		came[string(w.Expect(t, "MESSAGE").Body)]++
	}
	doubles := 0
	for _, n := range came {
		doubles += n - 1
	}
	t.Logf("ledger: rounds %d, confirmed %d, delivered %d, lost %d, duplicates %d", rounds, messages, len(came), messages-len(came), doubles)
	if len(came) != messages || doubles > 0 { // what is published again is known by its id
		t.Errorf("%d of %d messages came, %d twice", len(came), messages, doubles)
	}
}
