package jetstream

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// Another secret is told of once a minute for each host, by the keys to look at; the server's own words come several times a second.
func TestStrangersAreToldOfByTheKey(t *testing.T) {
	var out bytes.Buffer
	l := newServerLog(slog.New(slog.NewTextHandler(&out, nil)))
	for _, text := range []string{
		`10.0.0.3:37514 - rid:20 - authentication error - User "mqgate"`,
		`10.0.0.3:37502 - rid:21 - authentication error - User "mqgate"`,
		"10.0.0.4:6222 - rid:24 - Route Error 'Authorization Violation'",
		"10.0.0.4:6222 - rid:25 - Route Error 'Authorization Violation'",
		"10.1.0.1:7422 - lid:5 - Leafnode Error 'Authorization Violation'",
	} {
		l.Errorf("%s", text)
	}
	l.Errorf("%s", "something else")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{"cluster.secret_file", "cluster.secret_file", "federation.secret_file", "something else"} {
		if len(lines) != 4 || !strings.Contains(lines[i], want) {
			t.Fatalf("line %d is to have %q:\n%s", i, want, out.String())
		}
	}
	for i, want := range []string{"10.0.0.3", "10.0.0.4", "10.1.0.1"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d does not name %s: %s", i, want, lines[i])
		}
	}
}

// So are nodes with one name, which are machines with one host name where node_name is not set.
func TestNamesakesAreToldOfByTheKey(t *testing.T) {
	var out bytes.Buffer
	l := newServerLog(slog.New(slog.NewTextHandler(&out, nil)))
	for range 3 {
		l.Errorf("%s", `127.0.0.1:45074 - rid:16 - Remote server has a duplicate name: "n2"`)
		l.Errorf("%s", `127.0.0.1:45074 - rid:16 - processRemoteSub Parse Error: 'R $SYS.SERVER.*.SHUTDOWN'`)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "node_name must differ") || !strings.Contains(out.String(), "node_name=n2") {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}

// What the server warns of whenever a node comes back is no warning; anything else it warns of is.
func TestRoutineIsNoWarning(t *testing.T) {
	var out bytes.Buffer
	l := newServerLog(slog.New(slog.NewTextHandler(&out, nil)))
	for range 50 {
		l.Warnf("Filestore [%s] Stream state outdated, last block has additional entries, will rebuild", "S-R3F-x")
		l.Warnf("Catchup for stream '%s > %s' resetting first sequence: %d on catchup request", "$G", "Q_1", 2)
	}
	l.Warnf("Filestore [%s] %s", "Q_1", "checksum mismatch")
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "level=WARN") || !strings.Contains(out.String(), "checksum") {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}
