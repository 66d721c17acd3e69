package integration

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// load runs publishers and subscribers of one flow.
type load struct {
	t           *testing.T
	flow        *flow
	addr        func() string
	stop        chan struct{}
	subscribers sync.WaitGroup
	publishers  sync.WaitGroup
}

func newLoad(t *testing.T, b *harness.Broker) *load {
	l := &load{t: t, flow: newFlow(), addr: b.MQTTAddr, stop: make(chan struct{})}
	t.Cleanup(func() { close(l.stop); l.publishers.Wait(); l.subscribers.Wait() })
	return l
}

// subscribe starts subscribers, and waits until they have subscribed.
func (l *load) subscribe(all ...*mqttSubscriber) {
	var ready sync.WaitGroup
	for _, s := range all {
		s.addr, s.flow, s.stop = l.addr, l.flow, l.stop
		ready.Add(1)
		s.ready = ready.Done
		l.subscribers.Go(s.run)
	}
	ready.Wait()
}

func (l *load) publish(all ...*mqttPublisher) {
	for _, p := range all {
		p.addr, p.flow, p.stop = l.addr, l.flow, l.stop
		l.publishers.Go(p.run)
	}
}

// judge waits until everything confirmed has come to the subscribers, and finds
// nothing twice, nothing out of order and no problem.
func (l *load) judge(subscribers ...string) {
	l.t.Helper()
	l.publishers.Wait()
	harness.Eventually(l.t, 2*time.Minute, func() error {
		if lost := l.flow.missing(subscribers...); len(lost) > 0 {
			return fmt.Errorf("%d confirmed messages did not come, such as %s", len(lost), lost[0])
		}
		return nil
	})
	confirmed, _ := l.flow.progress(0)
	duplicates := 0
	for s, by := range l.flow.got {
		for p := range by {
			all, _ := l.flow.duplicates(s, p)
			duplicates += all
		}
	}
	l.t.Logf("ledger: confirmed %d, for each of %d subscribers: lost 0, duplicates %d, out of order %d", confirmed, len(subscribers), duplicates, l.flow.skipped())
	if duplicates > 0 || l.flow.skipped() > 0 || confirmed == 0 {
		l.t.Errorf("%d duplicates, %d out of order of %d", duplicates, l.flow.skipped(), confirmed)
	}
	for _, p := range l.flow.problems {
		l.t.Error(p)
	}
}

// noDrops fails the test if a drop was counted.
func noDrops(t *testing.T, b *harness.Broker) {
	t.Helper()
	text, err := b.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "mqgate_messages_published_total") {
		t.Fatalf("/metrics counts nothing: %s", text)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "mqgate_messages_dropped_total") && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			t.Errorf("dropped: %s", line)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestBurstBeyondInflight publishes far more than may be in flight, faster than it is
// acknowledged: Mosquitto and FlashMQ drop silently there. Subscribers whose sessions
// outlive them, with the gateway's in-flight limit, a small receive maximum of their
// own, and a slow one, get everything once and in order.
func TestBurstBeyondInflight(t *testing.T) {
	t.Parallel()
	const messages = 1000 // of each publisher; the limit in flight is 256
	b := harness.Start(t, "storage.sync=1s")
	l, acknowledged := newLoad(t, b), 0
	slow := func() {
		if acknowledged++; acknowledged%5 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	l.subscribe(
		&mqttSubscriber{name: "limit of the gateway", filter: "burst/#", qos: 2, version: harness.MQTT311},
		&mqttSubscriber{name: "limit of the client", filter: "burst/#", qos: 1, version: harness.MQTT5, maximum: 5},
		&mqttSubscriber{name: "slow", filter: "burst/#", qos: 2, version: harness.MQTT5, pace: slow},
	)
	l.publish(
		&mqttPublisher{name: "once", topic: "burst/1", qos: 1, version: harness.MQTT311, window: 1000, limit: messages},
		&mqttPublisher{name: "exactly", topic: "burst/2", qos: 2, version: harness.MQTT5, window: 1000, limit: messages},
	)
	l.judge("limit of the gateway", "limit of the client", "slow")
	noDrops(t, b)
}

// TestMixedLoad has all QoS and both protocols, by topics and by a queue that both
// consume, work at once on a gateway with the race detector: nothing that was
// confirmed is lost, nothing comes twice or out of order, and no race is reported.
func TestMixedLoad(t *testing.T) {
	t.Parallel()
	const messages = 800
	b := harness.Start(t, "storage.sync=1s")
	topics, queue := newLoad(t, b), newLoad(t, b)
	topics.subscribe(
		&mqttSubscriber{name: "device", filter: "mixed/#", qos: 2, version: harness.MQTT5},
		&mqttSubscriber{name: "old device", filter: "mixed/#", qos: 1, version: harness.MQTT31},
	)
	stompSubscriber(t, topics, b, "worker", "/topic/mixed.>", "client-id:worker", "activemq.subscriptionName:worker")
	queue.subscribe(&mqttSubscriber{name: "mqtt", filter: "$queue/mixed", qos: 1, version: harness.MQTT311})
	stompSubscriber(t, queue, b, "stomp", "/queue/mixed")
	topics.publish(
		&mqttPublisher{name: "q0", topic: "mixed/0", qos: 0, version: harness.MQTT5, window: 100, limit: messages},
		&mqttPublisher{name: "q1", topic: "mixed/1", qos: 1, version: harness.MQTT311, window: 100, limit: messages},
		&mqttPublisher{name: "q2", topic: "mixed/2", qos: 2, version: harness.MQTT5, window: 100, limit: messages},
	)
	queue.publish(&mqttPublisher{name: "queued", topic: "$queue/mixed", qos: 1, version: harness.MQTT5, window: 100, limit: messages})
	for destination, l := range map[string]*load{"/topic/mixed.stomp": topics, "/queue/mixed": queue} {
		l.publishers.Go(func() { stompPublisher(t, l, b, destination, messages) })
	}
	topics.judge("device", "old device", "worker")
	queue.judgeShared()
	noDrops(t, b)
}

// judgeShared is judge for subscribers that share a queue.
func (l *load) judgeShared() {
	l.t.Helper()
	l.publishers.Wait()
	harness.Eventually(l.t, time.Minute, func() error {
		if confirmed, got := l.shared(); got < confirmed {
			return fmt.Errorf("%d of %d messages of the queue came", got, confirmed)
		}
		return nil
	})
	confirmed, got := l.shared()
	l.t.Logf("ledger: confirmed %d, consumed %d by %d consumers", confirmed, got, len(l.flow.got))
	if got != confirmed || len(l.flow.got) != 2 {
		l.t.Errorf("%d messages were consumed of %d, by %d consumers of 2", got, confirmed, len(l.flow.got))
	}
	for _, p := range l.flow.problems {
		l.t.Error(p)
	}
}

// shared counts what all subscribers got together.
func (l *load) shared() (confirmed, got int) {
	confirmed, _ = l.flow.progress(0)
	l.flow.mu.Lock()
	defer l.flow.mu.Unlock()
	for _, by := range l.flow.got {
		for _, x := range by {
			for _, n := range x.count {
				got += n
			}
		}
	}
	return confirmed, got
}

// stompPublisher sends numbered messages with receipts.
func stompPublisher(t *testing.T, l *load, b *harness.Broker, destination string, messages int) {
	w, err := harness.Login(b.Addr())
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Close()
	open := 0
	confirmed := func() error {
		f, err := w.Read(30 * time.Second)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(f.Headers["receipt-id"])
		if err != nil {
			return fmt.Errorf("no RECEIPT but %s", f)
		}
		l.flow.confirm("stomp", n)
		open--
		return nil
	}
	for n := range messages {
		err := w.Write("SEND", fmt.Appendf(nil, "stomp %d", n), "destination:"+destination, "persistent:true", fmt.Sprint("receipt:", n))
		for open++; err == nil && (open == 100 || n == messages-1 && open > 0); {
			err = confirmed()
		}
		if err != nil {
			t.Errorf("STOMP publisher: %v", err)
			return
		}
	}
}

// stompSubscriber acknowledges each message until the load ends.
func stompSubscriber(t *testing.T, l *load, b *harness.Broker, name, destination string, headers ...string) {
	t.Helper()
	w := harness.MustLogin(t, b.Addr(), headers...)
	w.MustConfirm(t, "SUBSCRIBE", nil, append(headers, "id:1", "destination:"+destination, "ack:client-individual", "activemq.prefetchSize:20")...)
	l.subscribers.Go(func() {
		for !closed(l.stop) {
			f, err := w.Read(30 * time.Second)
			if err != nil {
				return // the test's end closes the socket
			}
			l.flow.deliver(name, string(f.Body), f.Headers["redelivered"] == "true")
			if w.Write("ACK", nil, "id:"+f.Headers["ack"]) != nil {
				return
			}
		}
	})
}
