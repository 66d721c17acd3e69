package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// FuzzLoad: no YAML makes the decoder panic; what it accepts is valid, and what
// it refuses is a list of problems with a place.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		string(Reference()),
		"", "{}", "[]", "null", "--- \n--- \n", "a: &a [*a]", "&a a: *a", "? {a: b}\n: c\n", "<<: {log: x}",
		"queues: {a.*: {max_length: 5}, '>': null}",
		"queues:\n- pattern: a\n  dead_letter: none\n",
		"users: [{name: a, password_hash: $x, allow: {read: [a, b]}}]",
		"storage: {sync: 1s, max_bytes: 1TiB}\nlimits: {login_timeout: 1d}",
		"log: !!binary aGVsbG8=", "log: {level: !x y}", "data_dir: !!float 1.5", "x: \"\\xff\"", "stomp: {listen: 2001-01-01}",
		"stomp: &s {tls: *s}", "users: &u\n- allow: *u\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l := &loader{cfg: Default(), origins: make(map[string]string)}
		d := l.decoder("f.yaml", "")
		if n := d.parse(text); n != nil && !isNull(n) {
			d.section(n, reflect.ValueOf(l.cfg).Elem(), "")
		}
		l.problems = append(l.problems, d.problems...)
		for _, p := range d.problems {
			if !strings.HasPrefix(p.Origin, "f.yaml") || p.Text == "" {
				t.Errorf("problem without a place: %+v", p)
			}
		}
		l.check()
		err := l.problems.orNil()
		if valid := l.cfg.Validate(); err == nil && valid != nil {
			t.Errorf("accepted, but %v", valid)
		}
		var all Errors
		if err != nil && !errors.As(err, &all) {
			t.Errorf("error of type %T", err)
		}
	})
}

// FuzzPattern: a pattern that is accepted matches the names made from it.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"orders", "orders.*", "orders.>", ">", "*", "a.*.c.>", "a..b", ".", "**", "/queue/x", "ä.*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		text, _ := checkPattern(pattern)
		if text != "" {
			return
		}
		q := Queues{{Pattern: pattern, Policy: Policy{MaxLength: 1}}}
		name := strings.Split(pattern, ".")
		for i, l := range name {
			if l == "*" || l == ">" {
				name[i] = "x"
			}
		}
		exact := strings.Join(name, ".")
		if q.Policy(exact).MaxLength != 1 {
			t.Errorf("%q does not match %q", pattern, exact)
		}
		longer := exact + ".y"
		if got, want := q.Policy(longer).MaxLength == 1, strings.HasSuffix(pattern, ">"); got != want {
			t.Errorf("%q against %q: %t, want %t", pattern, longer, got, want)
		}
	})
}
