package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestBackup makes a backup of a cluster under the load of all protocols, loses every node with its data, and restores as the manual
// says: into one node, which the others join. Everything that was confirmed before the backup began has come, or comes then.
func TestBackup(t *testing.T) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodeCount})
	left := leave(t, c)
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	l.detach() // so that in the backup much waits for the sessions; the queues are consumed on
	l.progress(50, time.Minute)

	leader, other := leaderAndOther(t, c)
	file := filepath.Join(harness.TempDir(t), "backup.tar")
	backup := func(n *harness.ClusterNode) (code int, out, errs string) {
		return n.Command("", "backup", file, "--set", "data_dir="+n.DataDir())
	}
	if code, _, errs := backup(other); code != 1 || !strings.Contains(errs, fmt.Sprintf("ask node %q", leader.Name)) {
		t.Errorf("mqgate backup on a node that does not lead: %d %s", code, errs)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it left a file")
	}
	var before []map[string]time.Time
	for _, g := range l.ledgers {
		before = append(before, g.confirmations())
	}
	code, out, errs := backup(leader)
	if code != 0 {
		t.Fatalf("mqgate backup on the leader: %d %s", code, errs)
	}
	t.Log(strings.TrimSpace(out))
	l.progress(20, time.Minute) // the load goes on; what comes from here on is not in the backup
	l.pause()
	came := map[*ledger]int{}
	for _, g := range l.ledgers {
		_, came[g] = g.counts()
	}

	for _, n := range c.Nodes {
		n.Kill()
		if err := os.RemoveAll(n.DataDir()); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, errs := other.Command("", "restore", file, "--set", "data_dir="+other.DataDir(), "--set", "log.level=warn"); code != 0 {
		t.Fatalf("mqgate restore: %d %s", code, errs)
	}
	c.StartAll(t)
	c.AwaitCurrent(t)
	left.check(t, c)
	l.resume()
	harness.Eventually(t, time.Minute, func() error {
		for i, g := range l.ledgers {
			if lost := g.missingOf(before[i]); len(lost) > 0 {
				return errorf("%s: of %d messages that were confirmed before the backup %d did not come %s", g.name, len(before[i]), len(lost), first(lost))
			}
		}
		return nil
	})
	l.pause()
	fromBackup := 0
	for i, g := range l.ledgers {
		_, now := g.counts()
		fromBackup += now - came[g]
		t.Logf("ledger %-14s confirmed before the backup %d, later %d; came before the nodes were lost %d, for the first time after the restore %d; lost of those before the backup %d; sessions lost %d",
			g.name+":", len(before[i]), len(g.confirmations())-len(before[i]), came[g], now-came[g], len(g.missingOf(before[i])), g.sessions)
		if len(before[i]) == 0 || g.sessions > 0 {
			t.Errorf("%s: %d confirmed before the backup, %d sessions lost", g.name, len(before[i]), g.sessions)
		}
	}
	if fromBackup == 0 {
		t.Error("all had come before the nodes were lost: the test proves nothing")
	}
	for _, n := range c.Nodes { // the last one would wait for others to save with
		n.Kill()
	}
}

// leftover is what waits for clients that are away.
type leftover struct{ queued, published int }

// leave has messages wait in a queue, of which some are settled, and for an MQTT session, and leaves a retained value.
func leave(t *testing.T, c *harness.Cluster) leftover {
	t.Helper()
	const queued, settled, published = 120, 40, 5
	w := harness.MustLogin(t, c.STOMP(), "login:"+harness.ClusterUser, "passcode:"+harness.ClusterPassword)
	for i := range queued {
		w.MustConfirm(t, "SEND", fmt.Append(nil, i), "destination:/queue/waiting", "persistent:true")
	}
	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/waiting", "ack:client-individual", "activemq.prefetchSize:10")
	for range settled {
		w.MustConfirm(t, "ACK", nil, "id:"+w.Expect(t, "MESSAGE").Headers["ack"])
	}
	w.MustConfirm(t, "DISCONNECT", nil)
	m := mqttClient(t, c, harness.MQTTOptions{Version: harness.MQTT5, ClientID: "device", Durable: true})
	if err := m.Subscribe(1, "news/#"); err != nil {
		t.Fatal(err)
	}
	if err := m.Disconnect(); err != nil {
		t.Fatal(err)
	}
	p := mqttClient(t, c, harness.MQTTOptions{ClientID: "editor"})
	for i := range published {
		pk := harness.PublishPacket("news/a", fmt.Append(nil, i), 1)
		pk.FixedHeader.Retain = i == published-1
		if err := p.Publish(pk); err != nil {
			t.Fatal(err)
		}
	}
	return leftover{queued: queued - settled, published: published}
}

func mqttClient(t *testing.T, c *harness.Cluster, o harness.MQTTOptions) *harness.MQTT {
	t.Helper()
	o.User, o.Password = harness.ClusterUser, harness.ClusterPassword
	return harness.MustMQTT(t, c.MQTT(), o)
}

// check takes what was left, each exactly once.
func (l leftover) check(t *testing.T, c *harness.Cluster) {
	t.Helper()
	if d := c.Nodes[0].Depths("waiting"); d.Depth != l.queued {
		t.Errorf("%d messages wait, and %d were left", d.Depth, l.queued)
	}
	var m *harness.MQTT
	harness.Eventually(t, time.Minute, func() (err error) { // HAProxy has to find the nodes first
		m, err = harness.DialMQTT(c.MQTT(), harness.MQTTOptions{Version: harness.MQTT5, ClientID: "device", Durable: true,
			User: harness.ClusterUser, Password: harness.ClusterPassword})
		return err
	})
	defer m.Close()
	if !m.Present {
		t.Error("the MQTT session is gone")
	}
	take(t, m, 0, l.published)
	if err := m.Subscribe(1, "news/a"); err != nil {
		t.Fatal(err)
	}
	if pk, err := m.Message(time.Minute); err != nil || !pk.FixedHeader.Retain || string(pk.Payload) != fmt.Sprint(l.published-1) {
		t.Errorf("the retained value: %v, %v", pk, err)
	}
}
