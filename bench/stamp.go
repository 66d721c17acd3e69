package bench

import (
	"bytes"
	"time"
)

// A body starts with a stamp of 40 lower-case hexadecimal digits: run (8), sender (6), number (12), send time in ns since the
// run began (14). Text, so that it passes where only UTF-8 may, and can be read in a trace; fixed places, so that stamping a
// message is overwriting 26 bytes. Filler follows up to the size asked for.
const (
	stampBytes  = 40
	senderAt    = 8
	numberAt    = 14
	sentAt      = 26
	maxSenders  = 1 << (4 * (numberAt - senderAt))
	fillerCycle = "abcdefghijklmnopqrstuvwxyz012345"
)

// clock gives the run's time: monotonic nanoseconds since it began.
type clock struct{ epoch time.Time }

func (c clock) nowNS() int64 { return int64(time.Since(c.epoch)) }

// stamp is what a body says about itself.
type stamp struct {
	run    uint32
	sender uint32
	number uint64
	sentNS int64
}

// newBody makes a sender's body of size bytes (at least a stamp), with all that does not change from message to message.
func newBody(run uint32, sender, size int) []byte {
	b := make([]byte, max(size, stampBytes))
	for i := range b {
		b[i] = fillerCycle[i%len(fillerCycle)]
	}
	putHex(b[:senderAt], uint64(run))
	putHex(b[senderAt:numberAt], uint64(sender))
	restamp(b, 0, 0)
	return b
}

// restamp overwrites the changing part.
func restamp(body []byte, number uint64, sentNS int64) {
	putHex(body[numberAt:sentAt], number)
	putHex(body[sentAt:stampBytes], uint64(sentNS))
}

// readStamp takes a body's stamp; false when it does not begin with one.
func readStamp(body []byte) (stamp, bool) {
	if len(body) < stampBytes {
		return stamp{}, false
	}
	run, ok1 := readHex(body[:senderAt])
	sender, ok2 := readHex(body[senderAt:numberAt])
	number, ok3 := readHex(body[numberAt:sentAt])
	sent, ok4 := readHex(body[sentAt:stampBytes])
	return stamp{uint32(run), uint32(sender), number, int64(sent)}, ok1 && ok2 && ok3 && ok4
}

// sameFiller reports whether body has the size and filler that reference, a body of this run, has.
func sameFiller(body, reference []byte) bool {
	return len(body) == len(reference) && bytes.Equal(body[stampBytes:], reference[stampBytes:])
}

const (
	hexDigits = "0123456789abcdef"
	notHex    = 0xff
)

// hexValues is indexed by the byte: one load a digit, where comparisons would be two branches.
var hexValues = func() (t [256]byte) {
	for i := range t {
		t[i] = notHex
	}
	for v, c := range hexDigits {
		t[c] = byte(v)
	}
	return t
}()

func putHex(p []byte, v uint64) {
	for i := len(p) - 1; i >= 0; i-- {
		p[i] = hexDigits[v&0xf]
		v >>= 4
	}
}

func readHex(p []byte) (v uint64, ok bool) {
	bad := byte(0)
	for _, c := range p {
		d := hexValues[c]
		bad |= d // only notHex has high bits
		v = v<<4 | uint64(d&0xf)
	}
	return v, bad < 0x10
}
