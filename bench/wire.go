package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// writeAtBytes is when a buffer is written although nobody asked: large enough to make the system call cheap, small enough to
// stay in the processor's cache.
const writeAtBytes = 64 << 10

// wire is a broker connection as bytes: buffered writing from any goroutine, and reading that deals with everything buffered
// before it may block.
type wire struct {
	conn  net.Conn
	clock clock

	// beforeRead runs ahead of every read: the place to write acknowledgements and to hand back confirmations.
	beforeRead func()
	arrivedNS  int64 // when the last read returned; the reader's

	mu  sync.Mutex
	out []byte
	err error // why writing failed; nothing is written after it
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
	n, err := w.conn.Read(p)
	w.arrivedNS = w.clock.nowNS()
	return n, err
}

// write adds to the buffer what encode appends to it, and writes the buffer when it is large or must leave now.
func (w *wire) write(now bool, encode func([]byte) []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = encode(w.out)
	if now || len(w.out) >= writeAtBytes {
		return w.writeOut()
	}
	return w.err
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
