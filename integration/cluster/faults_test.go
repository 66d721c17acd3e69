package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// several are the nodes of tests that make no sense with one.
func several(t *testing.T) int {
	t.Helper()
	n := nodes(t)
	if n < 3 {
		t.Skipf("%d nodes: this needs three", n)
	}
	return n
}

// chaos skips a test of minutes unless MQGATE_TEST_CLUSTER=1 asks for it: processes that are killed, and the load of all
// protocols, want both cores for themselves.
func chaos(t *testing.T) {
	if os.Getenv("MQGATE_TEST_CLUSTER") != "1" {
		t.Skip("MQGATE_TEST_CLUSTER=1 runs it")
	}
}

// proxied is a connection to a node's own port, with the header of a load balancer.
func proxied(address string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "PROXY TCP4 192.0.2.1 127.0.0.1 %d 61613\r\n", 1024+rand.IntN(60000)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// leaderAndOther returns the node that leads and another.
func leaderAndOther(t *testing.T, c *harness.Cluster) (leader, other *harness.ClusterNode) {
	t.Helper()
	name := c.Leader(t)
	for _, n := range c.Nodes {
		if n.Name == name {
			leader = n
		} else {
			other = n
		}
	}
	if leader == nil {
		t.Fatalf("the leader %q is none of the nodes", name)
	}
	return leader, other
}

// partitions are the ways to cut a network: which node is to notice, and what is held up.
var partitions = []struct {
	kind  string
	leads bool // the node leads
	cut   func(n *harness.Network, node, leader string, others []string)
	heals bool // the third node reaches both, and may take the lead with the network as it is
}{
	{"a follower cut off", false, cutOff, false},
	{"the leader cut off", true, cutOff, false},
	{"the leader hears nobody", true, deafen, false},
	{"the leader is heard by nobody", true, silence, false},
	{"a follower hears nobody", false, deafen, false},
	{"a follower is heard by nobody", false, silence, false},
	{"one pair cut, the leader and a follower", false, func(n *harness.Network, node, leader string, _ []string) { n.Isolate(node, leader) }, true},
}

func cutOff(n *harness.Network, node, _ string, others []string) { n.Isolate(node, others...) }

func deafen(n *harness.Network, node, _ string, others []string) {
	for _, o := range others {
		n.Cut(o, node)
	}
}

func silence(n *harness.Network, node, _ string, others []string) {
	for _, o := range others {
		n.Cut(node, o)
	}
}

// TestPartition cuts the network in all these ways. The others go on; the node that is cut off refuses what is to be
// stored, on connections of all protocols that it had and on new ones, with an error that sends the client elsewhere, and
// comes back by itself. Nothing is lost.
func TestPartition(t *testing.T) {
	chaos(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: several(t), Network: true})
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	hold := duration(t, "MQGATE_TEST_PARTITION", 6*time.Second)
	var g gaps
	for _, p := range partitions {
		if !chosen(p.kind) {
			continue
		}
		leader, victim := leaderAndOther(t, c)
		if p.leads {
			victim = leader
		}
		before := senders(t, victim)
		everything.reset()
		began := time.Now()
		p.cut(c.Network, victim.Name, leader.Name, c.Names(victim.Name))
		all := refuseAll(before, began)
		c.AwaitReady(t, victim, false)
		unready := time.Since(began)
		if !p.heals { // else another may lead by now, whom this node reaches
			text, err := stompRefusal(login(t, victim))()
			all = append(all, refused{"STOMP on a new connection", text, time.Since(began), err})
		}
		l.progress(30, time.Minute)
		gap := everything.reset()
		g = append(g, gap)
		if rest := hold - time.Since(began); rest > 0 {
			time.Sleep(rest) // the network stays cut for as long as asked
		}
		c.Network.Heal()
		healed := time.Now()
		c.AwaitReady(t, victim, true)
		t.Logf("%s (%s): longest time without any confirmation %s, seen as not ready after %s, ready %s after the network healed",
			p.kind, victim.Name, gap.Round(time.Millisecond), unready.Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
		for _, r := range all {
			t.Logf("%s: refused by %s %s after the cut: %s", p.kind, r.protocol, r.after.Round(time.Millisecond), r.text)
			r.check(t, p.kind)
		}
		l.progress(10, time.Minute)
		c.AwaitCurrent(t) // else the next cut is a second fault at the same time
	}
	if len(g) == 0 {
		t.Fatalf("nothing is called %q", os.Getenv("MQGATE_TEST_KIND"))
	}
	l.finish()
	g.log(t, "the network was cut")
}

// chosen reports whether a kind is to be done: all are, unless MQGATE_TEST_KIND names some by a part.
func chosen(kind string) bool { return strings.Contains(kind, os.Getenv("MQGATE_TEST_KIND")) }

// TestPause stops the leader, then another node, with SIGSTOP for 15 seconds.
func TestPause(t *testing.T) {
	chaos(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodes(t)})
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	pause := duration(t, "MQGATE_TEST_PAUSE", 15*time.Second)
	var g gaps
	for _, leads := range []bool{true, false} {
		victim := c.Nodes[0]
		if len(c.Nodes) > 1 {
			leader, other := leaderAndOther(t, c)
			if victim = other; leads {
				victim = leader
			}
		}
		everything.reset()
		began := time.Now()
		victim.Pause()
		if len(c.Nodes) > 1 {
			l.progress(20, time.Minute)
		}
		time.Sleep(max(0, pause-time.Since(began))) // it stands still for as long as asked
		victim.Resume()
		l.progress(20, time.Minute)
		g = append(g, everything.reset())
		c.AwaitReady(t, victim, true)
		if len(c.Nodes) == 1 {
			break
		}
	}
	l.finish()
	g.log(t, "a node stood still")
}

// TestBalancer kills HAProxy under the load of all protocols and starts it again: all clients lose their connections at once, come
// back, and nothing is lost.
func TestBalancer(t *testing.T) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodes(t)})
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	var g gaps
	for range 3 {
		everything.reset()
		c.Balancer.Kill()
		c.Balancer.Start(t)
		l.progress(20, time.Minute)
		g = append(g, everything.reset())
	}
	l.finish()
	g.log(t, "HAProxy was killed")
}

// TestLostDirectory kills each node in turn, removes its data and starts it: it copies everything from the others. In the end
// nothing is left but copies, of what came and went and of what nobody took meanwhile.
func TestLostDirectory(t *testing.T) {
	chaos(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: several(t)})
	leaveStanding(t, c.Nodes[0])
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	inTurn(t, c, l, crash, func(n *harness.ClusterNode) { removeData(t, n) })
	l.finish()
	checkStanding(t, c.Nodes[0])
}

func removeData(t *testing.T, n *harness.ClusterNode) {
	t.Helper()
	if err := os.RemoveAll(n.DataDir()); err != nil {
		t.Fatal(err)
	}
}

// damages are ways to do harm to a node's files: how it is ended, and what becomes of the bytes of those files whose path
// matches. The server reads its blocks after a crash, and goes by an index of them after an orderly stop.
var damages = []struct {
	kind  string
	end   func(n *harness.ClusterNode)
	files func(path string) bool
	harm  func(b []byte) []byte
}{
	{"all blocks are changed after a crash", crash, isBlock, changed},
	{"all blocks are changed after a stop", stop, isBlock, changed},
	{"all blocks are cut off", crash, isBlock, cut},
	{"blocks of messages are cut off after a stop", stop, func(path string) bool { return isBlock(path) && !isRaft(path) }, cut},
	{"the Raft state is changed", crash, isRaft, changed},
	{"the Raft state is cut off", crash, isRaft, cut},
	{"what tells of streams is changed", crash, func(path string) bool { return strings.Contains(filepath.Base(path), "meta.") }, changed},
}

func crash(n *harness.ClusterNode) { n.Kill() }

func stop(n *harness.ClusterNode) { n.Stop() }

func isBlock(path string) bool { return strings.HasSuffix(path, ".blk") }

// isRaft tells the files of the consensus, the cluster's own included, from those of streams.
func isRaft(path string) bool { return strings.Contains(path, "/$SYS/_js_/") }

// changed has other bytes in its middle.
func changed(b []byte) []byte {
	for i := len(b) / 3; i < min(len(b)/3+16, len(b)); i++ {
		b[i] ^= 0xff
	}
	return b
}

// cut ends in a record.
func cut(b []byte) []byte { return b[:len(b)*2/3] }

// TestDamagedDirectory ends each node in turn and damages its files. It either refuses to start, and says so, whereupon its data
// is removed as the manual says; or it repairs itself. In the end there is no node whose files were not damaged.
func TestDamagedDirectory(t *testing.T) {
	chaos(t)
	done := 0
	for _, d := range damages {
		if !chosen(d.kind) {
			continue
		}
		done++
		t.Run(d.kind, func(t *testing.T) {
			c := harness.NewCluster(t, harness.ClusterOptions{Nodes: several(t)})
			leaveStanding(t, c.Nodes[0])
			l := start(t, c, pace)
			l.progress(100, 2*time.Minute)
			inTurn(t, c, l, d.end, func(n *harness.ClusterNode) {
				t.Logf("%s: %d files", n.Name, damage(t, n.DataDir(), d.files, d.harm))
			})
			l.finish()
			checkStanding(t, c.Nodes[0])
		})
	}
	if done == 0 {
		t.Fatalf("nothing is called %q", os.Getenv("MQGATE_TEST_KIND"))
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// damage does harm to files, and returns to how many.
func damage(t *testing.T, dir string, chosen func(path string) bool, harm func([]byte) []byte) (files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !chosen(path) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return err
		}
		files++
		return os.WriteFile(path, harm(b), 0o600)
	})
	if err != nil || files == 0 {
		t.Fatalf("no file was damaged: %v", err)
	}
	return files
}

// TestFullDisk fills the disk of the leader, then that of another node, to the last
// byte. The node is not ready; what the cluster does goes on, and queues are made that
// it cannot copy; and with space the node comes back by itself, and has them.
func TestFullDisk(t *testing.T) {
	chaos(t)
	c, fill := clusterOnSmallDisks(t)
	l := start(t, c, pace)
	l.progress(50, time.Minute)
	var g gaps
	for _, leads := range []bool{true, false} {
		leader, victim := leaderAndOther(t, c)
		if leads {
			victim = leader
		}
		everything.reset()
		free := fill(victim)
		c.AwaitReady(t, victim, false)
		l.progress(20, time.Minute)
		made := fmt.Sprintf("/queue/made while %s has no room", victim.Name)
		_, up := leaderAndOther(t, c)
		if up == victim {
			up, _ = leaderAndOther(t, c)
		}
		w := login(t, up)
		for range 10 {
			w.MustConfirm(t, "SEND", []byte("x"), "destination:"+made, "persistent:true")
		}
		w.Close()
		free()
		c.AwaitReady(t, victim, true)
		c.AwaitCurrent(t)
		l.progress(20, time.Minute)
		g = append(g, everything.reset())
	}
	l.finish()
	g.log(t, "a disk was full")
}

// smallDisk is the size of a node's file system; its reserve is a quarter.
const smallDisk = 192 << 20

// clusterOnSmallDisks gives each node a file system of its own, in memory. Fill
// takes all the space of one, to the last byte, and returns what gives it back.
// Mounting needs a privilege that not everybody has.
func clusterOnSmallDisks(t *testing.T) (c *harness.Cluster, fill func(*harness.ClusterNode) (free func())) {
	t.Helper()
	n := several(t)
	base := harness.TempDir(t)
	if err := mount(t, filepath.Join(base, "probe")); err != nil {
		t.Skipf("no file system can be mounted: %v", err)
	}
	c = harness.NewCluster(t, harness.ClusterOptions{Nodes: n, Data: func(node string) (string, []string) {
		dir := filepath.Join(base, node)
		if err := mount(t, dir); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "data"), []string{fmt.Sprintf("storage.min_free_bytes=%d", smallDisk/4)}
	}})
	return c, func(victim *harness.ClusterNode) func() {
		file := filepath.Join(base, victim.Name, "filler")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zeros := make([]byte, 1<<20)
		for err == nil {
			_, err = f.Write(zeros)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		return func() { os.Remove(file) }
	}
}

func mount(t *testing.T, dir string) error {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
		return err
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return nil
}
