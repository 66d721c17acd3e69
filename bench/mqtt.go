package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mqttProtocol speaks MQTT 3.1.1 or 5.
type mqttProtocol struct {
	carriage
	login      mqttLogin // without the client id
	qos        byte
	window     int
	durable    bool // sessions outlive their connections; they are ended with the run
	properties []byte
	mostBytes  int // of a packet from the broker
}

var _ protocol = (*mqttProtocol)(nil)

const (
	mqttSessionSec   = 3600 // a session that a killed run left behind is gone after that
	mqttFirstBuffer  = 2 << 10
	mqttLargeBuffer  = 64 << 10
	mqttGoodbyeBound = 2 * time.Second // for the broker to close; not all do
	mqttMostWindow   = math.MaxUint16
)

func newMQTT(o Options, five bool) *mqttProtocol {
	p := &mqttProtocol{carriage: carriage{secure: o.TLS, timeout: o.Timeout, subprotocols: "mqtt"}, qos: byte(o.QoS), durable: o.Durable,
		login: mqttLogin{five: five, user: o.User, password: o.Password, clean: true}, mostBytes: max(o.SizeBytes+64<<10, 1<<20)}
	if o.QoS > 0 {
		p.window = o.Window
	}
	if o.Scenario == Conns {
		p.login.keepAliveSec = uint16(min(math.Ceil(o.Heartbeat.Seconds()), math.MaxUint16))
	}
	if five {
		p.login.receiveMaximum = min(o.Prefetch, math.MaxUint16)
		p.properties = []byte{}
		for _, h := range o.SendHeaders {
			name, value, _ := strings.Cut(h, ":")
			p.properties = appendMQTTString(appendMQTTString(append(p.properties, mqttUserProperty), name), value)
		}
		p.properties = append(appendMQTTLength(nil, len(p.properties)), p.properties...)
	}
	return p
}

func (p *mqttProtocol) name() string {
	if p.login.five {
		return MQTT5
	}
	return MQTT
}

func (p *mqttProtocol) confirms() bool  { return p.qos > 0 }
func (p *mqttProtocol) webPath() string { return "/mqtt" }

func (p *mqttProtocol) destinationPattern(shared bool) string {
	if shared {
		return "$queue/bench.%r.%d"
	}
	return "bench/%r/%d"
}

// mqttConnection is one client.
type mqttConnection struct {
	protocol *mqttProtocol
	endpoint endpoint
	wire     *wire
	listener listener

	// The reader's.
	buf        []byte
	start, end int
	owes       bool // acknowledgements are buffered

	pending        []atomic.Uint64 // what packet identifiers stand for, from 1; 0: nothing
	receiveMaximum int             // the broker's, 0: it has not said
	head           []byte          // PUBLISH up to its topic; the publisher's
	tail           []byte          // and its properties

	subacks  chan byte
	closing  atomic.Bool
	goodbye  sync.Once
	reader   sync.WaitGroup
	finished chan struct{}
}

func (p *mqttProtocol) dial(ctx context.Context, e endpoint) (connection, error) {
	c, err := p.open(ctx, e, !p.durable)
	if err != nil {
		return nil, err
	}
	c.wire.beforeRead = c.beforeRead
	c.reader.Go(c.readAll)
	return c, nil
}

func (p *mqttProtocol) open(ctx context.Context, e endpoint, clean bool) (*mqttConnection, error) {
	w, err := p.connect(ctx, e)
	if err != nil {
		return nil, err
	}
	c := &mqttConnection{protocol: p, endpoint: e, listener: e.listener, wire: w, buf: make([]byte, mqttFirstBuffer),
		pending: make([]atomic.Uint64, p.window), subacks: make(chan byte, 1), finished: make(chan struct{})}
	if err := w.within(ctx, p.timeout, func() error { return c.logIn(clean) }); err != nil {
		w.conn.Close()
		return nil, err
	}
	return c, nil
}

// logIn sends CONNECT and reads the answer.
func (c *mqttConnection) logIn(clean bool) error {
	l := c.protocol.login
	l.clientID, l.clean = c.endpoint.name, clean
	if !clean {
		l.expirySec = mqttSessionSec
	}
	if err := c.wire.write(true, l.append); err != nil {
		return fmt.Errorf("send CONNECT: %w", err)
	}
	p, err := c.next()
	switch {
	case err != nil:
		return fmt.Errorf("no answer to CONNECT: %w", asClosed(err))
	case p.kind() != mqttConnack || len(p.body) < 2:
		return fmt.Errorf("the answer to CONNECT is of type %d", p.kind())
	case p.body[1] != 0:
		return fmt.Errorf("check --user and --password: %w", mqttRefusal("CONNECT", p.body[1]))
	}
	if l.five {
		properties, _, err := cutMQTTProperties(p.body[2:])
		if err != nil {
			return err
		}
		c.receiveMaximum = connackReceiveMaximum(properties)
	}
	return nil
}

// next returns the next packet, which is valid until the next call.
func (c *mqttConnection) next() (mqttPacket, error) {
	for {
		p, size, err := cutMQTT(c.buf[c.start:c.end], c.protocol.mostBytes)
		if err != nil {
			return p, err
		}
		if size > 0 {
			c.start += size
			return p, nil
		}
		if err := c.fill(); err != nil {
			return p, err
		}
	}
}

// fill reads more behind what is there; the buffer grows while it is what bounds the reads.
func (c *mqttConnection) fill() error {
	full := c.end == len(c.buf)
	held := c.end - c.start
	if full && (held > len(c.buf)/2 || len(c.buf) < mqttLargeBuffer) {
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

func (c *mqttConnection) readAll() {
	defer close(c.finished)
	for {
		p, err := c.next()
		if err == nil {
			err = c.handle(p)
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
func (c *mqttConnection) beforeRead() {
	if c.owes {
		c.owes = false
		_ = c.wire.flush() // a failure to write shows in the read that follows
	}
	c.listener.caughtUp()
}

func (c *mqttConnection) handle(p mqttPacket) error {
	switch kind := p.kind(); kind {
	case mqttPublish:
		return c.handlePublish(p)
	case mqttPuback, mqttPubrec, mqttPubrel, mqttPubcomp:
		id, code, err := p.acknowledged()
		if err != nil {
			return err
		}
		c.handleAck(kind, id, code)
	case mqttSuback:
		if len(p.body) == 0 {
			return errMQTTShort
		}
		select {
		case c.subacks <- p.body[len(p.body)-1]:
		default: // nobody waits: a broker that answers what was not asked
		}
	case mqttPingresp:
	case mqttDisconnect:
		code := byte(0)
		if len(p.body) > 0 {
			code = p.body[0]
		}
		return mqttRefusal("the connection", code)
	default:
		return fmt.Errorf("unexpected packet of type %d", kind)
	}
	return nil
}

// handlePublish buffers the acknowledgement before anyone hears of the message: who then sees that all has come and says
// goodbye says it behind the last acknowledgement.
func (c *mqttConnection) handlePublish(p mqttPacket) error {
	m, err := p.publication(c.protocol.login.five)
	if err != nil {
		return err
	}
	switch m.qos {
	case 1:
		c.reply(mqttPuback, m.id)
	case 2:
		c.reply(mqttPubrec, m.id)
	}
	c.listener.message(m.payload, m.dup, c.wire.arrivedNS)
	return nil
}

func (c *mqttConnection) reply(kind byte, id uint16) {
	c.owes = true
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	_ = c.wire.end(appendMQTTAck(c.wire.begin(), kind, id)) // a failure to write shows in the read that follows
}

// handleAck goes on with QoS 2, and reports what the broker has confirmed.
func (c *mqttConnection) handleAck(kind byte, id uint16, code byte) {
	switch {
	case kind == mqttPubrel:
		c.reply(mqttPubcomp, id)
	case kind == mqttPubrec && code < mqttFailure:
		c.reply(mqttPubrel, id)
	case int(id) > len(c.pending) || id == 0:
		c.listener.failed(fmt.Errorf("an acknowledgement of packet identifier %d, which was not used", id))
	default:
		switch n := c.pending[id-1].Swap(0); {
		case n == 0:
			c.listener.failed(fmt.Errorf("a second acknowledgement of packet identifier %d", id))
		case code >= mqttFailure:
			c.listener.refused(n, mqttRefusal("a message", code))
		default:
			c.listener.confirmed(n, c.wire.arrivedNS)
		}
	}
}

func (c *mqttConnection) server() string {
	if c.protocol.login.five {
		return "MQTT 5"
	}
	return "MQTT 3.1.1"
}

func (c *mqttConnection) subscribe(ctx context.Context, destination string) error {
	body := []byte{0, 1} // the packet identifier
	if c.protocol.login.five {
		body = append(body, 0) // no properties
	}
	body = append(appendMQTTString(body, destination), c.protocol.qos)
	err := c.wire.write(true, func(b []byte) []byte { return appendMQTTPacket(b, mqttSubscribe<<4|mqttReserve, body) })
	if err != nil {
		return err
	}
	timer := time.NewTimer(c.protocol.timeout)
	defer timer.Stop()
	select {
	case code := <-c.subacks:
		if code >= mqttFailure {
			return mqttRefusal("SUBSCRIBE", code)
		}
		if code < c.protocol.qos {
			return fmt.Errorf("the broker grants QoS %d only", code)
		}
		return nil
	case <-c.finished:
		return errors.New("the connection ended before the broker answered")
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return fmt.Errorf("no SUBACK within %v", c.protocol.timeout)
	}
}

func (c *mqttConnection) prepare(destination string, bodyBytes int) (mostUnconfirmed int) {
	p := c.protocol
	c.tail = p.properties
	n := 2 + len(destination) + len(c.tail) + bodyBytes
	if p.qos > 0 {
		n += 2
	}
	c.head = appendMQTTString(appendMQTTLength([]byte{mqttPublish<<4 | p.qos<<1}, n), destination)
	return c.receiveMaximum
}

func (c *mqttConnection) send(id uint64, body []byte) error {
	w := c.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	b := append(w.begin(), c.head...)
	if n := uint64(len(c.pending)); n > 0 {
		// A window's ids that are outstanding at one time differ in this.
		slot := id % n
		c.pending[slot].Store(id)
		b = binary.BigEndian.AppendUint16(b, uint16(slot+1))
	}
	return w.end(append(append(b, c.tail...), body...))
}

func (c *mqttConnection) flush() error { return c.wire.flush() }

func (c *mqttConnection) ping() error {
	return c.wire.write(true, func(b []byte) []byte { return append(b, mqttPingreq<<4, 0) })
}

// close sends DISCONNECT and waits for the broker to close, which it does when it has taken everything before.
func (c *mqttConnection) close() {
	c.goodbye.Do(func() {
		c.closing.Store(true)
		// Also ends a write that is blocked now and holds the lock which the goodbye needs.
		c.wire.conn.SetWriteDeadline(time.Now().Add(c.protocol.timeout))
		c.depart()
		timer := time.NewTimer(min(c.protocol.timeout, mqttGoodbyeBound))
		defer timer.Stop()
		select {
		case <-c.finished:
		case <-timer.C:
		}
		c.wire.conn.Close()
		if c.protocol.durable && !c.protocol.login.five {
			c.forget()
		}
	})
	c.reader.Wait()
}

// depart sends DISCONNECT. Whatever goes wrong with it, the connection is given up; what was lost shows in the accounts.
func (c *mqttConnection) depart() {
	goodbye := []byte{mqttDisconnect << 4, 0}
	if c.protocol.durable && c.protocol.login.five {
		goodbye = []byte{mqttDisconnect << 4, 7, 0, 5, mqttSessionExpiry, 0, 0, 0, 0} // ends the session
	}
	_ = c.wire.write(true, func(b []byte) []byte { return append(b, goodbye...) })
}

// forget ends a session of MQTT 3.1.1, which takes another connection.
func (c *mqttConnection) forget() {
	e := c.endpoint
	again, err := c.protocol.open(context.Background(), e, true)
	if err != nil {
		e.listener.failed(fmt.Errorf("end the session of client %s: %w", e.name, err))
		return
	}
	again.depart()
	again.wire.conn.Close()
}

func (c *mqttConnection) abort() {
	c.closing.Store(true)
	c.wire.conn.Close()
}

func (c *mqttConnection) ended() <-chan struct{} { return c.finished }
