package selector

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokName
	tokKeyword // in upper case
	tokText
	tokNumber
	tokOp
)

type token struct {
	kind tokenKind
	text string
	n    float64
	at   int
}

var keywords = map[string]bool{"AND": true, "OR": true, "NOT": true, "IN": true, "LIKE": true, "ESCAPE": true,
	"BETWEEN": true, "IS": true, "NULL": true, "TRUE": true, "FALSE": true}

// lexer makes tokens.
type lexer struct {
	in string
	at int
}

func (l *lexer) scan() (token, error) {
	for l.at < len(l.in) && strings.IndexByte(" \t\r\n\f", l.in[l.at]) >= 0 {
		l.at++
	}
	if l.at == len(l.in) {
		return token{at: l.at}, nil
	}
	switch c := l.in[l.at]; {
	case c == '\'':
		return l.text()
	case c >= '0' && c <= '9', c == '.':
		return l.number()
	case strings.IndexByte("=<>+-*/(),", c) >= 0:
		return l.operator(), nil
	}
	return l.word()
}

// text reads 'it”s'.
func (l *lexer) text() (token, error) {
	start := l.at
	var b strings.Builder
	for l.at++; l.at < len(l.in); l.at++ {
		if l.in[l.at] != '\'' {
			b.WriteByte(l.in[l.at])
			continue
		}
		l.at++
		if l.at == len(l.in) || l.in[l.at] != '\'' {
			return token{kind: tokText, text: b.String(), at: start}, nil
		}
		b.WriteByte('\'')
	}
	return token{}, fmt.Errorf("the text that begins at character %d has no closing quote", start+1)
}

// number reads 7, 7L, 7.5, .5, 7e3, 7.5f, 7d.
func (l *lexer) number() (token, error) {
	start := l.at
	for l.at < len(l.in) {
		c := l.in[l.at]
		sign := (c == '+' || c == '-') && l.at > start && (l.in[l.at-1] == 'e' || l.in[l.at-1] == 'E')
		if !sign && (c < '0' || c > '9') && c != '.' && c != 'e' && c != 'E' {
			break
		}
		l.at++
	}
	text := l.in[start:l.at]
	if l.at < len(l.in) && strings.IndexByte("lLfFdD", l.in[l.at]) >= 0 {
		l.at++
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return token{}, fmt.Errorf("%q at character %d is no number", text, start+1)
	}
	return token{kind: tokNumber, text: text, n: n, at: start}, nil
}

func (l *lexer) operator() token {
	t := token{kind: tokOp, text: l.in[l.at : l.at+1], at: l.at}
	if l.at+1 < len(l.in) {
		switch two := l.in[l.at : l.at+2]; two {
		case "<=", ">=", "<>":
			t.text = two
		}
	}
	l.at += len(t.text)
	return t
}

// word reads a header's name or a keyword. Names of STOMP headers have '-' and
// '.', which JMS names have not: they belong to the name unless space stands
// before them.
func (l *lexer) word() (token, error) {
	start := l.at
	for l.at < len(l.in) {
		r, n := utf8.DecodeRuneInString(l.in[l.at:])
		if r <= ' ' || r == utf8.RuneError && n == 1 || strings.ContainsRune("'=<>+*/(),\"`;#?", r) {
			break
		}
		l.at += n
	}
	if l.at == start {
		return token{}, fmt.Errorf("unexpected character %q at %d", l.in[start:start+1], start+1)
	}
	t := token{kind: tokName, text: l.in[start:l.at], at: start}
	if upper := strings.ToUpper(t.text); keywords[upper] {
		t.kind, t.text = tokKeyword, upper
	}
	return t, nil
}

// parser goes down the grammar of JMS 2.0, 3.8.1.1, by precedence.
type parser struct {
	lexer
	tok   token
	depth int
}

func (p *parser) next() (err error) {
	p.tok, err = p.scan()
	return err
}

func (p *parser) unexpected(want string) error {
	if p.tok.kind == tokEnd {
		return fmt.Errorf("the selector ends where %s is expected", want)
	}
	return fmt.Errorf("%q at character %d where %s is expected", p.tok.text, p.tok.at+1, want)
}

func (p *parser) is(kind tokenKind, texts ...string) bool {
	for _, t := range texts {
		if p.tok.kind == kind && p.tok.text == t {
			return true
		}
	}
	return false
}

// take skips a token if it is there.
func (p *parser) take(kind tokenKind, text string) (bool, error) {
	if !p.is(kind, text) {
		return false, nil
	}
	return true, p.next()
}

func (p *parser) expect(kind tokenKind, text string) error {
	ok, err := p.take(kind, text)
	if err == nil && !ok {
		err = p.unexpected(text)
	}
	return err
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return fmt.Errorf("the selector is nested more than %d deep", maxDepth)
	}
	return nil
}

func (p *parser) or() (expr, error) { return p.logic("OR", p.and) }

func (p *parser) and() (expr, error) { return p.logic("AND", p.not) }

func (p *parser) logic(word string, operand func() (expr, error)) (expr, error) {
	x, err := operand()
	for err == nil && p.is(tokKeyword, word) {
		if err = p.next(); err != nil {
			break
		}
		var y expr
		if y, err = operand(); err == nil {
			x = logic{x, y, word == "AND"}
		}
	}
	return x, err
}

func (p *parser) not() (expr, error) {
	ok, err := p.take(tokKeyword, "NOT")
	if err != nil || !ok {
		if err != nil {
			return nil, err
		}
		return p.condition()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	x, err := p.not()
	return not{x}, err
}

// condition is a comparison, a test, or a value that is a condition itself.
func (p *parser) condition() (expr, error) {
	x, err := p.sum()
	if err != nil {
		return nil, err
	}
	if p.is(tokOp, "=", "<>", "<", "<=", ">", ">=") {
		op := p.tok.text
		if err := p.next(); err != nil {
			return nil, err
		}
		y, err := p.sum()
		return compare{x, y, op}, err
	}
	if ok, err := p.take(tokKeyword, "IS"); ok || err != nil {
		return p.nullTest(x, err)
	}
	negate, err := p.take(tokKeyword, "NOT")
	if err != nil {
		return nil, err
	}
	switch {
	case p.is(tokKeyword, "BETWEEN"):
		return p.between(x, negate)
	case p.is(tokKeyword, "IN"):
		return p.in(x, negate)
	case p.is(tokKeyword, "LIKE"):
		return p.like(x, negate)
	case negate:
		return nil, p.unexpected("BETWEEN, IN or LIKE")
	}
	return x, nil
}

func (p *parser) nullTest(x expr, err error) (expr, error) {
	if err != nil {
		return nil, err
	}
	negate, err := p.take(tokKeyword, "NOT")
	if err != nil {
		return nil, err
	}
	return isNull{x, negate}, p.expect(tokKeyword, "NULL")
}

func (p *parser) between(x expr, negate bool) (expr, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	low, err := p.sum()
	if err != nil {
		return nil, err
	}
	if err := p.expect(tokKeyword, "AND"); err != nil {
		return nil, err
	}
	high, err := p.sum()
	return between{x, low, high, negate}, err
}

func (p *parser) in(x expr, negate bool) (expr, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if err := p.expect(tokOp, "("); err != nil {
		return nil, err
	}
	set := map[string]struct{}{}
	for {
		if p.tok.kind != tokText {
			return nil, p.unexpected("a text in quotes")
		}
		set[p.tok.text] = struct{}{}
		if err := p.next(); err != nil {
			return nil, err
		}
		if more, err := p.take(tokOp, ","); err != nil {
			return nil, err
		} else if !more {
			return in{x, set, negate}, p.expect(tokOp, ")")
		}
	}
}

func (p *parser) like(x expr, negate bool) (expr, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokText {
		return nil, p.unexpected("a pattern in quotes")
	}
	pattern := p.tok.text
	if err := p.next(); err != nil {
		return nil, err
	}
	var escape rune
	if ok, err := p.take(tokKeyword, "ESCAPE"); err != nil {
		return nil, err
	} else if ok {
		if p.tok.kind != tokText || utf8.RuneCountInString(p.tok.text) != 1 {
			return nil, p.unexpected("one character in quotes")
		}
		escape, _ = utf8.DecodeRuneInString(p.tok.text)
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	return like{x, compileLike(pattern, escape), negate}, nil
}

func (p *parser) sum() (expr, error) { return p.arithmetic("+-", p.product) }

func (p *parser) product() (expr, error) { return p.arithmetic("*/", p.unary) }

func (p *parser) arithmetic(ops string, operand func() (expr, error)) (expr, error) {
	x, err := operand()
	for err == nil && p.tok.kind == tokOp && strings.Contains(ops, p.tok.text) {
		op := p.tok.text[0]
		if err = p.next(); err != nil {
			break
		}
		var y expr
		if y, err = operand(); err == nil {
			x = arithmetic{x, y, op}
		}
	}
	return x, err
}

func (p *parser) unary() (expr, error) {
	if p.is(tokOp, "-", "+") {
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		minus := p.tok.text == "-"
		if err := p.next(); err != nil {
			return nil, err
		}
		x, err := p.unary()
		if minus {
			x = arithmetic{literal{value{kind: kindNumber}}, x, '-'}
		}
		return x, err
	}
	return p.primary()
}

func (p *parser) primary() (expr, error) {
	t := p.tok
	switch {
	case t.kind == tokName:
		return name(t.text), p.next()
	case t.kind == tokText:
		return literal{value{kind: kindText, s: t.text}}, p.next()
	case t.kind == tokNumber:
		return literal{value{kind: kindNumber, n: t.n}}, p.next()
	case p.is(tokKeyword, "TRUE", "FALSE"):
		return literal{truth(t.text == "TRUE")}, p.next()
	case p.is(tokOp, "("):
		return p.parenthesis()
	}
	return nil, p.unexpected("a header name or a value")
}

func (p *parser) parenthesis() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	if err := p.next(); err != nil {
		return nil, err
	}
	x, err := p.or()
	if err != nil {
		return nil, err
	}
	return x, p.expect(tokOp, ")")
}
