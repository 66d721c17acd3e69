package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// crash is the truncated SUBSCRIBE of MQTT 5 on which the codec of mochi-mqtt panics.
var crash = []byte{0x82, 0x06, 0x00, 0x01, 0x00, 0x00, 0x01, 'a'}

func TestR20TruncatedSubscribeEndsThatConnectionOnly(t *testing.T) {
	fx := start(t)
	other := fx.login(v5, "other")
	c := fx.login(v5, "c")
	c.write(crash)
	if code := c.expectClosed(); code != byte(malformed) {
		t.Errorf("DISCONNECT says %#x", code)
	}
	other.barrier()
}

func TestR7RefusedPublishIsNotDelivered(t *testing.T) {
	denied := authorizer(func(_ *router.Principal, a router.Action, addr router.Address) error {
		if a == router.ActionWrite && addr.Name() == "secret" {
			return &router.Error{Op: "publish", Class: router.Denied, Text: "no"}
		}
		return nil
	})
	fx := start(t, func(s *settings) { s.router.Authorize = denied })
	w := fx.login(v5, "w")
	w.subscribe(1, 0, "#")
	c := fx.login(v5, "c")
	c.publish("secret", "x", 0, 0)
	c.send(publishPacket("secret", "x", 1, 1))
	c.wantAck(typePuback, 1, byte(notAuthorized))
	c.send(publishPacket("secret", "x", 2, 2))
	c.wantAck(typePubrec, 2, byte(notAuthorized))
	c.publish("$queue/q", "x", 2, 2) // the id is free again
	for _, qos := range []byte{1, 2} {
		old := fx.login(v311, "old")
		old.send(publishPacket("secret", "x", qos, 1))
		old.expectClosed() // MQTT 3 has no word for it, and success would be a lie
	}
	for _, topic := range []string{"secret", "$SYS/x"} { // R8: a will is authorised like any publish
		for v, code := range map[byte]byte{v311: 5, v5: byte(notAuthorized)} {
			bad := fx.dial(v)
			bad.send(connectPacket(v, "bad", withWill(topic, "x", 0)))
			if ack := bad.expect(typeConnack); ack.ReasonCode != code {
				t.Errorf("version %d, will to %s: CONNACK %#x", v, topic, ack.ReasonCode)
			}
		}
	}
	if rest := w.barrier(); len(rest) > 0 {
		t.Errorf("came: %v", bodies(rest))
	}
}

type authorizer func(*router.Principal, router.Action, router.Address) error

func (a authorizer) Authorize(p *router.Principal, act router.Action, addr router.Address) error {
	return a(p, act, addr)
}

func (a authorizer) AuthorizeFilter(*router.Principal, router.Action, router.Filter) error {
	return nil
}

// It holds the gateway to MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.8.2-1, MQTT-4.8.2-2.
func TestR13BadFilters(t *testing.T) {
	fx := start(t)
	for v, code := range map[byte]byte{v311: 0x80, v5: byte(badFilter)} {
		c := fx.login(v, "c")
		for _, f := range []string{"a#", "+a", "a+/b", "#/a", "$share/g", "$share//a", "$share/g+/a", "$share/g/$queue/q", "$queue/+"} {
			if codes := c.subscribe(1, 0, f); codes[0] != code {
				t.Errorf("v%d: filter %q gets %#x, want %#x", v, f, codes[0], code)
			}
		}
	}
}

func TestR13SystemTopicsAreNotForClients(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "c")
	c.send(publishPacket("$SYS/x", "x", 1, 1))
	c.wantAck(typePuback, 1, byte(notAuthorized))
}

func TestR14SilentConnectionIsClosed(t *testing.T) {
	inBubble(t, func(fx *pipeFixture) {
		peer := fx.dial()
		begin := time.Now()
		buf := make([]byte, 1)
		if n, err := peer.Read(buf); err == nil {
			t.Errorf("%d bytes came", n)
		}
		if d := time.Since(begin); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("closed after %v, want 10 s", d)
		}
	})
}

// pipeFixture is a server in a synctest bubble, whose connections are pipes.
type pipeFixture struct {
	t      *testing.T
	server *Server
	router *router.Router
}

func inBubble(t *testing.T, f func(*pipeFixture), change ...func(*settings)) {
	synctest.Test(t, func(t *testing.T) {
		set := settings{options: Options{Authenticate: anyone}, router: router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: quiet}}
		for _, f := range change {
			f(&set)
		}
		r, err := router.New(context.Background(), set.router)
		if err != nil {
			t.Fatal(err)
		}
		set.options.Router = r
		s, err := New(set.options)
		if err != nil {
			t.Fatal(err)
		}
		f(&pipeFixture{t: t, server: s, router: r})
		if err := s.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// pipe is a net.Conn with an address that looks like TCP's.
type pipe struct{ net.Conn }

func (p pipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

func (fx *pipeFixture) dial() net.Conn {
	ours, theirs := net.Pipe()
	go fx.server.ServeConn(pipe{theirs}) // ends with the pipe or with Drain
	fx.t.Cleanup(func() { ours.Close() })
	return ours
}

// login connects and returns the connection behind CONNACK.
func (fx *pipeFixture) login(id string, opts ...connectOption) net.Conn {
	fx.t.Helper()
	peer := fx.dial()
	if _, err := peer.Write(encodePacket(fx.t, connectPacket(v311, id, opts...))); err != nil {
		fx.t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := peer.Read(buf); err != nil || !bytes.Equal(buf, []byte{0x20, 2, buf[2], 0}) {
		fx.t.Fatalf("CONNACK %x, %v", buf, err)
	}
	return peer
}

// It holds the gateway to MQTT-3.1.2-22, MQTT-3.12.4-1.
func TestKeepAlive(t *testing.T) {
	for _, seconds := range []uint16{10, 43691, 65535} { // R9: 1.5 times does not wrap
		inBubble(t, func(fx *pipeFixture) {
			peer := fx.login("c", func(pk *packets.Packet) { pk.Connect.Keepalive = seconds })
			time.Sleep(time.Duration(seconds) * time.Second)
			if _, err := peer.Write([]byte{typePingreq << 4, 0}); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2)
			if _, err := peer.Read(buf); err != nil || buf[0] != typePingresp<<4 {
				t.Fatalf("PINGRESP %x, %v", buf, err)
			}
			begin := time.Now()
			if _, err := peer.Read(buf); err == nil {
				t.Errorf("%x came", buf)
			}
			if d, want := time.Since(begin), time.Duration(seconds)*1500*time.Millisecond; d < want || d > want+time.Second {
				t.Errorf("keep alive %d: closed after %v, want %v", seconds, d, want)
			}
			if n := fx.server.Stats.Silent.Load(); n != 1 {
				t.Errorf("%d counted as silent", n)
			}
		})
	}
}

func TestSessionExpiryIsKept(t *testing.T) {
	inBubble(t, func(fx *pipeFixture) {
		peer := fx.login("s", durableFor(0)) // MQTT 3: the server's maximum
		peer.Close()
		synctest.Wait()
		time.Sleep(7*24*time.Hour - time.Minute)
		synctest.Wait()
		if all, online := fx.router.DurableSessions(); all != 1 || online != 0 {
			t.Errorf("a minute before its end there are %d sessions, %d online", all, online)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if all, _ := fx.router.DurableSessions(); all != 0 {
			t.Errorf("%d sessions are left", all)
		}
	})
}

// It holds the gateway to MQTT-3.2.2-15.
func TestR25LengthsAreNotTrusted(t *testing.T) {
	fx := start(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		c := fx.dial(v5)
		c.write([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}) // 256 MiB are announced before the login
		c.expectClosed()
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	c := fx.login(v5, "c")
	c.write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	if code := c.expectClosed(); code != byte(tooLarge) {
		t.Errorf("DISCONNECT %#x", code)
	}
	d := fx.login(v5, "d")
	d.write([]byte{0x30, 0xff, 0x80, 0x80, 0x80, 0x01}) // more than four bytes
	if code := d.expectClosed(); code != byte(malformed) && code != byte(tooLarge) {
		t.Errorf("DISCONNECT %#x", code)
	}
}

// It holds the gateway to MQTT-3.1.4-2, MQTT-3.2.2-8.
func TestConnackCodes(t *testing.T) {
	fx := start(t)
	for _, c := range []struct {
		name    string
		packet  []byte
		version byte
		code    byte
	}{
		{"unsupported version", []byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 6, 2, 0, 0, 0, 0}, v311, 1},
		{"empty id, not clean", encodePacket(t, connectPacket(v311, "", durableFor(1))), v311, 2},
		{"empty id in 3.1", encodePacket(t, connectPacket(v31, "")), v31, 2},
		{"wrong password", encodePacket(t, connectPacket(v311, "c", withUser("u", "wrong"))), v311, 5},
		{"wrong password in 5", encodePacket(t, connectPacket(v5, "c", withUser("u", "wrong"))), v5, byte(notAuthorized)},
		{"enhanced authentication", encodePacket(t, connectPacket(v5, "c", func(pk *packets.Packet) { pk.Properties.AuthenticationMethod = "SCRAM" })), v5, byte(badAuthMethod)},
		{"receive maximum 0", []byte{0x10, 17, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 3, 0x21, 0, 0, 0, 1, 'c'}, v5, byte(protocolError)},
	} {
		p := fx.dial(c.version)
		p.write(c.packet)
		if ack := p.expect(typeConnack); ack.ReasonCode != c.code {
			t.Errorf("%s: CONNACK %#x, want %#x", c.name, ack.ReasonCode, c.code)
		}
		p.expectClosed()
	}
	c, ack := fx.connect(v5, "", func(pk *packets.Packet) { pk.Connect.PasswordFlag = true }) // R8: an empty password, and no user
	if ack.Properties.AssignedClientID == "" {
		t.Error("no client id was assigned")
	}
	c.barrier()
}

func TestProtocolErrors(t *testing.T) {
	fx := start(t)
	for name, c := range map[string]struct {
		bytes []byte
		code  reason
	}{
		"second CONNECT":                {encodePacket(t, connectPacket(v5, "c")), protocolError},
		"AUTH":                          {[]byte{0xf0, 0}, protocolError},
		"type 0":                        {[]byte{0, 0}, malformed},
		"QoS 3":                         {[]byte{0x36, 0}, malformed},
		"DUP with QoS 0":                {[]byte{0x38, 0}, malformed},
		"SUBSCRIBE without filters":     {[]byte{0x82, 3, 0, 1, 0}, protocolError},
		"SUBSCRIBE with id 0":           {[]byte{0x82, 7, 0, 0, 0, 0, 1, 'a', 0}, protocolError},
		"PUBLISH with id 0":             {[]byte{0x32, 6, 0, 1, 'a', 0, 0, 0}, protocolError},
		"PUBLISH with a wildcard":       {[]byte{0x30, 4, 0, 1, '#', 0}, badTopic},
		"PUBLISH without a topic":       {[]byte{0x30, 3, 0, 0, 0}, protocolError},
		"alias 0":                       {[]byte{0x30, 7, 0, 1, 'a', 3, 0x23, 0, 0}, badAlias},
		"a property twice":              {[]byte{0x30, 8, 0, 1, 'a', 4, 1, 0, 1, 0}, protocolError},
		"subscription id from a client": {[]byte{0x30, 6, 0, 1, 'a', 2, 0x0b, 1}, protocolError},
		"PUBACK is too short":           {[]byte{0x40, 1, 0}, malformed},
		"server's packet":               {[]byte{0x20, 2, 0, 0}, protocolError},
	} {
		p := fx.login(v5, "c")
		p.write(c.bytes)
		if code := p.expectClosed(); code != byte(c.code) {
			t.Errorf("%s: DISCONNECT %#x, want %#x", name, code, c.code)
		}
	}
}

// stallingStore answers appends when the test says so.
type stallingStore struct {
	*router.MemoryStore
	gate chan error
}

func (s *stallingStore) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := s.MemoryStore.OpenLog(ctx, id)
	first := make(chan struct{})
	close(first)
	return &stallingLog{Log: l, gate: s.gate, turn: first}, err
}

type stallingLog struct {
	router.Log
	gate chan error
	mu   sync.Mutex
	turn chan struct{} // closed when the append before has passed the gate
}

func (l *stallingLog) Append(envelope []byte, dedup string, done router.Done) {
	l.mu.Lock()
	before, after := l.turn, make(chan struct{})
	l.turn = after
	l.mu.Unlock()
	go func() { // ends when the test opens the gate
		<-before
		defer close(after)
		if err := <-l.gate; err != nil {
			done(router.Stored{}, err, nil)
			return
		}
		l.Log.Append(envelope, dedup, done)
	}()
}

// It holds the gateway to MQTT-4.6.0-2, MQTT-4.6.0-3.
func TestAcknowledgementsFollowTheStoreInOrder(t *testing.T) {
	gate := make(chan error)
	fx := start(t, func(s *settings) { s.router.Store = &stallingStore{router.NewMemoryStore(), gate} })
	c := fx.login(v5, "c")
	c.send(publishPacket("$queue/q", "1", 1, 1))
	c.send(publishPacket("live", "2", 1, 2)) // needs no store, and must not overtake
	c.send(publishPacket("$queue/q", "3", 2, 3))
	if early := c.barrier(); len(early) > 0 {
		t.Fatalf("answers came before the store: %v", early)
	}
	gate <- nil
	c.wantAck(typePuback, 1, 0)
	c.wantAck(typePuback, 2, 0)
	gate <- errors.New("the disk is gone")
	c.wantAck(typePubrec, 3, byte(unspecified))
	old := fx.login(v311, "old")
	old.send(publishPacket("$queue/q", "1", 1, 1))
	gate <- errors.New("the disk is gone")
	old.expectClosed() // no PUBACK for what is not stored
}

// It holds the gateway to MQTT-3.3.4-7.
func TestReceiveMaximumOfTheServer(t *testing.T) {
	gate := make(chan error, 10)
	fx := start(t, func(s *settings) {
		s.router.Store = &stallingStore{router.NewMemoryStore(), gate}
		s.options.ReceiveMaximum = 2
	})
	c, ack := fx.connect(v5, "c")
	if ack.Properties.ReceiveMaximum != 2 {
		t.Errorf("CONNACK says %d", ack.Properties.ReceiveMaximum)
	}
	for i := range 3 {
		c.send(publishPacket("$queue/q", "x", 1, uint16(i+1)))
	}
	if code := c.expectClosed(); code != byte(receiveMaximum) {
		t.Errorf("DISCONNECT %#x", code)
	}
	gate <- nil
	gate <- nil
}

func TestR11StuckSubscriberSlowsNobody(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.OutboundBytes = 1 << 20 })
	stuck, fast := fx.login(v311, "stuck"), fx.login(v311, "fast")
	stuck.subscribe(1, 1, "a")
	stuck.subscribe(2, 0, "b")
	fast.subscribe(1, 0, "#")
	p := fx.login(v311, "p")
	body := string(make([]byte, 64<<10))
	for i := 0; fx.router.Stats.Dropped()[router.DropSlowConsumer] == 0; i++ {
		if i == 2000 {
			t.Fatal("nothing was counted as dropped")
		}
		p.publish("a", body, 1, uint16(i+1))
		p.publish("b", body, 0, 0)
		fast.expect(typePublish)
		fast.expect(typePublish)
	}
	// R6: it is not in anybody's way, so it may read again when it likes.
	stuck.send(&packets.Packet{FixedHeader: packets.FixedHeader{Type: typePingreq}})
	for n := 0; ; n++ {
		pk, err := stuck.next()
		if err != nil {
			t.Fatalf("after %d messages: %v", n, err)
		}
		if pk.FixedHeader.Type == typePingresp {
			break
		}
	}
}

func TestDrainTellsClients(t *testing.T) {
	fx := start(t)
	c := fx.login(v5, "c")
	done := make(chan byte)
	go func() { done <- c.expectClosed() }() // ends with the drain below
	fx.close()
	if code := <-done; code != byte(shuttingDown) {
		t.Errorf("DISCONNECT %#x", code)
	}
}

func FuzzPackets(f *testing.F) {
	f.Add(byte(v5), crash)
	f.Add(byte(v5), []byte{0x30, 4, 0, 1, 'a', 0})
	f.Add(byte(v311), []byte{0x32, 6, 0, 1, 'a', 0, 1, 'x'})
	f.Add(byte(v5), []byte{0x62, 2, 0, 1})
	f.Add(byte(v5), encodePacket(f, connectPacket(v5, "c", withWill("w", "x", 1), withUser("u", "p"))))
	f.Fuzz(func(t *testing.T, version byte, b []byte) {
		in := framer{source: bytes.NewReader(b), limit: 1 << 16}
		defer in.release()
		for {
			first, body, err := in.next()
			if err != nil {
				return
			}
			if checkFirst(first) != nil {
				continue
			}
			switch first >> 4 {
			case typeConnect:
				var k connect
				if k.decode(body) == nil && k.version == 0 {
					t.Fatal("a CONNECT of no version was accepted")
				}
			case typePublish:
				var p publish
				if decodePublish(&p, first, body, version) == nil && len(p.payload) > len(body) {
					t.Fatal("the payload is larger than the packet")
				}
			case typePuback, typePubrec, typePubrel, typePubcomp:
				if a, err := decodeAcknowledgement(first>>4, body, version); err == nil && a.id == 0 {
					t.Fatal("an acknowledgement of nothing was accepted")
				}
			case typeSubscribe, typeUnsubscribe:
				if _, filters, err := decodeFilters(first>>4, body, version); err == nil && len(filters) == 0 {
					t.Fatal("a packet without filters was accepted")
				}
			}
		}
	})
}

func FuzzFraming(f *testing.F) {
	f.Add([]byte{0x30, 2, 1, 2, 0xc0, 0}, 1)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		// Cut into any steps, the packets are the same.
		want := readPackets(b, len(b)+1)
		if got := readPackets(b, max(step, 1)); got != want {
			t.Fatalf("in steps of %d: %s, whole: %s", step, got, want)
		}
	})
}

func readPackets(b []byte, step int) string {
	in := framer{source: &stepReader{b, step}, limit: 1 << 16}
	defer in.release()
	out := ""
	for {
		first, body, err := in.next()
		if err != nil {
			return out + err.Error()
		}
		out += fmt.Sprintf("%x:%x ", first, body)
	}
}

type stepReader struct {
	b    []byte
	step int
}

func (r *stepReader) Read(p []byte) (int, error) {
	n := copy(p, r.b[:min(r.step, len(r.b))])
	if r.b = r.b[n:]; n == 0 {
		return 0, errors.New("end")
	}
	return n, nil
}
