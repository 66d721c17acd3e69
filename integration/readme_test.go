package integration

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameWhatExists: a claim that names its proof is worth something while the
// proof is there. A name may be the beginning of several.
func TestDocsNameWhatExists(t *testing.T) {
	root := filepath.Join("..")
	names := testNames(t, root)
	if len(names) < 100 {
		t.Fatalf("only %d tests were found", len(names))
	}
	mention := regexp.MustCompile("`((?:Test|Benchmark|Fuzz)[A-Z][A-Za-z0-9_]*)`")
	checked := 0
	for _, file := range filesBelow(t, root, ".md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mention.FindAllSubmatch(text, -1) {
			checked++
			if name := string(m[1]); !begins(names, name) {
				t.Errorf("%s names %s, which does not exist", strings.TrimPrefix(file, "../"), name)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d names were checked", checked)
	}
}

func begins(names []string, prefix string) bool {
	for _, n := range names {
		if strings.HasPrefix(n, prefix) {
			return true
		}
	}
	return false
}

// testNames lists the functions of the test files.
func testNames(t *testing.T, root string) (names []string) {
	t.Helper()
	for _, file := range filesBelow(t, root, "_test.go") {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

func filesBelow(t *testing.T, root, suffix string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == "bin"):
			return filepath.SkipDir
		case strings.HasSuffix(path, suffix):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestReadmeBeginsWithTheTwoCommands: one runs a gateway, one runs all the tests, as CI does.
func TestReadmeBeginsWithTheTwoCommands(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte("```\n"))
	block, _, _ := bytes.Cut(rest, []byte("```"))
	lines := strings.Split(strings.TrimSpace(string(block)), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "go run ./cmd/mqgate ") || !strings.HasPrefix(lines[1], "make test ") {
		t.Errorf("the first commands are %q", lines)
	}
	ci, err := os.ReadFile(filepath.Join("..", ".ci", "run"))
	if err != nil || !bytes.Contains(ci, []byte("make test")) {
		t.Errorf("CI does not run them: %s, %v", ci, err)
	}
}
