package frame

import (
	"bytes"
	"fmt"
	"iter"
)

// Frame is one decoded frame. Its slices are views into the decoder's buffer: they hold until the next call of the
// decoder's Next, Buffered, ReleaseIfEmpty or Reset, and must not be written to.
//
// No two headers of a frame have the same name: of repeated ones only the first is kept (STOMP 1.2 "Repeated Header
// Entries").
type Frame struct {
	// Command is what the frame asks for or says.
	Command Command
	// Body is the body, empty or nil when there is none.
	Body []byte

	head  []byte // everything before the body; spans point into it
	spans []span
}

// span is one header: offsets into head. 32 bits do, since limits are clamped to 1 GiB.
type span struct{ name, nameEnd, value, valueEnd uint32 }

func (s span) nameIn(head []byte) []byte  { return head[s.name:s.nameEnd:s.nameEnd] }
func (s span) valueIn(head []byte) []byte { return head[s.value:s.valueEnd:s.valueEnd] }

// Len is the number of headers.
func (f *Frame) Len() int { return len(f.spans) }

// Header gives the header at i, 0 <= i < Len, in the order of the wire, unescaped.
func (f *Frame) Header(i int) (name, value []byte) {
	s := f.spans[i]
	return s.nameIn(f.head), s.valueIn(f.head)
}

// Get gives the unescaped value of the header called name, and whether there is one. Names are case-sensitive. It
// compares with each header in turn, so its cost is bounded by Limits.Headers.
func (f *Frame) Get(name string) ([]byte, bool) {
	for _, s := range f.spans {
		if int(s.nameEnd-s.name) == len(name) && string(f.head[s.name:s.nameEnd]) == name {
			return s.valueIn(f.head), true
		}
	}
	return nil, false
}

// Value gives a copy of the header called name that outlives the frame, or "" when there is none.
func (f *Frame) Value(name string) string {
	value, _ := f.Get(name)
	return string(value)
}

// All iterates over names and values in the order of the wire.
func (f *Frame) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := range f.spans {
			if !yield(f.Header(i)) {
				return
			}
		}
	}
}

// Int gives the header called name as a decimal number, and whether the header is there. Spaces around the number are
// allowed; anything else that is not a number of 64 bits is an error whose text is fit for the peer.
func (f *Frame) Int(name string) (n int64, found bool, err error) {
	value, found := f.Get(name)
	if !found {
		return 0, false, nil
	}
	n, ok := parseInt(value)
	if !ok {
		return 0, true, fmt.Errorf("header %s: %s is not a whole number", name, quoted(value))
	}
	return n, true, nil
}

// parseInt reads a decimal number of 64 bits with an optional '-', trimmed. It exists because the standard parser wants
// a string, which would be an allocation for each frame.
func parseInt(b []byte) (int64, bool) {
	digits := bytes.TrimSpace(b)
	negative := len(digits) > 0 && digits[0] == '-'
	if negative {
		digits = digits[1:]
	}
	if len(digits) == 0 {
		return 0, false
	}
	// Counting downwards holds the lowest number as well, which has no positive counterpart.
	const lowest = -1 << 63
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		digit := int64(c - '0')
		if n < (lowest+digit)/10 {
			return 0, false
		}
		n = n*10 - digit
	}
	if negative {
		return n, true
	}
	return -n, n != lowest
}
