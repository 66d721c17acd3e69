package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestPHPWorkerExample runs examples/php-worker/run.sh as a user would, and reads
// from its output and queues what became of each job.
func TestPHPWorkerExample(t *testing.T) {
	t.Parallel()
	harness.PHP.Require(t)
	binary, err := harness.Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := harness.TempDir(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("./run.sh")
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Join("..", "examples", "php-worker"), log, log
	cmd.Env = append(harness.Environment(), "MQGATE="+binary, "JOBS=20", "STOMP_PORT="+freePort(t), "DATA_DIR="+filepath.Join(dir, "data"))
	// A group of its own: whatever it leaves behind can be ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }() // it has ended if all went well
	output := func() string {
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	defer func() {
		if t.Failed() {
			t.Log(output())
		}
	}()

	want := []string{"sent 20 jobs", "a job that nobody can read: to the dead letters"}
	for n := 1; n <= 20; n++ {
		switch {
		case n%10 == 0:
			want = append(want, fmt.Sprintf("job %d failed at attempt 4:", n))
		case n%5 == 0:
			want = append(want, fmt.Sprintf("job %d failed at attempt 2:", n), fmt.Sprintf("job %d done at attempt 3\n", n))
		default:
			want = append(want, fmt.Sprintf("job %d done at attempt 1\n", n))
		}
	}
	harness.Eventually(t, time.Minute, func() error {
		text := output()
		for _, w := range want {
			if !strings.Contains(text, w) {
				return fmt.Errorf("nothing says %q", w)
			}
		}
		return nil
	})
	harness.Eventually(t, 20*time.Second, func() error { // the last poison is on its way
		out, err := exec.Command(binary, "queue", "ls", "--set", "data_dir="+filepath.Join(dir, "data")).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "DLQ.jobs  queue  3 ") {
			return fmt.Errorf("the dead letters are not the three expected: %v\n%s", err, out)
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("run.sh: %v", err)
	}
	if text := output(); !strings.Contains(text, "worker stopped\n") || strings.Contains(text, "attempt 5") || strings.Contains(text, "Warning") {
		t.Error("the worker did not stop gracefully, delivered a job too often, or PHP complained")
	}
}

// freePort finds one for a program that cannot take port 0.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestPHPWorkerReconnects restarts the gateway twice below the example's worker, once
// with SIGKILL: it comes back, and finishes its work.
func TestPHPWorkerReconnects(t *testing.T) {
	t.Parallel()
	harness.PHP.Require(t)
	addr := net.JoinHostPort("127.0.0.1", freePort(t)) // the same one after each start
	b := harness.Start(t, "stomp.listen="+addr)
	log, err := os.Create(filepath.Join(b.Dir, "worker.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("php", filepath.Join("..", "examples", "php-worker", "worker.php"))
	cmd.Env = append(os.Environ(), "STOMP_BROKER=tcp://"+addr)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); _ = cmd.Wait() }() // it has ended if all went well
	done := func(id int) {
		t.Helper()
		harness.MustLogin(t, b.Addr()).MustConfirm(t, "SEND", fmt.Appendf(nil, `{"id":%d}`, id), "destination:/queue/jobs")
		harness.Eventually(t, 30*time.Second, func() error {
			text, err := os.ReadFile(log.Name())
			if err != nil || !strings.Contains(string(text), fmt.Sprintf("job %d done", id)) {
				return fmt.Errorf("job %d is not done: %v\n%s", id, err, text)
			}
			return nil
		})
	}
	done(1)
	b.Stop()
	b.Start()
	done(2)
	b.Kill()
	b.Start()
	done(3)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("worker: %v", err)
	}
}
