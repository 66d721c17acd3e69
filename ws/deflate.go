package ws

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/mqgate/mqgate/router"
)

// permessage-deflate (RFC 7692) without context takeover: a message is inflated
// or deflated by itself, with a state that is borrowed for that moment, so that an
// idle connection holds none. What a message may be inflated to has the limit of
// what it might be without: a bomb ends its connection before it is a burden.

const (
	// deflateFrom is the size from which a message is worth the CPU.
	deflateFrom = 512
	// maxPackedBytes bounds the deflated messages of streams that are being
	// collected, of all connections together.
	maxPackedBytes = 64 << 20
	// maxPackedMessage bounds one of them, loginMessageBytes before the peer has had
	// an answer.
	maxPackedMessage = 1 << 20
)

// offersDeflate reports whether a handshake offers what is spoken here. A smaller
// window for what the server sends is not: package flate has one size.
func offersDeflate(r *http.Request) bool {
	for _, line := range r.Header.Values("Sec-WebSocket-Extensions") {
		for offer := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(offer, ";")
			if strings.TrimSpace(name) == "permessage-deflate" && !strings.Contains(parameters, "server_max_window_bits") {
				return true
			}
		}
	}
	return false
}

// packedEnd is what the sender left out (RFC 7692 section 7.2.2), and an empty
// last block, at which flate reports the end.
const packedEnd = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// packedReader reads a deflated message and what belongs behind it. It is an
// io.ByteReader, so that package flate needs no buffer of its own.
type packedReader struct {
	b   []byte
	end string
}

// Read fills b.
func (r *packedReader) Read(b []byte) (int, error) {
	if len(r.b) > 0 {
		n := copy(b, r.b)
		r.b = r.b[n:]
		return n, nil
	}
	n := copy(b, r.end)
	r.end = r.end[n:]
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// ReadByte returns the next byte.
func (r *packedReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := r.Read(b[:])
	return b[0], err
}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(&packedReader{}) }}

// inflater gives the content of one deflated message, up to a limit.
type inflater struct {
	flate io.ReadCloser
	left  int // bytes that may still come
	limit int
}

// newInflater begins to inflate packed, which must not change meanwhile.
func newInflater(packed []byte, limit int) *inflater {
	f := inflaters.Get().(io.ReadCloser)
	err := f.(flate.Resetter).Reset(&packedReader{b: packed, end: packedEnd}, nil)
	if err != nil {
		panic("ws: flate cannot be reset: " + err.Error()) // it never returns one
	}
	return &inflater{flate: f, left: limit, limit: limit}
}

// Read returns io.EOF at the end of the message, else a closeError.
func (i *inflater) Read(b []byte) (int, error) {
	n, err := i.flate.Read(b)
	if n > i.left {
		return 0, refuse(closeTooBig, "a message inflates beyond the limit of %d bytes", i.limit)
	}
	i.left -= n
	if err != nil && err != io.EOF {
		return n, errInflate
	}
	return n, err
}

// release gives the state back.
func (i *inflater) release() {
	_ = i.flate.(flate.Resetter).Reset(&packedReader{}, nil) // it keeps nothing of the message
	inflaters.Put(i.flate)
	i.flate = nil
}

// inflate appends the content of a deflated message to dst. It grows with what
// comes out, not with what might.
func inflate(dst, packed []byte, limit int) ([]byte, error) {
	i := newInflater(packed, limit)
	defer i.release()
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := i.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// deflater is a writer and where it writes to.
type deflater struct {
	flate *flate.Writer
	out   bytes.Buffer
}

var deflaters = sync.Pool{New: func() any {
	d := &deflater{}
	var err error
	if d.flate, err = flate.NewWriter(&d.out, flate.BestSpeed); err != nil {
		panic("ws: " + err.Error()) // the level is valid
	}
	return d
}}

// appendDeflated appends b deflated, so that a message may end there.
func appendDeflated(dst, b []byte) []byte {
	d := deflaters.Get().(*deflater)
	d.out.Reset()
	d.flate.Reset(&d.out)
	_, _ = d.flate.Write(b) // to memory
	_ = d.flate.Flush()
	dst = append(dst, bytes.TrimSuffix(d.out.Bytes(), []byte(packedEnd[:4]))...)
	if d.out.Cap() <= keepMessageBytes<<4 {
		deflaters.Put(d)
	}
	return dst
}

// storedHeadBytes is the size of what appendStoredHead appends.
const storedHeadBytes = 5

// appendStoredHead begins a block that is stored as it is (RFC 1951 section
// 3.2.4). What each subscriber has of its own goes in one, in front of the blocks
// that all share: those refer to nothing before them, so they are deflated once.
func appendStoredHead(dst []byte, n int) []byte {
	dst = binary.LittleEndian.AppendUint16(append(dst, 0), uint16(n))
	return binary.LittleEndian.AppendUint16(dst, ^uint16(n))
}

func packedDotTail(m *router.Message) []byte {
	return appendDeflated(nil, m.Encoded(tailKey(false), tailBuild(false)))
}

func packedSlashTail(m *router.Message) []byte {
	return appendDeflated(nil, m.Encoded(tailKey(true), tailBuild(true)))
}
