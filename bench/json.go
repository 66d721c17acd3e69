package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// jsonProtocol speaks mqgate.json.v1 over WebSocket, as a browser does.
type jsonProtocol struct {
	carriage
	user, password string
	confirm        bool
	persistent     bool
	settle         bool // each delivery is acknowledged
	credit         int
	mostBytes      int
}

var _ protocol = (*jsonProtocol)(nil)

func newJSON(o Options) *jsonProtocol {
	return &jsonProtocol{carriage: carriage{secure: o.TLS, timeout: o.Timeout, subprotocols: "mqgate.json.v1", text: true, delimited: true},
		user: o.User, password: o.Password, confirm: o.Window > 0, persistent: o.Persistent, settle: o.ackMode() != "auto", credit: o.Prefetch,
		mostBytes: 2*o.SizeBytes + 64<<10}
}

func (p *jsonProtocol) name() string    { return JSON }
func (p *jsonProtocol) confirms() bool  { return p.confirm }
func (p *jsonProtocol) webPath() string { return "/ws" }

func (p *jsonProtocol) destinationPattern(shared bool) string {
	if shared {
		return "/queue/bench.%r.%d"
	}
	return "/topic/bench.%r.%d"
}

// Requests other than publishes have ids above all of those.
const (
	jsonConnectID   = 1<<53 - 3
	jsonSubscribeID = 1<<53 - 2
	jsonGoodbyeID   = 1<<53 - 1
)

const (
	jsonSub         = "s"
	jsonFirstBuffer = 2 << 10
	jsonLargeBuffer = 64 << 10
)

// jsonConnection is one client.
type jsonConnection struct {
	protocol *jsonProtocol
	wire     *wire
	listener listener
	broker   string

	// The reader's.
	buf        []byte
	start, end int
	owes       bool // acknowledgements are buffered

	beforeID, afterID, tail []byte // of a publish; the publisher's

	replies  chan jsonReply
	closing  atomic.Bool
	goodbye  sync.Once
	reader   sync.WaitGroup
	finished chan struct{}
}

type jsonReply struct {
	id  uint64
	err error
}

func (p *jsonProtocol) dial(ctx context.Context, e endpoint) (connection, error) {
	w, err := p.connect(ctx, e)
	if err != nil {
		return nil, err
	}
	c := &jsonConnection{protocol: p, wire: w, listener: e.listener, buf: make([]byte, jsonFirstBuffer),
		replies: make(chan jsonReply, 4), finished: make(chan struct{})}
	if err := w.within(ctx, p.timeout, c.logIn); err != nil {
		w.conn.Close()
		return nil, err
	}
	w.beforeRead = c.beforeRead
	c.reader.Go(c.readAll)
	return c, nil
}

func (c *jsonConnection) logIn() error {
	request := map[string]any{"op": "connect", "id": jsonConnectID}
	if p := c.protocol; p.user != "" || p.password != "" {
		request["user"], request["password"] = p.user, p.password
	}
	if err := c.request(request); err != nil {
		return fmt.Errorf("send connect: %w", err)
	}
	line, err := c.next()
	if err != nil {
		return fmt.Errorf("no answer to connect: %w", asClosed(err))
	}
	var answer struct {
		OK     bool
		Server string
		Error  *jsonError
	}
	switch err := json.Unmarshal(line, &answer); {
	case err != nil:
		return fmt.Errorf("the answer to connect is no JSON: %w", err)
	case answer.Error != nil:
		return fmt.Errorf("connect refused (check --user and --password): %w", answer.Error)
	case !answer.OK:
		return fmt.Errorf("the answer to connect is %q", printable(string(line)))
	}
	c.broker = printable(answer.Server)
	return nil
}

type jsonError struct{ Code, Message string }

func (e *jsonError) Error() string {
	return "the broker says: " + printable(e.Code) + ": " + printable(e.Message)
}

// request sends an object at once.
func (c *jsonConnection) request(object map[string]any) error {
	b, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return c.wire.write(true, func(out []byte) []byte { return append(out, b...) })
}

// next returns the next message, which is valid until the next call. JSON has no raw line feeds, so one ends it.
func (c *jsonConnection) next() ([]byte, error) {
	for scanned := 0; ; {
		held := c.buf[c.start:c.end]
		if i := bytes.IndexByte(held[scanned:], '\n'); i >= 0 {
			c.start += scanned + i + 1
			return held[:scanned+i], nil
		}
		if scanned = len(held); scanned > c.protocol.mostBytes {
			return nil, fmt.Errorf("the broker sent a message of more than %d bytes", c.protocol.mostBytes)
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more behind what is there; the buffer grows while it is what bounds the reads.
func (c *jsonConnection) fill() error {
	held := c.end - c.start
	if c.end == len(c.buf) && (held > len(c.buf)/2 || len(c.buf) < jsonLargeBuffer) {
		larger := make([]byte, 2*len(c.buf))
		copy(larger, c.buf[c.start:c.end])
		c.buf = larger
	} else {
		copy(c.buf, c.buf[c.start:c.end])
	}
	c.start, c.end = 0, held
	n, err := c.wire.Read(c.buf[c.end:])
	c.end += n
	if n > 0 {
		return nil
	}
	return err
}

func (c *jsonConnection) readAll() {
	defer close(c.finished)
	for {
		line, err := c.next()
		if err == nil {
			err = c.handle(line)
		}
		if err != nil {
			if !c.closing.Load() {
				c.listener.failed(asClosed(err))
			}
			c.listener.caughtUp() // what the last read settled still counts
			c.buf = nil
			return
		}
	}
}

// beforeRead lets nothing wait that the broker waits for.
func (c *jsonConnection) beforeRead() {
	if c.owes {
		c.owes = false
		_ = c.wire.flush() // a failure to write shows in the read that follows
	}
	c.listener.caughtUp()
}

var (
	jsonMessage     = []byte(`{"event":"message"`)
	jsonReplyStart  = []byte(`{"reply":`)
	jsonOK          = []byte(`,"ok":true`)
	jsonBody        = []byte(`"body":"`)
	jsonDelivery    = []byte(`"delivery":`)
	jsonRedelivered = []byte(`"redelivered":true`)
)

// handle takes messages and replies apart without a JSON parser: quotation marks inside strings are escaped, so a member's
// name with its marks stands nowhere else, and the bodies of a run need no escapes.
func (c *jsonConnection) handle(line []byte) error {
	switch {
	case bytes.HasPrefix(line, jsonMessage):
		return c.handleMessage(line)
	case bytes.HasPrefix(line, jsonReplyStart):
		return c.handleReply(line)
	}
	return fmt.Errorf("unexpected message %q", printable(string(line[:min(len(line), 200)])))
}

func (c *jsonConnection) handleMessage(line []byte) error {
	head, body, found := bytes.Cut(line, jsonBody)
	if end := bytes.IndexByte(body, '"'); found && end >= 0 {
		body = body[:end]
	} else {
		body = nil // the listener counts it as altered
	}
	if c.protocol.settle {
		_, number, found := bytes.Cut(head, jsonDelivery)
		if !found {
			return errors.New("a message without a delivery number came on a subscription with acknowledgements")
		}
		c.acknowledge(digits(number))
	}
	c.listener.message(body, bytes.Contains(head, jsonRedelivered), c.wire.arrivedNS)
	return nil
}

// acknowledge buffers it before anyone hears of the message: who then says goodbye says it behind.
func (c *jsonConnection) acknowledge(delivery []byte) {
	c.owes = true
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	b := append(c.wire.begin(), `{"op":"ack","sub":"`+jsonSub+`","delivery":`...)
	_ = c.wire.end(append(append(b, delivery...), '}')) // a failure to write shows in the read that follows
}

// digits is the number that b begins with.
func digits(b []byte) []byte {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return b[:n]
}

func (c *jsonConnection) handleReply(line []byte) error {
	number := digits(line[len(jsonReplyStart):])
	id, ok := messageReceipt(number)
	if !ok {
		return fmt.Errorf("a reply to nothing: %q", printable(string(line[:min(len(line), 200)])))
	}
	if bytes.HasPrefix(line[len(jsonReplyStart)+len(number):], jsonOK) {
		if id < jsonConnectID {
			c.listener.confirmed(id, c.wire.arrivedNS)
		} else {
			c.answer(jsonReply{id: id})
		}
		return nil
	}
	var refusal struct{ Error *jsonError }
	if err := json.Unmarshal(line, &refusal); err != nil || refusal.Error == nil {
		return fmt.Errorf("unexpected message %q", printable(string(line[:min(len(line), 200)])))
	}
	if id < jsonConnectID {
		c.listener.refused(id, refusal.Error)
	} else {
		c.answer(jsonReply{id, refusal.Error})
	}
	return nil
}

func (c *jsonConnection) answer(r jsonReply) {
	select {
	case c.replies <- r:
	default: // nobody waits for that many: a broker that answers what was not asked
	}
}

func (c *jsonConnection) server() string { return c.broker + ", mqgate.json.v1" }

func (c *jsonConnection) subscribe(ctx context.Context, destination string) error {
	request := map[string]any{"op": "subscribe", "id": jsonSubscribeID, "sub": jsonSub, "to": destination}
	if c.protocol.settle {
		request["ack"] = "client"
	}
	if c.protocol.credit > 0 {
		request["credit"] = c.protocol.credit
	}
	return c.ask(ctx, request, jsonSubscribeID)
}

// ask sends a request and waits for its reply.
func (c *jsonConnection) ask(ctx context.Context, request map[string]any, id uint64) error {
	if err := c.request(request); err != nil {
		return err
	}
	timer := time.NewTimer(c.protocol.timeout)
	defer timer.Stop()
	for {
		select {
		case r := <-c.replies:
			if r.id == id {
				return r.err
			}
		case <-c.finished:
			return errors.New("the connection ended before the broker answered")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return fmt.Errorf("no reply to %s within %v", request["op"], c.protocol.timeout)
		}
	}
}

func (c *jsonConnection) prepare(destination string, _ int) (mostUnconfirmed int) {
	to, _ := json.Marshal(destination) // text always encodes
	c.beforeID = []byte(`{"op":"publish","id":`)
	c.afterID = append(append([]byte(`,"to":`), to...), `,"persistent":`...)
	c.afterID = append(strconv.AppendBool(c.afterID, c.protocol.persistent), `,"body":"`...)
	c.tail = []byte(`"}`)
	return 0
}

func (c *jsonConnection) send(id uint64, body []byte) error {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.begin()
	if c.protocol.confirm {
		b = strconv.AppendUint(append(b, c.beforeID...), id, 10)
		b = append(b, c.afterID...)
	} else {
		b = append(append(b, `{"op":"publish"`...), c.afterID...)
	}
	return w.end(append(append(b, body...), c.tail...))
}

func (c *jsonConnection) flush() error { return c.wire.flush() }

// ping is the WebSocket's: the protocol's own answers with a reply.
func (c *jsonConnection) ping() error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if err := c.wire.writeOut(); err != nil {
		return err
	}
	_, err := c.wire.conn.Write(appendMasked(nil, wsPing, 0, nil))
	return err
}

// close asks for one more reply, which comes behind all others, before it closes.
func (c *jsonConnection) close() {
	c.goodbye.Do(func() {
		c.closing.Store(true)
		// Also ends a write that is blocked now and holds the lock which the goodbye needs.
		c.wire.conn.SetWriteDeadline(time.Now().Add(c.protocol.timeout))
		// Whatever goes wrong with the goodbye, the connection is given up; what was lost shows in the accounts.
		_ = c.ask(context.Background(), map[string]any{"op": "ping", "id": jsonGoodbyeID}, jsonGoodbyeID)
		_, _ = c.wire.conn.Write(appendMasked(nil, wsClose, 0, []byte{1000 >> 8, 1000 & 0xff}))
		c.wire.conn.Close()
	})
	c.reader.Wait()
}

func (c *jsonConnection) abort() {
	c.closing.Store(true)
	c.wire.conn.Close()
}

func (c *jsonConnection) ended() <-chan struct{} { return c.finished }
