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
	play(t, "chat.mjs", harness.New(t))
}

// TestChatWithAccounts has the rights of accounts.yaml.
func TestChatWithAccounts(t *testing.T) {
	b := harness.New(t)
	text, err := os.ReadFile(filepath.Join("..", "accounts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	b.Config = filepath.Join(b.Dir, "accounts.yaml")
	for name, content := range map[string]string{"accounts.yaml": string(text), "ann.password": "secret of ann", "house.password": "secret of the house"} {
		if err := os.WriteFile(filepath.Join(b.Dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	play(t, "accounts.mjs", b)
}

// controlOf lets a script kill the gateway and start it again.
func controlOf(b *harness.Broker) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /kill", func(http.ResponseWriter, *http.Request) { b.Kill() })
	mux.HandleFunc("POST /start", func(http.ResponseWriter, *http.Request) { b.Start() })
	return httptest.NewServer(mux)
}

// play starts the gateway on ports that stay the same over restarts, and runs a
// script on it; the test fails unless the script ends with 0.
func play(t *testing.T, script string, b *harness.Broker) {
	t.Helper()
	files, err := filepath.Glob("*.mjs")
	if err != nil {
		t.Fatal(err)
	}
	dir := harness.NodeScripts(t, files...)
	scripts, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	stomp, mqtt, http := harness.FreeAddress(t), harness.FreeAddress(t), harness.FreeAddress(t)
	b.Set = append(b.Set, "stomp.listen="+stomp, "mqtt.listen="+mqtt, "http.listen="+http)
	b.Start()
	control := controlOf(b)
	defer control.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", script)
	node.Dir = dir
	_, mqttPort, _ := net.SplitHostPort(mqtt)
	node.Env = append(os.Environ(), "GATEWAY=http://"+http, "CONTROL="+control.URL, "MQTT_PORT="+mqttPort, "STOMP=tcp://"+stomp,
		"SCRIPTS="+scripts, "CHROMIUM="+cmp.Or(os.Getenv("CHROMIUM"), "/usr/bin/chromium"))
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
