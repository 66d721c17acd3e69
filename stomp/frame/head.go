package frame

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"sync"
)

// finishHead makes sense of the headers once the blank line has come: decodes them, drops repeated ones and learns how
// the body ends. The body begins at bodyStart.
func (d *Decoder) finishHead(data []byte, bodyStart int) bool {
	head := data[:bodyStart:bodyStart]
	if bytes.IndexByte(head, 0) >= 0 {
		return d.fail(nulInHead())
	}
	d.frame.head = head
	if err := d.trim(); err != nil {
		return d.failWithReceipt(err)
	}
	if err := d.unescape(); err != nil {
		return d.failWithReceipt(err)
	}
	d.frame.spans = firstOfEach(d.frame.head, d.frame.spans)
	d.stage, d.bodyStart, d.scanned = inBody, bodyStart, bodyStart
	d.measureBody()
	return true
}

// failWithReceipt fails a frame whose headers are known.
func (d *Decoder) failWithReceipt(err *Error) bool {
	d.frame.head = d.in.pending()[:len(d.frame.head)] // the buffer may have moved since
	err.Receipt = d.frame.Value("receipt")
	return d.fail(err)
}

// measureBody sets the frame's end from its content-length where that counts.
func (d *Decoder) measureBody() {
	if !d.honoursContentLength() {
		return
	}
	value, found := d.frame.Get("content-length")
	if !found {
		return
	}
	n, ok := parseInt(value)
	switch {
	case !ok || n < 0:
		d.failWithReceipt(&Error{Kind: KindContentLength,
			Text: "content-length " + quoted(value) + " is not a number of bytes: give the body's length or leave it out"})
	case n > int64(d.limits.Body):
		d.failWithReceipt(d.longBody())
	default:
		d.counted, d.frameEnd = true, d.bodyStart+int(n)+1
	}
}

func (d *Decoder) honoursContentLength() bool {
	if d.side == ServerSide {
		return d.frame.Command == SEND
	}
	return d.frame.Command == MESSAGE || d.frame.Command == ERROR
}

// trim takes the spaces around names and values away in frames of 1.0, as ActiveMQ does. Later versions forbid it
// (STOMP 1.2 "Increased Interoperability"): there they are data.
func (d *Decoder) trim() *Error {
	if d.frame.Command.escaping(d.version) != V10 || d.offersLater() {
		return nil
	}
	for i := range d.frame.spans {
		s := &d.frame.spans[i]
		s.name, s.nameEnd = trimmed(d.frame.head, s.name, s.nameEnd)
		s.value, s.valueEnd = trimmed(d.frame.head, s.value, s.valueEnd)
		if s.name == s.nameEnd {
			return namelessHeader(i+1, d.frame.Command)
		}
	}
	return nil
}

// offersLater tells whether a frame that comes before or with the agreement on a version is from a peer that knows more
// than 1.0, and so must not be trimmed though it is never escaped.
func (d *Decoder) offersLater() bool {
	found := false
	switch d.frame.Command {
	case CONNECT:
		_, found = d.frame.Get("accept-version")
	case CONNECTED:
		_, found = d.frame.Get("version")
	}
	return found
}

// trimmed narrows from and to until neither end of head[from:to] is a space, tab or CR.
func trimmed(head []byte, from, to uint32) (uint32, uint32) {
	for from < to && isSpace(head[from]) {
		from++
	}
	for from < to && isSpace(head[to-1]) {
		to--
	}
	return from, to
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// unescape decodes names and values in place, which works because they only get shorter. Frames without a backslash,
// nearly all, pay for one search.
func (d *Decoder) unescape() *Error {
	version := d.frame.Command.escaping(d.version)
	head := d.frame.head
	if version == V10 || bytes.IndexByte(head, '\\') < 0 {
		return nil
	}
	for i := range d.frame.spans {
		s := &d.frame.spans[i]
		name, nameOK := unescapeInPlace(s.nameIn(head), version)
		value, valueOK := unescapeInPlace(s.valueIn(head), version)
		if d.strict && !(nameOK && valueOK) {
			return &Error{Kind: KindEscape, Text: "undefined escape sequence in header " + quoted(s.nameIn(head)) +
				": a backslash in a header is written \\\\"}
		}
		s.nameEnd, s.valueEnd = s.name+uint32(name), s.value+uint32(value)
	}
	return nil
}

// unescapeInPlace decodes b and gives its new length, and whether all sequences were defined in the version. Undefined
// ones stay as they are.
func unescapeInPlace(b []byte, v Version) (n int, defined bool) {
	defined = true
	n = bytes.IndexByte(b, '\\')
	if n < 0 {
		return len(b), true
	}
	for i := n; i < len(b); i++ {
		c := b[i]
		if c == '\\' {
			plain := byte(0)
			if i+1 < len(b) {
				plain = unescaped(b[i+1], v)
			}
			if plain == 0 {
				defined = false
			} else {
				c = plain
				i++
			}
		}
		b[n] = c
		n++
	}
	return n, defined
}

// unescaped gives the octet for the letter after a backslash, 0 if the sequence is undefined.
//
// STOMP 1.1 and 1.2 "Value Encoding": \n, \c and \\; since 1.2 also \r.
func unescaped(letter byte, v Version) byte {
	switch {
	case letter == 'n':
		return '\n'
	case letter == 'c':
		return ':'
	case letter == '\\':
		return '\\'
	case letter == 'r' && v >= V12:
		return '\r'
	}
	return 0
}

// pairwiseMost is the number of headers up to which comparing each with each is cheaper than a table.
const pairwiseMost = 16

// firstOfEach drops headers whose name came before, in place. It takes linear time, so a frame full of headers costs no
// more per byte than others.
func firstOfEach(head []byte, spans []span) []span {
	if len(spans) > pairwiseMost {
		return firstOfMany(head, spans)
	}
	kept := spans[:0]
	var seen uint64 // a bit for each fingerprint, so that most names are compared with none
	for _, s := range spans {
		name := s.nameIn(head)
		bit := fingerprint(name)
		if seen&bit != 0 && nameIndex(head, kept, name) >= 0 {
			continue
		}
		seen |= bit
		kept = append(kept, s)
	}
	return kept
}

func fingerprint(name []byte) uint64 {
	return 1 << ((uint(len(name))*7 + uint(name[0]) + uint(name[len(name)-1])*3) % 64)
}

func nameIndex(head []byte, spans []span, name []byte) int {
	for i, s := range spans {
		if bytes.Equal(s.nameIn(head), name) {
			return i
		}
	}
	return -1
}

// nameTables holds tables for firstOfMany: open addressing, 0 for empty, else the index of a kept span plus one.
var nameTables = sync.Pool{New: func() any { return new([]uint32) }}

// nameSeed makes collisions unpredictable to a peer.
var nameSeed = maphash.MakeSeed()

func firstOfMany(head []byte, spans []span) []span {
	size := 1 << bits.Len(uint(2*len(spans)))
	pooled := nameTables.Get().(*[]uint32)
	defer nameTables.Put(pooled)
	if cap(*pooled) < size {
		*pooled = make([]uint32, size)
	}
	table := (*pooled)[:size]
	clear(table)
	kept := spans[:0]
	for _, s := range spans {
		name := s.nameIn(head)
		slot := maphash.Bytes(nameSeed, name) & uint64(size-1)
		for table[slot] != 0 && !bytes.Equal(kept[table[slot]-1].nameIn(head), name) {
			slot = (slot + 1) & uint64(size-1)
		}
		if table[slot] == 0 {
			kept = append(kept, s)
			table[slot] = uint32(len(kept))
		}
	}
	return kept
}
