package browsertest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	cleanup, err := harness.Setup()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cleanup()
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// TestChatInThreeBrowsers plays the scenes of chat.mjs, in which each line of its
// output is one thing that was seen to work.
func TestChatInThreeBrowsers(t *testing.T) {
	stompAddr, mqttAddr, httpAddr := freeAddress(t), freeAddress(t), freeAddress(t)
	// The ports stay the same over restarts.
	b := harness.Start(t, "stomp.listen="+stompAddr, "mqtt.listen="+mqttAddr, "http.listen="+httpAddr)
	control := controlOf(b)
	defer control.Close()
	_, mqttPort, _ := net.SplitHostPort(mqttAddr)
	scripts, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	play(t, "chat.mjs", "GATEWAY=http://"+httpAddr, "CONTROL="+control.URL, "MQTT_PORT="+mqttPort, "STOMP=tcp://"+stompAddr,
		"SCRIPTS="+scripts, "CHROMIUM="+cmp.Or(os.Getenv("CHROMIUM"), "/usr/bin/chromium"))
}

// controlOf lets a script kill the gateway and start it again.
func controlOf(b *harness.Broker) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /kill", func(http.ResponseWriter, *http.Request) { b.Kill() })
	mux.HandleFunc("POST /start", func(http.ResponseWriter, *http.Request) { b.Start() })
	return httptest.NewServer(mux)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// play runs a script beside the npm packages that it imports; the test fails unless
// the script ends with 0.
func play(t *testing.T, script string, env ...string) {
	t.Helper()
	files, err := filepath.Glob("*.mjs")
	if err != nil {
		t.Fatal(err)
	}
	dir := harness.NodeScripts(t, files...)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", script)
	node.Dir, node.Env = dir, append(os.Environ(), env...)
	// A group of its own: browsers and scripts that a failure leaves behind are ended.
	node.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	node.Cancel = func() error { return syscall.Kill(-node.Process.Pid, syscall.SIGKILL) }
	node.WaitDelay = 5 * time.Second
	out, err := node.CombinedOutput()
	if node.Process != nil {
		_ = syscall.Kill(-node.Process.Pid, syscall.SIGKILL) // they have ended if all went well
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	t.Logf("%s", out)
}
