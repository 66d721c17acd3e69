package router

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func retain(t testing.TB, s *Session, topic, body string, change func(*Message)) {
	t.Helper()
	a, err := ParseMQTTTopic("", topic)
	if err != nil {
		t.Fatal(err)
	}
	m := &Message{To: a, Body: []byte(body), Flags: FlagRetain, Priority: DefaultPriority}
	if change != nil {
		change(m)
	}
	if err := publish(t, s, m); err != nil {
		t.Fatal(err)
	}
}

func retainedTopics(t testing.TB, s *Session, filter string) []string {
	t.Helper()
	f, err := ParseMQTTFilter("", filter)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := s.Retained(f)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range ms {
		out = append(out, m.To.Name()+"="+string(m.Body))
	}
	slices.Sort(out)
	return out
}

func TestRetainedKeepsTheLastOfEachTopic(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	retain(t, s, "a/b", "1", nil)
	retain(t, s, "a/b", "2", nil)
	retain(t, s, "a", "3", nil)
	retain(t, s, "x", "gone", nil)
	retain(t, s, "x", "", nil)
	retain(t, s, "old", "4", func(m *Message) { m.ExpiresUnixMs = time.Now().UnixMilli() - 1 })
	for _, when := range []string{"at once", "after a restart"} {
		for filter, want := range map[string]string{"#": "[a/b=2 a=3]", "a/#": "[a/b=2 a=3]", "+": "[a=3]", "a/+": "[a/b=2]", "a/b": "[a/b=2]", "a/b/c": "[]", "x": "[]"} {
			if got := fmt.Sprint(retainedTopics(t, s, filter)); got != want {
				t.Errorf("%s %q matches %s, want %s", when, filter, got, want)
			}
		}
		h.restart()
		s = h.session()
	}
}

// TestRetainedMatchesLikeFilters compares the trie with Filter.Matches.
func TestRetainedMatchesLikeFilters(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	level := rapid.SampledFrom([]string{"a", "b", "", "c"})
	rapid.Check(t, func(rt *rapid.T) {
		all := map[string]Address{}
		for _, levels := range rapid.SliceOfN(rapid.SliceOfN(level, 1, 4), 1, 20).Draw(rt, "topics") {
			name := join(levels)
			if name == "" {
				continue
			}
			a, err := ParseMQTTTopic("", name)
			if err != nil {
				rt.Fatal(err)
			}
			all[name] = a
			retain(t, s, name, "x", nil)
		}
		filter := join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "+", ""}), 1, 4).Draw(rt, "filter"))
		if rapid.Bool().Draw(rt, "below") {
			filter += "/#"
		}
		if filter == "" {
			filter = "+"
		}
		f, err := ParseMQTTFilter("", filter)
		if err != nil {
			rt.Fatal(err)
		}
		var want []string
		for name, a := range all {
			if f.Matches(a) {
				want = append(want, name+"=x")
			}
		}
		slices.Sort(want)
		if got := retainedTopics(t, s, filter); !slices.Equal(got, want) {
			rt.Errorf("%q matches %v, want %v", filter, got, want)
		}
		for name := range all {
			retain(t, s, name, "", nil)
		}
		if h.RetainedCount() != 0 || len(h.retained.roots) != 0 || h.retained.bytes != 0 {
			rt.Errorf("%d messages, %d bytes and %d roots are left", h.RetainedCount(), h.retained.bytes, len(h.retained.roots))
		}
	})
}

func join(levels []string) string {
	out := levels[0]
	for _, l := range levels[1:] {
		out += "/" + l
	}
	return out
}
