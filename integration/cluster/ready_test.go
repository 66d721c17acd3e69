package cluster

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestANodeIsReadyWhenItHasCaughtUp kills a node that follows, stores much without it, and starts it again: load balancers hear
// that it is ready once its replicas have what they missed, and not before.
func TestANodeIsReadyWhenItHasCaughtUp(t *testing.T) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodeCount})
	leader, other := leaderAndOther(t, c)
	other.Kill()
	w := login(t, leader)
	body := bytes.Repeat([]byte("x"), 64<<10)
	const messages = 1000
	for i := range messages {
		if i%100 == 99 {
			w.MustConfirm(t, "SEND", body, "destination:/queue/missed", "persistent:true")
		} else {
			w.Must(t, "SEND", body, "destination:/queue/missed", "persistent:true")
		}
	}
	started := make(chan error, 1)
	go func() { started <- other.Restart() }()
	copying := 0
	for deadline := time.Now().Add(harness.StartTimeout); ; time.Sleep(time.Millisecond) {
		err := other.Ready()
		if err == nil {
			break
		}
		if strings.Contains(err.Error(), "copying") {
			copying++
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := c.Current(); err != nil {
		t.Errorf("%s is ready, and %v", other.Name, err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
	t.Logf("/readyz spoke of copying %d times", copying)
}
