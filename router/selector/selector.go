// Package selector reads and evaluates JMS message selectors: conditions on a
// message's headers in the syntax of SQL-92 conditional expressions.
//
//	region = 'eu' AND (size > 3 OR size IS NULL) AND type NOT LIKE 'tmp\_%' ESCAPE '\'
//
// It guarantees that evaluation takes time bounded by the selector's length and
// the header's, that a header which is absent makes a comparison unknown (three
// valued logic) so that the message does not match, and that parsing refuses
// what it does not understand with the place and the reason. Headers are text
// here: in a comparison with a number they count as the number that they spell.
//
// It never sees a message, only a lookup of names, and imports nothing of ours.
package selector

import (
	"fmt"
	"strings"
)

const (
	// MaxBytes bounds a selector's text.
	MaxBytes = 4096
	// maxDepth bounds its nesting.
	maxDepth = 64
)

// Lookup returns the value of a header, and whether it is there.
type Lookup func(name string) (string, bool)

// Selector is a parsed selector.
type Selector struct {
	text string
	root expr
}

// Parse reads a selector.
func Parse(text string) (*Selector, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("the selector has %d bytes; at most %d are allowed", len(text), MaxBytes)
	}
	p := &parser{lexer: lexer{in: text}}
	if err := p.next(); err != nil {
		return nil, err
	}
	root, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokEnd {
		return nil, p.unexpected("AND, OR or the end")
	}
	return &Selector{text: text, root: root}, nil
}

// String returns the text that was parsed.
func (s *Selector) String() string { return s.text }

// Matches reports whether the selector is true, not false or unknown, of the
// headers.
func (s *Selector) Matches(header Lookup) bool {
	v := asBool(s.root.eval(header))
	return v.kind == kindBool && v.b
}

// kind is the type of a value. Unknown is the null of SQL.
type kind uint8

const (
	kindUnknown kind = iota
	kindBool
	kindNumber
	kindText
)

type value struct {
	kind kind
	b    bool
	n    float64
	s    string
}

var unknown = value{}

func truth(b bool) value { return value{kind: kindBool, b: b} }

// expr is a node of the parsed selector.
type expr interface{ eval(Lookup) value }

type literal struct{ v value }

func (l literal) eval(Lookup) value { return l.v }

type name string

func (n name) eval(h Lookup) value {
	if s, ok := h(string(n)); ok {
		return value{kind: kindText, s: s}
	}
	return unknown
}

type not struct{ x expr }

func (n not) eval(h Lookup) value {
	v := asBool(n.x.eval(h))
	if v.kind == kindUnknown {
		return unknown
	}
	return truth(!v.b)
}

// logic is AND, or OR: its neutral value is true, or false.
type logic struct {
	x, y expr
	and  bool
}

func (l logic) eval(h Lookup) value {
	x := asBool(l.x.eval(h))
	if x.kind == kindBool && x.b != l.and {
		return x // false AND anything; true OR anything
	}
	y := asBool(l.y.eval(h))
	if y.kind == kindBool && y.b != l.and {
		return y
	}
	if x.kind == kindUnknown || y.kind == kindUnknown {
		return unknown
	}
	return truth(l.and)
}

// asBool reads a condition: a header may spell true or false.
func asBool(v value) value {
	if v.kind == kindText {
		switch {
		case strings.EqualFold(v.s, "true"):
			return truth(true)
		case strings.EqualFold(v.s, "false"):
			return truth(false)
		}
	}
	if v.kind == kindBool {
		return v
	}
	return unknown
}

type isNull struct {
	x      expr
	negate bool
}

func (n isNull) eval(h Lookup) value { return truth((n.x.eval(h).kind == kindUnknown) != n.negate) }

type between struct {
	x, low, high expr
	negate       bool
}

func (b between) eval(h Lookup) value {
	v := logic{compare{b.x, b.low, ">="}, compare{b.x, b.high, "<="}, true}.eval(h)
	if b.negate && v.kind == kindBool {
		return truth(!v.b)
	}
	return v
}

type in struct {
	x      expr
	set    map[string]struct{}
	negate bool
}

func (i in) eval(h Lookup) value {
	v := i.x.eval(h)
	if v.kind != kindText {
		return unknown
	}
	_, ok := i.set[v.s]
	return truth(ok != i.negate)
}

type like struct {
	x       expr
	pattern []piece
	negate  bool
}

func (l like) eval(h Lookup) value {
	v := l.x.eval(h)
	if v.kind != kindText {
		return unknown
	}
	return truth(matchPieces(l.pattern, v.s) != l.negate)
}
