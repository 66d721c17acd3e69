package browsertest

import "testing"

func TestJavaScriptClients(t *testing.T) { start(t).node("clients.mjs") }
