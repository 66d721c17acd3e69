package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// builds are the gateway binaries of this test process, one with and one without
// the race detector.
var builds struct {
	dir   string
	plain func() (string, error)
	same  func() (string, error)
}

// Setup makes the directory for binaries; the returned function removes it. Call
// it once, in TestMain.
func Setup() (cleanup func(), err error) {
	dir, err := os.MkdirTemp("", "mqbin")
	if err != nil {
		return nil, err
	}
	builds.dir = dir
	builds.plain = sync.OnceValues(func() (string, error) { return build(false) })
	builds.same = builds.plain
	if RaceEnabled {
		builds.same = sync.OnceValues(func() (string, error) { return build(true) })
	}
	return func() { os.RemoveAll(dir) }, nil
}

func build(race bool) (string, error) {
	args, out := []string{"build"}, filepath.Join(builds.dir, "mqgate")
	if race {
		args, out = append(args, "-race"), out+"-race"
	}
	cmd := exec.Command("go", append(args, "-o", out, "github.com/mqgate/mqgate/cmd/mqgate")...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, text)
	}
	return out, nil
}

// Binary returns the path of the gateway, with the race detector if this test has
// it.
func Binary() (string, error) { return builds.same() }

// PlainBinary returns the path of a gateway without the race detector: it is what
// users run, and its memory can be judged.
func PlainBinary() (string, error) { return builds.plain() }
