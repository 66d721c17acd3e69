package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestBackupUnderLoad makes a backup with "mqgate backup" while producers and
// consumers work, and restores it elsewhere with "mqgate restore". Everything that
// was confirmed before the backup began is there: queues, a durable subscription,
// retained values, an MQTT session and what waits for it. What was consumed while
// it was made may come again.
func TestBackupUnderLoad(t *testing.T) {
	const waiting = 300
	b := harness.Start(t)
	w := harness.MustLogin(t, b.Addr())
	for n := range waiting {
		w.MustConfirm(t, "SEND", fmt.Appendf(nil, "w%d", n), "destination:/queue/waiting")
	}
	// A queue whose first messages are settled: they must not come back.
	taker := harness.MustLogin(t, b.Addr())
	taker.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/waiting", "ack:client-individual", "activemq.prefetchSize:10")
	for range 100 {
		m := taker.Expect(t, "MESSAGE")
		taker.MustConfirm(t, "ACK", nil, "id:"+m.Headers["ack"])
	}
	taker.MustConfirm(t, "DISCONNECT", nil)
	subscribers(t, b)

	l := &ledger{receipts: map[string]bool{}, settled: map[string]bool{}, delivered: map[string]int{}, unmarked: map[string]int{}}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 2 {
		load.Go(func() { (&producer{b: b, l: l, id: i, again: i == 0, stop: stop}).run() })
		load.Go(func() { (&consumer{b: b, l: l, careful: i == 0, stop: stop}).run() })
	}
	endLoad := sync.OnceFunc(func() { close(stop); load.Wait() })
	defer endLoad()
	harness.Eventually(t, time.Minute, func() error {
		if l.confirmedCount() < 500 || l.deliveredCount() < 300 {
			return fmt.Errorf("%d confirmed, %d delivered", l.confirmedCount(), l.deliveredCount())
		}
		return nil
	})
	l.mu.Lock()
	before := maps.Clone(l.receipts)
	l.mu.Unlock()
	file := filepath.Join(b.Dir, "backup.tar")
	code, out, errs := b.Command("", "backup", file, "--set", "data_dir="+b.DataDir())
	if code != 0 {
		t.Fatalf("mqgate backup: %d %s", code, errs)
	}
	during := l.confirmedCount() - len(before)
	endLoad()
	t.Logf("%s; %d messages were confirmed meanwhile", strings.TrimSpace(out), during)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup has mode %v, %v", info.Mode(), err)
	}
	if code, _, errs := b.Command("", "backup", file, "--set", "data_dir="+b.DataDir()); code == 0 || !strings.Contains(errs, "exists") {
		t.Errorf("an existing file: %d %s", code, errs)
	}

	copied := harness.New(t)
	restore := func() (int, string) {
		code, _, errs := copied.Command("", "restore", file, "--set", "data_dir="+copied.DataDir(), "--set", "log.level=warn")
		return code, errs
	}
	if code, errs := restore(); code != 0 {
		t.Fatalf("mqgate restore: %d %s", code, errs)
	}
	if code, errs := restore(); code == 0 || !strings.Contains(errs, "not empty") {
		t.Errorf("a second restore: %d %s", code, errs)
	}
	copied.Start()
	if d := copied.Depths("waiting"); d.Depth != waiting-100 {
		t.Errorf("of %d messages %d wait after the restore", waiting-100, d.Depth)
	}
	checkSubscribers(t, copied)
	there := drainQueue(t, copied, "load")
	lost := 0
	for id := range before {
		if l.delivered[id] == 0 && !there[id] {
			lost++
		}
	}
	t.Logf("ledger: confirmed before the backup %d, delivered before its end or later %d, restored in the queue %d, lost %d", len(before), len(l.delivered), len(there), lost)
	if lost > 0 {
		t.Errorf("%d messages that were confirmed before the backup began are lost", lost)
	}
	// The restored gateway is a gateway like any other: it restarts, and takes new messages.
	copied.Stop()
	copied.Start()
	w = harness.MustLogin(t, copied.Addr())
	w.MustConfirm(t, "SEND", []byte("new"), "destination:/queue/waiting")
	if d := copied.Depths("waiting"); d.Depth != waiting-100+1 {
		t.Errorf("after a restart and one more message %d wait", d.Depth)
	}
}

// subscribers leaves a durable subscription, a retained value and an MQTT session,
// with messages that wait for them.
func subscribers(t *testing.T, b *harness.Broker) {
	t.Helper()
	w := harness.MustLogin(t, b.Addr(), "client-id:backup")
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/topic/news.>", "activemq.subscriptionName:s", "ack:client")
	w.MustConfirm(t, "DISCONNECT", nil)
	m := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{Version: harness.MQTT5, ClientID: "device", Durable: true})
	if err := m.Subscribe(2, "news/#"); err != nil {
		t.Fatal(err)
	}
	if err := m.Disconnect(); err != nil {
		t.Fatal(err)
	}
	p := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{ClientID: "editor"})
	for i := range 5 {
		if err := p.Publish(harness.PublishPacket("news/a", fmt.Appendf(nil, "n%d", i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	pk := harness.PublishPacket("state/x", []byte("on"), 1)
	pk.FixedHeader.Retain = true
	if err := p.Publish(pk); err != nil {
		t.Fatal(err)
	}
}

func checkSubscribers(t *testing.T, b *harness.Broker) {
	t.Helper()
	w := harness.MustLogin(t, b.Addr(), "client-id:backup")
	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/topic/news.>", "activemq.subscriptionName:s", "ack:auto")
	for i := range 5 {
		if f := w.Expect(t, "MESSAGE"); string(f.Body) != fmt.Sprint("n", i) {
			t.Errorf("the durable subscription has %q as number %d", f.Body, i)
		}
	}
	m := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{Version: harness.MQTT5, ClientID: "device", Durable: true})
	if !m.Present {
		t.Error("the MQTT session is gone")
	}
	for i := range 5 {
		pk, err := m.Message(time.Minute)
		if err != nil || string(pk.Payload) != fmt.Sprint("n", i) {
			t.Fatalf("the MQTT session has %v, %v as number %d", pk, err, i)
		}
		if err := m.Settle(pk); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Subscribe(1, "state/#"); err != nil {
		t.Fatal(err)
	}
	if pk, err := m.Message(time.Minute); err != nil || string(pk.Payload) != "on" || !pk.FixedHeader.Retain {
		t.Errorf("the retained value: %v, %v", pk, err)
	}
}

// drainQueue takes everything out of a queue and returns the bodies.
func drainQueue(t *testing.T, b *harness.Broker, queue string) map[string]bool {
	t.Helper()
	depth := b.Depths(queue).Depth
	w := harness.MustLogin(t, b.Addr())
	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/"+queue, "ack:auto", "activemq.prefetchSize:1000")
	out := map[string]bool{}
	for range depth {
		out[string(w.Expect(t, "MESSAGE").Body)] = true
	}
	return out
}
