package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// example is the directory of examples/cluster.
var example = filepath.Join("..", "..", "examples", "cluster")

// lockedBuffer is output that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.buf.String() }

// freePorts returns the first of n ports in a row that nobody has; outgoing connections have higher ones.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 1000 {
		first, free := 20000+rand.IntN(12000-n), true
		for p := first; p < first+n && free; p++ {
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", p))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

// running is examples/cluster while run.sh runs.
type running struct {
	t                 *testing.T
	binary, dir       string
	base              int
	stomp, mqtt, http string // of HAProxy
	out               lockedBuffer
	read              int // how much of it the test has put behind it
	cmd               *exec.Cmd
	ended             chan error
}

// runExample runs run.sh as a user would, and waits until it says that the nodes are ready.
func runExample(t *testing.T) *running {
	t.Helper()
	harness.RequireHAProxy(t)
	binary, err := harness.PlainBinary()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, binary: binary, dir: harness.TempDir(t), base: freePorts(t, 50), ended: make(chan error, 1)}
	for i, address := range []*string{&r.stomp, &r.mqtt, &r.http} {
		*address = fmt.Sprint("127.0.0.1:", r.base+1+i)
	}
	r.cmd = r.program("./run.sh")
	r.cmd.Env = append(r.cmd.Env, "MQGATE="+binary, "DIR="+r.dir, fmt.Sprint("BASE=", r.base),
		fmt.Sprint("LB_STOMP=", r.base+1), fmt.Sprint("LB_MQTT=", r.base+2), fmt.Sprint("LB_HTTP=", r.base+3))
	// A group of its own: whatever it leaves behind can be ended.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // it has ended if all went well
		if t.Failed() {
			t.Log(r.out.String())
		}
	})
	r.says("STOMP on " + r.stomp)
	return r
}

// program is one that writes where run.sh does.
func (r *running) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = example, &r.out, &r.out, harness.Environment()
	return cmd
}

// mark has says look only at what is written from now on.
func (r *running) mark() { r.read = len(r.out.String()) }

// says waits until the nodes or HAProxy have written all texts.
func (r *running) says(texts ...string) {
	r.t.Helper()
	harness.Eventually(r.t, time.Minute, func() error {
		select {
		case err := <-r.ended:
			r.ended <- err
			r.t.Fatalf("run.sh ended: %v", err)
		default:
		}
		for _, text := range texts {
			if !strings.Contains(r.out.String()[r.read:], text) {
				return errorf("nobody wrote %q", text)
			}
		}
		return nil
	})
}

// balancer waits until HAProxy says something of a node in all three protocols.
func (r *running) balancer(node, state string) {
	r.t.Helper()
	r.says("Server stomp/"+node+" "+state, "Server mqtt/"+node+" "+state, "Server http/"+node+" "+state)
}

func (r *running) data(node string) string { return filepath.Join(r.dir, node) }

// verb runs mqgate on a node.
func (r *running) verb(node string, args ...string) (code int, text string) {
	r.t.Helper()
	cmd := exec.Command(r.binary, append(args, "--set", "data_dir="+r.data(node))...)
	cmd.Env = harness.Environment()
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// login connects through HAProxy.
func (r *running) login() (*harness.Wire, error) {
	return harness.Login(r.stomp, "login:demo", "passcode:demo")
}

// admin asks a node itself.
func (r *running) admin(node, path string) (*http.Response, error) {
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.data(node), "admin.sock"))
		}}}
	return c.Get("http://node" + path)
}

// knows reports whether the nodes have a client with an address.
func (r *running) knows(address string) bool {
	r.t.Helper()
	resp, err := r.admin("n1", "/api/v1/connections")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []struct{ Remote string }
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		r.t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(c struct{ Remote string }) bool { return c.Remote == address })
}

// clients counts the STOMP connections of each node that runs.
func (r *running) clients() map[string]int {
	r.t.Helper()
	counts := map[string]int{}
	for _, n := range []string{"n1", "n2", "n3"} {
		resp, err := r.admin(n, "/metrics")
		if err != nil {
			continue // it is down
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			var count int
			if k, _ := fmt.Sscanf(lines.Text(), `mqgate_connections{protocol="stomp"} %d`, &count); k == 1 {
				counts[n] = count
			}
		}
		resp.Body.Close()
	}
	return counts
}

// joins connects a client that stays, and names the node that HAProxy gave it to.
func (r *running) joins() (w *harness.Wire, node string) {
	r.t.Helper()
	before := r.clients()
	w, err := r.login()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(w.Close)
	for n, count := range r.clients() {
		if count > before[n] {
			node = n
		}
	}
	return w, node
}

// chat gets the page of the chat through HAProxy.
func (r *running) chat() {
	r.t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + r.http + "/chat/")
	if err != nil {
		r.t.Error(err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.t.Errorf("/chat/: %s", resp.Status)
	}
}

// TestExample runs examples/cluster/run.sh as a user would and sends through HAProxy. It kills a node, starts it again, and drains
// another: HAProxy sees each, and everything goes on, a client of another protocol too.
func TestExample(t *testing.T) {
	r := runExample(t)
	var w *harness.Wire
	connect := func() (err error) { w, err = r.login(); return err }
	harness.Eventually(t, time.Minute, connect) // HAProxy may still be looking for nodes
	w.MustConfirm(t, "SEND", []byte("before"), "destination:/queue/example")
	if address := w.Socket.LocalAddr().String(); !r.knows(address) {
		t.Errorf("no node knows the client's own address %s", address)
	}
	w.Close()
	r.chat()
	if code, text := r.verb("n1", "cluster", "status"); code != 0 || !strings.Contains(text, "cluster example: leader n") || !strings.Contains(text, "all replicas current") {
		t.Errorf("mqgate cluster status: %d %s", code, text)
	}

	r.mark()
	again := r.kill("n2")
	r.balancer("n2", "is DOWN")
	for range 3 { // as many as there are nodes
		r.chat()
	}
	harness.Eventually(t, time.Minute, func() error {
		if err := connect(); err != nil {
			return err
		}
		defer w.Close()
		if err := w.Write("SEND", []byte("after"), "destination:/queue/example", "receipt:r", "x-dedup-id:after"); err != nil {
			return err
		}
		if f, err := w.Read(patience); err != nil || f.Command != "RECEIPT" {
			return errorf("%v, %w", f, err)
		}
		return nil
	})
	harness.Eventually(t, time.Minute, func() error {
		if code, text := r.verb("n1", "cluster", "status"); code != 3 || !strings.Contains(text, "not ready: n2") || !strings.Contains(text, "n2: ") {
			return errorf("mqgate cluster status without n2: %d %s", code, text)
		}
		return nil
	})
	r.takes("before", "after")

	r.mark()
	r.start(again)
	r.balancer("n2", "is UP")
	r.drains("n3")
	r.stop()
}

// takes receives messages of the queue by MQTT.
func (r *running) takes(bodies ...string) {
	r.t.Helper()
	var m *harness.MQTT
	harness.Eventually(r.t, time.Minute, func() (err error) {
		m, err = harness.DialMQTT(r.mqtt, harness.MQTTOptions{ClientID: "c", User: "demo", Password: "demo"})
		return err
	})
	defer m.Close()
	if err := m.Subscribe(1, "$queue/example"); err != nil {
		r.t.Fatal(err)
	}
	for _, want := range bodies {
		pk, err := m.Message(time.Minute)
		if err != nil || string(pk.Payload) != want {
			r.t.Fatalf("got %v, %v; want %s", pk, err, want)
		}
		if err := m.Settle(pk); err != nil {
			r.t.Fatal(err)
		}
	}
}

// drains sends the clients of a node away: HAProxy hears it, and gives the node no new ones, while the old ones are served on.
func (r *running) drains(node string) {
	r.t.Helper()
	var old *harness.Wire
	harness.Eventually(r.t, time.Minute, func() error { // HAProxy gives each to the node that has the fewest
		w, n := r.joins()
		if old = w; n != node {
			return errorf("connected to %s, waiting for one on %s", n, node)
		}
		return nil
	})
	r.mark()
	if code, text := r.verb(node, "drain", "--no-wait"); code != 0 {
		r.t.Fatalf("mqgate drain: %d %s", code, text)
	}
	for path, want := range map[string]int{"/readyz": http.StatusServiceUnavailable, "/readyz?drain=404": http.StatusNotFound} {
		resp, err := r.admin(node, path)
		if err != nil {
			r.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			r.t.Errorf("%s of a node that is drained: %s", path, resp.Status)
		}
	}
	r.balancer(node, "is stopping")
	old.MustConfirm(r.t, "SEND", []byte("drained"), "destination:/queue/example")
	for range 6 {
		if _, n := r.joins(); n == node || n == "" {
			r.t.Errorf("a new client came to %q while %s is drained", n, node)
		}
	}
	last, _ := old.ReadToEnd()
	if last == nil || last.Command != "ERROR" || !strings.Contains(last.Headers["message"], "shutting down") {
		r.t.Errorf("the old client was sent away with %v", last)
	}
	r.takes("drained")
}

// stop ends the example as Ctrl-C does.
func (r *running) stop() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	select {
	case err := <-r.ended:
		if err != nil {
			r.t.Errorf("run.sh ended with %v", err)
		}
	case <-time.After(harness.StopTimeout):
		r.t.Error("run.sh did not end")
	}
}

// start runs a node again that was killed, with its old arguments.
func (r *running) start(argv []string) {
	r.t.Helper()
	cmd := r.program(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// kill ends a node with SIGKILL, and returns how it was started.
func (r *running) kill(node string) (argv []string) {
	r.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "\x00data_dir="+r.data(node)+"\x00") || !strings.Contains(string(text), "\x00serve\x00") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil {
			r.t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			r.t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	}
	r.t.Fatalf("no process has the data directory %s", r.data(node))
	return nil
}
