package ws

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// stream is a net.Conn whose bytes are the payloads of WebSocket messages, for
// which message boundaries mean nothing. Like any net.Conn it may be read on
// after a deadline passed: nothing that was read gets lost.
type stream struct {
	net.Conn // the socket
	server   *Server
	binary   bool // text is refused
	decoder  decoder
	text     textCheck
	failed   error // of the reader, for good

	inText  atomic.Bool // answer in kind
	readMs  atomic.Int64
	checked bool // CredentialRequired

	write    sync.Mutex
	pending  atomic.Pointer[[]byte] // a pong that waits for its turn
	farewell atomic.Bool            // a close frame was sent
	over     sync.Once
	onClose  func()
}

const (
	// controlTimeout bounds the write of a control frame.
	controlTimeout = 5 * time.Second
	// farewellTimeout bounds that of a close frame before the socket closes.
	farewellTimeout = 100 * time.Millisecond
)

// Read fills b with payload. It decodes in place: there is no buffer of its own.
func (s *stream) Read(b []byte) (int, error) {
	if s.failed != nil || len(b) == 0 {
		return 0, s.failed
	}
	for {
		n, err := s.Conn.Read(b)
		if n > 0 {
			s.readMs.Store(time.Now().UnixMilli())
			got, bad := s.decode(b[:n])
			if bad != nil {
				s.failed = bad
				if got == 0 {
					return 0, bad
				}
			}
			if got > 0 {
				return got, nil
			}
		}
		if err != nil {
			return 0, err
		}
	}
}

// decode moves the payloads in b to its start.
func (s *stream) decode(b []byte) (int, error) {
	n, rest := 0, b
	for len(rest) > 0 {
		var p piece
		var err error
		if p, rest, err = s.decoder.next(rest); err == nil {
			switch p.op {
			case 0:
			case opText, opBinary:
				if err = s.data(p); err == nil {
					n += copy(b[n:], p.payload)
				}
			default:
				err = s.controlFrame(p)
			}
		}
		if err != nil {
			return n, s.end(err)
		}
	}
	return n, nil
}

func (s *stream) data(p piece) error {
	if p.op == opText {
		if s.binary {
			return errNotBinary // [MQTT-6.0.0-1]
		}
		if !s.text.add(p.payload) || p.end && !s.text.whole() {
			return errBadText // RFC 6455 section 8.1
		}
	}
	if in := p.op == opText; in != s.inText.Load() {
		s.inText.Store(in)
	}
	return nil
}

// controlFrame answers a control frame; an error ends the reading.
func (s *stream) controlFrame(p piece) error {
	switch p.op {
	case opPing:
		pong := append(appendHead(make([]byte, 0, 2+len(p.payload)), opPong, len(p.payload)), p.payload...)
		// Only the latest ping must be answered (RFC 6455 section 5.5.3), and never
		// by a reader that waits behind a writer.
		s.pending.Store(&pong)
		s.flushPending()
	case opClose:
		if err := checkClose(p.payload); err != nil {
			return err
		}
		return errLeft
	}
	return nil
}

// flushPending writes a waiting control frame unless a writer will.
func (s *stream) flushPending() {
	for s.pending.Load() != nil && s.write.TryLock() {
		if p := s.pending.Swap(nil); p != nil && !s.farewell.Load() {
			if s.Conn.SetWriteDeadline(time.Now().Add(controlTimeout)) == nil {
				if _, err := s.Conn.Write(*p); err != nil {
					_ = s.Conn.Close() // a frame may be cut: nothing can follow it
				}
			}
		}
		s.write.Unlock()
	}
}

// end answers the peer's close, or its mistake, and returns what the reader sees.
func (s *stream) end(cause error) error {
	code, reason := closeCode(cause)
	s.bye(code, reason, controlTimeout)
	if errors.Is(cause, errLeft) {
		return io.EOF
	}
	s.server.Stats.ProtocolErrors.Add(1)
	linger(s.Conn)
	return cause
}

// bye sends a close frame, once, unless a writer is busy.
func (s *stream) bye(code uint16, reason string, timeout time.Duration) {
	if !s.write.TryLock() {
		return
	}
	defer s.write.Unlock()
	if s.farewell.Swap(true) || s.Conn.SetWriteDeadline(time.Now().Add(timeout)) != nil {
		return
	}
	_, _ = s.Conn.Write(appendClose(nil, code, reason)) // the connection ends in any case
}

// Write sends b as one message, in the kind that the peer used last. Text that
// would not be UTF-8 goes as binary, which every client that reads text takes.
func (s *stream) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	op := byte(opBinary)
	if s.inText.Load() && utf8.Valid(b) {
		op = opText
	}
	var head [headMax]byte
	s.write.Lock()
	if s.farewell.Load() {
		s.write.Unlock()
		return 0, net.ErrClosed
	}
	bufs := net.Buffers{appendHead(head[:0], op, len(b)), b}
	_, err := bufs.WriteTo(s.Conn)
	s.write.Unlock()
	if err != nil {
		return 0, err
	}
	s.flushPending()
	return len(b), nil
}

// CloseWrite says that nothing more will be written.
func (s *stream) CloseWrite() error {
	code, reason := s.server.parting()
	s.bye(code, reason, controlTimeout)
	return nil
}

// Close closes the socket, with a close frame if there is room for one.
func (s *stream) Close() error {
	err := net.ErrClosed
	s.over.Do(func() {
		code, reason := s.server.parting()
		s.bye(code, reason, farewellTimeout)
		err = s.Conn.Close()
		s.onClose()
	})
	return err
}

// CredentialRequired reports that the handshake came from another machine and
// without an Origin: only a login that names a user is to be accepted then.
func (s *stream) CredentialRequired() bool { return s.checked }

// NetConn returns the socket.
func (s *stream) NetConn() net.Conn { return s.Conn }

// secureStream is a stream over TLS.
type secureStream struct{ *stream }

// ConnectionState returns what TLS knows of the peer.
func (s secureStream) ConnectionState() tls.ConnectionState {
	return s.Conn.(*tls.Conn).ConnectionState()
}

// wrap makes what a STOMP or MQTT server is given.
func (s *stream) wrap() net.Conn {
	if _, ok := s.Conn.(*tls.Conn); ok {
		return secureStream{s}
	}
	return s
}

// tick pings a peer that is silent, so that proxies keep the connection; dead
// peers are found by the protocol inside or by TCP.
func (s *stream) tick(nowMs int64) {
	if nowMs-s.readMs.Load() < s.server.opt.PingInterval.Milliseconds() {
		return
	}
	s.readMs.Store(nowMs)
	ping := []byte{0x80 | opPing, 0}
	s.pending.Store(&ping)
	s.server.clock.Go(s.flushPending)
}

// depart closes what the Drain of the server inside, which comes first, has left.
func (s *stream) depart(error) { _ = s.Close() }

func (s *stream) abort(error) { _ = s.Close() }
