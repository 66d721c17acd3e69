package config

import (
	"errors"
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Origin is where it was written: "mqgate.yaml:12", "MQGATE_LOG_LEVEL",
	// "--set log.level"; empty when it is a default or the Config was not loaded.
	Origin string
	// Key is the dotted key, or empty when the problem is no single key's.
	Key string
	// Text says what is wrong.
	Text string
	// Hint says what to do, or is empty.
	Hint string
}

// Error returns origin, key, text and hint on one line.
func (p *Problem) Error() string {
	var b strings.Builder
	for _, part := range []string{p.Origin, p.Key} {
		if part != "" {
			b.WriteString(part)
			b.WriteString(": ")
		}
	}
	b.WriteString(p.Text)
	if p.Hint != "" {
		b.WriteString("; ")
		b.WriteString(p.Hint)
	}
	return b.String()
}

// Errors is everything that is wrong with a configuration, one or more.
type Errors []*Problem

// Error returns one line per problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems, for errors.As.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, p := range e {
		all[i] = p
	}
	return all
}

// orNil returns e as an error, or nil when it is empty.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

func problem(key, hint, format string, args ...any) *Problem {
	return &Problem{Key: key, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// asProblem turns any error into a Problem of a key.
func asProblem(key string, err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		q := *p
		q.Key = key
		return &q
	}
	return problem(key, "", "%v", err)
}
