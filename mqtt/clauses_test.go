package mqtt

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// clauseRow is a line of the table in the package's documentation.
var clauseRow = regexp.MustCompile(`^//\t(MQTT-[0-9.]+-[0-9]+)  +(\S.*\S)  +(\S+\.go)  +(Test\w+)$`)

// TestClausesHaveCodeAndTests holds the table of clauses to what it says: each clause is marked in the code that obeys it,
// and in a test that exists.
func TestClausesHaveCodeAndTests(t *testing.T) {
	tests := testSources(t)
	code := map[string]string{}
	seen := map[string]bool{}
	inTable := false
	for _, line := range strings.Split(readText(t, "doc.go"), "\n") {
		if strings.HasPrefix(line, "// # ") {
			inTable = line == "// # Where the specification is obeyed"
		}
		if !inTable || !strings.HasPrefix(line, "//\t") {
			continue
		}
		row := clauseRow.FindStringSubmatch(line)
		if row == nil {
			t.Errorf("not a row of the table: %q", line)
			continue
		}
		clause, file, test := row[1], row[3], row[4]
		if seen[clause] {
			t.Errorf("%s stands twice in the table", clause)
		}
		seen[clause] = true
		if _, read := code[file]; !read {
			code[file] = readText(t, filepath.Join("..", file))
		}
		if !mentions(code[file], clause) {
			t.Errorf("%s is not marked in %s", clause, file)
		}
		if source, exists := tests[test]; !exists {
			t.Errorf("%s: there is no test %s", clause, test)
		} else if !mentions(source, clause) {
			t.Errorf("%s is not marked in %s", clause, test)
		}
	}
	if len(seen) < 120 {
		t.Errorf("the table has %d clauses, want at least 120", len(seen))
	}
}

// mentions reports whether a clause stands in a text, and not only one that begins like it.
func mentions(text, clause string) bool {
	return regexp.MustCompile(regexp.QuoteMeta(clause) + `\b`).MatchString(text)
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// testSources gives the source of each test of this package, and of MQTT over WebSocket, its comment included.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range append(files, "../gateway/webmqtt_test.go") {
		text := readText(t, file)
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			begin := fn.Pos()
			if fn.Doc != nil {
				begin = fn.Doc.Pos()
			}
			out[fn.Name.Name] = text[set.Position(begin).Offset:set.Position(fn.End()).Offset]
		}
	}
	return out
}
