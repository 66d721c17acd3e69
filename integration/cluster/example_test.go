package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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

// TestExample runs examples/cluster/run.sh as a user would, sends through HAProxy,
// kills a node, and has everything and a client of another protocol go on.
func TestExample(t *testing.T) {
	harness.RequireHAProxy(t)
	binary, err := harness.PlainBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := harness.TempDir(t)
	base := freePorts(t, 50)
	stomp, mqtt := fmt.Sprint("127.0.0.1:", base+1), fmt.Sprint("127.0.0.1:", base+2)
	var out lockedBuffer
	cmd := exec.Command("./run.sh")
	cmd.Dir, cmd.Stdout, cmd.Stderr = example, &out, &out
	cmd.Env = append(harness.Environment(), "MQGATE="+binary, "DIR="+dir, fmt.Sprint("BASE=", base),
		fmt.Sprint("LB_STOMP=", base+1), fmt.Sprint("LB_MQTT=", base+2), fmt.Sprint("LB_HTTP=", base+3))
	// A group of its own: whatever it leaves behind can be ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }() // it has ended if all went well
	defer func() {
		if t.Failed() {
			t.Log(out.String())
		}
	}()
	harness.Eventually(t, harness.StartTimeout, func() error {
		if !strings.Contains(out.String(), "STOMP on "+stomp) {
			return errorf("not ready: %s", out.String())
		}
		return nil
	})
	login := []string{"login:demo", "passcode:demo"}
	var w *harness.Wire
	connect := func() error {
		var err error
		w, err = harness.Login(stomp, login...)
		return err
	}
	harness.Eventually(t, time.Minute, connect) // HAProxy may still be looking for nodes
	w.MustConfirm(t, "SEND", []byte("before"), "destination:/queue/example")
	w.Close()
	status := func() (code int, text string) {
		verb := exec.Command(binary, "cluster", "status", "--set", "data_dir="+filepath.Join(dir, "n1"))
		verb.Env = harness.Environment()
		b, err := verb.CombinedOutput()
		if verb.ProcessState == nil {
			t.Fatal(err)
		}
		return verb.ProcessState.ExitCode(), string(b)
	}
	if code, text := status(); code != 0 || !strings.Contains(text, "cluster example: leader n") || !strings.Contains(text, "all replicas current") {
		t.Errorf("mqgate cluster status: %d %s", code, text)
	}
	kill(t, filepath.Join(dir, "n2"))
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
		if code, text := status(); code != 3 || !strings.Contains(text, "not ready: n2") || !strings.Contains(text, "n2: ") {
			return errorf("mqgate cluster status without n2: %d %s", code, text)
		}
		return nil
	})
	var m *harness.MQTT
	harness.Eventually(t, time.Minute, func() (err error) {
		m, err = harness.DialMQTT(mqtt, harness.MQTTOptions{ClientID: "c", User: "demo", Password: "demo"})
		return err
	})
	defer m.Close()
	if err := m.Subscribe(1, "$queue/example"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before", "after"} {
		pk, err := m.Message(time.Minute)
		if err != nil || string(pk.Payload) != want {
			t.Fatalf("got %v, %v; want %s", pk, err, want)
		}
		if err := m.Settle(pk); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("run.sh ended with %v", err)
		}
	case <-time.After(harness.StopTimeout):
		t.Error("run.sh did not end")
	}
}

// kill ends the process that has a data directory, with SIGKILL.
func kill(t *testing.T, data string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "\x00data_dir="+data+"\x00") || !strings.Contains(string(text), "\x00serve\x00") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no process has the data directory %s", data)
}
