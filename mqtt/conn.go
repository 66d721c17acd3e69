package mqtt

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

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/router/outbox"
)

// conn is one connection. Its reader owns what has no lock. Others touch it through the router's calls of a feed, the
// store's answers to publishes, the outbox's reports and stop.
//
// Lock order: a lock of the router, then mu, then the outbox's. The router is never called with mu held.
type conn struct {
	server *Server
	socket net.Conn
	source io.Reader    // of the socket's bytes
	guard  door.Guarded // the socket, nil if it is none
	out    *outbox.Outbox
	in     framer
	batch  outbox.Batch // the reader's
	life   context.Context
	kill   context.CancelCauseFunc
	ending atomic.Pointer[error] // why the reader shall end
	tasks  sync.WaitGroup        // goroutines that settle what needs no answer

	version     byte            // 0 until CONNECT
	session     *router.Session // nil until the login
	durable     *durable        // nil: the session ends with the connection
	user        string
	counted     bool // user is counted by the server
	connected   bool // CONNACK said so
	assigned    bool // the client id is ours
	clientID    string
	login       time.Time     // when the login must be over
	silence     time.Duration // how long the client may be silent, 0: for ever
	expirySec   uint32        // of the session, as agreed on
	will        *router.Will
	subs        map[string]*subscription
	topics      map[string]router.Address // what topic names mean
	aliases     []router.Address          // the client's, by number
	problemInfo bool
	maxPacket   int // what the client takes

	mu          sync.Mutex
	changed     sync.Cond // something that the reader may wait for
	replies     replyQueue
	unconfirmed struct{ count, bytes int }
	quota       int                // QoS 1 and 2 publishes of the client that are not completed
	received    map[uint16]receipt // QoS 2 publishes by id
	window      window
	sentAliases map[router.Address]uint16
	aliasMax    int          // what the client takes
	unwritten   []unwritten  // stored messages of QoS 0, in order of their bytes
	paused      []*feed      // refused since the outbox had no room
	waiting     []*feed      // refused since the window was full
	unsent      []unsent     // to be settled without having been sent
	settling    bool         // a goroutine does that
	closed      bool         // takes no more deliveries
	hurried     bool         // its end is waited for: by the client's next connection, or by a server that has waited long
	dead        bool         // the socket is gone
	sentBytes   uint64       // the writer goroutine's
	wakes       outbox.Batch // the writer goroutine's
}

var _ outbox.Owner = (*conn)(nil)

func newConn(s *Server, socket net.Conn) *conn {
	c := &conn{server: s, socket: socket, source: door.Reader(socket)}
	c.guard, _ = socket.(door.Guarded)
	c.changed.L = &c.mu
	c.life, c.kill = context.WithCancelCause(s.life)
	c.out = outbox.New(socket, c, outbox.Options{MaxBytes: s.opt.OutboundBytes, Reserve: controlReserve})
	c.in.source, c.in.limit = c, min(loginBytes, s.opt.MaxPacketBytes)
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.server.leave(c)
	// One deadline from the accept to CONNACK: a byte now and then does not extend it.
	c.login = time.Now().Add(c.server.opt.LoginTimeout)
	cause := c.socket.SetReadDeadline(c.login)
	if cause == nil {
		cause = c.contain(c.readAll)
	}
	if err := c.contain(func() error { c.close(cause); return nil }); err != nil {
		_ = c.socket.Close() // [MQTT-4.13.2-1]
	}
}

// contain turns a panic into an error.
func (c *conn) contain(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.Stats.Panics.Add(1)
			c.log().Error("a fault ended the connection", "panic", p, "stack", string(debug.Stack()))
			err = &fault{code: unspecified, text: "internal error", cause: fmt.Errorf("panic: %v", p)}
		}
	}()
	return f()
}

func (c *conn) log() *slog.Logger {
	return c.server.opt.Log.With("protocol", "mqtt", "remote", c.socket.RemoteAddr().String(), "user", c.user, "client_id", c.clientID)
}

// readAll handles packets until the connection shall end, and returns why.
func (c *conn) readAll() error {
	for {
		first, body, err := c.in.next()
		if err == nil {
			err = c.handle(first, body)
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

// Read is the framer's reader. It is called only when no whole packet is buffered, so before the reader blocks: here the
// writers of what it fed are woken.
func (c *conn) Read(b []byte) (int, error) {
	c.batch.FlushHere()
	var since time.Time
	if c.silence > 0 {
		since = time.Now() // silence counts while the gateway listens
	}
	for {
		if e := c.ending.Load(); e != nil {
			return 0, *e
		}
		n, err := c.source.Read(b)
		c.server.Stats.BytesReceived.Add(uint64(n))
		if n > 0 || c.session == nil || c.silence == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		// One deadline is left to pass, and only then it is known how much of the silence is left.
		due := since.Add(c.silence)
		if !time.Now().Before(due) { // [MQTT-3.1.2-22]
			return 0, errSilent // [MQTT-3.1.2-24]
		}
		if err := c.socket.SetReadDeadline(due); err != nil {
			return 0, err
		}
	}
}

// readFailed returns why the connection ends.
func (c *conn) readFailed(err error) error {
	if e := c.ending.Load(); e != nil {
		return *e
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && c.session == nil:
		c.server.Stats.LoginTimeouts.Add(1)
		return fmt.Errorf("no CONNECT came within %s: %w", c.server.opt.LoginTimeout, err)
	case errors.Is(err, errSilent):
		c.server.Stats.Silent.Add(1)
	case errors.Is(err, io.EOF):
		return errLeft
	}
	return err
}

// pace holds a client back that asks for more than the server allows that it came through. Acknowledgements and pings are
// not held back: they answer what was sent to the client, or show that it lives.
func (c *conn) pace(kind byte) error {
	if c.guard == nil {
		return nil
	}
	switch kind {
	case typePuback, typePubrec, typePubrel, typePubcomp, typePingreq:
		return nil
	}
	wait, err := c.guard.Request()
	switch {
	case err != nil:
		return &fault{code: rateTooHigh, text: err.Error()}
	case wait == 0:
		return nil
	}
	c.batch.Flush()
	return door.Pause(c.life, wait)
}

// handle does what a packet asks for. An error that it returns ends the connection.
func (c *conn) handle(first byte, body []byte) error {
	if err := c.pace(first >> 4); err != nil {
		return err
	}
	if c.session == nil {
		if first>>4 != typeConnect { // [MQTT-3.1.0-1]
			return faulty(protocolError, "packet type %d came before CONNECT", first>>4)
		}
		return c.connect(first, body) // [MQTT-3.2.0-2]
	}
	if err := checkFirst(first); err != nil {
		return err
	}
	switch first >> 4 {
	case typePublish:
		return c.publish(first, body)
	case typePuback, typePubrec, typePubrel, typePubcomp:
		return c.acknowledged(first>>4, body)
	case typeSubscribe:
		return c.subscribe(first, body)
	case typeUnsubscribe:
		return c.unsubscribe(first, body)
	case typePingreq:
		if len(body) > 0 {
			return faulty(malformed, "PINGREQ has a body")
		}
		c.control([]byte{typePingresp << 4, 0}) // [MQTT-3.12.4-1]
		return nil
	case typeDisconnect:
		return c.disconnect(body)
	case typeConnect: // [MQTT-3.1.0-2]
		return faulty(protocolError, "a second CONNECT came")
	case typeAuth: // no method was agreed on in CONNECT [MQTT-4.12.0-6] [MQTT-4.12.0-7]
		return faulty(protocolError, "AUTH came, and no authentication method was agreed on")
	}
	return faulty(protocolError, "packet type %d is for servers to send", first>>4)
}

// disconnect is the client's last packet.
func (c *conn) disconnect(body []byte) error {
	if c.version != v5 {
		if len(body) > 0 {
			return faulty(malformed, "DISCONNECT has a body")
		}
		return errParted
	}
	if len(body) == 0 {
		return errParted
	}
	code := reason(body[0])
	if len(body) > 1 {
		props, rest, err := cutProperties(body[1:])
		if err != nil {
			return err
		}
		if len(rest) > 0 {
			return faulty(malformed, "DISCONNECT has %d bytes too many", len(rest))
		}
		if err := eachProperty(props, typeDisconnect, c.disconnectProperty); err != nil {
			return err
		}
	}
	switch {
	case code == success: // [MQTT-3.14.4-3]
		return errParted
	case !clientDisconnects[code]: // [MQTT-3.14.2-1]
		return faulty(protocolError, "a client's DISCONNECT cannot have reason code %#x", byte(code))
	}
	return errWithWill
}

// clientDisconnects are the reasons besides success that a client may give (MQTT 5 table 3-10).
var clientDisconnects = map[reason]bool{
	disconnectWithWill: true, unspecified: true, malformed: true, protocolError: true, implementation: true, badTopic: true,
	receiveMaximum: true, badAlias: true, tooLarge: true, rateTooHigh: true, quotaExceeded: true, 0x98: true, badPayloadFormat: true,
}

func (c *conn) disconnectProperty(p property) error {
	switch p.id {
	case packets.PropServerReference:
		return faulty(protocolError, "a client's DISCONNECT must not carry a server reference")
	case packets.PropSessionExpiryInterval:
		if c.expirySec == 0 && p.number != 0 { // [MQTT-3.14.2-2]: a session cannot become durable at its end
			return faulty(protocolError, "DISCONNECT sets a session expiry, and CONNECT said 0")
		}
		c.expirySec = min(p.number, c.server.maxExpirySec())
	}
	return nil
}

// control sends a packet that answers the client.
func (c *conn) control(packet []byte) {
	buf, ok := c.out.BeginControl(len(packet))
	if ok {
		buf = append(buf, packet...)
	}
	c.out.End(&c.batch, buf)
}

// stop has the reader end soon, and tell the client. It never blocks; the first cause counts.
func (c *conn) stop(cause error) {
	if c.ending.CompareAndSwap(nil, &cause) {
		_ = c.socket.SetReadDeadline(time.Unix(1, 0)) // a closed socket has ended the reader already
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	}
}

// disown ends the connection since its session is about to be closed by someone else. What it holds goes to others then, so
// it must not settle anything any more.
func (c *conn) disown(cause error) {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.hurry()
	if errors.Is(cause, router.ErrTakenOver) {
		cause = errTaken
	}
	if errors.Is(cause, router.ErrMoved) {
		cause = errMoved
	}
	c.stop(cause)
	c.kill(cause)
}

// hurry has a connection that ends, or will, not wait longer for the store than closeTimeout.
func (c *conn) hurry() {
	c.mu.Lock()
	c.hurried = true
	c.changed.Broadcast()
	c.mu.Unlock()
}

// abort ends the connection at once: the server does not wait longer.
func (c *conn) abort() {
	c.hurry()
	c.fail(errAborted)
}

// fail ends the connection at once, without a word.
func (c *conn) fail(cause error) {
	c.stop(cause)
	c.kill(cause)
	c.part(cause, true)  // what fails from outside has no login's deadline
	_ = c.socket.Close() // the reader may have closed it
	c.mu.Lock()
	c.dead = true
	c.changed.Broadcast()
	c.mu.Unlock()
}

// errSlow is the cause for a client that does not read what waits for it.
var errSlow = errors.New("client does not read: outbound buffer is full")

// Failed is the outbox's report that nothing more can be written.
func (c *conn) Failed(cause error) {
	if errors.Is(cause, outbox.ErrSlow) {
		c.server.Stats.SlowClosed.Add(1)
		cause = fmt.Errorf("%w (%w)", errSlow, cause)
	}
	c.fail(cause)
}

// await flushes and waits until ok holds, or the connection shall end; ok is called with mu held. It reports whether ok held.
func (c *conn) await(ok func() bool) bool {
	c.batch.Flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() {
		if c.dead || c.ending.Load() != nil {
			return false
		}
		c.changed.Wait()
	}
	return true
}

// close ends the connection for a cause: the session is left first, so that another connection need not wait for this client
// to read; then what can still be said is said. One that is taken over is waited for, for a moment.
func (c *conn) close(cause error) {
	patience := c.server.opt.FlushTimeout + closeTimeout
	watchdog := time.AfterFunc(patience, func() { c.fail(errAborted) })
	defer watchdog.Stop()
	if c.connected && breaksRules(cause) {
		c.server.Stats.ProtocolErrors.Add(1)
	}
	c.part(cause, c.session != nil)
	if errors.Is(cause, errDraining) {
		c.awaitReplies()
	}
	c.mu.Lock()
	c.closed = true
	leftOver := c.window.leftOver()
	c.window.queue.reset()
	c.mu.Unlock()
	for fd, ms := range leftOver {
		fd.closed.Store(true)
		fd.source.CloseAndReturn(ms, &c.batch)
	}
	c.batch.Flush()
	// One that was taken over ends before the one that takes over begins.
	taken := errors.Is(cause, errTaken)
	lingers := taken && c.finish(cause) && c.endSending()
	if c.session != nil {
		watchdog.Stop() // here the store is waited for, and not the client
		c.depart(cause)
		watchdog.Reset(patience)
	}
	if !taken {
		lingers = c.finish(cause) // [MQTT-3.14.4-2]
	}
	c.kill(cause)
	if lingers && (c.version == v5 || errors.Is(cause, errRefused) && c.ending.Load() == nil) { // else nothing was said that could be lost
		c.linger()
	}
	_ = c.socket.Close()
	c.out.Abort(cause)
	c.out.Wait()
	c.tasks.Wait()
	c.in.release()
	c.report(cause)
}

// depart leaves the session: what the client held goes back to its mailboxes, a durable session is kept, and the will is
// published if it is due.
func (c *conn) depart(cause error) {
	publishWill := c.will != nil && !errors.Is(cause, errParted) // [MQTT-3.1.2-8] [MQTT-3.1.2-10]
	if publishWill && c.durable == nil {
		// [MQTT-3.1.3-9]: when the session ends, which is now, if not after the delay.
		c.publishWill()
	}
	if c.durable != nil {
		c.durable.awaitAnswers()
	}
	c.session.Close()
	if c.durable != nil {
		c.durable.leave(publishWill)
	}
}

// breaksRules tells a client's mistakes from other causes.
func breaksRules(cause error) bool {
	var f *fault
	if !errors.As(cause, &f) {
		return false
	}
	switch f.code {
	case unspecified, unavailable, serverBusy, shuttingDown, keepAliveTimeout, takenOver, quotaExceeded, rateTooHigh:
		return false
	}
	return true
}

// part has a WebSocket tell its client whether to come back, of which the older protocols say nothing.
func (c *conn) part(cause error, loggedIn bool) {
	if c.guard != nil {
		c.guard.Part(parting(cause, loggedIn))
	}
}

// awaitReplies waits until everything is confirmed and every reply is in the outbox, for a while.
func (c *conn) awaitReplies() {
	deadline := time.AfterFunc(closeTimeout, func() {
		c.mu.Lock()
		c.dead = true
		c.changed.Broadcast()
		c.mu.Unlock()
	})
	defer deadline.Stop()
	c.batch.Flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.dead && (c.durable == nil || !c.durable.failed) && (c.replies.head != nil || c.unconfirmed.count > 0) {
		c.changed.Wait()
	}
}

// finish sends what is still to be said, flushes it, and reports whether that made sense.
func (c *conn) finish(cause error) bool {
	var told *fault
	if errors.As(cause, &told) {
		c.farewell(told)
	} else if !errors.Is(cause, errParted) && !errors.Is(cause, errWithWill) && !errors.Is(cause, errRefused) {
		return false
	}
	c.batch.Flush()
	if errors.Is(cause, errTaken) {
		// A stuck client must not keep its goroutines long after its id is in other hands.
		quick := time.AfterFunc(lingerTimeout, func() { c.fail(errAborted) })
		defer quick.Stop()
	}
	c.out.Close() // [MQTT-3.14.4-1]
	return true
}

// farewell tells an MQTT 5 client why; older ones see the connection close [MQTT-4.13.1-1].
func (c *conn) farewell(f *fault) {
	if c.version != v5 || !c.connected { // [MQTT-3.14.0-1]
		return
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: typeDisconnect}, ProtocolVersion: v5, ReasonCode: byte(f.code)}
	if c.problemInfo {
		pk.Properties.ReasonString = f.text
	}
	pk.Mods.MaxSize = uint32(c.maxPacket) // [MQTT-3.14.2-3]
	c.control(encode(&pk))
}

// endSending closes the sending side, and reports whether that is possible.
func (c *conn) endSending() bool {
	half, ok := c.socket.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// linger closes the sending side and waits a moment for the peer to close: closing with unread input would make the kernel
// send a reset, and the peer might lose the last packet.
func (c *conn) linger() {
	if !c.endSending() {
		return
	}
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
