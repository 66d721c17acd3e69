package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestMQTTKillUnderLoad kills the gateway 20 times while publishers of QoS 1 and 2
// and subscribers of QoS 1 and 2 work in sessions that outlive it. What PUBACK or
// PUBREC confirmed reaches both subscribers, in the order of its publisher; what was
// published with QoS 2 reaches the QoS 2 subscriber once, though its publisher sends
// again what a kill left incomplete; a duplicate of QoS 1 has DUP or was sent twice.
func TestMQTTKillUnderLoad(t *testing.T) {
	t.Parallel()
	b := harness.Start(t, "storage.sync=always")
	l := newFlow()
	stopSending, stopAll := make(chan struct{}), make(chan struct{})
	var publishers, subscribers, ready sync.WaitGroup
	for _, s := range []*mqttSubscriber{
		{name: "sub1", qos: 1, version: harness.MQTT311},
		{name: "sub2", qos: 2, version: harness.MQTT5, maximum: 30},
	} {
		s.addr, s.flow, s.filter, s.stop = b.MQTTAddr, l, "load/#", stopAll
		ready.Add(1)
		s.ready = ready.Done
		subscribers.Go(s.run)
	}
	endSending := sync.OnceFunc(func() { close(stopSending); publishers.Wait() })
	end := sync.OnceFunc(func() { endSending(); close(stopAll); subscribers.Wait() })
	defer end()
	ready.Wait() // else the first messages have no subscriber
	for _, p := range []*mqttPublisher{
		{name: "pub1", qos: 1, version: harness.MQTT311},
		{name: "pub2", qos: 2, version: harness.MQTT5},
	} {
		p.ahead = func() bool { return l.backlog(2) > 500 }
		p.addr, p.flow, p.topic, p.window, p.stop = b.MQTTAddr, l, "load/"+p.name, window, stopSending
		publishers.Go(p.run)
	}
	for round := range killRounds {
		// A round is some hundred confirmations and deliveries, not a time.
		confirmed, delivered := l.progress(2)
		confirmed, delivered = confirmed+300+37*(round%5), delivered+200
		harness.Eventually(t, time.Minute, func() error {
			if c, d := l.progress(2); c < confirmed || d < delivered {
				return fmt.Errorf("round %d: %d of %d confirmations, %d of %d deliveries; %s", round, c, confirmed, d, delivered, l)
			}
			return nil
		})
		b.Kill()
		b.Set = []string{"storage.sync=" + []string{"1s", "always"}[round%2]}
		b.Start()
	}
	endSending()
	harness.Eventually(t, time.Minute, func() error {
		if lost := l.missing("sub1", "sub2"); len(lost) > 0 {
			return fmt.Errorf("%d confirmed messages did not come, such as %s", len(lost), lost[0])
		}
		return nil
	})
	end()
	judgeMQTTKills(t, l)
}

func judgeMQTTKills(t *testing.T, l *flow) {
	confirmed, _ := l.progress(2)
	exact, _ := l.duplicates("sub2", "pub2")
	repeated, unexplained := 0, 0
	for _, s := range []string{"sub1", "sub2"} {
		for _, p := range []string{"pub1", "pub2"} {
			all, bad := l.duplicates(s, p)
			repeated, unexplained = repeated+all, unexplained+bad
		}
	}
	resent := len(l.resent["pub1"]) + len(l.resent["pub2"])
	t.Logf("ledger: rounds %d, kills %d, sends %d, sent again %d, confirmed %d, lost %d, QoS 2 duplicates %d, other duplicates %d, unexplained %d, out of order %d",
		killRounds, killRounds, l.sends, resent, confirmed, len(l.missing("sub1", "sub2")), exact, repeated-exact, unexplained, l.skipped())
	for _, p := range l.problems {
		t.Error(p)
	}
	if exact > 0 || unexplained > 0 || l.skipped() > 0 {
		t.Errorf("%d QoS 2 duplicates, %d unexplained duplicates, %d out of order", exact, unexplained, l.skipped())
	}
	if resent == 0 || repeated == 0 {
		t.Error("nothing was in flight at any kill: the test proves nothing")
	}
}
