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

// HAProxy is a load balancer.
type HAProxy struct {
	config string // path
	fronts map[string]string
	cmd    *exec.Cmd
	out    bytes.Buffer // of all its lives
}

// startHAProxy balances each front over the nodes' listeners of its name; fronts
// are addresses by name.
func startHAProxy(t testing.TB, dir string, fronts map[string]string, nodes []*ClusterNode) *HAProxy {
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
	h := &HAProxy{config: filepath.Join(dir, "haproxy.cfg"), fronts: fronts}
	if err := os.WriteFile(h.config, []byte(cfg.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() {
			t.Logf("HAProxy wrote:\n%s", tail(h.out.String()))
		}
	})
	h.Start(t)
	return h
}

// Start starts it, and waits until it listens.
func (h *HAProxy) Start(t testing.TB) {
	t.Helper()
	h.cmd = exec.Command(HAProxyBinary, "-db", "-f", h.config)
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.out
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, address := range h.fronts {
		Eventually(t, StartTimeout, func() error {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
}

// Kill ends it with SIGKILL, and all connections with it.
func (h *HAProxy) Kill() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
}
