package integration

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// sessionsVariable sets how many sessions TestOfflineSessions makes, such as 100000.
const sessionsVariable = "MQGATE_TEST_SESSIONS"

// TestOfflineSessions makes sessions with three subscriptions each that are away, and
// prints what they cost: memory for each, and the time of a start with all of them.
// After the start sessions are there with their subscriptions, and a message for all of
// them reaches all.
func TestOfflineSessions(t *testing.T) {
	n := 300
	if text := os.Getenv(sessionsVariable); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	b := harness.StartPlain(t, "storage.sync=1s", "limits.connections=100000")
	before := b.RSS()
	began := time.Now()
	makeSessions(t, b.MQTTAddr(), n)
	made := time.Since(began)
	after := b.RSS()
	b.Stop()
	began = time.Now()
	b.Start()
	started := time.Since(began)
	loaded := b.RSS()
	t.Logf("%d offline sessions with 3 subscriptions each: made in %s (%.0f/s), %d bytes each while they were made; start in %s, RSS %d MiB, %d bytes each after it",
		n, made.Round(time.Millisecond), float64(n)/made.Seconds(), (after-before)/int64(n), started.Round(time.Millisecond), loaded>>20, (loaded-before)/int64(n))
	p := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{Version: harness.MQTT5})
	began = time.Now()
	if err := p.Publish(harness.PublishPacket("all/notice", []byte("all"), 1)); err != nil {
		t.Fatalf("a message for all of them: %v", err)
	}
	t.Logf("a message for all of them was stored in %v", time.Since(began).Round(time.Millisecond))
	for _, i := range []int{0, n / 2, n - 1} {
		if err := p.Publish(harness.PublishPacket(fmt.Sprintf("dev/%d/command", i), []byte("do"), 1)); err != nil {
			t.Fatal(err)
		}
		m := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{Version: harness.MQTT5, ClientID: fmt.Sprint("dev-", i), Durable: true})
		for _, want := range []string{"all", "do"} {
			pk, err := m.Message(time.Minute)
			if err != nil || !m.Present || string(pk.Payload) != want {
				t.Fatalf("session %d: present %v, %v, %q instead of %q", i, m.Present, err, pk.Payload, want)
			}
			if err := m.Settle(pk); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// makeSessions has clients connect, subscribe and leave, many at a time.
func makeSessions(t *testing.T, addr string, n int) {
	t.Helper()
	var clients sync.WaitGroup
	defer clients.Wait()
	next := make(chan int)
	defer close(next)
	failed := make(chan error, 1)
	for range 32 {
		clients.Go(func() {
			for i := range next {
				if err := makeSession(addr, i); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case err := <-failed:
			t.Fatal(err)
		}
	}
}

func makeSession(addr string, i int) error {
	m, err := harness.DialMQTT(addr, harness.MQTTOptions{Version: harness.MQTT5, ClientID: fmt.Sprint("dev-", i), Durable: true})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Subscribe(1, fmt.Sprintf("dev/%d/command", i), fmt.Sprintf("dev/%d/config/#", i), "all/notice"); err != nil {
		return err
	}
	return m.Disconnect()
}
