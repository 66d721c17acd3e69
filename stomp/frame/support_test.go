package frame

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// sent is a frame as a test expects it, independent of the decoder's buffer.
type sent struct {
	command Command
	headers []Header
	body    string
}

func copyOf(f *Frame) sent {
	s := sent{command: f.Command, body: string(f.Body)}
	for name, value := range f.All() {
		s.headers = append(s.headers, Header{string(name), string(value)})
	}
	return s
}

func (s sent) equal(o sent) bool {
	if s.command != o.command || s.body != o.body || len(s.headers) != len(o.headers) {
		return false
	}
	for i := range s.headers {
		if s.headers[i] != o.headers[i] {
			return false
		}
	}
	return true
}

func h(pairs ...string) []Header {
	var headers []Header
	for i := 0; i < len(pairs); i += 2 {
		headers = append(headers, Header{pairs[i], pairs[i+1]})
	}
	return headers
}

// readers are the ways bytes can arrive: at once, one by one, with io.EOF beside the last ones, in odd pieces.
var readers = map[string]func(string) io.Reader{
	"whole":        func(s string) io.Reader { return strings.NewReader(s) },
	"one byte":     func(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) },
	"data and err": func(s string) io.Reader { return iotest.DataErrReader(strings.NewReader(s)) },
	"sevens":       func(s string) io.Reader { return &pieces{rest: []byte(s), size: 7} },
	"with nothing": func(s string) io.Reader { return &pieces{rest: []byte(s), size: 3, idle: true} },
}

// pieces gives at most size bytes a read, and if idle, nothing at every second read.
type pieces struct {
	rest    []byte
	size    int
	idle    bool
	resting bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.resting = p.idle && !p.resting; p.resting {
		return 0, nil
	}
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func serverDecoder(r io.Reader, v Version) *Decoder {
	d := NewDecoder(r, ServerSide)
	d.SetVersion(v)
	d.SetLimits(DefaultLimits())
	return d
}

// readAll collects frames up to the first error.
func readAll(d *Decoder) ([]sent, error) {
	var got []sent
	for {
		f, err := d.Next()
		if err != nil {
			return got, err
		}
		got = append(got, copyOf(f))
	}
}

// expect decodes the wire in every way bytes can arrive and compares.
func expect(t *testing.T, wire string, prepare func(*Decoder), want ...sent) {
	t.Helper()
	for name, reader := range readers {
		d := serverDecoder(reader(wire), V10)
		prepare(d)
		got, err := readAll(d)
		if err != io.EOF {
			t.Errorf("%s: error %v, want io.EOF", name, err)
		}
		compare(t, name, got, want)
	}
}

// String shows octets that do not print.
func (s sent) String() string { return fmt.Sprintf("%v %q %q", s.command, s.headers, s.body) }

func compare(t *testing.T, name string, got, want []sent) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d frames, want %d: %v", name, len(got), len(want), got)
		return
	}
	for i := range want {
		if !got[i].equal(want[i]) {
			t.Errorf("%s: frame %d is\n %v, want\n %v", name, i, got[i], want[i])
		}
	}
}

// refusal decodes until the protocol is broken, in every way bytes can arrive; all must agree on the error.
func refusal(t *testing.T, wire string, prepare func(*Decoder)) *Error {
	t.Helper()
	var first *Error
	for name, reader := range readers {
		d := serverDecoder(reader(wire), V12)
		prepare(d)
		_, err := readAll(d)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: error %v, want an *Error", name, err)
		}
		if _, again := d.Next(); again != err {
			t.Errorf("%s: the error is not kept: %v then %v", name, err, again)
		}
		if first == nil {
			first = e
		}
		if e.Kind != first.Kind || e.Limit != first.Limit {
			t.Errorf("%s: error %v, another way of reading gives %v", name, e, first)
		}
	}
	return first
}

func version(v Version) func(*Decoder) { return func(d *Decoder) { d.SetVersion(v) } }

// endless repeats a pattern for ever and counts what was taken.
type endless struct {
	start   []byte
	pattern []byte
	at      int
	taken   int
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, e.start)
	e.start = e.start[n:]
	for n < len(b) {
		k := copy(b[n:], e.pattern[e.at:])
		e.at = (e.at + k) % len(e.pattern)
		n += k
	}
	e.taken += n
	return n, nil
}

func filled(n int) string { return string(bytes.Repeat([]byte{'x'}, n)) }
