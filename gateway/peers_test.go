package gateway

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/mqgate/mqgate/gateway/admin"
	"github.com/mqgate/mqgate/router/jetstream"
)

func TestNodesThatDoNotAnswerAreListed(t *testing.T) {
	c := admin.Cluster{
		Nodes: []admin.Node{{Name: "a", Reachable: true}, {Name: "edge", Reachable: true}},
		Streams: []admin.Stream{
			{Name: "Q_1", Leader: "a", Replicas: []admin.Replica{{Node: "b"}, {Node: "c", Offline: true}}},
			{Name: "Q_2", Replicas: []admin.Replica{{Node: "b"}}},
		},
	}
	got := silentNodes(c)
	if len(got) != 2 || got[0].Name != "b" || got[1].Name != "c" || got[0].Reachable || got[1].Ready {
		t.Errorf("silent nodes %+v", got)
	}
}

// While nobody knows yet that the leader has died there may be no list of streams to find it in.
func TestALeaderThatDoesNotAnswerIsListed(t *testing.T) {
	got := silentNodes(admin.Cluster{Leader: "b", Nodes: []admin.Node{{Name: "a", Reachable: true}}})
	if len(got) != 1 || got[0].Name != "b" || got[0].Reachable {
		t.Errorf("silent nodes %+v", got)
	}
}

// A node answers for itself among the others, and the leader is marked.
func TestClusterHasTheNodesAnswers(t *testing.T) {
	g := open(t, load(t, "node_name=a"))
	g.cfg.Cluster.Listen = "10.0.0.1:6222"
	run(t, g)
	n, err := jetstream.StartNode(jetstream.Options{Dir: t.TempDir(), NodeName: "a", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := g.joinPeers(n, func() (string, time.Duration) { return "a", 300 * time.Millisecond }); err != nil {
		t.Fatal(err)
	}
	c, err := g.cluster(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if c.Leader != "a" || c.LeaseAge != 300*time.Millisecond || len(c.Nodes) != 1 {
		t.Fatalf("cluster %+v", c)
	}
	if a := c.Nodes[0]; !a.Leader || !a.Reachable || a.Version != "test" || a.Address != "10.0.0.1:6222" || a.Connections["stomp"] != 0 || len(a.Checks) < 4 {
		t.Errorf("node %+v", a)
	}
	g.peers.status.Close()
}

// natsAlone runs a NATS of one server until the test ends.
func natsAlone(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("NATS is not ready")
	}
	return s
}

// Gateways on a NATS that is one server are several nodes, and have no replicas to tell of. When that NATS is away, a node tells
// of itself, and that the store cannot be looked at. That the local disk is nearly full is nothing to it.
func TestClusterOnExternalNATS(t *testing.T) {
	s := natsAlone(t)
	var log lockedBuffer
	g, err := New(load(t, "node_name=a", "nats.url=nats://"+s.Addr().String(), "storage.min_free_bytes=1000TiB"), Deps{Log: slog.New(slog.NewTextHandler(&log, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, g)
	awaitReady(t, g, "")
	c, err := g.cluster(t.Context())
	if err != nil || c.Name == "" || len(c.Streams) != 0 || c.StreamsProblem != "" || len(c.Nodes) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	s.Shutdown()
	s.WaitForShutdown()
	awaitReady(t, g, "nats.url")
	if c, err := g.cluster(t.Context()); err != nil || c.StreamsProblem == "" || len(c.Nodes) != 1 || c.Nodes[0].Ready {
		t.Errorf("without NATS: %+v, %v", c, err)
	}
	const gone = `level=WARN msg="the leader of the cluster is gone, or out of reach`
	for end := time.Now().Add(time.Minute); !strings.Contains(log.String(), gone); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log has no warning that the leader is gone:\n%s", log.String())
		}
	}
}
