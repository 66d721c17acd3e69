package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/gateway/admin"
)

// clusterStatus runs the verb against a gateway that answers c.
func clusterStatus(t *testing.T, c admin.Cluster) result {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(c); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	return run(t, "", nil, "cluster", "status", "--url", s.URL)
}

// A node that is away is one line, however many streams there are.
func TestClusterStatusSumsUpReplicas(t *testing.T) {
	c := admin.Cluster{Name: "c", Leader: "a", Nodes: []admin.Node{{Name: "a", Reachable: true, Ready: true}, {Name: "b"}}}
	for i := range 5 {
		c.Streams = append(c.Streams, admin.Stream{Name: "Q", Leader: "a", Replicas: []admin.Replica{
			{Node: "b", Offline: i < 2, Lag: uint64(i)}, {Node: "c", Current: true}}})
	}
	c.Streams[4].Leader = ""
	r := clusterStatus(t, c)
	for _, want := range []string{"\nb: 2 of 5 replicas are offline; 3 of 5 replicas are not current, at most 4 operations behind\n", "\n1 of 5 streams have no leader now\n"} {
		if r.code != 3 || !strings.Contains(r.stdout, want) {
			t.Errorf("code %d, %q is not in:\n%s", r.code, want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "\nc:") || strings.Contains(r.stdout, "all replicas current") {
		t.Errorf("%s", r.stdout)
	}
}

// While nobody can say how the store is, a script that waits for the cluster waits on.
func TestClusterStatusWithoutStreamsIsNotWell(t *testing.T) {
	c := admin.Cluster{Name: "c", Leader: "a", Nodes: []admin.Node{{Name: "a", Reachable: true, Ready: true}}, StreamsProblem: "no responders"}
	if r := clusterStatus(t, c); r.code != 3 || !strings.Contains(r.stdout, "no responders") || !strings.Contains(r.stderr, "the store") {
		t.Errorf("%+v", r)
	}
}

// healthy is what a cluster of three says that lacks nothing.
func healthy() admin.Cluster {
	c := admin.Cluster{Name: "plant", Node: "n1", Leader: "n2", LeaseAge: 120 * time.Millisecond}
	for _, name := range []string{"n1", "n2", "n3"} {
		c.Nodes = append(c.Nodes, admin.Node{Name: name, Version: "1.0", Started: time.Now().Add(-time.Hour), Reachable: true, Leader: name == c.Leader,
			Ready: true, Checks: []admin.Check{{Name: "serving"}, {Name: "leader"}}, Connections: map[string]int{"stomp": 7}, StoreUsed: 3 << 20})
	}
	for _, name := range []string{"MQGATE_RECORDS", "Q_x"} {
		c.Streams = append(c.Streams, admin.Stream{Name: name, Leader: "n2", Replicas: []admin.Replica{{Node: "n1", Current: true}, {Node: "n3", Current: true}}})
	}
	return c
}

func TestClusterStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*admin.Cluster)
		code   int
		stdout []string // lines, without what the table pads
		stderr string
	}{
		{"all is well", func(*admin.Cluster) {}, 0, []string{
			"cluster plant: leader n2, lease renewed 120ms ago",
			"n1 edge yes 1.0 1h0m0s 7 0 0 3.0 MiB -",
			"n2 leader yes 1.0 1h0m0s 7 0 0 3.0 MiB -",
			"2 streams, all replicas current",
		}, ""},
		{"a single node", func(c *admin.Cluster) {
			*c = admin.Cluster{Node: "n1", Leader: "n1", Nodes: c.Nodes[:1]}
			c.Nodes[0].Leader = true
		}, 0, []string{"a single node", "n1 leader yes 1.0 1h0m0s 7 0 0 3.0 MiB -"}, ""},
		{"no leader is known", func(c *admin.Cluster) {
			c.Leader, c.Streams, c.Nodes = "", nil, c.Nodes[:1]
			c.Nodes[0].Ready, c.Nodes[0].Checks[1].Problem = false, "no contact with the majority of the cluster"
		}, 3, []string{
			"cluster plant: no leader is known",
			"n1 edge no 1.0 1h0m0s 7 0 0 3.0 MiB -",
			"n1: leader: no contact with the majority of the cluster",
		}, "not ready: no leader, n1"},
		{"no leader is known while nodes elect", func(c *admin.Cluster) {
			c.Leader, c.Nodes[1].Leader = "", false
		}, 3, []string{"cluster plant: no leader is known", "n2 edge yes 1.0 1h0m0s 7 0 0 3.0 MiB -"}, "not ready: no leader"},
		{"a node is unreachable", func(c *admin.Cluster) {
			c.Nodes[2] = admin.Node{Name: "n3"}
			for i := range c.Streams {
				c.Streams[i].Replicas[1] = admin.Replica{Node: "n3", Offline: true}
			}
		}, 3, []string{
			"n3 edge unreachable - - 0 0 0 0.0 MiB -",
			"n3: 2 of 2 replicas are offline",
		}, "not ready: n3, replicas of 2 streams"},
		{"a replica is behind", func(c *admin.Cluster) {
			c.Streams[1].Replicas[0] = admin.Replica{Node: "n1", Lag: 274}
		}, 3, []string{"n1: 1 of 2 replicas are not current, at most 274 operations behind"}, "not ready: replicas of 1 streams"},
		{"a replica lags by nothing and is not current", func(c *admin.Cluster) {
			c.Streams[1].Replicas[0] = admin.Replica{Node: "n1"}
		}, 3, []string{"n1: 1 of 2 replicas are not current, at most 0 operations behind"}, "not ready: replicas of 1 streams"},
		{"a replica is missing", func(c *admin.Cluster) {
			c.Streams[0].Missing, c.Streams[0].Replicas = 1, c.Streams[0].Replicas[:1]
		}, 3, []string{"1 of 2 streams have fewer replicas than they should"}, "not ready: replicas of 1 streams"},
		{"a stream has no leader", func(c *admin.Cluster) {
			c.Streams[0].Leader = ""
		}, 3, []string{"1 of 2 streams have no leader now"}, "not ready: replicas of 1 streams"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := healthy()
			tt.edit(&c)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/cluster" {
					t.Errorf("asked for %s", r.URL)
				}
				_ = json.NewEncoder(w).Encode(c) // the client fails if it does not come
			}))
			defer s.Close()
			got := run(t, "", nil, "cluster", "status", "--url", s.URL)
			if got.code != tt.code {
				t.Errorf("exit code %d, want %d", got.code, tt.code)
			}
			var lines []string
			for l := range strings.Lines(got.stdout) {
				lines = append(lines, strings.Join(strings.Fields(l), " "))
			}
			text := "\n" + strings.Join(lines, "\n") + "\n"
			for _, want := range tt.stdout {
				if !strings.Contains(text, "\n"+want+"\n") {
					t.Errorf("there is no line %q in\n%s", want, got.stdout)
				}
			}
			if tt.code != 0 && strings.Contains(text, "all replicas current") && strings.Contains(tt.stderr, "replicas") {
				t.Errorf("it says that all is well:\n%s", got.stdout)
			}
			if strings.TrimSpace(got.stderr) != tt.stderr && strings.TrimSpace(got.stderr) != "mqgate: "+tt.stderr {
				t.Errorf("stderr %q, want %q", got.stderr, tt.stderr)
			}
			js := run(t, "", nil, "cluster", "status", "--url", s.URL, "--output", "json")
			if js.code != tt.code || !strings.HasPrefix(js.stdout, "{") {
				t.Errorf("as JSON: exit code %d, %q", js.code, js.stdout)
			}
		})
	}
}

func TestClusterStatusWithoutAGateway(t *testing.T) {
	s := httptest.NewServer(nil)
	url := s.URL
	s.Close()
	if got := run(t, "", nil, "cluster", "status", "--url", url); got.code != 1 || !strings.Contains(got.stderr, "is the gateway running?") {
		t.Errorf("exit code %d, %q", got.code, got.stderr)
	}
}
