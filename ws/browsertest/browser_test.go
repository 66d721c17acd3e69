package browsertest

import (
	"os"
	"testing"
)

func TestChatInThreeBrowsers(t *testing.T) {
	chromium := os.Getenv("CHROMIUM")
	if chromium == "" {
		chromium = "/usr/bin/chromium"
	}
	shots := os.Getenv("SCREENSHOTS") // a directory, for people to look at
	if shots == "" {
		shots = t.TempDir()
	}
	start(t).node("chat.mjs", "CHROMIUM="+chromium, "SCREENSHOTS="+shots)
}

func TestJavaScriptClients(t *testing.T) { start(t).node("clients.mjs") }
