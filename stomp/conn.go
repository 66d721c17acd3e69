package stomp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// conn is one connection. Its reader owns what has no lock. Others touch it through the router's calls of a feed, the
// store's answers to publishes, the outbox's reports and stop.
//
// Lock order: a lock of the router, then mu, then the outbox's. The router is never called with mu held.
type conn struct {
	server  *Server
	socket  net.Conn
	source  io.Reader    // of the socket's bytes
	guard   door.Guarded // the socket, nil if it is none
	dialect Dialect
	out     *outbox.Outbox
	decoder frame.Decoder
	batch   outbox.Batch // the reader's
	life    context.Context
	kill    context.CancelCauseFunc
	ending  atomic.Pointer[error] // why the reader shall end

	version  frame.Version
	session  *router.Session // nil until the login
	user     string
	counted  bool // user is counted by the server
	clientID string
	login    time.Time // when the login must be over
	subs     map[string]*subscription
	txs      map[string]*transaction
	buffered struct{ messages, bytes int } // in all transactions
	targets  map[string]target             // what destinations of SEND mean
	temps    map[string]router.Address     // temporary queues of this connection, by the client's name
	scratch  []*held                       // of settle
	taken    []outcome                     // of settle
	armed    bool                          // a read deadline guards the read buffer
	fed      uint64                        // bytes read when it was armed
	beat     *heartbeat                    // nil unless negotiated
	feeds    []*feed                       // scratch of the writer goroutine
	wakes    outbox.Batch                  // the writer goroutine's

	mu          sync.Mutex
	changed     sync.Cond // something that a reader may wait for
	replies     replyQueue
	unconfirmed struct{ count, bytes int }
	held        map[router.MessageID]*held
	holding     int // unsettled messages that wait for the client's word
	lastTag     uint64
	unwritten   heldQueue // of auto mode, in order of their bytes
	paused      []*feed   // refused since the outbox had no room
	drained     int       // how often it had room again
	written     uint64
	closed      bool // takes no more deliveries
	dead        bool // the socket is gone
	disowned    bool // the session is not ours any more
}

var _ outbox.Owner = (*conn)(nil)

func newConn(s *Server, socket net.Conn, d Dialect) *conn {
	c := &conn{server: s, socket: socket, source: door.Reader(socket), dialect: d}
	c.guard, _ = socket.(door.Guarded)
	c.changed.L = &c.mu
	c.life, c.kill = context.WithCancelCause(s.life)
	c.out = outbox.New(socket, c, outbox.Options{MaxBytes: s.opt.OutboundBytes, Reserve: controlReserve})
	c.decoder.Reset(c)
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.server.leave(c)
	// One deadline from the accept to CONNECTED: a byte now and then does not extend it.
	c.login = time.Now().Add(c.server.opt.LoginTimeout)
	cause := c.socket.SetReadDeadline(c.login)
	if cause == nil {
		cause = c.contain(c.readAll)
	}
	if err := c.contain(func() error { c.close(cause); return nil }); err != nil {
		_ = c.socket.Close()
	}
}

// errPanic is the cause of a connection's end that a fault of ours brought about.
var errPanic = errors.New("panic")

// contain turns a panic into an error.
func (c *conn) contain(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.Stats.Panics.Add(1)
			c.log().Error("a fault ended the connection", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return f()
}

// aside does on another stack what needs a deep one, once or seldom: the reader's would grow with it and stay so, and most
// of tens of thousands of readers do no more than wait.
func (c *conn) aside(do func() error) (err error) {
	done := make(chan struct{})
	go func() { // ends before aside does
		defer close(done)
		err = c.contain(do)
	}()
	<-done
	return err
}

func (c *conn) log() *slog.Logger {
	return c.server.opt.Log.With("protocol", "stomp", "remote", c.socket.RemoteAddr().String(), "user", c.user, "client_id", c.clientID)
}

// readAll handles frames until the connection shall end, and returns why.
func (c *conn) readAll() error {
	for {
		f, err := c.decoder.Next()
		if err == nil {
			err = c.handle(f)
		} else {
			err = c.readFailed(err)
		}
		if err != nil {
			return err
		}
		if e := c.ending.Load(); e != nil {
			return *e
		}
	}
}

// Read is the decoder's reader. It is called only when no whole frame is buffered, so before the reader blocks: here the
// writers of what it fed are woken.
func (c *conn) Read(b []byte) (int, error) {
	c.batch.FlushHere()
	if c.session != nil && !c.armed && len(b) > smallRead {
		c.armed, c.fed = true, c.decoder.Bytes()
		if err := c.socket.SetReadDeadline(time.Now().Add(idleAfter)); err != nil {
			return 0, err
		}
	}
	if e := c.ending.Load(); e != nil { // after the deadline was set: stop sets another one after ending
		return 0, *e
	}
	if c.beat == nil {
		return c.source.Read(b)
	}
	c.beat.waitingSinceMs.Store(time.Now().UnixMilli())
	n, err := c.source.Read(b)
	c.beat.waitingSinceMs.Store(0)
	return n, err
}

// smallRead is the size up to which the decoder reads into its own array; a larger read means that it holds a pooled
// buffer, which an idle connection shall give back.
const smallRead = 512

// readFailed returns why the connection ends, or nil if reading may go on.
func (c *conn) readFailed(err error) error {
	if e := c.ending.Load(); e != nil {
		return *e
	}
	var wire *frame.Error
	switch {
	case errors.As(err, &wire):
		c.server.Stats.ProtocolErrors.Add(1)
		r := explain(err)
		c.refuse([]byte(wire.Receipt), wire.Receipt != "", r)
		return r
	case errors.Is(err, os.ErrDeadlineExceeded) && c.session == nil:
		c.server.Stats.LoginTimeouts.Add(1)
		r := fatal("The first frame must be CONNECT or STOMP, complete with its NUL.", "no CONNECT frame came within %s", c.server.opt.LoginTimeout).because(door.Late)
		c.refuse(nil, false, r)
		return r
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.wentIdle()
	case errors.Is(err, io.EOF):
		return errLeft
	}
	return err
}

// wentIdle gives the read buffer back if nothing came since the deadline was set.
func (c *conn) wentIdle() error {
	c.armed = false
	if err := c.socket.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if c.decoder.Bytes() == c.fed {
		c.decoder.ReleaseIfEmpty()
	}
	if e := c.ending.Load(); e != nil { // stop's deadline may be the one just cleared
		return *e
	}
	return nil
}

// handle does what a frame asks for. It answers; an error that it returns ends the connection.
func (c *conn) handle(f *frame.Frame) error {
	err := c.pace(f)
	if err == nil {
		err = c.dispatch(f)
	}
	if err == nil || errors.Is(err, errLeft) || errors.Is(err, errParted) || errors.Is(err, errPanic) || c.life.Err() != nil {
		return err
	}
	r := c.explain(err)
	receipt, asked := f.Get("receipt")
	c.refuse(receipt, asked, r)
	if r.fatal {
		return r
	}
	return nil
}

// pace holds a client back that asks for more than the server allows that it came through. Acknowledgements are not held
// back: they answer what was sent to the client.
func (c *conn) pace(f *frame.Frame) error {
	if c.guard == nil || f.Command == frame.ACK || f.Command == frame.NACK {
		return nil
	}
	wait, err := c.guard.Request()
	switch {
	case err != nil:
		return fatal("Come back later and send less at a time.", "%s", err)
	case wait == 0:
		return nil
	}
	c.batch.Flush()
	return door.Pause(c.life, wait)
}

// explain makes a refusal of an error, and logs what is a fault of ours: the client is not told its cause.
func (c *conn) explain(err error) *refusal {
	r := explain(err)
	if r.internal {
		c.log().Error("cannot do what a client asked for", "error", r.cause)
	}
	return r
}

// dispatch calls what handles the command. Handlers answer success themselves and return what to refuse.
func (c *conn) dispatch(f *frame.Frame) error {
	if c.session == nil {
		if f.Command != frame.CONNECT && f.Command != frame.STOMP {
			c.server.Stats.LoginFailures.Add(1)
			return fatal("Send CONNECT or STOMP first, and wait for CONNECTED.", "%s came before CONNECT: the client is not logged in", f.Command).because(door.Broken)
		}
		return c.aside(func() error { return c.connect(f) })
	}
	switch f.Command {
	case frame.SEND:
		return c.send(f)
	case frame.ACK, frame.NACK:
		return c.settle(f)
	case frame.SUBSCRIBE:
		return c.aside(func() error { return c.subscribe(f) })
	case frame.UNSUBSCRIBE:
		return c.unsubscribe(f)
	case frame.BEGIN:
		return c.begin(f)
	case frame.COMMIT:
		return c.commit(f)
	case frame.ABORT:
		return c.abort(f)
	case frame.DISCONNECT:
		return c.disconnect(f)
	case frame.CONNECT, frame.STOMP:
		return mistake("Open another connection to log in as someone else.", "Already connected.")
	}
	return fatal("", "unexpected command %s", f.Command).because(door.Broken)
}

// disconnect answers after everything before it was answered (STOMP 1.2 "DISCONNECT"). Transactions that are open are
// rolled back by being forgotten.
func (c *conn) disconnect(f *frame.Frame) error {
	c.takeNoMore()
	if _, asked := f.Get("receipt"); !asked {
		return errLeft
	}
	r := c.expect(f, 0)
	c.session.Flush(&c.batch, r.stored) // the client may count on every ACK before it
	c.awaitReplies()
	return errParted
}

// takeNoMore refuses further deliveries. It comes before the last word to the client: who has heard that reads no more, and
// in auto mode what is written after it would be lost.
func (c *conn) takeNoMore() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
}

// stop has the reader end soon, and tell the client. It never blocks; the first cause counts, and stop reports whether this is it.
func (c *conn) stop(cause error) bool {
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
func (c *conn) slow(cause error) {
	if c.stop(cause) {
		c.server.Stats.SlowClosed.Add(1)
	}
}

// disown ends the connection since its session is about to be closed by someone else. What it holds goes to others then, so
// it must not settle or return anything any more.
func (c *conn) disown(cause error) {
	c.mu.Lock()
	c.closed, c.disowned = true, true
	c.unwritten = heldQueue{}
	c.changed.Broadcast()
	c.mu.Unlock()
	c.stop(cause)
}

// fail ends the connection at once, without a word.
func (c *conn) fail(cause error) {
	c.stop(cause)
	c.kill(cause)
	c.part(cause)
	_ = c.socket.Close() // the reader may have closed it
	c.mu.Lock()
	c.dead = true
	c.changed.Broadcast()
	c.mu.Unlock()
}

// Failed is the outbox's report that nothing more can be written.
func (c *conn) Failed(cause error) {
	if errors.Is(cause, outbox.ErrSlow) {
		cause = fmt.Errorf("%w (%w)", errSlow, cause)
		c.slow(cause)
	}
	c.fail(cause)
}

// await flushes and waits until ok holds, or the socket is gone; ok is called with mu held. It reports whether ok held.
func (c *conn) await(ok func() bool) bool {
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
func (c *conn) awaitPeer(ok func() bool) bool {
	there := false
	c.await(func() bool { there = ok(); return there || c.ending.Load() != nil })
	return there
}

// close ends the connection for a cause: what can still be said is said, what the client held goes back to its mailboxes.
func (c *conn) close(cause error) {
	c.batch.Flush() // what the last frames fed others must leave, however this connection ended
	c.part(cause)
	if c.beat != nil {
		c.beat.stop()
	}
	watchdog := time.AfterFunc(c.server.opt.FlushTimeout+closeTimeout, func() { c.fail(errAborted) })
	defer watchdog.Stop()
	lingers := c.finish(cause)
	if !lingers {
		c.kill(cause)
		_ = c.socket.Close() // first: what follows may take time, and the peer shall know
		c.out.Abort(cause)
	}
	c.out.Wait()
	lingers = lingers && c.endSending() // before another connection has the client's id
	c.returnUnwritten()
	if c.session != nil {
		c.session.Close()
	}
	if lingers {
		c.linger()
	}
	c.kill(cause)
	_ = c.socket.Close()
	c.decoder.Reset(nil)
	c.report(cause)
}

// part has a WebSocket tell its client whether to come back.
func (c *conn) part(cause error) {
	if c.guard == nil {
		return
	}
	var told *refusal
	if !errors.As(cause, &told) {
		told = farewell(cause)
	}
	if told != nil {
		c.guard.Part(told.why)
	}
}

// finish sends what is still to be said, flushes it, and reports whether that made sense.
func (c *conn) finish(cause error) bool {
	c.mu.Lock()
	c.closed = true
	waits := c.unwritten.head != nil
	c.mu.Unlock()
	var told *refusal
	parting := farewell(cause)
	switch {
	case errors.As(cause, &told):
	case parting != nil:
		c.awaitReplies()
		c.refuse(nil, false, parting)
	case errors.Is(cause, errParted):
	case errors.Is(cause, errLeft) && !waits:
		c.awaitReplies() // a client that closed its sending side only still reads
	default:
		return false // messages that wait to be written would be lost with a client that does not read
	}
	c.batch.Flush()
	c.out.Close()
	return true
}

// endSending closes the sending side, and reports whether that is possible.
func (c *conn) endSending() bool {
	half, ok := c.socket.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// linger waits a moment for the peer to close, whose input has ended: closing with unread input would make the kernel send a
// reset, and the peer might lose the last frame.
func (c *conn) linger() {
	if c.socket.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
		_, _ = io.CopyN(io.Discard, c.socket, lingerBytes) // whatever ends it, the socket is closed next
	}
}

// report logs the end, once: that of strangers and of clients that just left is for debugging only.
func (c *conn) report(cause error) {
	level := slog.LevelInfo
	if c.session == nil || errors.Is(cause, errLeft) || errors.Is(cause, errParted) || errors.Is(cause, errDraining) {
		level = slog.LevelDebug
	}
	c.log().Log(context.Background(), level, "connection closed", "cause", cause)
}
