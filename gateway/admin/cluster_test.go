package admin

import (
	"strings"
	"testing"
	"time"
)

func TestClusterAndDrain(t *testing.T) {
	f := newFixture(t)
	var c Cluster
	if code, body := f.do(true, request("GET", "/api/v1/cluster"), &c); code != 200 || c.Leader != "b" || c.LeaseAge != time.Second || len(c.Nodes) != 2 {
		t.Errorf("cluster %d %s", code, body)
	}
	var d DrainState
	if code, body := f.do(true, request("POST", "/api/v1/drain"), &d); code != 200 || f.drains != 1 || d.Connections["mqtt"] != 7 {
		t.Errorf("drain %d %s, %d times", code, body, f.drains)
	}
	// Neither is for strangers.
	for _, r := range []string{"GET /api/v1/cluster", "POST /api/v1/drain"} {
		method, path, _ := strings.Cut(r, " ")
		if code, _ := f.do(false, request(method, path), nil); code != 403 {
			t.Errorf("%s without a login: %d", r, code)
		}
	}
	if f.drains != 1 {
		t.Error("a stranger drained the node")
	}
}
