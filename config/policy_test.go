package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPatternMatches(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"orders", "orders", true},
		{"orders", "orders.eu", false},
		{"orders.*", "orders.eu", true},
		{"orders.*", "orders", false},
		{"orders.*", "orders.eu.de", false},
		{"orders.>", "orders", true},
		{"orders.>", "orders.eu.de", true},
		{"orders.>", "order", false},
		{"*.eu", "orders.eu", true},
		{"*.eu", "orders.us", false},
		{">", "anything.at.all", true},
		{"*", "one", true},
		{"*", "one.two", false},
		{"a.*.c", "a.b.c", true},
		{"a.*.>", "a.b", true},
		{"a.*.>", "a", false},
	}
	for _, tt := range tests {
		if got := matches(strings.Split(tt.pattern, "."), strings.Split(tt.name, ".")); got != tt.want {
			t.Errorf("%q against %q: %t, want %t", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestMostSpecificPatternWins(t *testing.T) {
	tests := []struct {
		queue    string
		patterns []string
		want     string
	}{
		{"orders.eu", []string{">", "orders.>", "orders.*", "orders.eu", "*.eu"}, "orders.eu"},
		{"orders.us", []string{">", "orders.>", "orders.*", "orders.eu", "*.us"}, "orders.*"},
		{"orders.us.ny", []string{">", "orders.>", "orders.*"}, "orders.>"},
		{"orders", []string{">", "orders.>"}, "orders.>"},
		{"orders", []string{"orders.>", "orders"}, "orders"},
		{"a.b", []string{"*.b", "a.*"}, "a.*"},
		{"a.b", []string{"*.b", "*.*", "*.>"}, "*.b"},
		{"mail", []string{"orders.>"}, ""},
	}
	for _, tt := range tests {
		for range 2 { // also in the other order
			var q Queues
			for i, p := range tt.patterns {
				q = append(q, QueueRule{Pattern: p, Policy: Policy{MaxLength: int64(i + 1)}})
			}
			got := ""
			if p := q.Policy(tt.queue); p != DefaultPolicy() {
				got = tt.patterns[p.MaxLength-1]
			}
			if got != tt.want {
				t.Errorf("%s with %q: rule %q, want %q", tt.queue, tt.patterns, got, tt.want)
			}
			slices.Reverse(tt.patterns)
		}
	}
}

// What wins must not depend on the order of the rules.
func TestPolicyDoesNotDependOnOrder(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "*"})
	rapid.Check(t, func(t *rapid.T) {
		set := map[string]bool{}
		for range rapid.IntRange(1, 8).Draw(t, "rules") {
			p := strings.Join(rapid.SliceOfN(level, 1, 3).Draw(t, "levels"), ".")
			if rapid.Bool().Draw(t, "open") {
				p += ".>"
			}
			set[p] = true
		}
		var q Queues
		for _, p := range slices.Sorted(maps.Keys(set)) {
			q = append(q, QueueRule{Pattern: p, Policy: Policy{DeadLetter: p}})
		}
		name := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 1, 4).Draw(t, "name"), ".")
		one := q.Policy(name)
		other := Queues(rapid.Permutation([]QueueRule(q)).Draw(t, "order")).Policy(name)
		if one != other {
			t.Fatalf("%s: %s or %s", name, one.DeadLetter, other.DeadLetter)
		}
		if any := slices.ContainsFunc(q, func(r QueueRule) bool {
			return matches(strings.Split(r.Pattern, "."), strings.Split(name, "."))
		}); any == (one == DefaultPolicy()) {
			t.Fatalf("%s: matched %t, got %+v", name, any, one)
		}
	})
}

func TestQueuesAsListAndMap(t *testing.T) {
	list := "queues:\n  - pattern: orders.*\n    max_length: 10\n    expiry: 1h\n  - pattern: \">\"\n    dead_letter: none\n"
	asMap := "queues:\n  orders.*:\n    max_length: 10\n    expiry: 1h\n  \">\":\n    dead_letter: none\n"
	one := mustLoad(t, Sources{File: writeFile(t, "c.yaml", list)})
	two := mustLoad(t, Sources{File: writeFile(t, "c.yaml", asMap)})
	if !reflect.DeepEqual(one, two) {
		t.Errorf("list %+v\nmap  %+v", one.Queues, two.Queues)
	}
	orders, rest := one.Queues.Policy("orders.eu"), one.Queues.Policy("mail")
	if orders.MaxLength != 10 || orders.MaxDeliveries != 6 || orders.DeadLetter != "DLQ.{queue}" || orders.OnExpire != OnExpireDeadLetter {
		t.Errorf("orders.eu: %+v; what a rule leaves out must be the default", orders)
	}
	if rest.DeadLetter != DeadLetterNone || rest.OnExpire != OnExpireDrop {
		t.Errorf("mail: %+v; without a dead-letter queue on_expire must become drop", rest)
	}
}

func TestDeadLetterQueue(t *testing.T) {
	tests := []struct{ deadLetter, queue, want string }{
		{"DLQ.{queue}", "orders", "DLQ.orders"},
		{"DLQ.{queue}", "DLQ.orders", ""},
		{"DLQ.{queue}", "DLQ.", "DLQ.DLQ."},
		{"{queue}.dead", "orders", "orders.dead"},
		{"{queue}.dead", "orders.dead", ""},
		{"ActiveMQ.DLQ", "orders", "ActiveMQ.DLQ"},
		{"ActiveMQ.DLQ", "ActiveMQ.DLQ", ""},
		{"none", "orders", ""},
	}
	for _, tt := range tests {
		if got := (Policy{DeadLetter: tt.deadLetter}).DeadLetterQueue(tt.queue); got != tt.want {
			t.Errorf("%s for %s: %q, want %q", tt.deadLetter, tt.queue, got, tt.want)
		}
	}
}
