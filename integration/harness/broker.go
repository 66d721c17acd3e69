package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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
)

// Deadlines after which a test gives up. They are far above what is needed: no
// test measures with them.
const (
	StartTimeout = 60 * time.Second
	StopTimeout  = 60 * time.Second
)

// Broker is a gateway process and its data directory. Its methods fail the test
// rather than return errors. Addr and URL may be called while another goroutine
// restarts it.
type Broker struct {
	// Dir holds the data directory and the logs; it is removed when the test ends.
	Dir string
	// Set are the settings of the next start, key=value, behind those that give the
	// data directory and free ports.
	Set []string
	// Config is the configuration file of the next start, if any.
	Config string
	// AllowErrors accepts log lines of level ERROR.
	AllowErrors bool

	t      testing.TB
	binary string
	starts int

	mu    sync.Mutex
	proc  *process
	told  *process          // to end
	addrs map[string]string // by name of the listener
}

// process is one life of a gateway.
type process struct {
	cmd   *exec.Cmd
	log   string // path
	ended chan struct{}
	state error // of Wait, once ended is closed
}

// Start starts a gateway with a fresh data directory and waits until it is ready.
func Start(t testing.TB, set ...string) *Broker {
	t.Helper()
	b := New(t, set...)
	b.Start()
	return b
}

// StartPlain is Start without the race detector.
func StartPlain(t testing.TB, set ...string) *Broker {
	t.Helper()
	b := New(t, set...)
	path, err := PlainBinary()
	if err != nil {
		t.Fatal(err)
	}
	b.binary = path
	b.Start()
	return b
}

// New prepares a gateway without starting it.
func New(t testing.TB, set ...string) *Broker {
	t.Helper()
	path, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{Dir: TempDir(t), Set: set, t: t, binary: path}
	t.Cleanup(b.finish)
	return b
}

// TempDir makes a directory with a short path: those of Unix sockets are limited
// to about 100 bytes, which t.TempDir with a long test name can exceed.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// DataDir is the gateway's data directory.
func (b *Broker) DataDir() string { return filepath.Join(b.Dir, "data") }

// args are those of serve.
func (b *Broker) args() []string {
	args := []string{"serve"}
	if b.Config != "" {
		args = append(args, "--config", b.Config)
	}
	base := []string{"data_dir=" + b.DataDir(), "stomp.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0",
		"mqtt.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "log.format=json"}
	for _, s := range append(base, b.Set...) {
		args = append(args, "--set", s)
	}
	return args
}

// Start starts the process and waits until it is ready.
func (b *Broker) Start() {
	b.t.Helper()
	if err := b.launch(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.awaitReady(); err != nil {
		b.t.Fatal(err)
	}
}

// awaitReady waits until the process says that it is ready.
func (b *Broker) awaitReady() error {
	p := b.process()
	began := time.Now()
	for !b.sawReady(p) {
		select {
		case <-p.ended:
			return fmt.Errorf("the gateway ended at its start: %w\n%s", p.state, readLog(p.log))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(began) > StartTimeout {
			return fmt.Errorf("the gateway is not ready after %s\n%s", StartTimeout, readLog(p.log))
		}
	}
	return nil
}

// Pause stops the process where it stands, with SIGSTOP; Resume has it go on.
func (b *Broker) Pause() { b.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (b *Broker) Resume() { b.signal(syscall.SIGCONT) }

func (b *Broker) signal(s syscall.Signal) {
	if err := b.process().cmd.Process.Signal(s); err != nil {
		b.t.Errorf("%s: %v", s, err)
	}
}

func (b *Broker) launch() error {
	b.starts++
	p := &process{log: filepath.Join(b.Dir, fmt.Sprintf("log.%d", b.starts)), ended: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer out.Close()
	p.cmd = exec.Command(b.binary, b.args()...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = b.Dir, out, out
	p.cmd.Env = Environment()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { p.state = p.cmd.Wait(); close(p.ended) }() // joined by Kill, Wait or Refused
	b.mu.Lock()
	b.proc, b.addrs = p, nil
	b.mu.Unlock()
	return nil
}

// Environment has the race detector end the process at the first race, and not
// wait a second at its exit. What is meant for tests is not for the gateway, which
// refuses what it does not know.
func Environment() []string {
	own := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MQGATE_TEST_") })
	return append(own, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
}

func (b *Broker) process() *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.proc
}

// sawReady reads the log for the addresses and the line that says ready.
func (b *Broker) sawReady(p *process) bool {
	addrs, ready := map[string]string{}, false
	for line := range bytes.Lines([]byte(readLog(p.log))) {
		var l struct{ Msg, Listener, Address string }
		if json.Unmarshal(line, &l) != nil {
			continue
		}
		switch l.Msg {
		case "listening":
			addrs[l.Listener] = l.Address
		case "ready":
			ready = true
		}
	}
	if ready {
		b.mu.Lock()
		b.addrs = addrs
		b.mu.Unlock()
	}
	return ready
}

// Addr is the address of the main STOMP listener; empty while the gateway is down.
func (b *Broker) Addr() string { return b.ListenerAddr("stomp") }

// ListenerAddr is the address of a listener by its name in the log, "" if there is
// none now.
func (b *Broker) ListenerAddr(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addrs[name]
}

// PID is the process id.
func (b *Broker) PID() int { return b.process().cmd.Process.Pid }

// Log is what the current or last process wrote.
func (b *Broker) Log() string { return readLog(b.process().log) }

func readLog(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (b *Broker) Kill() {
	p := b.process()
	b.down()
	p.cmd.Process.Kill()
	<-p.ended
}

// Terminate sends SIGTERM; Wait tells when it has done.
func (b *Broker) Terminate() {
	p := b.process()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Errorf("SIGTERM: %v", err)
	}
	b.mu.Lock()
	b.told = p
	b.mu.Unlock()
}

// Wait waits for the end and returns the exit code, -1 after a signal.
func (b *Broker) Wait() int {
	b.t.Helper()
	p := b.process()
	select {
	case <-p.ended:
	case <-time.After(StopTimeout):
		b.t.Errorf("the gateway runs %s after it was told to stop\n%s", StopTimeout, tail(readLog(p.log)))
		p.cmd.Process.Kill()
		<-p.ended
	}
	b.down()
	return p.cmd.ProcessState.ExitCode()
}

func (b *Broker) down() {
	b.mu.Lock()
	b.addrs = nil
	b.mu.Unlock()
}

// Stop drains and expects a clean end.
func (b *Broker) Stop() {
	b.t.Helper()
	b.mu.Lock()
	told := b.told == b.proc // a second signal would end it at once
	b.mu.Unlock()
	if !told {
		b.Terminate()
	}
	if code := b.Wait(); code != 0 {
		b.t.Errorf("after SIGTERM the gateway ended with %d\n%s", code, tail(b.Log()))
	}
}

// finish ends what still runs, and reads the logs for what must never be there.
func (b *Broker) finish() {
	if p := b.process(); p != nil {
		select {
		case <-p.ended:
		default:
			b.Stop()
		}
	}
	for i := 1; i <= b.starts; i++ {
		text := readLog(filepath.Join(b.Dir, fmt.Sprintf("log.%d", i)))
		b.keepLog(i, text)
		for _, bad := range []string{"WARNING: DATA RACE", "panic:", "panicked", "fatal error:"} {
			if at := strings.Index(text, bad); at >= 0 {
				b.t.Errorf("the gateway logged %q:\n%s", bad, tail(text[max(0, at-500):min(len(text), at+6000)]))
			}
		}
		if !b.AllowErrors {
			for line := range strings.Lines(text) {
				if strings.Contains(line, `"level":"ERROR"`) {
					b.t.Errorf("the gateway logged an error: %s", line)
				}
			}
		}
	}
	if b.t.Failed() && b.process() != nil {
		b.t.Logf("log of the gateway, its end:\n%s", tail(b.Log()))
	}
}

// keepLog writes a log into the directory that MQGATE_TEST_LOGS names, if it does: for faults that need all of it.
func (b *Broker) keepLog(start int, text string) {
	dir := os.Getenv("MQGATE_TEST_LOGS")
	if dir == "" {
		return
	}
	name := strings.ReplaceAll(strings.Trim(b.Dir, "/"), "/", "_")
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%d.log", name, start)), []byte(text), 0o600); err != nil {
		b.t.Error(err)
	}
}

func tail(s string) string { return s[max(0, len(s)-6000):] }

// Refused runs a gateway that is expected not to start, and returns its exit code
// and what it wrote.
func (b *Broker) Refused() (code int, text string) {
	b.t.Helper()
	if err := b.launch(); err != nil {
		b.t.Fatal(err)
	}
	p := b.process()
	select {
	case <-p.ended:
	case <-time.After(StartTimeout):
		b.t.Errorf("the gateway started, or waits: it should have refused\n%s", tail(readLog(p.log)))
		p.cmd.Process.Kill()
		<-p.ended
	}
	return p.cmd.ProcessState.ExitCode(), readLog(p.log)
}

// Command runs another verb of the binary, such as queue ls, with input on its
// standard input.
func (b *Broker) Command(input string, args ...string) (code int, stdout, stderr string) {
	b.t.Helper()
	cmd := exec.Command(b.binary, args...)
	var out, errs bytes.Buffer
	cmd.Env = Environment()
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = b.Dir, strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// Queue runs a verb of "mqgate queue" on this gateway and returns what it printed;
// the test fails if the verb does.
func (b *Broker) Queue(args ...string) string {
	b.t.Helper()
	code, out, errs := b.Command("", append(append([]string{"queue"}, args...), "--set", "data_dir="+b.DataDir())...)
	if code != 0 {
		b.t.Fatalf("mqgate queue %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// Depths is what "mqgate queue info" says of a queue.
type Depths struct{ Depth, Ready, Unacked, Delayed, Consumers int }

// Depths returns how full a queue is; zero if there is no such queue.
func (b *Broker) Depths(queue string) Depths {
	b.t.Helper()
	return b.AllDepths()[queue]
}

// AllDepths returns how full each queue is.
func (b *Broker) AllDepths() map[string]Depths {
	b.t.Helper()
	var all []struct {
		Name string
		Depths
	}
	if err := json.Unmarshal([]byte(b.Queue("ls", "-o", "json")), &all); err != nil {
		b.t.Fatalf("mqgate queue ls: %v", err)
	}
	out := map[string]Depths{}
	for _, q := range all {
		out[q.Name] = q.Depths
	}
	return out
}

// Metrics is what the admin listener, which must be set, says at /metrics.
func (b *Broker) Metrics() (string, error) {
	resp, err := http.Get("http://" + b.ListenerAddr("admin") + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// RSS is the resident memory of the process in bytes.
func (b *Broker) RSS() int64 {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.PID()))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	b.t.Fatal("no VmRSS in /proc")
	return 0
}

// Eventually polls until f returns nil, and fails the test with its last error
// after limit.
func Eventually(t testing.TB, limit time.Duration, f func() error) {
	t.Helper()
	end := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still after %s: %v", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
