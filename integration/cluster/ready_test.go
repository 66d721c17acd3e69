package cluster

import (
	"bytes"
	"os"
	"path/filepath"
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

// TestACopyThatFoundNoRoomIsMadeLater has a node find no room for its copy of a queue that was made without it. It is not ready until it
// has made it after all, without a restart of its process.
func TestACopyThatFoundNoRoomIsMadeLater(t *testing.T) {
	const full = "/dev/full" // no space left on device
	if _, err := os.Stat(full); err != nil {
		t.Skip(err)
	}
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodeCount})
	leader, other := leaderAndOther(t, c)
	w := login(t, leader)
	other.Kill()
	send := func() { w.MustConfirm(t, "SEND", []byte("x"), "destination:/queue/copied", "persistent:true") }
	send()
	// The server deletes a queue again that a node cannot copy in its first five seconds.
	for made := time.Now(); time.Since(made) < 6*time.Second; time.Sleep(100 * time.Millisecond) {
		send()
	}
	dirs, err := filepath.Glob(filepath.Join(leader.DataDir(), "jetstream", "$G", "streams", "Q_*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("%d queues, %v", len(dirs), err)
	}
	dir := filepath.Join(other.DataDir(), "jetstream", "$G", "streams", filepath.Base(dirs[0]))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(full, filepath.Join(dir, "meta.inf.tmp")); err != nil { // where the copy begins; it goes away with the failure
		t.Fatal(err)
	}
	if err := other.Restart(); err != nil {
		t.Fatal(err)
	}
	c.AwaitReady(t, other, true)
	if err := c.Current(); err != nil {
		t.Errorf("%s is ready, and %v", other.Name, err)
	}
	if log := other.Log(); !strings.Contains(log, "store starts again") {
		t.Errorf("the node found room at once:\n%s", log)
	}
	if code, out, _ := leader.Command("", "cluster", "status", "--set", "data_dir="+leader.DataDir()); code != 0 {
		t.Errorf("with all copied, cluster status exits with %d:\n%s", code, out)
	}
}
