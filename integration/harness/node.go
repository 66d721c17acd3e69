package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// NodeDir is integration/node: the npm packages of all tests, pinned in one lock
// file, and the scripts that need them.
func NodeDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "node")
}

// RequireNode fails the test unless the npm packages are installed; what is missing
// is installed first, once for all test processes. A developer may skip instead.
func RequireNode(t testing.TB) {
	t.Helper()
	err := installNode()
	switch {
	case err == nil:
	case os.Getenv("CI") == "" && os.Getenv(SkipVariable) == "1":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// installNode has npm install what the lock file names, unless that is done. The
// copy of the lock file among the packages tells for which one they were installed;
// .ci/install goes by it as well.
var installNode = sync.OnceValue(func() error {
	dir := NodeDir()
	want, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, "node_modules", ".installed")
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	if have, err := os.ReadFile(mark); err == nil && bytes.Equal(have, want) {
		return nil
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install the npm packages of the tests (Debian: apt-get install nodejs npm): %w\n%s", err, out)
	}
	return os.WriteFile(mark, want, 0o600)
})

// NodeScripts copies scripts to a directory of their own, from where they find the
// npm packages and each other.
func NodeScripts(t testing.TB, paths ...string) (dir string) {
	t.Helper()
	RequireNode(t)
	dir = TempDir(t)
	modules, err := filepath.Abs(filepath.Join(NodeDir(), "node_modules"))
	if err == nil {
		err = os.Symlink(modules, filepath.Join(dir, "node_modules"))
	}
	for _, p := range paths {
		var b []byte
		if err == nil {
			b, err = os.ReadFile(p)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(p)), b, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
