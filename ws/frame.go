package ws

import (
	"encoding/binary"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// Opcodes (RFC 6455 section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// rsv1 is the bit of the first byte that begins a deflated message.
const rsv1 = 0x40

// decoder takes a client's bytes apart. It holds at most a frame header and a
// control frame, so it can stop at any byte and go on with the next.
type decoder struct {
	maxFrame uint64 // largest payload of a data frame
	deflate  bool   // permessage-deflate was negotiated

	head    [14]byte
	have    uint8
	control []byte // payload of the control frame that is being read
	left    uint64 // payload bytes of the frame that have not come
	inFrame bool
	fin     bool
	op      byte // of the frame
	message byte // opcode of the message that is open, 0: none
	packed  bool // that message is deflated
	maskAt  uint8
	mask    [4]byte
	flood   *rate.Limiter // of control and empty frames
}

// floodPerSecond and floodBurst bound control frames and data frames without data.
const floodPerSecond, floodBurst = 20, 100

// piece is what decoder.next found: a part of a data message, or a control frame.
type piece struct {
	payload []byte // unmasked, in the buffer that was given
	op      byte   // opText or opBinary, also for continuations; a control opcode; 0: nothing whole yet
	end     bool   // of the message
	packed  bool   // it is deflated
}

// next decodes from b in place and returns the rest.
func (d *decoder) next(b []byte) (piece, []byte, error) {
	if !d.inFrame {
		rest, err := d.readHead(b)
		if err != nil || !d.inFrame {
			return piece{}, nil, err
		}
		b = rest
	}
	n := int(min(uint64(len(b)), d.left))
	payload, rest := b[:n], b[n:]
	d.unmask(payload)
	d.left -= uint64(n)
	over := d.left == 0
	d.inFrame = !over
	if d.op >= opClose {
		d.control = append(d.control, payload...)
		if !over {
			return piece{}, nil, nil
		}
		return piece{payload: d.control, op: d.op, end: true}, rest, nil
	}
	p := piece{payload: payload, op: d.message, end: over && d.fin, packed: d.packed}
	if p.end {
		d.message = 0
	}
	return p, rest, nil
}

// readHead collects a frame header; inFrame tells whether it is whole.
func (d *decoder) readHead(b []byte) ([]byte, error) {
	for len(b) > 0 {
		d.head[d.have] = b[0]
		d.have++
		b = b[1:]
		if d.have == 2 {
			if err := d.checkHead(); err != nil {
				return nil, err
			}
		}
		if d.have >= 2 && int(d.have) == d.headBytes() {
			d.have = 0
			return b, d.begin()
		}
	}
	return nil, nil
}

func (d *decoder) headBytes() int {
	switch d.head[1] & 0x7f {
	case 126:
		return 8
	case 127:
		return 14
	}
	return 6
}

// checkHead refuses what RFC 6455 section 5.2 forbids, as soon as it is seen.
func (d *decoder) checkHead() error {
	op, fin, short := d.head[0]&0xf, d.head[0]&0x80 != 0, d.head[1]&0x7f
	switch {
	case d.head[0]&0x30 != 0, d.head[0]&rsv1 != 0 && !(d.deflate && (op == opText || op == opBinary)):
		return errReserved // the first bit begins a deflated message (RFC 7692 section 6)
	case d.head[1]&0x80 == 0:
		return errMask // section 5.1
	case op >= opClose && op <= opPong:
		if !fin || short > 125 {
			return errControl // section 5.5
		}
	case op > opBinary:
		return errOpcode
	case (op == opContinuation) != (d.message != 0):
		return errContinuation // section 5.4
	}
	return nil
}

// begin starts the payload of a frame whose header is whole.
func (d *decoder) begin() error {
	d.op, d.fin = d.head[0]&0xf, d.head[0]&0x80 != 0
	at := d.headBytes() - 4
	switch d.left = uint64(d.head[1] & 0x7f); d.left {
	case 126:
		d.left = uint64(binary.BigEndian.Uint16(d.head[2:]))
	case 127:
		d.left = binary.BigEndian.Uint64(d.head[2:])
	}
	copy(d.mask[:], d.head[at:])
	d.maskAt, d.inFrame = 0, true
	if d.op >= opClose {
		d.control = d.control[:0]
	} else if d.left > d.maxFrame {
		return refuse(closeTooBig, "a frame of %d bytes is over the limit of %d", d.left, d.maxFrame)
	}
	if d.op >= opClose || d.left == 0 || !d.fin && d.left < tinyFragment {
		if d.flood == nil {
			d.flood = rate.NewLimiter(floodPerSecond, floodBurst)
		}
		if !d.flood.AllowN(time.Now(), 1) {
			return errFlood
		}
	}
	if d.op == opText || d.op == opBinary {
		d.message, d.packed = d.op, d.head[0]&rsv1 != 0
	}
	return nil
}

// tinyFragment is the size below which a fragment counts as a part of a flood:
// its handling costs more than its bytes.
const tinyFragment = 16

// unmask follows RFC 6455 section 5.3, eight bytes at a time.
func (d *decoder) unmask(b []byte) {
	at := d.maskAt
	d.maskAt = (at + uint8(len(b)&3)) & 3
	if len(b) >= 16 {
		var k [8]byte
		for i := range k {
			k[i] = d.mask[(int(at)+i)&3]
		}
		key := binary.LittleEndian.Uint64(k[:])
		for len(b) >= 8 {
			binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key)
			b = b[8:]
		}
	}
	for i := range b {
		b[i] ^= d.mask[at&3]
		at++
	}
}

// appendHead appends the header of an unmasked, unfragmented frame.
func appendHead(dst []byte, op byte, payloadBytes int) []byte {
	switch {
	case payloadBytes < 126:
		return append(dst, 0x80|op, byte(payloadBytes))
	case payloadBytes <= 0xffff:
		return append(dst, 0x80|op, 126, byte(payloadBytes>>8), byte(payloadBytes))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0x80|op, 127), uint64(payloadBytes))
}

// headMax is the size of the largest header that appendHead makes.
const headMax = 10

// textCheck validates UTF-8 that comes in parts.
type textCheck struct {
	carry [utf8.UTFMax]byte
	n     uint8
}

// add reports false once what came cannot be UTF-8.
func (t *textCheck) add(b []byte) bool {
	for t.n > 0 && len(b) > 0 {
		t.carry[t.n] = b[0]
		t.n++
		b = b[1:]
		if utf8.FullRune(t.carry[:t.n]) {
			if !utf8.Valid(t.carry[:t.n]) {
				return false
			}
			t.n = 0
		}
	}
	whole := len(b)
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax+1; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				whole = i
			}
			break
		}
	}
	if !utf8.Valid(b[:whole]) {
		return false
	}
	t.n += uint8(copy(t.carry[t.n:], b[whole:]))
	return true
}

// whole reports whether no character is cut off, at the end of a message.
func (t *textCheck) whole() bool {
	ok := t.n == 0
	t.n = 0
	return ok
}

// checkClose refuses a malformed close frame (RFC 6455 sections 5.5.1 and 7.4).
func checkClose(payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 || !utf8.Valid(payload[2:]) {
		return errBadClose
	}
	switch code := binary.BigEndian.Uint16(payload); {
	case code < 1000, code >= 1004 && code <= 1006, code >= 1015 && code < 3000, code >= 5000:
		return errBadClose
	}
	return nil
}
