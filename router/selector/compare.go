package selector

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// compare is one of = <> < <= > >=.
type compare struct {
	x, y expr
	op   string
}

func (c compare) eval(h Lookup) value {
	x, y := c.x.eval(h), c.y.eval(h)
	if x.kind == kindUnknown || y.kind == kindUnknown {
		return unknown
	}
	if x.kind == kindNumber || y.kind == kindNumber {
		x, y = asNumber(x), asNumber(y)
		if x.kind != kindNumber || y.kind != kindNumber {
			return unknown
		}
		return truth(ordered(c.op, compareNumbers(x.n, y.n)))
	}
	if x.kind == kindBool || y.kind == kindBool {
		x, y = asBool(x), asBool(y)
		if x.kind == kindUnknown || y.kind == kindUnknown {
			return unknown
		}
		return equality(c.op, x.b == y.b)
	}
	return c.texts(x.s, y.s)
}

// texts compares two texts: JMS knows only equality of them, but headers that
// both spell numbers are compared as such.
func (c compare) texts(x, y string) value {
	if c.op == "=" || c.op == "<>" {
		return equality(c.op, x == y)
	}
	a, okA := parseNumber(x)
	b, okB := parseNumber(y)
	if !okA || !okB {
		return unknown
	}
	return truth(ordered(c.op, compareNumbers(a, b)))
}

func equality(op string, equal bool) value {
	switch op {
	case "=":
		return truth(equal)
	case "<>":
		return truth(!equal)
	}
	return unknown
}

func compareNumbers(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func ordered(op string, c int) bool {
	switch op {
	case "=":
		return c == 0
	case "<>":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

func asNumber(v value) value {
	if v.kind == kindText {
		if n, ok := parseNumber(v.s); ok {
			return value{kind: kindNumber, n: n}
		}
		return unknown
	}
	return v
}

// parseNumber reads a decimal number; not the special and hexadecimal forms that
// the library also knows.
func parseNumber(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if strings.Trim(s, "0123456789.eE+-") != "" || s == "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// arithmetic is one of + - * /.
type arithmetic struct {
	x, y expr
	op   byte
}

func (a arithmetic) eval(h Lookup) value {
	x, y := asNumber(a.x.eval(h)), asNumber(a.y.eval(h))
	if x.kind != kindNumber || y.kind != kindNumber {
		return unknown
	}
	switch a.op {
	case '+':
		x.n += y.n
	case '-':
		x.n -= y.n
	case '*':
		x.n *= y.n
	default:
		if y.n == 0 {
			return unknown
		}
		x.n /= y.n
	}
	return x
}

// piece is a part of a LIKE pattern: a text, or one or any characters.
type piece struct {
	text string
	one  bool
	any  bool
}

// compileLike reads a LIKE pattern: '_' is one character, '%' any number.
func compileLike(pattern string, escape rune) []piece {
	var out []piece
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			out = append(out, piece{text: text.String()})
			text.Reset()
		}
	}
	escaped := false
	for _, r := range pattern {
		switch {
		case escaped:
			text.WriteRune(r)
			escaped = false
		case escape != 0 && r == escape:
			escaped = true
		case r == '_':
			flush()
			out = append(out, piece{one: true})
		case r == '%':
			flush()
			if n := len(out); n == 0 || !out[n-1].any {
				out = append(out, piece{any: true})
			}
		default:
			text.WriteRune(r)
		}
	}
	flush()
	return out
}

// matchPieces matches greedily, and goes back only to the last '%': the time is
// at most the product of the lengths.
func matchPieces(pattern []piece, s string) bool {
	p, retry, retryAt := 0, -1, ""
	for {
		if p == len(pattern) {
			if s == "" {
				return true
			}
		} else if pc := pattern[p]; pc.any {
			retry, retryAt = p, s
			p++
			continue
		} else if rest, ok := pc.consume(s); ok {
			s = rest
			p++
			continue
		}
		if retry < 0 || retryAt == "" {
			return false
		}
		_, n := utf8.DecodeRuneInString(retryAt)
		retryAt = retryAt[n:]
		s, p = retryAt, retry+1
	}
}

func (pc piece) consume(s string) (string, bool) {
	if !pc.one {
		return strings.CutPrefix(s, pc.text)
	}
	_, n := utf8.DecodeRuneInString(s)
	return s[n:], n > 0
}
