package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// writeAtBytes is when a buffer is written although nobody asked: large enough to make the system call cheap, small enough to
// stay in the processor's cache.
const writeAtBytes = 64 << 10

// wire is a broker connection as bytes: buffered writing from any goroutine, and reading that deals with everything buffered
// before it may block. Over WebSocket each unit that is written (a frame, a packet, an object) is a message of its own, as
// browsers send them; many leave in one write all the same.
type wire struct {
	conn  net.Conn
	clock clock

	// beforeRead runs ahead of every read: the place to write acknowledgements and to hand back confirmations.
	beforeRead func()
	lull       func() // and what it waits for then, unless there is more to read; nil: nothing
	emptied    bool   // the last read took all there was
	arrivedNS  int64  // when the last read returned; the reader's

	mu      sync.Mutex
	out     []byte
	wrapper *wrapper // of what is written; nil on plain TCP
	err     error    // why writing failed; nothing is written after it
}

// carriage is what a protocol needs of the connection below it.
type carriage struct {
	secure  *tls.Config
	timeout time.Duration
	// For WebSocket: the subprotocols to offer, whether units are text, and whether the reader is to see where messages end:
	// a line feed then follows each.
	subprotocols string
	text         bool
	delimited    bool
}

// connect opens the socket, TLS where it is asked for, and WebSocket where the address says so.
func (k *carriage) connect(ctx context.Context, e endpoint) (*wire, error) {
	conn, err := dial(ctx, e, k.secure, k.timeout)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, clock: e.clock, lull: e.lull}
	if !e.websocket {
		return w, nil
	}
	var early []byte
	err = w.within(ctx, k.timeout, func() (err error) {
		early, err = k.upgrade(conn, e)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("WebSocket handshake at %s%s: %w", e.address, e.path, err)
	}
	w.conn = &unwrapper{Conn: conn, early: early, delimited: k.delimited}
	w.wrapper = newWrapper(k.text)
	return w, nil
}

// dial opens the socket, and TLS where it is asked for, within timeout.
func dial(ctx context.Context, e endpoint, secure *tls.Config, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	if e.source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(e.source)}
	}
	conn, err := d.DialContext(ctx, "tcp", e.address)
	if errors.Is(err, syscall.EMFILE) {
		err = errors.Join(err, errors.New("raise the limit of open files (ulimit -n) above the number of connections"))
	}
	if err != nil || secure == nil {
		return conn, err
	}
	config := secure.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(e.address)
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

// Read is the reader's side.
func (w *wire) Read(p []byte) (int, error) {
	if w.beforeRead != nil {
		w.beforeRead()
	}
	if w.lull != nil && w.emptied {
		w.lull()
	}
	n, err := w.conn.Read(p)
	w.emptied = n < len(p)/2
	w.arrivedNS = w.clock.nowNS()
	return n, err
}

// begin returns the buffer to append one unit to; end must get it back. Both need the lock.
func (w *wire) begin() []byte {
	if w.wrapper != nil {
		return w.wrapper.open(w.out)
	}
	return w.out
}

// end takes the buffer back, and writes it when it is large.
func (w *wire) end(b []byte) error {
	if w.wrapper != nil {
		b = w.wrapper.seal(b)
	}
	if w.out = b; len(b) >= writeAtBytes {
		return w.writeOut()
	}
	return w.err
}

// write adds to the buffer the unit that encode appends to it, and writes the buffer when it is large or must leave now.
func (w *wire) write(now bool, encode func([]byte) []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.end(encode(w.begin())); err != nil || !now {
		return err
	}
	return w.writeOut()
}

// flush writes what is buffered.
func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writeOut()
}

// writeOut needs the lock.
func (w *wire) writeOut() error {
	if w.err == nil && len(w.out) > 0 {
		_, w.err = w.conn.Write(w.out)
	}
	if w.out = w.out[:0]; cap(w.out) > 4*writeAtBytes {
		w.out = nil // one huge message must not pin its size
	}
	return w.err
}

// within does something, such as a login, on the connection: bounded by the timeout, and by ctx.
func (w *wire) within(ctx context.Context, timeout time.Duration, do func() error) error {
	w.conn.SetDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	switch inTime := stop(); {
	case err != nil:
		return err
	case !inTime:
		return context.Cause(ctx)
	}
	return w.conn.SetDeadline(time.Time{})
}
