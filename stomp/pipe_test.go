package stomp

import (
	"io"
	"log/slog"
	"net"
	"sync"
)

var discard = slog.New(slog.DiscardHandler)

// asyncPipe gives one end of a net.Pipe a buffer for writes, as a socket has: both ends may write before either reads.
type asyncPipe struct {
	net.Conn
	mu      sync.Mutex
	changed sync.Cond
	pending []byte
	closed  bool
	writer  sync.WaitGroup
}

func newAsyncPipe(c net.Conn) *asyncPipe {
	p := &asyncPipe{Conn: c}
	p.changed.L = &p.mu
	p.writer.Go(p.write)
	return p
}

func (p *asyncPipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.pending = append(p.pending, b...)
	p.changed.Signal()
	return len(b), nil
}

func (p *asyncPipe) write() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.pending) == 0 && !p.closed {
			p.changed.Wait()
		}
		if p.closed {
			return
		}
		b := p.pending
		p.pending = nil
		p.mu.Unlock()
		_, err := p.Conn.Write(b)
		p.mu.Lock()
		if err != nil {
			p.closed = true
		}
	}
}

func (p *asyncPipe) Close() error {
	p.mu.Lock()
	p.closed = true
	p.changed.Signal()
	p.mu.Unlock()
	err := p.Conn.Close()
	p.writer.Wait()
	return err
}
