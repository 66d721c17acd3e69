package bench

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// A client of RFC 6455 in two halves that know nothing of each other: wrapper makes frames in the buffer of a wire, so that
// many leave in one write; unwrapper takes them off in the buffer of whoever reads.

const (
	wsContinuation, wsText, wsBinary = 0x0, 0x1, 0x2
	wsClose, wsPing, wsPong          = 0x8, 0x9, 0xa

	wsFinal, wsMasked = 0x80, 0x80
	wsMost8, wsIs16   = 125, 126
	wsMaskBytes       = 4
	wsHeadBytes       = 14 // the largest head of a client's frame
	wsAcceptSuffix    = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// target is a broker's address: host:port, and where WebSocket carries the protocol, the path.
type target struct {
	address   string
	path      string // empty: the protocol's own
	websocket bool
	secure    bool // wss
}

// parseTarget reads host:port, ws://host:port/path or wss://host:port/path.
func parseTarget(text string) (target, error) {
	scheme, _, isURL := strings.Cut(text, "://")
	if !isURL {
		_, _, err := net.SplitHostPort(text)
		return target{address: text}, err
	}
	if scheme != "ws" && scheme != "wss" {
		return target{}, fmt.Errorf("scheme %q is neither ws nor wss", scheme)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return target{}, err
	case u.Port() == "" || u.Hostname() == "":
		return target{}, errors.New("host and port are both needed")
	case u.User != nil || u.Fragment != "":
		return target{}, errors.New("only host, port, path and query can be given")
	}
	t := target{address: u.Host, websocket: true, secure: scheme == "wss"}
	if u.Path != "" || u.RawQuery != "" {
		t.path = u.RequestURI()
	}
	return t, nil
}

// upgrade does the handshake and returns what came behind it.
func (k *carriage) upgrade(conn net.Conn, e endpoint) (early []byte, err error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	key := base64.StdEncoding.EncodeToString(random[:])
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n", e.path, e.address, key, k.subprotocols)
	if err != nil {
		return nil, err
	}
	const most = 16 << 10
	r := bufio.NewReaderSize(io.LimitReader(conn, most), 1<<10)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, asClosed(err)
	}
	sum := sha1.Sum([]byte(key + wsAcceptSuffix))
	switch {
	case response.StatusCode != http.StatusSwitchingProtocols:
		return nil, fmt.Errorf("the broker answered %s", printable(response.Status))
	case response.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return nil, errors.New("the broker's Sec-WebSocket-Accept is wrong")
	}
	return r.Peek(r.Buffered())
}

// wrapper frames and masks what a client sends.
type wrapper struct {
	op      byte
	random  *mathrand.PCG // masks need only vary: no page that a cache could be confused about
	started int           // where the open message begins
}

func newWrapper(text bool) *wrapper {
	op := byte(wsBinary)
	if text {
		op = wsText
	}
	return &wrapper{op: op, random: mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64())}
}

// open leaves room for the head of a message.
func (w *wrapper) open(b []byte) []byte {
	w.started = len(b)
	var room [wsHeadBytes]byte
	return append(b, room[:]...)
}

// seal puts the head before what was appended since open, and masks it. Nothing appended is no message.
func (w *wrapper) seal(b []byte) []byte {
	payload := b[w.started+wsHeadBytes:]
	if len(payload) == 0 {
		return b[:w.started]
	}
	return appendMasked(b[:w.started], w.op, uint32(w.random.Uint64()), payload)
}

// appendMasked appends a frame. The payload may lie behind dst in the same array, wsHeadBytes or more away.
func appendMasked(dst []byte, op byte, mask uint32, payload []byte) []byte {
	switch n := len(payload); {
	case n <= wsMost8:
		dst = append(dst, wsFinal|op, wsMasked|byte(n))
	case n < 1<<16:
		dst = append(dst, wsFinal|op, wsMasked|wsIs16, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, wsFinal|op, wsMasked|wsIs16+1), uint64(n))
	}
	dst = binary.LittleEndian.AppendUint32(dst, mask)
	start := len(dst)
	dst = append(dst, payload...)
	xor(dst[start:], mask)
	return dst
}

// xor masks b, eight bytes at a time.
func xor(b []byte, mask uint32) {
	wide := uint64(mask) | uint64(mask)<<32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(mask)
		mask = bits.RotateLeft32(mask, -8)
	}
}

// unwrapper is a socket whose reader sees the payloads of messages only. It answers pings.
type unwrapper struct {
	net.Conn
	early     []byte // came with the handshake
	delimited bool   // a line feed follows each message

	head    [wsHeadBytes]byte
	have    int    // bytes of the head
	left    uint64 // of the payload
	payload bool   // the head is whole
	control []byte // payload of a control frame
	failed  error
}

// Read decodes in place. It returns when there is payload, or nothing more will come.
func (u *unwrapper) Read(p []byte) (int, error) {
	spare := 0
	if u.delimited {
		spare = 1 // for the line feed of a message whose head came with the read before
	}
	if len(p) <= spare {
		return 0, io.ErrShortBuffer
	}
	for u.failed == nil {
		n, err := u.readRaw(p[spare:])
		got, bad := u.strip(p, p[spare:spare+n])
		if u.failed = bad; got > 0 {
			return got, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, u.failed
}

func (u *unwrapper) readRaw(p []byte) (int, error) {
	if len(u.early) > 0 {
		n := copy(p, u.early)
		u.early = u.early[n:]
		return n, nil
	}
	return u.Conn.Read(p)
}

// strip moves the payloads of raw to dst, which is the same array, and begins a byte ahead if they are delimited.
func (u *unwrapper) strip(dst, raw []byte) (n int, err error) {
	for len(raw) > 0 || u.payload && u.left == 0 {
		if !u.payload {
			if raw, err = u.readHead(raw); err != nil {
				return n, err
			}
			continue
		}
		part := raw[:min(uint64(len(raw)), u.left)]
		raw = raw[len(part):]
		u.left -= uint64(len(part))
		if op := u.head[0] & 0xf; op >= wsClose {
			if u.control = append(u.control, part...); u.left == 0 {
				if err := u.answer(op); err != nil {
					return n, err
				}
			}
		} else if n += copy(dst[n:], part); u.left == 0 && u.delimited && u.head[0]&wsFinal != 0 {
			dst[n] = '\n'
			n++
		}
		u.payload = u.left > 0
	}
	return n, nil
}

// readHead collects the head of a frame.
func (u *unwrapper) readHead(b []byte) ([]byte, error) {
	for len(b) > 0 && !u.payload {
		u.head[u.have] = b[0]
		u.have++
		b = b[1:]
		if u.have < 2 {
			continue
		}
		size, wide := uint64(u.head[1]), 0
		switch {
		case u.head[1]&wsMasked != 0:
			return nil, errors.New("the broker sent a masked WebSocket frame")
		case u.head[0]&0xf >= wsClose && u.head[1] > wsMost8:
			return nil, errors.New("the broker sent an oversized WebSocket control frame")
		case size == wsIs16:
			wide = 2
		case size > wsIs16:
			wide = 8
		}
		if u.have < 2+wide {
			continue
		}
		if wide > 0 {
			var v [8]byte
			copy(v[8-wide:], u.head[2:2+wide])
			size = binary.BigEndian.Uint64(v[:])
		}
		u.left, u.payload, u.have, u.control = size, true, 0, u.control[:0]
	}
	return b, nil
}

// answer deals with a control frame.
func (u *unwrapper) answer(op byte) error {
	switch op {
	case wsPing:
		// The socket keeps writes apart; what a wire writes is whole frames.
		_, err := u.Conn.Write(appendMasked(nil, wsPong, mathrand.Uint32(), u.control))
		return err
	case wsPong:
		return nil
	case wsClose:
		if len(u.control) > 2 {
			return fmt.Errorf("the broker closed the WebSocket: %d %s", binary.BigEndian.Uint16(u.control), printable(string(u.control[2:])))
		}
		return io.EOF
	}
	return fmt.Errorf("the broker sent a WebSocket frame of unknown kind %d", op)
}
