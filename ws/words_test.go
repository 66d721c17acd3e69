package ws

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
)

func protocolText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section is the part of PROTOCOL.md below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, below, ok := strings.Cut(protocolText(t), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("PROTOCOL.md has no section %q", heading)
	}
	text, _, _ := strings.Cut(below, "\n## ")
	return text
}

// members are the names that JSON has for the fields of a struct.
func members(of any) (names []string) {
	for f := range reflect.TypeOf(of).Fields() {
		names = append(names, f.Tag.Get("json"))
	}
	slices.Sort(names)
	return names
}

// What a request may have is the same for the server, the schema and the text.
func TestTheProtocolNamesEveryMember(t *testing.T) {
	text := protocolText(t)
	requests := protocolSchema().resolve("#/$defs/request")["properties"].(map[string]any)
	for _, c := range []struct {
		what   string
		of     any
		schema map[string]any
	}{
		{"request", request{}, requests},
		{"history", historyStart{}, requests["history"].(map[string]any)["properties"].(map[string]any)},
		{"person", person{}, protocolSchema().resolve("#/$defs/people")["items"].(map[string]any)["properties"].(map[string]any)},
	} {
		var schema []string
		for name := range c.schema {
			schema = append(schema, name)
		}
		slices.Sort(schema)
		names := members(c.of)
		for i, n := range names {
			names[i], _, _ = strings.Cut(n, ",")
		}
		if !slices.Equal(names, schema) {
			t.Errorf("%s: the server knows %q, the schema %q", c.what, names, schema)
		}
		for _, name := range names {
			if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `"`+name+`":`) && !strings.Contains(text, "`"+name+":") {
				t.Errorf("PROTOCOL.md does not name the member %s of a %s", name, c.what)
			}
		}
	}
	for _, of := range []string{"message", "reply"} {
		for name := range protocolSchema().resolve("#/$defs/" + of)["properties"].(map[string]any) {
			if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `"`+name+`":`) {
				t.Errorf("PROTOCOL.md does not name the member %s of a %s", name, of)
			}
		}
	}
}

// first are the codes in the first column of a table, in backquotes or as numbers.
func first(t *testing.T, heading string) (codes []string) {
	t.Helper()
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(section(t, heading), -1) {
		codes = append(codes, regexp.MustCompile("[a-z]+(?:-[a-z]+)*|[0-9]{4}").FindAllString(strings.TrimPrefix(row[1], "code"), -1)...)
	}
	slices.Sort(codes)
	return codes
}

// Every error code and every close code that the text names is one of the server's,
// and the other way round; and what they say about coming back is what happens.
func TestTheProtocolNamesEveryCode(t *testing.T) {
	source, err := os.ReadFile("close.go")
	if err != nil {
		t.Fatal(err)
	}
	closing := []string{"1006"} // nobody sends it: it is how a lost connection shows
	for _, m := range regexp.MustCompile(`close[A-Z]\w* += (\d{4})`).FindAllStringSubmatch(string(source), -1) {
		closing = append(closing, m[1])
	}
	slices.Sort(closing)
	if told := first(t, "Close codes"); !slices.Equal(told, closing) {
		t.Errorf("close codes: the text has %q, the server %q", told, closing)
	}
	var codes []string
	for _, code := range protocolSchema().resolve("#/$defs/error")["properties"].(map[string]any)["code"].(map[string]any)["enum"].([]any) {
		codes = append(codes, code.(string))
	}
	slices.Sort(codes)
	if told := first(t, "Errors"); !slices.Equal(told, codes) {
		t.Errorf("errors: the text has %q, the schema %q", told, codes)
	}
	for code := range statuses {
		if !slices.Contains(codes, code) {
			t.Errorf("the schema does not know the error %s", code)
		}
	}
	for class := range router.Class(len(classRetry)) {
		again := regexp.MustCompile("`" + class.String() + "`.*\\| (yes|no) \\|").FindStringSubmatch(section(t, "Errors"))
		if again == nil || (again[1] == "yes") != classRetry[class] {
			t.Errorf("%s: the text says %q, the server %v", class, again, classRetry[class])
		}
	}
}

// The limits that the text names are those that the server has: at each one a request
// is served, beyond it refused.
func TestTheProtocolNamesItsLimits(t *testing.T) {
	o := Options{}.withDefaults()
	text := section(t, "Limits")
	for _, want := range []string{
		fmt.Sprintf("at most %d of %d bytes together", maxHeaders, maxHeaderBytes), fmt.Sprintf("at most\n%d bytes each", router.MaxNameBytes),
		fmt.Sprintf("have at most %d bytes, `clientId` and `durable` %d", maxNameBytes, maxClientIDBytes), fmt.Sprintf("`credit` is at most %d", maxCredit),
		fmt.Sprintf("`delayMs` at most %.0f days", maxNackDelay.Hours()/24), fmt.Sprintf("`timeoutMs` at most %d", maxCallTimeout.Milliseconds()),
		fmt.Sprintf("At most\n%d requests wait", maxCalls), fmt.Sprintf("While %d publishes or %d MiB", o.MaxUnconfirmed, o.MaxUnconfirmedBytes>>20),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("PROTOCOL.md does not say %q of the limits", want)
		}
	}
	g := newRig(t, nil)
	p := g.login("ann", `,"clientId":"c"`)
	x := func(n int) string { return strings.Repeat("x", n) }
	headers := func(n, size int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%02d":"%s"`, i, x(size-2))
		}
		return `{` + strings.TrimPrefix(b.String(), ",") + `}`
	}
	const publish = `{"id":2,"op":"publish","to":"/topic/a","headers":%s}`
	for name, c := range map[string]struct{ most, beyond, code string }{
		"headers":       {fmt.Sprintf(publish, headers(maxHeaders, 2)), fmt.Sprintf(publish, headers(maxHeaders+1, 2)), "bad-request"},
		"header bytes":  {fmt.Sprintf(publish, headers(1, maxHeaderBytes)), fmt.Sprintf(publish, headers(1, maxHeaderBytes+1)), "bad-request"},
		"content type":  {`{"id":2,"op":"publish","to":"/topic/a","contentType":"` + x(1024) + `"}`, `{"id":2,"op":"publish","to":"/topic/a","contentType":"` + x(1025) + `"}`, "bad-request"},
		"one line":      {`{"id":2,"op":"publish","to":"/topic/a","correlationId":"a b"}`, `{"id":2,"op":"publish","to":"/topic/a","correlationId":"a\nb"}`, "bad-request"},
		"destination":   {`{"id":2,"op":"publish","to":"/queue/` + x(1024) + `"}`, `{"id":2,"op":"publish","to":"/queue/` + x(1025) + `"}`, "invalid"},
		"priority":      {`{"id":2,"op":"publish","to":"/topic/a","priority":9}`, `{"id":2,"op":"publish","to":"/topic/a","priority":10}`, "bad-request"},
		"sub":           {`{"id":2,"op":"subscribe","sub":"` + x(64) + `","to":"/topic/a"}`, `{"id":2,"op":"subscribe","sub":"` + x(65) + `","to":"/topic/a"}`, "bad-request"},
		"sub, printed":  {`{"id":2,"op":"subscribe","sub":"é","to":"/topic/a"}`, `{"id":2,"op":"subscribe","sub":"\u0007","to":"/topic/a"}`, "bad-request"},
		"durable":       {`{"id":2,"op":"subscribe","sub":"d","to":"/topic/a","durable":"` + x(256) + `"}`, `{"id":2,"op":"subscribe","sub":"d2","to":"/topic/a","durable":"` + x(257) + `"}`, "bad-request"},
		"credit":        {`{"id":2,"op":"subscribe","sub":"c","to":"/queue/a","credit":10000}`, `{"id":2,"op":"subscribe","sub":"c2","to":"/queue/a","credit":10001}`, "bad-request"},
		"no life":       {`{"id":2,"op":"publish","to":"/topic/a","ttlMs":0}`, `{"id":2,"op":"publish","to":"/topic/a","ttlMs":-1}`, "bad-request"},
		"history, last": {`{"id":2,"op":"subscribe","sub":"h","to":"/topic/chat.x","history":{"last":0}}`, `{"id":2,"op":"subscribe","sub":"h2","to":"/topic/chat.x","history":{"last":-1}}`, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			p.call(c.most)
			p.refused(c.code, c.beyond)
		})
	}
	p.t = t
	p.refused("bad-request", `{"id":3,"op":"request","to":"/queue/deaf","timeoutMs":600001}`)
	for i := range maxCalls {
		p.send(fmt.Sprintf(`{"id":%d,"op":"request","to":"/topic/nobody","timeoutMs":600000}`, i+10))
	}
	if e := p.refused("full", `{"id":4,"op":"request","to":"/topic/nobody"}`); e["retry"] != true {
		t.Errorf("%v", e)
	}
}

// HTTP.md names the headers, the answers and the limits that there are.
func TestHTTPNamesWhatThereIs(t *testing.T) {
	b, err := os.ReadFile("HTTP.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	told := map[string]bool{}
	for _, name := range regexp.MustCompile("Mqgate-[A-Za-z-]+[a-z]").FindAllString(text, -1) {
		told[name] = true
	}
	if names := slices.Sorted(maps.Keys(told)); !slices.Equal(names, slices.Sorted(slices.Values(publishHeaders))) {
		t.Errorf("the text has the headers %q, the server %q", names, publishHeaders)
	}
	answers := map[string]string{"internal": "500"}
	for code, status := range statuses {
		answers[code] = fmt.Sprint(status)
	}
	_, table, _ := strings.Cut(text, "## Answers and limits")
	for code, status := range answers {
		found := false
		for row := range strings.Lines(table) {
			statuses, codes, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
			for i, s := range strings.Split(statuses, ", ") {
				all := strings.Split(codes, ", ")
				one := codes
				if strings.Contains(statuses, ",") {
					one = all[min(i, len(all)-1)]
				}
				found = found || s == status && strings.Contains(one, "`"+code+"`")
			}
		}
		if !found {
			t.Errorf("the text does not say that %s is answered with %s", code, status)
		}
	}
	o := Options{}.withDefaults()
	for _, want := range []string{
		fmt.Sprintf("`wait` (at most %.0fm)", maxWait.Minutes()), fmt.Sprintf("at most %.0fh)", maxLease.Hours()),
		fmt.Sprintf("At most %d,%03d messages are leased", o.MaxLeases/1000, o.MaxLeases%1000),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the text does not say %q", want)
		}
	}
}
