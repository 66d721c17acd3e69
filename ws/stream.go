package ws

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/router/outbox"
)

// stream is a net.Conn whose bytes are the payloads of WebSocket messages, for
// which message boundaries mean nothing [MQTT-6.0.0-2]. Like any net.Conn it may be read on
// after a deadline passed: nothing that was read gets lost.
type stream struct {
	net.Conn // the socket
	server   *Server
	binary   bool // text is refused
	decoder  decoder
	text     textCheck
	failed   error // of the reader, for good

	// Of a deflated message, the reader's.
	packed    []byte    // what came of it
	packedOp  byte      // text or binary
	unpacking *inflater // it is whole, and being read
	rest      []byte    // raw bytes that came behind it

	inText   atomic.Bool // answer in kind
	answered atomic.Bool // the server inside has written something: the peer has said what it should
	silence  silence
	checked  bool          // CredentialRequired
	limiter  *rate.Limiter // of requests
	why      atomic.Uint32 // door.Parting: why it ends

	write    sync.Mutex
	try      outbox.TryWriter       // of the socket; nil: none
	pending  atomic.Pointer[[]byte] // a control frame that waits for its turn
	farewell atomic.Bool            // a close frame was sent, or can be no more
	over     sync.Once
	onClose  func()
}

var _ door.Guarded = (*stream)(nil)

func newStream(s *Server, socket net.Conn, a arrival) *stream {
	st := &stream{Conn: socket, try: outbox.Try(socket), server: s, binary: a.p == protocolMQTT, checked: a.strict}
	st.decoder.maxFrame, st.decoder.deflate = uint64(s.opt.MaxFrameBytes), a.deflate
	st.limiter = s.limiter()
	st.silence.heard()
	st.onClose = func() { s.forget(st) }
	return st
}

const (
	// controlTimeout bounds the write of a control frame.
	controlTimeout = 5 * time.Second
	// farewellTimeout bounds that of a close frame before the socket closes.
	farewellTimeout = 100 * time.Millisecond
)

// Read fills b with payload. It decodes in place: there is no buffer of its own,
// except for deflated messages.
func (s *stream) Read(b []byte) (int, error) {
	if s.failed != nil || len(b) == 0 {
		return 0, s.failed
	}
	for {
		got, err := s.unpack(b)
		if err == nil && got == 0 {
			got, err = s.receive(b)
		}
		switch {
		case s.failed != nil && got == 0:
			return 0, s.failed
		case got > 0:
			return got, nil // an error of the socket comes again
		case err != nil:
			return 0, err
		}
	}
}

// receive reads from the socket, or what it read before, and decodes that.
func (s *stream) receive(b []byte) (int, error) {
	if len(s.rest) > 0 {
		n := copy(b, s.rest)
		if s.rest = s.rest[n:]; len(s.rest) == 0 {
			s.rest = nil
		}
		return s.decode(b[:n])
	}
	s.silence.waiting()
	n, err := s.Conn.Read(b)
	if n == 0 {
		return 0, err
	}
	s.silence.heard()
	got, bad := s.decode(b[:n])
	if bad != nil {
		return got, bad
	}
	return got, err
}

// decode moves the payloads in b to its start. An error has been told to the peer.
func (s *stream) decode(b []byte) (int, error) {
	n, rest := 0, b
	for len(rest) > 0 {
		var p piece
		var err error
		if p, rest, err = s.decoder.next(rest); err == nil {
			switch {
			case p.op == 0:
			case p.op >= opClose:
				err = s.controlFrame(p)
			case p.packed:
				err = s.collect(p)
			default:
				if err = s.data(p.op, p.payload, p.end); err == nil {
					n += copy(b[n:], p.payload)
				}
			}
		}
		if err != nil {
			s.failed = s.end(err)
			return n, s.failed
		}
		if s.unpacking != nil {
			s.rest = slices.Concat(rest, s.rest)
			return n, nil
		}
	}
	return n, nil
}

// collect keeps a part of a deflated message, within limits, and begins to
// inflate it when it is whole.
func (s *stream) collect(p piece) error {
	limit := loginMessageBytes
	if s.answered.Load() {
		limit = maxPackedMessage
	}
	n := int64(len(p.payload))
	switch {
	case len(s.packed)+len(p.payload) > limit:
		return refuse(closeTooBig, "a compressed message is over the limit of %d bytes", limit)
	case s.server.packedBytes.Add(n) > maxPackedBytes:
		s.server.packedBytes.Add(-n)
		return errCrowded
	}
	s.packed, s.packedOp = append(s.packed, p.payload...), p.op
	if p.end {
		s.unpacking = newInflater(s.packed, s.server.opt.MaxFrameBytes)
	}
	return nil
}

// unpack reads from the deflated message that is whole, if there is one.
func (s *stream) unpack(b []byte) (int, error) {
	for s.unpacking != nil {
		n, err := s.unpacking.Read(b)
		over := err == io.EOF
		if err == nil || over {
			err = s.data(s.packedOp, b[:n], over)
		}
		if over || err != nil {
			s.dropPacked()
		}
		if err != nil {
			s.failed = s.end(err)
			return 0, s.failed
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, nil
}

// finish ends the stream when its reader has ended.
func (s *stream) finish() {
	_ = s.Close()
	s.dropPacked()
}

// dropPacked forgets a deflated message.
func (s *stream) dropPacked() {
	if s.unpacking != nil {
		s.unpacking.release()
		s.unpacking = nil
	}
	s.server.packedBytes.Add(-int64(len(s.packed)))
	s.packed = nil
}

// data notes the kind of what the peer sends, and checks text.
func (s *stream) data(op byte, payload []byte, end bool) error {
	if op == opText {
		if s.binary {
			return errNotBinary // [MQTT-6.0.0-1]
		}
		if !s.text.add(payload) || end && !s.text.whole() {
			return errBadText // RFC 6455 section 8.1
		}
	}
	if in := op == opText; in != s.inText.Load() {
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
				_, err := s.Conn.Write(*p)
				if err == nil {
					err = s.Conn.SetWriteDeadline(time.Time{}) // messages may take as long as the peer likes
				}
				if err != nil {
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
	op, payload := s.frame(b)
	var head [headMax]byte
	s.write.Lock()
	if s.farewell.Load() {
		s.write.Unlock()
		return 0, net.ErrClosed
	}
	bufs := net.Buffers{appendHead(head[:0], op, len(payload)), payload}
	_, err := bufs.WriteTo(s.Conn)
	s.wrote(err)
	s.write.Unlock()
	if err != nil {
		return 0, err
	}
	s.flushPending()
	return len(b), nil
}

// wrote notes the outcome of a write, with the lock held: a frame that was cut off is the last.
func (s *stream) wrote(err error) {
	if err != nil {
		s.farewell.Store(true) // what followed would be read as its payload
	}
}

// frame returns what b is sent as.
func (s *stream) frame(b []byte) (op byte, payload []byte) {
	op = opBinary
	if s.inText.Load() && utf8.Valid(b) {
		op = opText
	}
	s.answered.Store(true)
	if s.decoder.deflate && len(b) >= deflateFrom {
		return op | rsv1, appendDeflated(nil, b)
	}
	return op, b
}

// CloseWrite says that nothing more will be written.
func (s *stream) CloseWrite() error {
	code, reason := s.parting()
	s.bye(code, reason, controlTimeout)
	return nil
}

// Close closes the socket, with a close frame if there is room for one.
func (s *stream) Close() error {
	err := net.ErrClosed
	s.over.Do(func() {
		code, reason := s.parting()
		s.bye(code, reason, farewellTimeout)
		err = s.Conn.Close()
		s.onClose()
	})
	return err
}

// CredentialRequired reports that the handshake came from another machine and
// without an Origin: only a login that names a user is to be accepted then.
func (s *stream) CredentialRequired() bool { return s.checked }

// Request counts a request that the server inside has read.
func (s *stream) Request() (wait time.Duration, err error) {
	if s.limiter.Allow() {
		return 0, nil
	}
	s.server.Stats.Throttled.Add(1)
	if s.server.opt.CloseOverRate {
		s.Part(door.OverRate)
		return 0, door.ErrOverRate
	}
	return s.limiter.Reserve().Delay(), nil
}

// Part notes why the server inside is about to close.
func (s *stream) Part(why door.Parting) { s.why.CompareAndSwap(0, uint32(why)) }

// partings are what a client is told about the reasons of the servers inside.
var partings = [...]*closeError{
	door.Refused: errRefused, door.TakenOver: errTakenOver, door.Broken: errBroken, door.Slow: errSlow, door.Silent: errQuiet,
	door.Late: errLoginTimeout, door.OverRate: errRate, door.Moved: errMoved, door.Busy: errBusy,
}

// parting is the close code for a stream that ends from our side.
func (s *stream) parting() (uint16, string) {
	if why := s.why.Load(); why > 0 && int(why) < len(partings) {
		return partings[why].code, partings[why].reason
	}
	return s.server.parting()
}

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

// tick pings a peer that is silent, so that proxies keep the connection, and gives
// one up that does not answer, whatever the protocol inside would wait for.
func (s *stream) tick(nowMs int64) {
	ping, over := s.silence.look(nowMs, s.server.opt.PingInterval)
	switch {
	case over:
		s.server.Stats.SilentClosed.Add(1)
		s.server.clock.Go(func() {
			s.bye(errSilent.code, errSilent.reason, farewellTimeout)
			_ = s.Close()
		})
	case ping:
		frame := []byte{0x80 | opPing, 0}
		s.pending.Store(&frame)
		s.server.clock.Go(s.flushPending)
	}
}

// depart closes what the Drain of the server inside, which comes first, has left.
func (s *stream) depart(error) { _ = s.Close() }

func (s *stream) abort(error) { _ = s.Close() }
