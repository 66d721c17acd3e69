package cluster

import (
	"fmt"
	"os"
	"testing"

	"github.com/mqgate/mqgate/integration/harness"
)

func TestMain(m *testing.M) {
	cleanup, err := harness.Setup()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	cleanup()
	os.Exit(code)
}
