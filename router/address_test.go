package router

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestDestinationsOfEachStyle(t *testing.T) {
	for _, c := range []struct {
		text, name string
		kind       Kind
		style      Style
	}{
		{"/queue/orders", "orders", KindQueue, StyleDot},
		{"orders", "orders", KindQueue, StyleDot},
		{"queue://orders", "orders", KindQueue, StyleDot},
		{"/queue/a.b/c", "a.b/c", KindQueue, StyleDot},
		{" /queue/orders ", "orders", KindQueue, StyleDot},
		{"/topic/plant.7.temp", "plant/7/temp", KindTopic, StyleDot},
		{"/topic/plant/7/temp", "plant/7/temp", KindTopic, StyleSlash},
		{"topic://plant.7", "plant/7", KindTopic, StyleDot},
		{"/topic/v1.2/temp", "v1.2/temp", KindTopic, StyleSlash},
		{"/topic/v1%2E2", "v1.2", KindTopic, StyleDot},
		{"/topic/a..b", "a//b", KindTopic, StyleDot},
		{"/topic//a", "/a", KindTopic, StyleSlash},
		{"/topic/100%25", "100%", KindTopic, StyleDot},
		{"/topic/100%", "100%", KindTopic, StyleDot},
		{"/topic/100%AB", "100%AB", KindTopic, StyleDot},
		{"/topic/a%2a", "a*", KindTopic, StyleDot},
		{"/topic/end%20", "end ", KindTopic, StyleDot},
	} {
		a, style, err := ParseDestination("", c.text)
		if err != nil || a.Name() != c.name || a.Kind() != c.kind || style != c.style || a.Vhost() != DefaultVhost {
			t.Errorf("%q is %q kind %d style %d vhost %q, %v; want %q kind %d style %d", c.text, a.Name(), a.Kind(), style, a.Vhost(), err, c.name, c.kind, c.style)
		}
	}
}

func TestBadDestinationsSayWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", MaxNameBytes+1)
	for text, want := range map[string]string{
		"":                          "queue name is empty",
		"/queue/":                   "queue name is empty",
		"/topic/":                   "topic is empty",
		"/other/x":                  "use /queue/NAME or /topic/NAME",
		"/queue/a?b":                "',' or '?'",
		"/queue/a,b":                "',' or '?'",
		"/queue/a\tb":               "control character",
		"/queue/" + long:            "at most 1024",
		"/topic/" + long:            "at most 1024",
		"/topic/a\x00b":             "control character",
		"/topic/\xff":               "UTF-8",
		"/topic/a.*":                "wildcard",
		"/topic/a.>":                "wildcard",
		"/topic/a+b":                "whole levels",
		"/topic/a#":                 "whole levels",
		"/topic/$queue/x":           "use /queue/NAME",
		"/topic/" + dots(MaxLevels): "at most 64",
	} {
		if a, _, err := ParseDestination("", text); ClassOf(err) != Invalid || !strings.Contains(TextOf(err), want) {
			t.Errorf("%.40q: %v, %v; want %q", text, a, err, want)
		}
	}
}

func dots(n int) string { return strings.Repeat("a.", n) + "a" }

func TestMQTTNames(t *testing.T) {
	for _, c := range []struct {
		text, stomp string
		kind        Kind
	}{
		{"plant/7/temp", "/topic/plant.7.temp", KindTopic},
		{"$queue/orders", "/queue/orders", KindQueue},
		{"/lead", "/topic/.lead", KindTopic},
		{"a.b", "/topic/a%2Eb", KindTopic},
		{"a/*", "/topic/a.%2A", KindTopic},
		{"$SYS/uptime", "/topic/$SYS.uptime", KindTopic},
	} {
		a, err := ParseMQTTTopic("", c.text)
		if err != nil || a.Kind() != c.kind || a.Text(StyleDot) != c.stomp || a.MQTTText() != c.text {
			t.Errorf("%q is %q and %q, %v; want %q", c.text, a.Text(StyleDot), a.MQTTText(), err, c.stomp)
		}
	}
	for _, bad := range []string{"", "a/+", "#", "a\x00", "$queue/", "$queue/a,b"} {
		if _, err := ParseMQTTTopic("", bad); ClassOf(err) != Invalid {
			t.Errorf("topic %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"a/#/b", "a+/b", "a/b#", "", "##", "$queue/+", "$queue/a#"} {
		if _, err := ParseMQTTFilter("", bad); ClassOf(err) != Invalid {
			t.Errorf("filter %q: %v", bad, err)
		}
	}
	if a, err := ParseMQTTTopic("", "$SYS/x"); err != nil || !a.Reserved() {
		t.Errorf("reserved: %v, %v", a, err)
	}
}

func TestFiltersMatch(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"/topic/a.b", "a/b", true},
		{"/topic/a.*", "a/b", true},
		{"/topic/a.+", "a/b", true},
		{"/topic/a.*", "a/b/c", false},
		{"/topic/a.*", "a", false},
		{"/topic/a.>", "a", true},
		{"/topic/a.#", "a/b/c", true},
		{"/topic/>", "a/b", true},
		{"/topic/>", "$SYS/x", false},
		{"/topic/*.x", "$SYS/x", false},
		{"/topic/$SYS.>", "$SYS/x", true},
		{"/topic/$SYS.*", "$SYS/x", true},
		{"/topic/*.*", "/", true},
		{"/topic/*", "/", false},
		{"/topic/*.b", "/b", true},
		{"/queue/a", "a", false},
	} {
		a, err := ParseMQTTTopic("", c.topic)
		if err != nil {
			t.Fatal(err)
		}
		if got := filter(t, c.filter).Matches(a); got != c.want {
			t.Errorf("%s matches %s: %v", c.filter, c.topic, got)
		}
	}
	if f := filter(t, "/topic/a.>"); f.Matches(Address{vhost: "other", kind: KindTopic, name: "a/b"}) {
		t.Error("a filter matches in another vhost")
	}
}

// naiveMatch is the definition, one level after the other.
func naiveMatch(f, a []string) bool {
	if strings.HasPrefix(a[0], "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, l := range f {
		if l == "#" {
			return i <= len(a)
		}
		if i >= len(a) || (l != "+" && l != a[i]) {
			return false
		}
	}
	return len(f) == len(a)
}

func drawTopic(t *rapid.T) Address {
	levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "$c", ""}), 1, 4).Draw(t, "topic")
	if strings.Join(levels, "/") == "" {
		levels = []string{"a"}
	}
	return Address{vhost: DefaultVhost, kind: KindTopic, name: strings.Join(levels, "/")}
}

func drawFilter(t *rapid.T) Filter {
	levels := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "$c", "", "+"}), 0, 4).Draw(t, "filter")
	if len(levels) == 0 || strings.Join(levels, "/") == "" || rapid.Bool().Draw(t, "below") {
		levels = append(levels, "#")
	}
	f, err := topicFilter("", levels)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestMatchesIsTheNaiveDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, a := drawFilter(t), drawTopic(t)
		if got, want := f.Matches(a), naiveMatch(f.Levels(), a.Levels()); got != want {
			t.Fatalf("%v matches %v: %v, want %v", f.Levels(), a.Levels(), got, want)
		}
	})
}

// checkRoundTrips has every written form of f read back as f.
func checkRoundTrips(t *testing.T, f Filter) {
	t.Helper()
	for _, s := range []Style{StyleDot, StyleSlash} {
		back, _, err := ParseFilter(f.vhost, f.Text(s))
		if err != nil || back != f {
			t.Fatalf("%+v in style %d is %q, which is %+v, %v", f, s, f.Text(s), back, err)
		}
	}
	a, ok := f.Address()
	if !ok {
		return
	}
	for _, s := range []Style{StyleDot, StyleSlash} {
		if back, _, err := ParseDestination(a.vhost, a.Text(s)); err != nil || back != a {
			t.Fatalf("%+v in style %d is %q, which is %+v, %v", a, s, a.Text(s), back, err)
		}
	}
	if back, err := ParseMQTTTopic(a.vhost, a.MQTTText()); strings.ContainsAny(a.name, "+#") && a.kind == KindQueue {
		if err == nil {
			t.Fatalf("MQTT topic %q has a wildcard and is accepted", a.MQTTText())
		}
	} else if err != nil || back != a {
		t.Fatalf("%+v in MQTT is %q, which is %+v, %v", a, a.MQTTText(), back, err)
	}
}

// checkName holds for all that a parser lets in.
func checkName(t *testing.T, f Filter) {
	t.Helper()
	if f.IsZero() || f.name == "" || len(f.name) > MaxNameBytes || !utf8.ValidString(f.name) || f.vhost == "" {
		t.Fatalf("bad filter %+v", f)
	}
	for i := range len(f.name) {
		if f.name[i] < ' ' || f.name[i] == 0x7f {
			t.Fatalf("control character in %q", f.name)
		}
	}
	if f.kind == KindTopic && len(f.Levels()) > MaxLevels {
		t.Fatalf("%d levels", len(f.Levels()))
	}
}

func FuzzParseDestination(f *testing.F) {
	for _, s := range []string{"/queue/orders", "/topic/plant.7.temp", "/topic/a/b.c/", "/topic/*.>", "/topic/%2E%2e%25%2a%3E", "a", "queue://x",
		"/topic/ ", "/topic/a%20", "/topic/%", "/topic/%2", "/topic/é.ü", "/topic/" + strings.Repeat("%2E", 400), "/topic/$queue/x", "/topic/a%2 ", "/topic/\u0085"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		flt, _, err := ParseFilter("", s)
		if err != nil {
			if ClassOf(err) != Invalid {
				t.Fatalf("class %v", ClassOf(err))
			}
			return
		}
		checkName(t, flt)
		checkRoundTrips(t, flt)
	})
}

func FuzzParseMQTTFilter(f *testing.F) {
	for _, s := range []string{"plant/7/temp", "$queue/orders", "+/+/#", "#", "/", "//", "a.b/c d /", "$SYS/#", "%2E", "a/%2", "*", ">", "a/ ", "?,", "a/%20"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		flt, err := ParseMQTTFilter("", s)
		if err != nil {
			if ClassOf(err) != Invalid {
				t.Fatalf("class %v", ClassOf(err))
			}
			return
		}
		checkName(t, flt)
		checkRoundTrips(t, flt)
	})
}

func TestTreeFindsWhatMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := newTree[int]()
		entries := map[int]Filter{}
		next := 0
		generation := tr.generation.Load()
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				f := drawFilter(t)
				if rapid.Bool().Draw(t, "exact") {
					f = FilterOf(drawTopic(t))
				}
				tr.insert(f, next)
				entries[next] = f
				next++
				if g := tr.generation.Load(); g == generation {
					t.Fatal("the generation stayed after an insert")
				}
				generation = tr.generation.Load()
			},
			"remove": func(t *rapid.T) {
				if next == 0 {
					t.Skip("empty")
				}
				v := rapid.IntRange(0, next-1).Draw(t, "value")
				f, there := entries[v]
				if !there {
					f = drawFilter(t)
				}
				if got := tr.remove(f, v); got != there {
					t.Fatalf("removed %v, want %v", got, there)
				}
				delete(entries, v)
				if there && tr.generation.Load() == generation {
					t.Fatal("the generation stayed after a removal")
				}
				generation = tr.generation.Load()
			},
			"match": func(t *rapid.T) {
				a := drawTopic(t)
				got := map[int]int{}
				for _, v := range tr.match(a, nil) {
					got[v]++
				}
				for v, f := range entries {
					want := 0
					if f.Matches(a) {
						want = 1
					}
					if got[v] != want {
						t.Fatalf("%v found %d times for %v, want %d", f.Levels(), got[v], a.Levels(), want)
					}
					delete(got, v)
				}
				if len(got) > 0 {
					t.Fatalf("found what was removed: %v", got)
				}
			},
			"": func(t *rapid.T) {
				if tr.len() != len(entries) {
					t.Fatalf("%d values, want %d", tr.len(), len(entries))
				}
			},
		})
		for v, f := range entries {
			tr.remove(f, v)
		}
		if len(tr.exact) != 0 || len(tr.wild) != 0 {
			t.Fatalf("nodes are left: %v %v", tr.exact, tr.wild)
		}
	})
}

func BenchmarkTreeMatch(b *testing.B) {
	tr := newTree[int]()
	for i := range 10000 {
		f, _, err := ParseFilter("", fmt.Sprintf("/topic/plant.%d.*", i))
		if err != nil {
			b.Fatal(err)
		}
		tr.insert(f, i)
	}
	a := Address{vhost: DefaultVhost, kind: KindTopic, name: "plant/77/temp"}
	var out []int
	b.ReportAllocs()
	for b.Loop() {
		out = tr.match(a, out[:0])
	}
	if len(out) != 1 {
		b.Fatal(out)
	}
}
