package mqtt

import (
	"errors"
	"io"
	"sync"
)

const (
	smallBytes = 512      // an idle connection's buffer, part of its conn
	largeBytes = 16 << 10 // a busy one's, pooled
)

var readBuffers = sync.Pool{New: func() any { return &[largeBytes]byte{} }}

// framer cuts a stream into packets. It allocates by what has arrived, never by what a length says: a packet that does
// not fit its buffer has the buffer doubled each time it is full. While little arrives it holds only the small buffer.
type framer struct {
	source io.Reader
	limit  int // of the remaining length
	buf    []byte
	start  int // of what is not consumed
	end    int
	last   int // bytes of the last read
	pooled *[largeBytes]byte
	small  [smallBytes]byte
}

var (
	errLength   = &fault{code: malformed, text: "the remaining length takes more than four bytes"}
	errOversize = &fault{code: tooLarge, text: "the packet is larger than the limit"}
)

// next returns the first byte of the next packet and what follows its length. The body is valid until the next call.
func (f *framer) next() (first byte, body []byte, err error) {
	for {
		n, head, err := f.announced()
		if err != nil {
			return 0, nil, err
		}
		if head > 0 && f.end-f.start >= head+n {
			first, body = f.buf[f.start], f.buf[f.start+head:f.start+head+n]
			f.start += head + n
			return first, body, nil
		}
		if err := f.fill(); err != nil {
			return 0, nil, err
		}
	}
}

// announced reads the fixed header: the remaining length and how many bytes the header has, 0 if it is not complete.
func (f *framer) announced() (n, head int, err error) {
	b := f.buf[f.start:f.end]
	for i := 1; i < len(b); i++ {
		n |= int(b[i]&0x7f) << (7 * (i - 1))
		if n > f.limit { // [MQTT-3.2.2-15]
			return 0, 0, errOversize
		}
		if b[i] < 0x80 {
			return n, i + 1, nil
		}
		if i == 4 { // [MQTT-1.5.5-1]: at most four bytes
			return 0, 0, errLength
		}
	}
	return 0, 0, nil
}

// fill reads more, after it has made room.
func (f *framer) fill() error {
	f.makeRoom()
	n, err := f.source.Read(f.buf[f.end:])
	f.end += n
	f.last = n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if errors.Is(err, io.EOF) && f.end > f.start {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (f *framer) makeRoom() {
	held := f.end - f.start
	switch {
	case held == 0 && f.last < smallBytes:
		f.release()
		f.buf, f.start, f.end = f.small[:], 0, 0
	case held == 0:
		f.start, f.end = 0, 0
		if len(f.buf) < largeBytes {
			f.grow(largeBytes)
		}
	case f.end < len(f.buf):
	case len(f.buf) < largeBytes: // the last read filled it, so more is there, though packets never end where reads do
		f.grow(largeBytes)
	case held == len(f.buf):
		f.grow(2 * held)
	case f.start > 0:
		f.start, f.end = 0, copy(f.buf, f.buf[f.start:f.end])
	}
}

// grow moves what is held to a larger buffer.
func (f *framer) grow(size int) {
	old, pooled := f.buf[f.start:f.end], f.pooled
	f.pooled = nil
	if size <= largeBytes {
		f.pooled = readBuffers.Get().(*[largeBytes]byte)
		f.buf = f.pooled[:]
	} else {
		f.buf = make([]byte, size)
	}
	f.start, f.end = 0, copy(f.buf, old)
	if pooled != nil {
		readBuffers.Put(pooled)
	}
}

// release gives a pooled buffer back. What was held is lost.
func (f *framer) release() {
	if f.pooled != nil {
		readBuffers.Put(f.pooled)
		f.pooled = nil
	}
	f.buf, f.start, f.end = nil, 0, 0
}
