package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMQTTLoginGolden(t *testing.T) {
	for _, tc := range []struct {
		login mqttLogin
		want  string
	}{
		{mqttLogin{clientID: "c", clean: true}, "\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c"},
		{mqttLogin{clientID: "c", user: "u", password: "p", keepAliveSec: 300}, "\x10\x13\x00\x04MQTT\x04\xc0\x01\x2c\x00\x01c\x00\x01u\x00\x01p"},
		{mqttLogin{five: true, clientID: "c", expirySec: 1, receiveMaximum: 258, clean: true},
			"\x10\x16\x00\x04MQTT\x05\x02\x00\x00\x08\x11\x00\x00\x00\x01\x21\x01\x02\x00\x01c"},
	} {
		if got := string(tc.login.append(nil)); got != tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}

func TestMQTTPublishGolden(t *testing.T) {
	for _, tc := range []struct {
		o    Options
		five bool
		want string
	}{
		{Options{}, false, "\x30\x06\x00\x01tabc"},
		{Options{QoS: 1, Window: 10}, false, "\x32\x08\x00\x01t\x00\x08abc"},
		{Options{QoS: 2, Window: 10}, true, "\x34\x09\x00\x01t\x00\x08\x00abc"},
		{Options{SendHeaders: []string{"k:v:w"}}, true, "\x30\x10\x00\x01t\x09\x26\x00\x01k\x00\x03v:wabc"},
	} {
		p := newMQTT(tc.o, tc.five)
		c := &mqttConnection{protocol: p, wire: &wire{}, receiveMaximum: 7}
		c.pending = make([]atomic.Uint64, p.window)
		if most := c.prepare("t", 3); most != 7 {
			t.Errorf("the broker's limit became %d", most)
		}
		if err := c.send(17, []byte("abc")); err != nil {
			t.Fatal(err)
		}
		if got := string(c.wire.out); got != tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}

// Packets come out of a stream as they went in, wherever it is cut.
func TestMQTTPackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		five := rapid.Bool().Draw(t, "MQTT 5")
		var in []byte
		var payloads [][]byte
		for range rapid.IntRange(1, 6).Draw(t, "packets") {
			payload := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload")
			qos := rapid.IntRange(0, 2).Draw(t, "QoS")
			body := appendMQTTString(nil, "topic")
			if qos > 0 {
				body = append(body, 0, 9)
			}
			if five {
				body = append(body, 0)
			}
			in = appendMQTTPacket(in, mqttPublish<<4|byte(qos)<<1, append(body, payload...))
			payloads = append(payloads, payload)
		}
		s := &script{in: in, piece: func() int { return rapid.IntRange(1, 100).Draw(t, "piece") }}
		c := &mqttConnection{protocol: &mqttProtocol{mostBytes: 1000}, wire: &wire{conn: s}, buf: make([]byte, 8)}
		for _, want := range payloads {
			p, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			m, err := p.publication(five)
			if err != nil || !bytes.Equal(m.payload, want) {
				t.Fatalf("%v: %q, want %q", err, m.payload, want)
			}
		}
		if _, err := c.next(); err != io.EOF {
			t.Fatalf("behind the last packet: %v", err)
		}
	})
}

func FuzzMQTTPacket(f *testing.F) {
	f.Add([]byte("\x32\x09\x00\x01t\x00\x08\x00abc"), true)
	f.Add([]byte("\x20\x06\x00\x00\x03\x21\x00\x14"), true)
	f.Add([]byte("\x30\xff\xff\xff\xff\x01"), false)
	f.Fuzz(func(t *testing.T, b []byte, five bool) {
		const most = 1000
		p, size, err := cutMQTT(b, most)
		if err != nil || size == 0 {
			return
		}
		if size > len(b) || len(p.body) > most || len(p.body) >= size {
			t.Fatalf("%d bytes of %d", size, len(b))
		}
		if m, err := p.publication(five); err == nil && len(m.payload) > len(p.body) {
			t.Fatal("the payload is larger than its packet")
		}
		_, _, _ = p.acknowledged()
		if n := connackReceiveMaximum(p.body); n < 0 || n > 65535 {
			t.Fatalf("receive maximum %d", n)
		}
	})
}

func TestConnackReceiveMaximum(t *testing.T) {
	for properties, want := range map[string]int{
		"":                                       0,
		"\x21\x00\x14":                           20,
		"\x12\x00\x02id\x24\x01\x21\x01\x00":     256,
		"\x26\x00\x01a\x00\x01b\x13\x00\x05\x21": 0,
		"\x26\x00\x01a\x00\x01b\x27\x00\x00\x00\x01\x21\x00\x01": 1,
		"\x7f\x21\x00\x14": 0,
	} {
		if got := connackReceiveMaximum([]byte(properties)); got != want {
			t.Errorf("%q: %d, want %d", properties, got, want)
		}
	}
}

// mqttScript is a broker that answers CONNECT and SUBSCRIBE rightly and leaves PUBLISH to the test.
type mqttScript struct {
	listener net.Listener
	open     sync.WaitGroup
	mu       sync.Mutex
	peers    []net.Conn
	publish  func(n int, id uint16, packet []byte) (answer, deliver []byte)
}

func startMQTTScript(t *testing.T, connack string, publish func(n int, id uint16, packet []byte) (answer, deliver []byte)) *mqttScript {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &mqttScript{listener: l, publish: publish}
	b.open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.peers = append(b.peers, conn)
			b.mu.Unlock()
			b.open.Go(func() { b.serve(conn, connack) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for _, p := range b.peers {
			p.Close()
		}
		b.mu.Unlock()
		b.open.Wait()
	})
	return b
}

func (b *mqttScript) serve(conn net.Conn, connack string) {
	defer conn.Close()
	c := &mqttConnection{protocol: &mqttProtocol{mostBytes: 1 << 20}, wire: &wire{conn: conn}, buf: make([]byte, 1<<16)}
	for n := 0; ; {
		p, err := c.next()
		if err != nil {
			return
		}
		switch p.kind() {
		case mqttConnect:
			_, err = conn.Write([]byte(connack))
		case mqttSubscribe:
			_, err = conn.Write([]byte{mqttSuback << 4, 3, p.body[0], p.body[1], p.body[len(p.body)-1]})
		case mqttPublish:
			id := binary.BigEndian.Uint16(p.body[2+binary.BigEndian.Uint16(p.body):])
			answer, deliver := b.publish(n, id, appendMQTTPacket(nil, p.first, p.body))
			n++
			if _, err = conn.Write(answer); err == nil && len(deliver) > 0 {
				b.mu.Lock()
				_, err = b.peers[0].Write(deliver) // the subscriber connects first
				b.mu.Unlock()
			}
		case mqttDisconnect:
			return
		}
		if err != nil {
			return
		}
	}
}

func scriptOptions(b *mqttScript, protocol string) Options {
	return Options{Scenario: Topic, Protocol: protocol, Addresses: []string{b.listener.Addr().String()}, Destinations: 1, Publishers: 1, Subscribers: 1,
		SizeBytes: 64, Window: 10, Count: 500, QoS: 1, Drain: 2 * time.Second, Timeout: 20 * time.Second, Connections: 10, Dialers: 1, Cores: 1}
}

const connackOK = "\x20\x02\x00\x00"

// TestMQTTVerdicts has a broker misbehave in one way at a time.
func TestMQTTVerdicts(t *testing.T) {
	ack := func(id uint16) []byte { return appendMQTTAck(nil, mqttPuback, id) }
	for _, tc := range []struct {
		name    string
		publish func(n int, id uint16, packet []byte) (answer, deliver []byte)
		fault   string
		check   func(*Report) bool
	}{
		{"lost", func(n int, id uint16, packet []byte) ([]byte, []byte) {
			if every(n) {
				return ack(id), nil
			}
			return ack(id), packet
		}, "5 lost", func(r *Report) bool { return r.Lost == everyCount }},
		{"delivered twice", func(n int, id uint16, packet []byte) ([]byte, []byte) {
			if every(n) {
				return ack(id), append(packet, packet...)
			}
			return ack(id), packet
		}, "5 delivered twice", func(r *Report) bool { return r.Duplicates == everyCount }},
		{"sent again with DUP", func(n int, id uint16, packet []byte) ([]byte, []byte) {
			if every(n) {
				again := append([]byte(nil), packet...)
				again[0] |= 8
				return ack(id), append(packet, again...)
			}
			return ack(id), packet
		}, "", func(r *Report) bool { return r.Duplicates == 0 && r.Redelivered == everyCount }},
		{"never confirmed", func(n int, id uint16, packet []byte) ([]byte, []byte) {
			if every(n) {
				return nil, packet
			}
			return ack(id), packet
		}, "5 never confirmed", func(r *Report) bool { return r.Unconfirmed == everyCount && r.Lost == 0 }},
		{"confirmed twice", func(n int, id uint16, packet []byte) ([]byte, []byte) {
			if every(n) {
				return append(ack(id), ack(id)...), packet
			}
			return ack(id), packet
		}, "5 errors", func(r *Report) bool { return strings.Contains(r.ErrorTexts[0], "second acknowledgement") }},
		{"an identifier that was not used", func(n int, id uint16, packet []byte) ([]byte, []byte) {
			if every(n) {
				return append(ack(id), ack(999)...), packet
			}
			return ack(id), packet
		}, "5 errors", func(r *Report) bool { return strings.Contains(r.ErrorTexts[0], "999, which was not used") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := Run(t.Context(), scriptOptions(startMQTTScript(t, connackOK, tc.publish), MQTT))
			if err != nil {
				t.Fatal(err)
			}
			faults := strings.Join(r.Faults(), "; ")
			if !tc.check(r) || (tc.fault == "") != (faults == "") || !strings.Contains(faults, tc.fault) {
				t.Errorf("faults are %q, want %q\n%s", faults, tc.fault, describe(r))
			}
		})
	}
}

// MQTT 5 says what was refused and why, and how much may be unconfirmed.
func TestMQTT5Refusals(t *testing.T) {
	var mu sync.Mutex
	open, most := map[uint16]bool{}, 0
	var held []byte
	b := startMQTTScript(t, "\x20\x06\x00\x00\x03\x21\x00\x04", func(n int, id uint16, packet []byte) ([]byte, []byte) {
		mu.Lock()
		defer mu.Unlock()
		open[id] = true
		most = max(most, len(open))
		if every(n) {
			held = append(held, mqttPuback<<4, 3, byte(id>>8), byte(id), 0x97)
			packet = nil
		} else {
			held = append(held, appendMQTTAck(nil, mqttPuback, id)...)
		}
		if n%4 < 3 && n < 496 {
			return nil, packet // confirmed four at a time: the window must get full, and not fuller
		}
		answer := held
		held, open = nil, map[uint16]bool{}
		return answer, packet
	})
	r, err := Run(t.Context(), scriptOptions(b, MQTT5))
	if err != nil {
		t.Fatal(err)
	}
	if r.Refused != everyCount || r.Lost != 0 || r.Unconfirmed != 0 || !strings.Contains(strings.Join(r.ErrorTexts, "\n"), "quota exceeded") {
		t.Error(describe(r))
	}
	if most != 4 {
		t.Errorf("%d unconfirmed at most, the broker allows 4", most)
	}
}

func TestMQTTRunsThatCannotBeMade(t *testing.T) {
	for connack, want := range map[string]string{
		"\x20\x02\x00\x05":     "reason 0x5, not authorised",
		"\x20\x02\x00\x87":     "reason 0x87, not authorised",
		"\x90\x02\x00\x00":     "of type 9",
		"\x20\xff\xff\xff\x7f": "the limit is",
		"\x20\x00":             "of type 2",
	} {
		b := startMQTTScript(t, connack, nil)
		if _, err := Run(t.Context(), scriptOptions(b, MQTT)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", connack, err)
		}
	}
	// A broker that says nothing is given up after the timeout.
	o := scriptOptions(startMQTTScript(t, "", nil), MQTT)
	o.Timeout = 100 * time.Millisecond
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no answer to CONNECT") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, o); err == nil {
		t.Error("a run that was cancelled before it began was made")
	}
}
