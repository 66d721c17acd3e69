package harness

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// HAProxyBinary is where Debian has it, which may not be in the path.
const HAProxyBinary = "/usr/sbin/haproxy"

// RequireHAProxy fails the test unless HAProxy is installed; a developer may skip.
func RequireHAProxy(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(HAProxyBinary); err == nil {
		return
	}
	text := "HAProxy is not installed (Debian: apt-get install haproxy; make test does it)"
	if os.Getenv("CI") == "" && os.Getenv(SkipVariable) == "1" {
		t.Skip(text)
	}
	t.Fatal(text)
}

// haproxyHead is what examples/cluster/haproxy.cfg has, with checks that are quick
// enough for a test.
const haproxyHead = `defaults
    mode tcp
    timeout connect 2s
    timeout client 7d
    timeout server 7d
    option clitcpka
    clitcpka-idle 15s
    clitcpka-intvl 15s
    clitcpka-cnt 3
    timeout check 1s
    balance leastconn
    option redispatch 1
    option httpchk GET /readyz?drain=404
    http-check disable-on-404
    default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions send-proxy-v2
`

// haproxy is a load balancer process.
type haproxy struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// startHAProxy balances each front over the nodes' listeners of its name; fronts
// are addresses by name.
func startHAProxy(t testing.TB, dir string, fronts map[string]string, nodes []*ClusterNode) *haproxy {
	t.Helper()
	RequireHAProxy(t)
	var cfg strings.Builder
	cfg.WriteString(haproxyHead)
	for name, address := range fronts {
		fmt.Fprintf(&cfg, "listen %s\n    bind %s\n", name, address)
		for _, n := range nodes {
			_, port, err := net.SplitHostPort(n.ports["admin"])
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&cfg, "    server %s %s check port %s\n", n.Name, n.ports[name], port)
		}
	}
	path := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(cfg.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &haproxy{cmd: exec.Command(HAProxyBinary, "-db", "-f", path)}
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.out
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.cmd.Process.Kill()
		h.cmd.Wait()
		if t.Failed() {
			t.Logf("HAProxy wrote:\n%s", tail(h.out.String()))
		}
	})
	for _, address := range fronts {
		Eventually(t, StartTimeout, func() error {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	return h
}
