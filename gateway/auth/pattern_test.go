package auth

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mqgate/mqgate/router"
)

func address(t testing.TB, text string) router.Address {
	t.Helper()
	a, _, err := router.ParseDestination("", text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func filter(t testing.TB, text string) router.Filter {
	t.Helper()
	f, _, err := router.ParseFilter("", text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPatternMatches(t *testing.T) {
	tests := []struct {
		pattern, address string
		want             bool
	}{
		{">", "/queue/orders", true},
		{">", "/topic/plant.7", true},
		{">", "/topic/$SYS.broker", false},
		{"/queue/>", "/queue/orders.eu", true},
		{"/queue/>", "/topic/orders", false},
		{"/topic/>", "/queue/orders", false},
		{"/topic/>", "/topic/plant.7", true},
		{"/topic/>", "/topic/$SYS.broker", false},
		{"/topic/*.broker", "/topic/$SYS.broker", false},
		{"/topic/$SYS.>", "/topic/$SYS.broker", true},
		{"/queue/orders", "/queue/orders", true},
		{"/queue/orders", "/queue/orders.eu", false},
		{"/queue/orders", "/queue/order", false},
		{"/queue/orders.*", "/queue/orders.eu", true},
		{"/queue/orders.*", "/queue/orders", false},
		{"/queue/orders.*", "/queue/orders.eu.de", false},
		{"/queue/orders.>", "/queue/orders", true},
		{"/queue/orders.>", "/queue/orders.eu.de", true},
		{"/queue/orders.>", "/queue/ordersx", false},
		{"/queue/*.eu", "/queue/orders.eu", true},
		{"/queue/a/b.*", "/queue/a/b.c", true},
		{"/queue/a/*", "/queue/a/b", false}, // refused, see TestPatternsRefused
		{"queue://orders", "/queue/orders", true},
		{"topic://plant.*", "/topic/plant.7", true},
		{"/topic/plant.>", "/topic/plant", true},
		{"/topic/plant.>", "/topic/plant.7.temp", true},
		{"/topic/plant.>", "/topic/plants", false},
		{"/topic/plant/+/temp", "/topic/plant.7.temp", true},
		{"/topic/plant.*.temp", "/topic/plant/7/temp", true},
		{"/topic/plant.*.temp", "/topic/plant.7.x.temp", false},
	}
	for _, tt := range tests {
		p, err := parsePattern(tt.pattern)
		if err != nil {
			if tt.want {
				t.Errorf("%s: %v", tt.pattern, err)
			}
			continue
		}
		if got := p.matches(address(t, tt.address)); got != tt.want {
			t.Errorf("%s against %s: %t, want %t", tt.pattern, tt.address, got, tt.want)
		}
	}
}

func TestPatternsStayInTheDefaultVhost(t *testing.T) {
	other, err := router.QueueAddress("other", "orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{">", "/queue/>", "/queue/orders"} {
		p, err := parsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		if p.matches(other) {
			t.Errorf("%s reaches another vhost", text)
		}
	}
}

func TestPatternsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "does not say what it names",
		"orders":              `write /queue/orders or /topic/orders, or ">" for everything`,
		"/orders":             `write /queue/orders or /topic/orders`,
		"*":                   "does not say what it names",
		"#":                   "does not say what it names",
		"/queue/":             "empty",
		"/topic/":             "empty",
		"/queue/a.>.b":        "must be the last level",
		"/topic/a.>.b":        "must be the last level",
		"/queue/a*":           "whole level",
		"/queue/a/*":          "whole level",
		"/queue/a.#":          "write '*' or '>'",
		"/queue/+":            "write '*' or '>'",
		"/topic/a+":           "whole levels only",
		"/queue/a,b":          "contains ','",
		"/queue/a\x00b":       "control character",
		"/topic/" + "\xff":    "UTF-8",
		"/queue/ a":           "space",
		"exchange://orders.*": "does not say what it names",
	} {
		if _, err := parsePattern(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestPatternOverlaps(t *testing.T) {
	tests := []struct {
		pattern, filter string
		want            bool
	}{
		{">", "/topic/>", true},
		{">", "/topic/$SYS.>", false},
		{"/topic/plant.>", "/topic/>", true},
		{"/topic/plant.>", "/topic/*", true}, // the topic plant
		{"/topic/plant.*.temp", "/topic/*.7.*", true},
		{"/topic/plant.*.temp", "/topic/*.7", false},
		{"/topic/plant.*", "/topic/plant.*.temp", false},
		{"/topic/plant.*", "/topic/plant.*.>", true},
		{"/topic/plant", "/topic/plant.>", true},
		{"/topic/plant.7", "/topic/house.>", false},
		{"/topic/plant.7", "/topic/*.8", false},
		{"/topic/>", "/topic/$SYS.>", false},
		{"/topic/$SYS.>", "/topic/>", false},
		{"/topic/$SYS.>", "/topic/$SYS.*", true},
		{"/queue/>", "/topic/>", false},
	}
	for _, tt := range tests {
		p, err := parsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.overlaps(filter(t, tt.filter)); got != tt.want {
			t.Errorf("%s and %s: %t, want %t", tt.pattern, tt.filter, got, tt.want)
		}
	}
}

// If some address is matched by both, they overlap; and if they overlap, one of
// the addresses made from their levels is matched by both.
func TestOverlapIsSharedAddress(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "$s", "*"})
	draw := func(t *rapid.T, what string) string {
		levels := rapid.SliceOfN(level, 1, 3).Draw(t, what)
		if rapid.Bool().Draw(t, what+" open") {
			levels = append(levels, ">")
		}
		return "/topic/" + strings.Join(levels, ".")
	}
	// Every topic of up to four levels over these names: patterns of at most
	// three levels and '>' cannot tell more apart.
	var all []router.Address
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for _, l := range []string{"a", "b", "c", "$s"} {
			all = append(all, address(t, "/topic/"+prefix+l))
			if depth > 1 {
				grow(prefix+l+".", depth-1)
			}
		}
	}
	grow("", 4)
	rapid.Check(t, func(rt *rapid.T) {
		one, two := draw(rt, "pattern"), draw(rt, "filter")
		p, err := parsePattern(one)
		if err != nil {
			rt.Fatal(err)
		}
		f := filter(t, two)
		shared := false
		for _, a := range all {
			if p.matches(a) && f.Matches(a) {
				shared = true
				break
			}
		}
		if got := p.overlaps(f); got != shared {
			rt.Fatalf("%s and %s: overlap %t, shared address %t", one, two, got, shared)
		}
	})
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	var patterns []pattern
	for _, text := range []string{"/queue/orders.*.>", "/topic/plant.*.temp"} {
		p, err := parsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		patterns = append(patterns, p)
	}
	queue, topic := address(t, "/queue/orders.eu.de"), address(t, "/topic/plant.7.temp")
	if n := testing.AllocsPerRun(100, func() {
		if !patterns[0].matches(queue) || !patterns[1].matches(topic) {
			t.Fatal("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCheckSubstitute(t *testing.T) {
	for _, name := range []string{"worker", "device-7", "a_b@c", "Zoë", "7"} {
		if err := checkSubstitute("user name", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "+", "a+", "#", "a/b", "*", ">", "a.b", "a b", "a\x00", "a\tb", "a\u00a0b", "a\u0085", "\xff", "$SYS", "a%2Eb", "a,b", "a?b"} {
		if err := checkSubstitute("user name", name); err == nil {
			t.Errorf("%q passed", name)
		}
	}
}

// FuzzPattern: a pattern that parses neither panics nor reaches a system topic
// through a wildcard, and a name that passes checkSubstitute stays one level.
func FuzzPattern(f *testing.F) {
	f.Add("/queue/orders.*", "worker", "/queue/orders.eu")
	f.Add("/topic/plant.%u.>", "seven", "/topic/plant.seven.temp")
	f.Add("/topic/%u/#", "$SYS", "/topic/$SYS/x")
	f.Add(">", "#", "orders")
	f.Add("/queue/%u", "a.b", "/queue/>")
	f.Add("/topic/x.%u", "a%2Eb", "/topic/x/a.b")
	f.Fuzz(func(t *testing.T, text, name, where string) {
		if checkSubstitute("name", name) == nil {
			// One level in each style and for each kind.
			for _, prefix := range []string{"/topic/x.", "/topic/x/", "/queue/x."} {
				with, err := parsePattern(prefix + name)
				if err != nil {
					continue
				}
				for _, other := range []string{"/topic/x.other", "/queue/x.other", "/topic/$SYS.x"} {
					if name != "other" && with.matches(address(t, other)) {
						t.Errorf("%s%s matches %s", prefix, name, other)
					}
				}
				if with.matches(address(t, "/topic/x")) || with.matches(address(t, "/queue/x")) {
					t.Errorf("%s%s matches the level above", prefix, name)
				}
			}
		}
		p, err := parsePattern(text)
		if err != nil {
			return
		}
		if !strings.Contains(text, "$") && p.matches(address(t, "/topic/$SYS.x")) {
			t.Errorf("%q reaches system topics", text)
		}
		if a, _, err := router.ParseDestination("", where); err == nil {
			if p.matches(a) && a.Kind() == router.KindTopic && !p.overlaps(router.FilterOf(a)) {
				t.Errorf("%q matches %s but does not overlap it", text, where)
			}
		}
	})
}
