package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
