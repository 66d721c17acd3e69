package browsertest

import (
	"path/filepath"
	"testing"
)

func TestJavaScriptClients(t *testing.T) { start(t).node("clients.mjs") }

// The client alone: its pauses, the close codes after which it stays away, what it sends
// again, and that its types name what is there.
func TestJavaScriptClientAlone(t *testing.T) {
	start(t).node("alone.mjs", "TYPES="+absolute(t, "../client/mqgate.d.ts"))
}

// What CLIENT.md shows works as it stands there.
func TestJavaScriptClientAsDocumented(t *testing.T) {
	start(t).node("documented.mjs", "DOCUMENT="+absolute(t, "../CLIENT.md"))
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
