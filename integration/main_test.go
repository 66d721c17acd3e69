package integration

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestMain is also the entry of the Go client programs.
func TestMain(m *testing.M) {
	if program := os.Getenv(harness.GoClientVariable); program != "" && len(os.Args) == 1 {
		if program == harness.PahoGo.Name {
			pahoClient()
		} else {
			goClient()
		}
		return
	}
	os.Exit(run(m))
}

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
