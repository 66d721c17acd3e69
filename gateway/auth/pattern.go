package auth

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
)

// What patterns may contain in place of a name.
const (
	userVariable   = "%u"
	clientVariable = "%c"
)

// pattern is one entry of an allow list with its names filled in.
type pattern struct {
	everything bool
	topic      router.Filter // of kind topic, or zero
	queue      []string      // levels between dots, or nil
}

// parsePattern reads an entry: ">" for everything, or a destination with a
// prefix, /queue/… or /topic/…, in which "*" is one level and ">" at the end that
// level and all below it, also none. The levels of a queue's name are what
// stands between its dots.
func parsePattern(s string) (pattern, error) {
	if s == ">" {
		return pattern{everything: true}, nil
	}
	for _, prefix := range [...]string{"/queue/", "queue://"} {
		if name, ok := strings.CutPrefix(s, prefix); ok {
			return parseQueuePattern(s, name)
		}
	}
	if !strings.HasPrefix(s, "/topic/") && !strings.HasPrefix(s, "topic://") {
		return pattern{}, fmt.Errorf("pattern %q does not say what it names: write /queue/%[2]s or /topic/%[2]s, or \">\" for everything",
			s, strings.TrimLeft(s, "/"))
	}
	f, _, err := router.ParseFilter(router.DefaultVhost, s)
	if err != nil {
		return pattern{}, fmt.Errorf("pattern %q: %s", s, router.TextOf(err))
	}
	return pattern{topic: f}, nil
}

func parseQueuePattern(s, name string) (pattern, error) {
	// The characters that a queue's name cannot have are the router's business.
	if _, err := router.QueueAddress(router.DefaultVhost, name); err != nil {
		return pattern{}, fmt.Errorf("pattern %q: %s", s, router.TextOf(err))
	}
	levels := strings.Split(name, ".")
	for i, l := range levels {
		switch {
		case l == ">" && i != len(levels)-1:
			return pattern{}, fmt.Errorf("pattern %q: '>' must be the last level; '*' is one level", s)
		case l == "#" || l == "+":
			return pattern{}, fmt.Errorf("pattern %q: write '*' or '>' in the names of queues", s)
		case l != ">" && l != "*" && strings.ContainsAny(l, "*>"):
			return pattern{}, fmt.Errorf("pattern %q: a wildcard must be a whole level between dots", s)
		}
	}
	return pattern{queue: levels}, nil
}

// matches reports whether the pattern covers the address. It does not allocate.
func (p *pattern) matches(a router.Address) bool {
	switch {
	case a.Vhost() != router.DefaultVhost:
		return false
	case p.everything:
		// As with any other wildcard, [MQTT-4.7.2-1].
		return !a.Reserved()
	case a.Kind() == router.KindTopic:
		return p.topic.Matches(a)
	case a.Kind() == router.KindQueue:
		return matchQueue(p.queue, a.Name())
	}
	return false
}

func matchQueue(levels []string, name string) bool {
	rest, more := name, true
	for _, l := range levels {
		if l == ">" {
			return true
		}
		if !more {
			return false
		}
		var level string
		level, rest, more = strings.Cut(rest, ".")
		if l != "*" && l != level {
			return false
		}
	}
	return !more && len(levels) > 0
}

// overlaps reports whether some topic is matched by the pattern and by f.
func (p *pattern) overlaps(f router.Filter) bool {
	switch {
	case f.Vhost() != router.DefaultVhost:
		return false
	case p.everything:
		return !strings.HasPrefix(f.Name(), "$")
	case p.topic.IsZero():
		return false
	}
	a, b := p.topic.Levels(), f.Levels()
	// Wildcards never match a first level that begins with '$' [MQTT-4.7.2-1].
	if strings.HasPrefix(a[0], "$") != strings.HasPrefix(b[0], "$") {
		return false
	}
	return overlapLevels(a, b)
}

func overlapLevels(a, b []string) bool {
	for {
		switch {
		case len(a) > 0 && a[0] == "#", len(b) > 0 && b[0] == "#":
			return true // '#' also matches no further level
		case len(a) == 0 || len(b) == 0:
			return len(a) == len(b)
		case a[0] != "+" && b[0] != "+" && a[0] != b[0]:
			return false
		}
		a, b = a[1:], b[1:]
	}
}

// checkSubstitute refuses a name that would change the meaning of a pattern, or
// reach a topic of the gateway, if it stood in one.
//
// CVE-2017-7650 and CVE-2026-44838 of other brokers: a client called "#" saw
// everything.
func checkSubstitute(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s is empty, and the rights of this user depend on it", what)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("the %s is not valid UTF-8", what)
	}
	for _, r := range name {
		if strings.ContainsRune("+#/*>.$%,?", r) || unicode.IsSpace(r) || unicode.IsControl(r) {
			return fmt.Errorf("the %s %q has the character %q, which is not allowed here because patterns of this user contain it", what, name, r)
		}
	}
	return nil
}

func uses(patterns []string, variable string) bool {
	for _, p := range patterns {
		if strings.Contains(p, variable) {
			return true
		}
	}
	return false
}
