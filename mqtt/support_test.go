package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
)

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come: long enough for a busy machine.
const patience = 20 * time.Second

type authenticator func(context.Context, router.Credentials) (*router.Principal, error)

func (a authenticator) Authenticate(ctx context.Context, c router.Credentials) (*router.Principal, error) {
	return a(ctx, c)
}

// anyone lets everybody in under the name they give; the password "wrong" is wrong.
var anyone authenticator = func(_ context.Context, c router.Credentials) (*router.Principal, error) {
	if c.Password == "wrong" {
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "the user name or the password is wrong"}
	}
	return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type settings struct {
	options Options
	router  router.Options
}

// fixture is a server on a loopback port, whose router can be restarted on the same store.
type fixture struct {
	t      testing.TB
	set    settings
	server *Server
	router *router.Router
	addr   string
	log    *logBuffer
	stop   func()
	panics uint64 // that the test provokes
}

func start(t testing.TB, change ...func(*settings)) *fixture {
	t.Helper()
	fx := &fixture{t: t, log: &logBuffer{}}
	fx.set = settings{
		options: Options{Authenticate: anyone, Log: slog.New(slog.NewTextHandler(fx.log, nil))},
		router:  router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler)},
	}
	for _, f := range change {
		f(&fx.set)
	}
	fx.open()
	t.Cleanup(fx.close)
	return fx
}

func (fx *fixture) open() {
	fx.t.Helper()
	var err error
	if fx.router, err = router.New(context.Background(), fx.set.router); err != nil {
		fx.t.Fatal(err)
	}
	o := fx.set.options
	o.Router = fx.router
	if fx.server, err = New(o); err != nil {
		fx.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fx.t.Fatal(err)
	}
	fx.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := fx.server.Serve(ctx, l); err != nil {
			fx.t.Errorf("Serve: %v", err)
		}
	})
	fx.stop = func() { cancel(); serving.Wait() }
}

func (fx *fixture) close() {
	if fx.stop == nil {
		return
	}
	fx.stop()
	fx.stop = nil
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := fx.server.Drain(ctx); err != nil {
		fx.t.Error(err)
	}
	if err := fx.router.Close(ctx); err != nil {
		fx.t.Error(err)
	}
	if n := fx.server.Stats.Panics.Load(); n != fx.panics {
		fx.t.Errorf("%d panics, want %d\n%s", n, fx.panics, fx.log)
	}
}

func (fx *fixture) restart() { fx.close(); fx.open() }

// client is a scripted MQTT client that sees every packet.
type client struct {
	t       testing.TB
	conn    net.Conn
	r       *bufio.Reader
	version byte
}

func (fx *fixture) dial(version byte) *client {
	fx.t.Helper()
	conn, err := net.Dial("tcp", fx.addr)
	if err != nil {
		fx.t.Fatal(err)
	}
	c := &client{t: fx.t, conn: conn, r: bufio.NewReader(conn), version: version}
	fx.t.Cleanup(func() { conn.Close() })
	return c
}

type connectOption func(*packets.Packet)

func durableFor(sec uint32) connectOption {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = sec, true
	}
}

func cleanStart(pk *packets.Packet) { pk.Connect.Clean = true }

func receiveMax(n uint16) connectOption {
	return func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = n }
}

func withUser(name, password string) connectOption {
	return func(pk *packets.Packet) {
		pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(name)
		pk.Connect.PasswordFlag, pk.Connect.Password = true, []byte(password)
	}
}

func connectPacket(version byte, id string, opts ...connectOption) *packets.Packet {
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: typeConnect}, ProtocolVersion: version}
	pk.Connect.ProtocolName = []byte("MQTT")
	if version == v31 {
		pk.Connect.ProtocolName = []byte("MQIsdp")
	}
	pk.Connect.ClientIdentifier, pk.Connect.Clean = id, true
	for _, o := range opts {
		o(pk)
	}
	return pk
}

// connect logs in and returns CONNACK.
func (fx *fixture) connect(version byte, id string, opts ...connectOption) (*client, packets.Packet) {
	fx.t.Helper()
	c := fx.dial(version)
	c.send(connectPacket(version, id, opts...))
	ack := c.expect(typeConnack)
	if ack.ReasonCode != 0 {
		fx.t.Fatalf("CONNACK says %#x: %s", ack.ReasonCode, ack.Properties.ReasonString)
	}
	return c, ack
}

func (fx *fixture) login(version byte, id string, opts ...connectOption) *client {
	fx.t.Helper()
	c, _ := fx.connect(version, id, opts...)
	return c
}

// served is the server's end of a client's connection. It is found by the addresses: the client id is the server's to read.
func (fx *fixture) served(c *client) *conn {
	fx.t.Helper()
	for _, served := range fx.server.guests.All() {
		if served.socket.RemoteAddr().String() == c.conn.LocalAddr().String() {
			return served
		}
	}
	fx.t.Fatalf("the connection from %s is not served", c.conn.LocalAddr())
	return nil
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func encodePacket(t testing.TB, pk *packets.Packet) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case typeConnect:
		pk.Mods.AllowResponseInfo = true
		err = pk.ConnectEncode(&b)
	case typePublish:
		pk.Mods.AllowResponseInfo = true
		err = pk.PublishEncode(&b)
	case typePuback:
		err = pk.PubackEncode(&b)
	case typePubrec:
		err = pk.PubrecEncode(&b)
	case typePubrel:
		pk.FixedHeader.Qos = 1
		err = pk.PubrelEncode(&b)
	case typePubcomp:
		err = pk.PubcompEncode(&b)
	case typeSubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&b)
	case typeUnsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&b)
	case typePingreq:
		err = pk.PingreqEncode(&b)
	case typeDisconnect:
		err = pk.DisconnectEncode(&b)
	default:
		err = fmt.Errorf("cannot encode packet type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (c *client) send(pk *packets.Packet) {
	c.t.Helper()
	pk.ProtocolVersion = c.version
	c.write(encodePacket(c.t, pk))
}

// next reads a packet, or returns io.EOF and the like when the server closed.
func (c *client) next() (packets.Packet, error) {
	c.t.Helper()
	var pk packets.Packet
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return pk, err // the test closed it
	}
	first, err := c.r.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		c.t.Fatalf("first byte %#x: %v", first, err)
	}
	n, _, err := packets.DecodeLength(c.r)
	if err != nil {
		return pk, err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining, pk.ProtocolVersion = n, c.version
	switch pk.FixedHeader.Type {
	case typeConnack:
		err = pk.ConnackDecode(body)
	case typePublish:
		err = pk.PublishDecode(body)
	case typePuback:
		err = pk.PubackDecode(body)
	case typePubrec:
		err = pk.PubrecDecode(body)
	case typePubrel:
		err = pk.PubrelDecode(body)
	case typePubcomp:
		err = pk.PubcompDecode(body)
	case typeSuback:
		err = pk.SubackDecode(body)
	case typeUnsuback:
		err = pk.UnsubackDecode(body)
	case typePingresp:
	case typeDisconnect:
		err = pk.DisconnectDecode(body)
	default:
		err = fmt.Errorf("unexpected packet type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		c.t.Fatalf("packet %#x %x: %v", first, body, err)
	}
	return pk, nil
}

func (c *client) expect(kind byte) packets.Packet {
	c.t.Helper()
	pk, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for packet type %d: %v", kind, err)
	}
	if pk.FixedHeader.Type != kind {
		c.t.Fatalf("got packet type %d (%q, reason %#x), want %d", pk.FixedHeader.Type, pk.Payload, pk.ReasonCode, kind)
	}
	return pk
}

// expectClosed reads until the server closes, and returns the reason of a DISCONNECT before that, or 0.
func (c *client) expectClosed() byte {
	c.t.Helper()
	var code byte
	for {
		pk, err := c.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.t.Fatal("the connection stays open")
		}
		if err != nil {
			return code
		}
		if pk.FixedHeader.Type == typeDisconnect {
			code = pk.ReasonCode
		}
	}
}

// barrier returns when the server has handled all that was sent; what it sends before is returned.
func (c *client) barrier() []packets.Packet {
	c.t.Helper()
	c.write([]byte{typePingreq << 4, 0})
	var out []packets.Packet
	for {
		pk, err := c.next()
		if err != nil {
			c.t.Fatal(err)
		}
		if pk.FixedHeader.Type == typePingresp {
			return out
		}
		out = append(out, pk)
	}
}

func (c *client) subscribe(id uint16, qos byte, filters ...string) []byte {
	c.t.Helper()
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: typeSubscribe}, PacketID: id}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	c.send(pk)
	ack := c.expect(typeSuback)
	if ack.PacketID != id {
		c.t.Fatalf("SUBACK has id %d, want %d", ack.PacketID, id)
	}
	return ack.ReasonCodes
}

func publishPacket(topic, payload string, qos byte, id uint16) *packets.Packet {
	return &packets.Packet{FixedHeader: packets.FixedHeader{Type: typePublish, Qos: qos}, TopicName: topic, Payload: []byte(payload), PacketID: id}
}

func retainedPacket(topic, payload string) *packets.Packet {
	pk := publishPacket(topic, payload, 1, 77)
	pk.FixedHeader.Retain = true
	return pk
}

// publish sends and completes the flow.
func (c *client) publish(topic, payload string, qos byte, id uint16) {
	c.t.Helper()
	c.send(publishPacket(topic, payload, qos, id))
	c.complete(qos, id)
}

func (c *client) complete(qos byte, id uint16) {
	c.t.Helper()
	switch qos {
	case 1:
		c.wantAck(typePuback, id, 0)
	case 2:
		c.wantAck(typePubrec, id, 0)
		c.ack(typePubrel, id)
		c.wantAck(typePubcomp, id, 0)
	}
}

func (c *client) wantAck(kind byte, id uint16, code byte) {
	c.t.Helper()
	pk := c.expect(kind)
	if pk.PacketID != id || pk.ReasonCode != code {
		c.t.Fatalf("packet type %d has id %d and reason %#x, want %d and %#x", kind, pk.PacketID, pk.ReasonCode, id, code)
	}
}

func (c *client) ack(kind byte, id uint16) {
	c.t.Helper()
	c.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id})
}

// message reads a PUBLISH and checks it.
func (c *client) message(topic, payload string, qos byte) packets.Packet {
	c.t.Helper()
	pk := c.expect(typePublish)
	if pk.TopicName != topic || string(pk.Payload) != payload || pk.FixedHeader.Qos != qos {
		c.t.Fatalf("got %q on %q with QoS %d, want %q on %q with %d", pk.Payload, pk.TopicName, pk.FixedHeader.Qos, payload, topic, qos)
	}
	return pk
}

// eventually polls until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func (fx *fixture) waitConnections(n int) {
	fx.t.Helper()
	eventually(fx.t, func() error {
		if got := fx.server.Connections(); got != n {
			return fmt.Errorf("%d connections, want %d", got, n)
		}
		return nil
	})
}

func eachVersion(t *testing.T, f func(t *testing.T, version byte)) {
	for _, v := range []byte{v31, v311, v5} {
		t.Run(fmt.Sprint("v", v), func(t *testing.T) { f(t, v) })
	}
}

func bodies(pks []packets.Packet) string {
	var b strings.Builder
	for _, pk := range pks {
		b.Write(pk.Payload)
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String())
}
