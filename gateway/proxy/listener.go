package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a listener.
type Options struct {
	// Trusted are the networks of the proxies.
	Trusted []netip.Prefix
	// Timeout is from the accept to the complete header; default 5 s.
	Timeout time.Duration
	// MaxPending bounds the connections whose header is awaited; default 1024.
	MaxPending int
	// Name is the listener's in logs.
	Name string
	Log  *slog.Logger
}

// Listener accepts connections that begin with a header.
type Listener struct {
	net.Listener
	opt     Options
	ready   chan net.Conn
	failed  chan error // of the listener below, temporary ones too
	life    context.Context
	end     context.CancelFunc
	group   sync.WaitGroup
	refused atomic.Uint64
	begin   sync.Once
	logged  atomic.Int64 // Unix seconds of the last line
	silent  atomic.Uint64
}

// NewListener wraps a bound listener. It runs one goroutine from the first Accept
// to Close, and one for each header that is awaited.
func NewListener(l net.Listener, o Options) *Listener {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.MaxPending == 0 {
		o.MaxPending = 1024
	}
	p := &Listener{Listener: l, opt: o, ready: make(chan net.Conn), failed: make(chan error)}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// Refused returns how many connections were refused.
func (p *Listener) Refused() uint64 { return p.refused.Load() }

// Accept returns the next connection whose header is complete.
func (p *Listener) Accept() (net.Conn, error) {
	p.begin.Do(func() { p.group.Go(p.acceptAll) })
	select {
	case c := <-p.ready:
		return c, nil
	case err := <-p.failed:
		return nil, err
	case <-p.life.Done():
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: p.Addr(), Err: net.ErrClosed}
	}
}

// Close closes the listener and the connections that were not accepted yet.
func (p *Listener) Close() error {
	p.end()
	err := p.Listener.Close()
	p.begin.Do(func() {}) // an Accept that comes later starts nothing
	p.group.Wait()
	return err
}

// acceptAll hands connections to their readers. While too many are pending it
// accepts no more, so the rest waits in the kernel.
func (p *Listener) acceptAll() {
	slots := make(chan struct{}, p.opt.MaxPending)
	for {
		select {
		case slots <- struct{}{}:
		case <-p.life.Done():
			return
		}
		c, err := p.Listener.Accept()
		if err != nil {
			<-slots
			select {
			case p.failed <- err: // whoever accepts knows what may pass, and waits
			case <-p.life.Done():
			}
			if p.life.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		p.group.Go(func() {
			defer func() { <-slots }()
			p.admit(c)
		})
	}
}

// admit reads the header and hands the connection out, or closes it.
func (p *Listener) admit(c net.Conn) {
	stop := context.AfterFunc(p.life, func() { c.Close() })
	header, err := p.read(c)
	if err != nil {
		stop()
		_ = c.Close()
		if p.life.Err() == nil {
			p.refuse(c.RemoteAddr(), err)
		}
		return
	}
	var out net.Conn = c
	if header.Source.IsValid() {
		out = &conn{Conn: c, remote: header.address()}
	}
	select {
	case p.ready <- out:
		if !stop() {
			_ = c.Close() // Close came at the same time
		}
	case <-p.life.Done():
		_ = c.Close()
	}
}

// read returns the header of a trusted peer.
func (p *Listener) read(c net.Conn) (Header, error) {
	if !p.trusts(c.RemoteAddr()) {
		return Header{}, errors.New("the peer is not in the networks of proxy_protocol")
	}
	if err := c.SetReadDeadline(time.Now().Add(p.opt.Timeout)); err != nil {
		return Header{}, err
	}
	h, err := Read(c)
	if err != nil {
		return Header{}, fmt.Errorf("read the header: %w", err)
	}
	return h, c.SetReadDeadline(time.Time{})
}

func (p *Listener) trusts(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	for _, n := range p.opt.Trusted {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// refuse counts a refusal, and logs one a second at most: a scan or a badly set up
// proxy makes thousands.
func (p *Listener) refuse(peer net.Addr, err error) {
	p.refused.Add(1)
	last, now := p.logged.Load(), time.Now().Unix()
	if last == now || !p.logged.CompareAndSwap(last, now) {
		p.silent.Add(1)
		return
	}
	p.opt.Log.Warn("refused a connection without a trusted PROXY protocol header", "listener", p.opt.Name,
		"peer", peer.String(), "error", err, "unlogged_before", p.silent.Swap(0))
}

// conn is a connection with the address of the client before the proxy.
type conn struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr is the client's address.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// NetConn is the connection of the proxy.
func (c *conn) NetConn() net.Conn { return c.Conn }

// CloseWrite says that nothing more will be written.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
