package bench

import (
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/stomp/frame"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// delivery is one copy of a message on its way out.
type delivery struct {
	body        []byte
	redelivered bool
}

// misdeeds are what a test broker does wrong. Each gets the message's number, counted over the whole broker from 0.
type misdeeds struct {
	// deliver says what becomes of a message; nil passes it on.
	deliver func(n int, d delivery) []delivery
	// receipts says how many receipts a message gets; nil gives one.
	receipts func(n int) int
	// refuse answers a message with ERROR instead of taking it.
	refuse func(n int) bool
	// hangUpAt closes the connection that sent message n, if above 0.
	hangUpAt int
	// deafAt stops reading from the connection that sent message n, if above 0.
	deafAt int
}

// testBroker is a STOMP broker of a hundred lines: queues with round-robin consumers, topics, receipts. It checks what
// clients acknowledge.
type testBroker struct {
	t        *testing.T
	version  string
	bad      misdeeds
	listener net.Listener
	open     sync.WaitGroup
	release  chan struct{}

	mu       sync.Mutex
	sent     int
	queued   map[string][]delivery
	members  map[string][]*testPeer
	turn     int
	peers    map[*testPeer]bool
	received []string // every frame but SEND, in order
}

// testPeer is one client as the broker sees it.
type testPeer struct {
	broker  *testBroker
	conn    net.Conn
	version frame.Version
	ack     string
	unacked map[string]bool
	order   []string
	lastID  int

	mu   sync.Mutex
	cond *sync.Cond
	out  []byte
	shut bool
}

func startBroker(t *testing.T, version string, bad misdeeds) *testBroker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveBroker(t, l, version, bad)
}

func startTLSBroker(t *testing.T, config *tls.Config) *testBroker {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	return serveBroker(t, l, "1.2", misdeeds{})
}

func serveBroker(t *testing.T, l net.Listener, version string, bad misdeeds) *testBroker {
	b := &testBroker{t: t, version: version, bad: bad, listener: l, release: make(chan struct{}),
		queued: map[string][]delivery{}, members: map[string][]*testPeer{}, peers: map[*testPeer]bool{}}
	b.open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p := &testPeer{broker: b, conn: conn, unacked: map[string]bool{}}
			p.cond = sync.NewCond(&p.mu)
			b.mu.Lock()
			b.peers[p] = true
			b.mu.Unlock()
			b.open.Go(p.read)
			b.open.Go(p.write)
		}
	})
	t.Cleanup(b.stop)
	return b
}

func (b *testBroker) address() string { return b.listener.Addr().String() }

func (b *testBroker) stop() {
	b.listener.Close()
	close(b.release)
	b.mu.Lock()
	for p := range b.peers {
		p.conn.Close()
	}
	b.mu.Unlock()
	b.open.Wait()
}

// unacknowledged is how many deliveries of all clients were never acknowledged.
func (b *testBroker) unacknowledged() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.peers {
		n += len(p.unacked)
	}
	return n
}

func (b *testBroker) framesReceived() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.received...)
}

func (p *testPeer) read() {
	defer func() {
		p.conn.Close()
		p.mu.Lock()
		p.shut = true
		p.mu.Unlock()
		p.cond.Signal()
	}()
	d := frame.NewDecoder(p.conn, frame.ServerSide)
	limits := frame.DefaultLimits()
	d.SetLimits(limits)
	for {
		f, err := d.Next()
		if err != nil {
			return
		}
		if f.Command != frame.SEND {
			p.broker.mu.Lock()
			p.broker.received = append(p.broker.received, string(f.Append(nil, p.version)))
			p.broker.mu.Unlock()
		}
		if !p.handle(f) {
			return
		}
		d.SetVersion(p.version)
	}
}

// handle answers one frame; false hangs up.
func (p *testPeer) handle(f *frame.Frame) bool {
	b := p.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	switch f.Command {
	case frame.CONNECT:
		if f.Value("login") == "intruder" {
			p.put(frame.ERROR, []byte("Access refused for user 'intruder'\n\tat a.b.C"), frame.Header{Name: "message", Value: "Bad CONNECT"})
			return true
		}
		v, _ := frame.Negotiate([]byte(b.version))
		headers := []frame.Header{{Name: "server", Value: "test/1"}}
		if v != frame.V10 {
			headers = append(headers, frame.Header{Name: "version", Value: b.version})
		}
		p.put(frame.CONNECTED, nil, headers...)
		p.version = v
		return true
	case frame.SUBSCRIBE:
		destination := f.Value("destination")
		p.ack = f.Value("ack")
		p.receipt(f.Value("receipt"))
		b.members[destination] = append(b.members[destination], p)
		for _, d := range b.queued[destination] {
			b.deliver(destination, d)
		}
		delete(b.queued, destination)
		return true
	case frame.SEND:
		return p.handleSend(f)
	case frame.ACK:
		p.handleAck(f)
		return true
	case frame.DISCONNECT:
		p.receipt(f.Value("receipt"))
		return true // the client closes
	}
	b.t.Errorf("unexpected %s", f.Command)
	return false
}

func (p *testPeer) handleSend(f *frame.Frame) bool {
	b := p.broker
	n := b.sent
	b.sent++
	switch {
	case b.bad.hangUpAt > 0 && n == b.bad.hangUpAt:
		return false
	case b.bad.deafAt > 0 && n >= b.bad.deafAt:
		b.mu.Unlock()
		<-b.release
		b.mu.Lock()
		return false
	case b.bad.refuse != nil && b.bad.refuse(n):
		headers := []frame.Header{{Name: "message", Value: "queue is full"}}
		if r := f.Value("receipt"); r != "" {
			headers = append(headers, frame.Header{Name: "receipt-id", Value: r})
		}
		p.put(frame.ERROR, nil, headers...)
		return true
	}
	out := []delivery{{body: append([]byte(nil), f.Body...)}}
	if b.bad.deliver != nil {
		out = b.bad.deliver(n, out[0])
	}
	destination := f.Value("destination")
	for _, d := range out {
		if len(b.members[destination]) == 0 && destination[:7] == "/queue/" {
			b.queued[destination] = append(b.queued[destination], d)
		} else {
			b.deliver(destination, d)
		}
	}
	receipts := 1
	if b.bad.receipts != nil {
		receipts = b.bad.receipts(n)
	}
	for range receipts {
		p.receipt(f.Value("receipt"))
	}
	return true
}

// deliver needs the broker's lock.
func (b *testBroker) deliver(destination string, d delivery) {
	members := b.members[destination]
	if destination[:7] == "/queue/" {
		members = []*testPeer{members[b.turn%len(members)]}
		b.turn++
	}
	for _, m := range members {
		m.lastID++
		id := "T:" + strconv.Itoa(m.lastID) // the colon needs escaping from 1.1 on
		headers := []frame.Header{{Name: "destination", Value: destination}, {Name: "message-id", Value: id}, {Name: "subscription", Value: "0"}}
		if m.version == frame.V12 && m.ack != "auto" {
			headers = append(headers, frame.Header{Name: "ack", Value: id})
		}
		if m.ack != "auto" {
			m.unacked[id] = true
			m.order = append(m.order, id)
		}
		if d.redelivered {
			headers = append(headers, frame.Header{Name: "redelivered", Value: "true"})
		}
		m.put(frame.MESSAGE, d.body, headers...)
	}
}

func (p *testPeer) handleAck(f *frame.Frame) {
	id := f.Value("message-id")
	if p.version == frame.V12 {
		id = f.Value("id")
	}
	if p.version == frame.V11 && f.Value("subscription") != "0" {
		p.broker.t.Error("an ACK of 1.1 needs the subscription")
	}
	if !p.unacked[id] {
		p.broker.t.Errorf("ACK of %q, which is not unacknowledged", id)
	}
	delete(p.unacked, id)
	for p.ack == "client" && len(p.order) > 0 {
		first := p.order[0]
		p.order = p.order[1:]
		delete(p.unacked, first)
		if first == id {
			break
		}
	}
}

func (p *testPeer) receipt(id string) {
	if id != "" {
		p.put(frame.RECEIPT, nil, frame.Header{Name: "receipt-id", Value: id})
	}
}

// put hands a frame to the writer.
func (p *testPeer) put(c frame.Command, body []byte, headers ...frame.Header) {
	p.mu.Lock()
	p.out = frame.AppendFrame(p.out, p.version, c, body, headers...)
	p.mu.Unlock()
	p.cond.Signal()
}

func (p *testPeer) write() {
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.shut {
			p.cond.Wait()
		}
		out := p.out
		p.out = nil
		p.mu.Unlock()
		if len(out) == 0 {
			return
		}
		if _, err := p.conn.Write(out); err != nil {
			return
		}
	}
}

// testOptions is a small counted run against b that never gives up early.
func testOptions(b *testBroker) Options {
	return Options{Scenario: Queue, Addresses: []string{b.address()}, Host: "/", Destinations: 1, Publishers: 1, Subscribers: 1,
		SizeBytes: 64, Window: 10, Count: 500, Drain: 20 * time.Second, Timeout: 20 * time.Second, Connections: 10, Dialers: 4, Cores: 1}
}

// every is true for a few numbers of a run of 500.
func every(n int) bool { return n%100 == 50 }

const everyCount = 5

func describe(r *Report) string { return fmt.Sprintf("%+v", *r) }
