package browsertest

import (
	"path/filepath"
	"testing"
)

func TestJavaScriptClients(t *testing.T) { start(t).node("clients.mjs") }

// The client alone: its pauses, the close codes after which it stays away, what it sends
// again, and that its types name what is there.
func TestJavaScriptClientAlone(t *testing.T) {
	types, err := filepath.Abs("../client/mqgate.d.ts")
	if err != nil {
		t.Fatal(err)
	}
	start(t).node("alone.mjs", "TYPES="+types)
}
