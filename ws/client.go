package ws

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// client is one connection of the JSON protocol. Its reader owns what has no
// lock. Others touch it through the router's calls of its subscriptions, the
// store's answers, the outbox's reports, the clock and stop.
//
// Lock order: a lock of the router, then mu, then the outbox's. The router is
// never called with mu held.
type client struct {
	server  *Server
	socket  net.Conn
	strict  bool // anonymous logins are refused
	out     *outbox.Outbox
	batch   outbox.Batch // the reader's
	life    context.Context
	kill    context.CancelCauseFunc
	ending  atomic.Pointer[error] // why the reader shall end
	silence silence

	decoder  decoder
	small    [512]byte // what an idle connection reads into
	message  []byte    // the one that is being assembled
	limiter  *rate.Limiter
	session  *router.Session
	clientID string
	login    time.Time // when the login must be over
	subs     map[string]*subscription
	calls    calls

	mu          sync.Mutex
	changed     sync.Cond
	replies     replyQueue
	unconfirmed struct{ count, bytes int }
	unwritten   writtenQueue // deliveries that are settled once they are written
	paused      []resumer
	drained     int // how often the outbox found room again
	scratch     []byte
	written     uint64
	closed      bool // takes no more deliveries
	dead        bool // the socket is gone
	disowned    bool // the session is not ours any more
	wakes       outbox.Batch
}

// resumer is what goes on when the outbox has room again.
type resumer interface{ Resume(w *outbox.Batch) }

var _ outbox.Owner = (*client)(nil)

func newClient(s *Server, socket net.Conn, a arrival) *client {
	c := &client{server: s, socket: socket, strict: a.strict, login: time.Now().Add(s.opt.LoginTimeout), subs: map[string]*subscription{}}
	c.changed.L = &c.mu
	c.life, c.kill = context.WithCancelCause(s.life)
	c.out = outbox.New(socket, c, outbox.Options{MaxBytes: s.opt.OutboundBytes, Reserve: controlReserve})
	c.decoder.maxFrame, c.decoder.deflate = loginMessageBytes, a.deflate
	c.limiter = s.limiter()
	c.silence.heard()
	return c
}

// serve runs the connection to its end.
func (c *client) serve() {
	cause := error(errFailed)
	defer func() { c.close(cause) }()
	c.server.contain(func() {
		cause = c.socket.SetReadDeadline(c.login)
		if cause == nil {
			cause = c.readAll()
		}
	})
}

// largeReads holds read buffers for connections that have much to say.
var largeReads = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// readAll handles messages until the connection shall end, and returns why.
func (c *client) readAll() error {
	var large *[]byte
	buf := c.small[:]
	defer func() {
		if large != nil {
			largeReads.Put(large)
		}
	}()
	for {
		c.batch.FlushHere()
		if e := c.ending.Load(); e != nil {
			return *e
		}
		c.silence.waiting()
		n, err := c.socket.Read(buf)
		if n > 0 {
			c.silence.heard()
			if err := c.feed(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return c.readFailed(err)
		}
		switch full := n == len(buf); {
		case full && large == nil: // more waits
			large = largeReads.Get().(*[]byte)
			buf = *large
		case !full && large != nil:
			largeReads.Put(large)
			large, buf = nil, c.small[:]
		}
	}
}

func (c *client) readFailed(err error) error {
	if e := c.ending.Load(); e != nil {
		return *e
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && c.session == nil {
		c.server.Stats.LoginTimeouts.Add(1)
		return errLoginTimeout
	}
	return err
}

// feed handles the messages in what was read.
func (c *client) feed(b []byte) error {
	for len(b) > 0 {
		p, rest, err := c.decoder.next(b)
		if err != nil {
			return err
		}
		b = rest
		switch p.op {
		case 0:
		case opText:
			err = c.text(p)
		case opBinary:
			err = errNotText
		case opPing:
			c.control(&c.batch, opPong, p.payload)
		case opClose:
			if err = checkClose(p.payload); err == nil {
				err = errLeft
			}
		}
		if err != nil {
			return err
		}
		if e := c.ending.Load(); e != nil {
			return *e
		}
	}
	return nil
}

// keepMessageBytes is the largest assembly buffer that is kept between messages.
const keepMessageBytes = 4 << 10

// text collects a message and handles it when it is whole.
func (c *client) text(p piece) error {
	limit := c.server.opt.MaxMessageBytes
	if c.session == nil {
		limit = min(limit, loginMessageBytes)
	}
	if len(c.message)+len(p.payload) > limit {
		return refuse(closeTooBig, "a message is over the limit of %d bytes", limit)
	}
	m := p.payload
	if !p.end || len(c.message) > 0 {
		c.message = append(c.message, p.payload...) // grows with what came
		m = c.message
	}
	if !p.end {
		return nil
	}
	if p.packed {
		var err error
		if m, err = inflate(nil, m, limit); err != nil {
			return err
		}
	}
	if !utf8.Valid(m) {
		return errBadText // RFC 6455 section 8.1
	}
	err := c.handle(m)
	if c.message = c.message[:0]; cap(c.message) > keepMessageBytes {
		c.message = nil
	}
	return err
}

// control sends a control frame; it must be written soon, but not block.
func (c *client) control(w *outbox.Batch, op byte, payload []byte) {
	buf, ok := c.out.BeginControl(len(payload) + headMax)
	if ok {
		buf = append(appendHead(buf, op, len(payload)), payload...)
	}
	c.out.End(w, buf)
}

// tick pings a silent peer and gives one up that does not answer.
func (c *client) tick(nowMs int64) {
	c.calls.expire(c, nowMs)
	switch ping, over := c.silence.look(nowMs, c.server.opt.PingInterval); {
	case over:
		c.server.Stats.SilentClosed.Add(1)
		c.stop(errSilent)
	case ping:
		c.control(nil, opPing, nil)
	}
}

// stop has the reader end soon, and tell the client. The first cause counts; stop reports whether this is it.
func (c *client) stop(cause error) bool {
	first := c.ending.CompareAndSwap(nil, &cause)
	if first {
		_ = c.socket.SetReadDeadline(time.Unix(1, 0)) // a closed socket has ended the reader already
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	}
	return first
}

// slow stops a client that does not read, and counts it.
func (c *client) slow(cause error) {
	if c.stop(cause) {
		c.server.Stats.SlowClosed.Add(1)
	}
}

func (c *client) depart(cause error) { c.stop(cause) }
func (c *client) abort(cause error)  { c.fail(cause) }

// disown ends the connection since its session is about to be closed by someone else.
func (c *client) disown(cause error) {
	c.mu.Lock()
	c.closed, c.disowned = true, true
	c.unwritten = writtenQueue{}
	c.mu.Unlock()
	if errors.Is(cause, router.ErrTakenOver) {
		cause = errTakenOver
	}
	if errors.Is(cause, router.ErrMoved) {
		cause = errMoved
	}
	c.stop(cause)
}

// fail ends the connection at once, without a word.
func (c *client) fail(cause error) {
	c.stop(cause)
	c.kill(cause)
	_ = c.socket.Close() // the reader may have closed it
	c.mu.Lock()
	c.dead = true
	c.changed.Broadcast()
	c.mu.Unlock()
}

// Failed is the outbox's report that nothing more can be written.
func (c *client) Failed(cause error) {
	if errors.Is(cause, outbox.ErrSlow) || errors.Is(cause, os.ErrDeadlineExceeded) {
		c.slow(cause)
	}
	c.fail(cause)
}

// Written settles what waited for it.
func (c *client) Written(total uint64) {
	c.mu.Lock()
	c.written = total
	for d := c.unwritten.pop(total); d != nil; d = c.unwritten.pop(total) {
		c.mu.Unlock()
		_ = d.Ack(&c.wakes, nil) // an error means that the session ended, and others have it
		c.mu.Lock()
	}
	c.mu.Unlock()
	c.wakes.Flush()
}

// Drained has those go on that found the outbox full.
func (c *client) Drained() {
	c.mu.Lock()
	paused := c.paused
	c.paused = nil
	c.drained++
	c.changed.Broadcast()
	c.mu.Unlock()
	for _, p := range paused {
		p.Resume(&c.wakes)
	}
	c.wakes.Flush()
}

// await flushes and waits until ok holds or the socket is gone; ok is called with mu held.
func (c *client) await(ok func() bool) bool {
	c.batch.Flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() {
		if c.dead {
			return false
		}
		c.changed.Wait()
	}
	return true
}

// awaitPeer is await for what happens only when the client reads, which may be never: it gives up when the connection shall end.
func (c *client) awaitPeer(ok func() bool) bool {
	there := false
	c.await(func() bool { there = ok(); return there || c.ending.Load() != nil })
	return there
}

// close ends the connection for a cause: what can still be said is said, and what
// the client held goes back.
func (c *client) close(cause error) {
	watchdog := time.AfterFunc(c.server.opt.FlushTimeout+closeTimeout, func() { c.fail(cause) })
	defer watchdog.Stop()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	var told *closeError
	polite := errors.As(cause, &told) || errors.Is(cause, errLeft)
	if told != nil && told.blames() {
		c.server.Stats.ProtocolErrors.Add(1)
	}
	if polite {
		c.awaitReplies()
		code, reason := closeCode(cause)
		buf, ok := c.out.BeginControl(128)
		if ok {
			buf = appendClose(buf, code, reason)
		}
		c.out.End(&c.batch, buf)
		c.batch.Flush()
		c.out.Close()
	} else {
		_ = c.socket.Close()
		c.out.Wait() // before the abort: what was written is reported, and counts as delivered
		c.out.Abort(cause)
	}
	c.out.Wait()
	c.leave()
	if polite && !errors.Is(cause, errLeft) {
		linger(c.socket)
	}
	c.kill(cause)
	_ = c.socket.Close()
	c.server.opt.Log.Debug("connection closed", "protocol", "ws", "remote", c.socket.RemoteAddr().String(), "cause", cause)
}

// linger waits a moment for the peer's answer to the close frame: closing with
// unread input would have the kernel reset the connection, and lose the frame.
func linger(socket net.Conn) {
	if socket.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.CopyN(io.Discard, socket, 1<<20) // whatever ends it, the socket is closed next
	}
}

// leave ends the session; what was never written does not count as delivered.
func (c *client) leave() {
	for _, s := range c.subs {
		c.server.presence.unwatch(s)
	}
	if c.session == nil {
		return
	}
	var w outbox.Batch
	for _, d := range c.unsent() {
		_ = d.Undeliver(&w) // an error means that it is back already
	}
	w.Flush()
	c.session.Close()
	c.server.exit(c.session.Principal.Name())
}

func (c *client) unsent() []*router.Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disowned {
		return nil
	}
	out := c.unwritten.all()
	for _, s := range c.subs {
		for _, h := range s.held {
			if h.end > c.written {
				out = append(out, h.d)
			}
		}
	}
	c.unwritten = writtenQueue{}
	return out
}

// writtenQueue holds deliveries in the order of their bytes.
type writtenQueue struct {
	items []handed
	start int
}

// handed is a delivery and the outbox's count of bytes behind its frame.
type handed struct {
	d   *router.Delivery
	end uint64
}

func (q *writtenQueue) push(h handed) {
	if q.start > 64 && q.start*2 > len(q.items) {
		n := copy(q.items, q.items[q.start:])
		clear(q.items[n:])
		q.items, q.start = q.items[:n], 0
	}
	q.items = append(q.items, h)
}

// pop takes the first delivery that is written up to total, nil if there is none.
func (q *writtenQueue) pop(total uint64) *router.Delivery {
	if q.start == len(q.items) || q.items[q.start].end > total {
		return nil
	}
	d := q.items[q.start].d
	q.items[q.start] = handed{}
	if q.start++; q.start == len(q.items) {
		q.items, q.start = q.items[:0], 0
		if cap(q.items) > 1024 {
			q.items = nil
		}
	}
	return d
}

func (q *writtenQueue) all() []*router.Delivery {
	var out []*router.Delivery
	for _, h := range q.items[q.start:] {
		out = append(out, h.d)
	}
	return out
}
