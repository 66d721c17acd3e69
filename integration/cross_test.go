package integration

import (
	"strings"
	"testing"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestCrossProtocol has every STOMP and MQTT version send to every other.
func TestCrossProtocol(t *testing.T) {
	b := harness.StartPlain(t)
	peers := harness.BarePeers(b)
	harness.Cross(t, "bare", peers, peers)
	if !t.Failed() {
		nothingLeft(t, b)
	}
}

// nothingLeft fails the test if a queue still has messages, but for the one that
// expired in each queue that had one, and is a dead letter.
func nothingLeft(t *testing.T, b *harness.Broker) {
	t.Helper()
	for name, d := range b.AllDepths() {
		want := 0
		if strings.HasPrefix(name, "DLQ.") {
			want = 1
		}
		if d.Depth != want {
			t.Errorf("queue %s has %+v, want depth %d", name, d, want)
		}
	}
}
