package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestIoTExample runs examples/iot/run.sh as a user would: every report of the devices
// is stored by the PHP worker, and the command that PHP sent to a device that was away
// reaches that device.
func TestIoTExample(t *testing.T) {
	t.Parallel()
	const reports = 15
	harness.PHP.Require(t)
	harness.PahoPython.Require(t)
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
	file := filepath.Join(dir, "telemetry.jsonl")
	cmd := exec.Command("./run.sh")
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Join("..", "examples", "iot"), log, log
	cmd.Env = append(harness.Environment(), "MQGATE="+binary, fmt.Sprint("REPORTS=", reports), "STOMP_PORT="+freePort(t), "MQTT_PORT="+freePort(t),
		"DATA_DIR="+filepath.Join(dir, "data"), "TELEMETRY="+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // whatever it leaves behind can be ended
	watchdog := time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer watchdog.Stop()
	err = cmd.Run()
	text, readErr := os.ReadFile(log.Name())
	if err != nil || readErr != nil {
		t.Fatalf("run.sh: %v %v\n%s", err, readErr, text)
	}
	for _, want := range []string{
		"thermo-1: connected, a new session", "thermo-1: connected, the session was kept", "thermo-1: command calibrate",
		fmt.Sprintf("stored %d reports", 2+3*reports), "store: stopped",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if before, after, _ := strings.Cut(string(text), "command calibrate for thermo-1 is stored"); strings.Contains(before, "thermo-1: command") || !strings.Contains(after, "thermo-1: command") {
		t.Error("the command did not come after the device was away")
	}
	stored, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for line := range strings.Lines(string(stored)) {
		var r struct {
			Device, Topic string
			N             int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		counts[r.Device]++
		if r.Topic != "/topic/devices."+r.Device+".telemetry" {
			t.Errorf("a report of %s came from %s", r.Device, r.Topic)
		}
	}
	if counts["thermo-1"] != reports+2 || counts["thermo-2"] != reports || counts["thermo-3"] != reports {
		t.Errorf("stored %v", counts)
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}
