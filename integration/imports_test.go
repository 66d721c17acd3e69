package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/mqgate/mqgate"

// allowed lists for each part of the product what of the product it may import; a
// part is a directory with all below it that has no entry of its own. This is the
// dependency graph of the design: cmd -> gateway -> front-ends -> router, and the
// store below the gateway. What is missing here is refused.
var allowed = map[string][]string{
	"cmd/mqgate": {"bench", "config", "gateway", "gateway/admin", "gateway/auth", "router"},
	// The gateway serves the chat of examples/chat, which is embedded there.
	"gateway": {"config", "examples/chat", "gateway/admin", "gateway/auth", "gateway/proxy", "router", "router/jetstream",
		"router/door", "router/outbox", "federation",
		"stomp", "mqtt", "ws"},
	"federation":          {"router", "router/outbox"},
	"gateway/admin":       {"config", "gateway/auth", "router", "router/door"},
	"gateway/auth":        {"config", "router"},
	"gateway/proxy":       {},
	"config":              {},
	"router":              {"router/cron", "router/outbox", "router/selector"},
	"router/cron":         {},
	"router/door":         {},
	"router/selector":     {},
	"router/outbox":       {},
	"router/jetstream":    {"router", "router/outbox"},
	"stomp":               {"router", "router/door", "router/outbox", "router/selector", "stomp/frame"},
	"stomp/frame":         {},
	"mqtt":                {"router", "router/door", "router/outbox"},
	"ws":                  {"router", "router/door", "router/outbox"},
	"bench":               {"stomp/frame"},
	"examples/chat":       {},
	"integration":         {},
	"integration/harness": {},
}

// nats is imported by the backbone only.
const nats = "github.com/nats-io/"

type goPackage struct {
	ImportPath string
	Imports    []string
	Dir        string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Dir", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// part is the longest entry of allowed that holds a package; "" if there is none.
func part(path string) string {
	for p := strings.TrimPrefix(path, module+"/"); p != "."; p = filepath.Dir(p) {
		if _, known := allowed[p]; known {
			return p
		}
	}
	return ""
}

// TestImportGraph holds every package to the imports that the design allows.
func TestImportGraph(t *testing.T) {
	packages := listPackages(t)
	if len(packages) < 10 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	there := map[string]bool{}
	for _, p := range packages {
		from := part(p.ImportPath)
		there[from] = true
		if from == "" {
			t.Errorf("%s is in no part of the design: add it to allowed, with what it may import", p.ImportPath)
			continue
		}
		for _, problem := range refuseImports(from, p.Imports) {
			t.Errorf("%s %s", p.ImportPath, problem)
		}
	}
	for from, imports := range allowed {
		for _, p := range append([]string{from}, imports...) {
			if !there[p] {
				t.Errorf("allowed names %s, and there is no such package", p)
			}
		}
	}
}

// refuseImports says which imports of a part are against the design.
func refuseImports(from string, imports []string) (problems []string) {
	for _, i := range imports {
		if strings.HasPrefix(i, nats) && from != "router/jetstream" {
			problems = append(problems, "imports "+i+": only router/jetstream may")
		}
		if !strings.HasPrefix(i, module+"/") {
			continue
		}
		ok := part(i) == from
		for _, a := range allowed[from] {
			ok = ok || part(i) == a
		}
		if !ok {
			problems = append(problems, "imports "+strings.TrimPrefix(i, module+"/")+", which the design does not allow")
		}
	}
	return problems
}

// TestImportGraphRefuses checks the check.
func TestImportGraphRefuses(t *testing.T) {
	for from, imports := range map[string][]string{
		"stomp":         {module + "/mqtt", module + "/config", module + "/gateway", module + "/router/jetstream", nats + "nats.go"},
		"router":        {module + "/stomp", module + "/router/jetstream", module + "/integration/harness", nats + "nats.go"},
		"config":        {module + "/router"},
		"bench":         {module + "/stomp", module + "/router"},
		"gateway":       {module + "/cmd/mqgate", module + "/bench", module + "/integration/harness", nats + "nats-server/v2/server"},
		"gateway/admin": {module + "/stomp"},
		"cmd/mqgate":    {module + "/stomp", nats + "nats.go"},
	} {
		for _, i := range imports {
			if len(refuseImports(from, []string{i})) == 0 {
				t.Errorf("%s may import %s", from, i)
			}
		}
	}
}

// maxLines is the length of a file at which it wants to be two.
const maxLines = 600

// TestFileLength holds Go files to a length that can be read.
func TestFileLength(t *testing.T) {
	for _, p := range listPackages(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(text, []byte("\n")); n > maxLines {
				t.Errorf("%s/%s has %d lines; split it by noun", strings.TrimPrefix(p.ImportPath, module+"/"), filepath.Base(file), n)
			}
		}
	}
}
