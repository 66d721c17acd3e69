package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/stomp/frame"
)

// stompProtocol speaks STOMP over TCP or TLS. It offers 1.0 to 1.2 and does as the broker chose.
type stompProtocol struct {
	carriage
	user, password, host string
	ack                  string
	prefetch             int
	receipts             bool
	persistent           bool
	heartbeat            time.Duration
	sendHeaders          []frame.Header
	subscribeHeaders     []frame.Header
	maxBodyBytes         int
}

var _ protocol = (*stompProtocol)(nil)

func newSTOMP(o Options) *stompProtocol {
	p := &stompProtocol{carriage: carriage{secure: o.TLS, timeout: o.Timeout, subprotocols: "v12.stomp, v11.stomp, v10.stomp", text: true},
		user: o.User, password: o.Password, host: o.Host, ack: o.ackMode(), prefetch: o.Prefetch,
		receipts: o.Window > 0, persistent: o.Persistent, maxBodyBytes: max(o.SizeBytes, 1<<20),
		sendHeaders: splitHeaders(o.SendHeaders), subscribeHeaders: splitHeaders(o.SubscribeHeaders)}
	if o.Scenario == Conns {
		p.heartbeat = o.Heartbeat // the other scenarios have no idle connections to keep
	}
	return p
}

func splitHeaders(lines []string) (headers []frame.Header) {
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		headers = append(headers, frame.Header{Name: name, Value: value})
	}
	return headers
}

func (p *stompProtocol) name() string    { return STOMP }
func (p *stompProtocol) confirms() bool  { return p.receipts }
func (p *stompProtocol) webPath() string { return "/stomp" }

func (p *stompProtocol) destinationPattern(shared bool) string {
	if shared {
		return "/queue/bench.%r.%d"
	}
	return "/topic/bench.%r.%d"
}

// Receipt ids of messages are numbers; these two are not.
const (
	subscribedReceipt = "subscribed"
	goodbyeReceipt    = "goodbye"
)

// stompConnection is one client.
type stompConnection struct {
	protocol *stompProtocol
	wire     *wire
	listener listener
	decoder  *frame.Decoder
	version  frame.Version
	broker   string

	sendHead  []byte      // SEND with the headers that never change; the publisher's
	publishes atomic.Bool // the publisher writes, and not the reader

	unacked  []byte // guarded by wire.mu: the id to acknowledge for all before it (ack mode client)
	answers  chan answer
	closing  atomic.Bool
	goodbye  sync.Once
	reader   sync.WaitGroup
	finished chan struct{}
}

// answer is a receipt, or an error in place of one.
type answer struct {
	receipt string // empty for an error that names none
	err     error
}

func (p *stompProtocol) dial(ctx context.Context, e endpoint) (connection, error) {
	w, err := p.connect(ctx, e)
	if err != nil {
		return nil, err
	}
	c := &stompConnection{protocol: p, listener: e.listener, wire: w,
		answers: make(chan answer, 4), finished: make(chan struct{})}
	c.decoder = frame.NewDecoder(c.wire, frame.ClientSide)
	limits := frame.DefaultLimits()
	limits.Body = p.maxBodyBytes
	c.decoder.SetLimits(limits)
	if err := w.within(ctx, p.timeout, c.logIn); err != nil {
		w.conn.Close()
		return nil, err
	}
	c.wire.beforeRead = c.beforeRead
	c.reader.Go(c.readAll)
	return c, nil
}

// logIn sends CONNECT and reads the answer.
func (c *stompConnection) logIn() error {
	p := c.protocol
	headers := []frame.Header{{Name: "accept-version", Value: "1.0,1.1,1.2"}, {Name: "host", Value: p.host}}
	if p.user != "" || p.password != "" {
		headers = append(headers, frame.Header{Name: "login", Value: p.user}, frame.Header{Name: "passcode", Value: p.password})
	}
	beat := strconv.FormatInt(p.heartbeat.Milliseconds(), 10)
	headers = append(headers, frame.Header{Name: "heart-beat", Value: beat + "," + beat})
	err := c.wire.write(true, func(b []byte) []byte { return frame.AppendFrame(b, frame.V10, frame.CONNECT, nil, headers...) })
	if err != nil {
		return fmt.Errorf("send CONNECT: %w", err)
	}
	f, err := c.decoder.Next()
	if err != nil {
		return fmt.Errorf("no answer to CONNECT: %w", asClosed(err))
	}
	if f.Command != frame.CONNECTED {
		return fmt.Errorf("CONNECT refused (check --user, --password and --host): %w", brokerError(f))
	}
	c.broker = f.Value("server")
	if version, named := f.Get("version"); named {
		v, known := frame.Negotiate(version)
		if !known {
			return fmt.Errorf("the broker chose STOMP version %q, which was not offered", version)
		}
		c.version = v
	}
	c.decoder.SetVersion(c.version)
	return nil
}

// brokerError makes an error of an ERROR frame, or of any other where it is out of place.
func brokerError(f *frame.Frame) error {
	if f.Command != frame.ERROR {
		return fmt.Errorf("unexpected %s frame", f.Command)
	}
	// ActiveMQ's body is a stack trace: its first line is the cause.
	const mostBytes = 160
	message := printable(f.Value("message"))
	text, _, _ := strings.Cut(strings.TrimSpace(string(f.Body[:min(len(f.Body), mostBytes)])), "\n")
	text = printable(text)
	switch {
	case strings.Contains(text, message):
		return fmt.Errorf("the broker says: %s", text)
	case strings.Contains(message, text):
		return fmt.Errorf("the broker says: %s", message)
	}
	return fmt.Errorf("the broker says: %s: %s", message, text)
}

// printable keeps what a broker says from doing things to the terminal that shows it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.TrimSpace(s))
}

// asClosed words the end of a stream for people.
func asClosed(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the broker closed the connection")
	}
	return err
}

func (c *stompConnection) readAll() {
	defer close(c.finished)
	for {
		f, err := c.decoder.Next()
		if err != nil {
			if !c.closing.Load() {
				c.listener.failed(asClosed(err))
			}
			c.beforeRead() // what the last read settled still counts
			c.decoder.Reset(nil)
			return
		}
		switch f.Command {
		case frame.MESSAGE:
			c.readMessage(f)
		case frame.RECEIPT:
			c.readReceipt(f)
		case frame.ERROR:
			c.readError(f)
		default:
			c.listener.failed(brokerError(f))
		}
	}
}

// beforeRead lets nothing wait that the broker waits for.
//
// On a connection that publishes, the buffer and its lock are the publisher's: it may be blocked in a write until the broker
// reads on, and the broker until we have read its confirmations.
func (c *stompConnection) beforeRead() {
	if !c.publishes.Load() {
		// A failure to write shows in the read that follows.
		_ = c.wire.write(true, c.appendCumulativeAck)
	}
	c.listener.caughtUp()
}

// readMessage buffers the acknowledgement before anyone hears of the message: who then sees that all has come and says
// goodbye says it behind the last acknowledgement.
func (c *stompConnection) readMessage(f *frame.Frame) {
	if c.protocol.ack != "auto" {
		c.acknowledge(f)
	}
	redelivered, _ := f.Get("redelivered")
	c.listener.message(f.Body, string(redelivered) == "true", c.wire.arrivedNS)
}

func (c *stompConnection) acknowledge(f *frame.Frame) {
	id, ok := f.Get("ack") // STOMP 1.2 "ACK": the id is the MESSAGE's ack header; before 1.2 its message-id
	if !ok || c.version != frame.V12 {
		id, _ = f.Get("message-id")
	}
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if c.protocol.ack == "client" {
		// STOMP 1.2 "SUBSCRIBE": in client mode an ACK covers all messages before it, so one for each read will do.
		c.unacked = append(c.unacked[:0], id...)
		return
	}
	_ = c.wire.end(c.appendAck(c.wire.begin(), id)) // a failure to write shows in the read that follows
}

// appendCumulativeAck needs the wire's lock.
func (c *stompConnection) appendCumulativeAck(b []byte) []byte {
	if len(c.unacked) > 0 {
		b = c.appendAck(b, c.unacked)
		c.unacked = c.unacked[:0]
	}
	return b
}

func (c *stompConnection) appendAck(b, id []byte) []byte {
	b = frame.AppendCommand(b, frame.ACK)
	switch c.version {
	case frame.V12:
		b = frame.AppendHeader(b, c.version, "id", id)
	case frame.V11: // STOMP 1.1 "ACK" needs both
		b = frame.AppendHeader(b, c.version, "subscription", subscriptionID)
		b = frame.AppendHeader(b, c.version, "message-id", id)
	default:
		b = frame.AppendHeader(b, c.version, "message-id", id)
	}
	return frame.AppendBody(b, "")
}

func (c *stompConnection) readReceipt(f *frame.Frame) {
	receipt, _ := f.Get("receipt-id")
	if id, ok := messageReceipt(receipt); ok {
		c.listener.confirmed(id, c.wire.arrivedNS)
		return
	}
	c.answer(answer{receipt: string(receipt)})
}

// readError tells refusals of one message, answers to what someone waits for, and the rest apart.
func (c *stompConnection) readError(f *frame.Frame) {
	err := brokerError(f)
	receipt, named := f.Get("receipt-id")
	if id, ok := messageReceipt(receipt); ok {
		c.listener.refused(id, err)
		return
	}
	c.answer(answer{receipt: string(receipt), err: err})
	if !named && !c.closing.Load() {
		c.listener.failed(err)
	}
}

func (c *stompConnection) answer(a answer) {
	select {
	case c.answers <- a:
	default: // nobody waits for that many: a broker that answers what was not asked
	}
}

// messageReceipt reads the receipt id of a message; false for the two others.
func messageReceipt(b []byte) (id uint64, ok bool) {
	const mostDigits = 19 // fits 64 bits
	if len(b) == 0 || len(b) > mostDigits {
		return 0, false
	}
	for _, d := range b {
		if d < '0' || d > '9' {
			return 0, false
		}
		id = id*10 + uint64(d-'0')
	}
	return id, true
}

const subscriptionID = "0"

func (c *stompConnection) server() string {
	if c.broker == "" {
		return "STOMP " + c.version.String()
	}
	return c.broker + ", STOMP " + c.version.String()
}

func (c *stompConnection) subscribe(ctx context.Context, destination string) error {
	p := c.protocol
	headers := []frame.Header{{Name: "id", Value: subscriptionID}, {Name: "destination", Value: destination},
		{Name: "ack", Value: p.ack}, {Name: "receipt", Value: subscribedReceipt}}
	if p.prefetch > 0 { // ActiveMQ's and RabbitMQ's names for it; each ignores the other's
		n := strconv.Itoa(p.prefetch)
		headers = append(headers, frame.Header{Name: "activemq.prefetchSize", Value: n}, frame.Header{Name: "prefetch-count", Value: n})
	}
	return c.ask(ctx, frame.SUBSCRIBE, subscribedReceipt, append(headers, p.subscribeHeaders...))
}

// ask sends a frame that asks for a receipt, and waits for it.
func (c *stompConnection) ask(ctx context.Context, command frame.Command, receipt string, headers []frame.Header) error {
	err := c.wire.write(true, func(b []byte) []byte {
		return frame.AppendFrame(c.appendCumulativeAck(b), c.version, command, nil, headers...)
	})
	if err != nil {
		return err
	}
	timer := time.NewTimer(c.protocol.timeout)
	defer timer.Stop()
	for {
		select {
		case a := <-c.answers:
			if a.receipt == receipt || a.err != nil {
				return a.err
			}
		case <-c.finished:
			return errors.New("the connection ended before the broker answered")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return fmt.Errorf("no RECEIPT for %s within %v", command, c.protocol.timeout)
		}
	}
}

func (c *stompConnection) prepare(destination string, bodyBytes int) (mostUnconfirmed int) {
	b := frame.AppendCommand(nil, frame.SEND)
	b = frame.AppendHeader(b, c.version, "destination", destination)
	b = frame.AppendIntHeader(b, "content-length", int64(bodyBytes))
	b = frame.AppendHeader(b, c.version, "content-type", "text/plain")
	if c.protocol.persistent {
		b = frame.AppendHeader(b, c.version, "persistent", "true")
	}
	for _, h := range c.protocol.sendHeaders {
		b = frame.AppendHeader(b, c.version, h.Name, h.Value)
	}
	c.sendHead = b
	c.publishes.Store(true)
	return 0
}

func (c *stompConnection) send(id uint64, body []byte) error {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	b := append(w.begin(), c.sendHead...)
	if c.protocol.receipts {
		b = frame.AppendIntHeader(b, "receipt", int64(id))
	}
	return w.end(frame.AppendBody(b, body))
}

func (c *stompConnection) flush() error { return c.wire.flush() }

// ping is an EOL between frames (STOMP 1.2 "Heart-beating").
func (c *stompConnection) ping() error {
	return c.wire.write(true, func(b []byte) []byte { return append(b, '\n') })
}

func (c *stompConnection) close() {
	c.goodbye.Do(func() {
		c.closing.Store(true)
		// Also ends a write that is blocked now and holds the lock which the goodbye needs.
		c.wire.conn.SetWriteDeadline(time.Now().Add(c.protocol.timeout))
		// Whatever goes wrong with the goodbye, the connection is given up; what was lost shows in the accounts.
		_ = c.ask(context.Background(), frame.DISCONNECT, goodbyeReceipt, []frame.Header{{Name: "receipt", Value: goodbyeReceipt}})
		c.wire.conn.Close()
	})
	c.reader.Wait()
}

func (c *stompConnection) abort() {
	c.closing.Store(true)
	c.wire.conn.Close()
}

func (c *stompConnection) ended() <-chan struct{} { return c.finished }
