package ws

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/router/outbox"
)

func TestHandshake(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Origins = []string{"https://friend.example"} })
	host := strings.TrimPrefix(g.http.URL, "http://")
	for name, c := range map[string]struct {
		path, origin string
		offered      []string
		status       int
		chosen       string
	}{
		"json":               {"/ws", "", []string{JSONSubprotocol}, 101, JSONSubprotocol},
		"json without":       {"/ws", "", nil, 101, ""},
		"stomp by protocol":  {"/ws", "", []string{"v12.stomp"}, 101, "v12.stomp"},
		"mqtt by protocol":   {"/ws", "", []string{"mqtt"}, 101, "mqtt"},
		"stomp newest":       {"/stomp", "", []string{"v10.stomp", "v12.stomp", "v11.stomp"}, 101, "v12.stomp"},
		"stomp without":      {"/stomp", "", nil, 101, ""},
		"stomp other":        {"/stomp", "", []string{"mqtt"}, 400, ""},
		"mqtt":               {"/mqtt", "", []string{"mqtt"}, 101, "mqtt"},
		"mqtt without":       {"/mqtt", "", nil, 400, ""},
		"unknown":            {"/ws", "", []string{"chess"}, 400, ""},
		"same origin":        {"/ws", "http://" + host, nil, 101, ""},
		"allowed origin":     {"/ws", "https://friend.example", nil, 101, ""},
		"other origin":       {"/ws", "https://evil.example", nil, 403, ""},
		"null origin":        {"/ws", "null", nil, 403, ""},
		"prefix of a friend": {"/ws", "https://friend.example.evil.example", nil, 403, ""},
		"other port":         {"/ws", "http://127.0.0.1:1", nil, 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if c.origin != "" {
				h.Set("Origin", c.origin)
			}
			d := websocket.Dialer{Subprotocols: c.offered, EnableCompression: true}
			conn, resp, err := d.Dial(g.url(c.path), h)
			if resp == nil || resp.StatusCode != c.status {
				t.Fatalf("status %v (%v), want %d", resp, err, c.status)
			}
			if err == nil {
				defer conn.Close()
				if conn.Subprotocol() != c.chosen || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
					t.Errorf("chosen %q, extensions %q", conn.Subprotocol(), resp.Header.Get("Sec-WebSocket-Extensions"))
				}
			}
		})
	}
	if status, _ := get(t, g.http.URL+"/ws"); status != http.StatusUpgradeRequired {
		t.Errorf("plain GET: %d", status)
	}
	if status, body := get(t, g.http.URL+"/client/mqgate.js"); status != 200 || !strings.Contains(body, "export class Client") {
		t.Errorf("client: %d", status)
	}
	for _, file := range []string{"mqgate.d.ts", "CLIENT.md", "PROTOCOL.md", "HTTP.md", "protocol.schema.json"} {
		if status, body := get(t, g.http.URL+"/client/"+file); status != 200 || !strings.Contains(strings.ToLower(body), "mqgate") {
			t.Errorf("%s: %d", file, status)
		}
	}
	if status, _ := get(t, g.http.URL+"/client/doc.go"); status != 404 {
		t.Errorf("something else: %d", status)
	}
}

func TestConnectionLimit(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Seats = door.NewSeats(1, 0) })
	g.peer().call(`{"id":1,"op":"ping"}`)
	_, resp, err := websocket.DefaultDialer.Dial(g.url("/ws"), nil)
	if err == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("%v %v", resp, err)
	}
}

func TestStreamAnswersInKind(t *testing.T) {
	g := newRig(t, nil)
	for kind, path := range map[int]string{websocket.TextMessage: "/stomp", websocket.BinaryMessage: "/mqtt"} {
		c := g.dial(path, map[string]string{"/stomp": "v12.stomp", "/mqtt": "mqtt"}[path])
		var want, got []byte
		for range 50 {
			part := []byte(strings.Repeat("hé\x00\n", 1+rand.IntN(400)))
			want = append(want, part...)
			if err := c.WriteMessage(kind, part); err != nil {
				t.Fatal(err)
			}
		}
		binaries := 0
		for len(got) < len(want) {
			k, b, err := c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if k == websocket.BinaryMessage {
				binaries++
			} else if kind != k {
				t.Fatal("text in answer to binary")
			}
			if k == websocket.TextMessage && !utf8.Valid(b) {
				t.Fatal("text that is not UTF-8")
			}
			got = append(got, b...)
		}
		if !bytes.Equal(got, want) {
			t.Fatal("bytes differ")
		}
	}
}

// clientFrame is a masked frame.
func clientFrame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := [4]byte{1, 2, 3, 4}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i&3])
	}
	return b
}

func TestHostileFrames(t *testing.T) {
	g := newRig(t, func(o *Options) { o.MaxMessageBytes = 64 << 10 })
	huge := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<62)
	huge = append(huge, 1, 2, 3, 4)
	many := func(n int, f []byte) []byte { return bytes.Repeat(f, n) }
	tiny := append(clientFrame(0x01, "a"), many(1000, clientFrame(0x00, "a"))...)
	for name, c := range map[string]struct {
		bytes []byte
		code  int
	}{
		"unmasked":               {[]byte{0x81, 1, 'a'}, closeProtocol},
		"reserved bit":           {clientFrame(0xc1, "a"), closeProtocol},
		"opcode 3":               {clientFrame(0x83, "a"), closeProtocol},
		"opcode 11":              {clientFrame(0x8b, "a"), closeProtocol},
		"long ping":              {clientFrame(0x89, strings.Repeat("a", 126)), closeProtocol},
		"fragmented ping":        {clientFrame(0x09, "a"), closeProtocol},
		"continuation of none":   {clientFrame(0x80, "a"), closeProtocol},
		"interrupted message":    {append(clientFrame(0x01, strings.Repeat("a", 20)), clientFrame(0x81, "b")...), closeProtocol},
		"frame of 4 EiB":         {huge, closeTooBig},
		"bad UTF-8":              {clientFrame(0x81, "a\xffb"), closeBadText},
		"UTF-8 cut off":          {clientFrame(0x81, "a\xc3"), closeBadText},
		"UTF-8 cut by fragments": {append(clientFrame(0x01, strings.Repeat("a", 20)+"\xc3"), clientFrame(0x80, "(")...), closeBadText},
		"surrogate":              {clientFrame(0x81, "\xed\xa0\x80"), closeBadText},
		"ping flood":             {many(500, clientFrame(0x89, "")), closePolicy},
		"empty frame flood":      {many(500, clientFrame(0x82, "")), closePolicy},
		"fragment flood":         {tiny, closePolicy},
		"close of one byte":      {clientFrame(0x88, "a"), closeProtocol},
		"close 1005":             {clientFrame(0x88, "\x03\xed"), closeProtocol},
		"close with bad reason":  {clientFrame(0x88, "\x03\xe8\xff"), closeProtocol},
		"close":                  {clientFrame(0x88, "\x03\xe8bye"), closeNormal},
		"close without code":     {clientFrame(0x88, ""), closeNormal},
	} {
		for _, path := range []string{"/stomp", "/ws"} {
			if name == "empty frame flood" && path == "/ws" {
				continue // binary is refused before
			}
			t.Run(name+path, func(t *testing.T) {
				conn := g.dial(path)
				if path == "/ws" {
					p := &peer{t: t, c: conn}
					p.call(`{"id":1,"op":"connect","user":"ann","password":"pw-ann"}`)
				}
				raw := conn.NetConn()
				go raw.Write(c.bytes) // the server may close before it has read all
				closes(t, conn, c.code)
			})
		}
	}
	c := g.dial("/ws")
	if err := c.WriteMessage(websocket.BinaryMessage, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	closes(t, c, closeUnsupported)
	c = g.dial("/mqtt", "mqtt")
	if err := c.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
		t.Fatal(err)
	}
	closes(t, c, closeUnsupported)
	eventually(t, "all connections end", func() bool { return g.server.Connections() == 0 })
}

func TestPingIsAnsweredBetweenData(t *testing.T) {
	g := newRig(t, nil)
	for _, path := range []string{"/stomp", "/ws"} {
		c := g.dial(path)
		pong := make(chan string, 1)
		c.SetPongHandler(func(s string) error { pong <- s; return nil })
		if err := c.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if _, _, err := c.ReadMessage(); err != nil {
					return
				}
			}
		}()
		if got := <-pong; got != "are you there" {
			t.Errorf("%s: pong %q", path, got)
		}
		c.Close()
	}
}

// Whatever the cuts between frames, between reads, and by deadlines, the bytes
// come out as they went in.
func FuzzStreamDecode(f *testing.F) {
	f.Add([]byte("hello"), uint64(1), 3)
	f.Add(bytes.Repeat([]byte{0, 0xff, 0x80}, 300), uint64(7), 1)
	f.Fuzz(func(t *testing.T, payload []byte, seed uint64, chunk int) {
		r := rand.New(rand.NewPCG(seed, 1))
		chunk = 1 + min(max(chunk, 0), 4096)
		var wire []byte
		rest := string(payload)
		open := false
		for len(rest) > 0 || open {
			n := min(len(rest), 16+r.IntN(200))
			if !open && r.IntN(3) == 0 { // a deflated message, in two fragments
				packed := string(appendDeflated(nil, []byte(rest[:n])))
				cut := r.IntN(len(packed) + 1)
				wire = append(append(wire, clientFrame(opBinary|rsv1, packed[:cut])...), clientFrame(0x80, packed[cut:])...)
				rest = rest[n:]
				continue
			}
			first := byte(opBinary)
			if open {
				first = opContinuation
			}
			if open = r.IntN(2) == 0 && n < len(rest); !open {
				first |= 0x80
			}
			wire = append(wire, clientFrame(first, rest[:n])...)
			rest = rest[n:]
			if r.IntN(50) == 0 {
				wire = append(wire, clientFrame(0x8a, "pong")...)
			}
		}
		s := &stream{Conn: &chunks{b: wire, r: r}, server: &Server{opt: Options{MaxFrameBytes: 1 << 20}}}
		s.decoder.maxFrame, s.decoder.deflate = 1<<20, true
		s.decoder.flood = rate.NewLimiter(rate.Inf, 0) // the clock must not decide
		var got []byte
		b := make([]byte, chunk)
		for {
			n, err := s.Read(b)
			got = append(got, b[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil && err != errLater {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, payload) {
			t.Fatalf("%d bytes became %d", len(payload), len(got))
		}
		if n := s.server.packedBytes.Load(); n != 0 {
			t.Fatalf("%d bytes are still counted", n)
		}
	})
}

// FuzzDecoder gives it anything: it may refuse, but not fail.
func FuzzDecoder(f *testing.F) {
	f.Add(clientFrame(0x81, "hello"))
	f.Add(append(clientFrame(0x01, "hel"), clientFrame(0x80, "lo")...))
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{maxFrame: 1 << 16}
		in := len(b)
		for out := 0; len(b) > 0; {
			p, rest, err := d.next(b)
			if err != nil {
				return
			}
			if out += len(p.payload); out > in {
				t.Fatal("more came out than went in")
			}
			b = rest
		}
	})
}

// chunks is a socket that gives its bytes in random portions, with time-outs between.
type chunks struct {
	net.Conn
	b []byte
	r *rand.Rand
}

type laterError struct{}

func (laterError) Error() string { return "later" }

var errLater = laterError{}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	if c.r.IntN(4) == 0 {
		return 0, errLater
	}
	n := copy(b, c.b[:1+c.r.IntN(len(c.b))])
	c.b = c.b[n:]
	return n, nil
}

func (c *chunks) Write(b []byte) (int, error)      { return len(b), nil }
func (c *chunks) SetWriteDeadline(time.Time) error { return nil }

func TestTextCheckAgreesWithTheLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	samples := []string{"", "abc", "é", "€uro", "😀😀", "a\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "x\xe2\x82", "😀\x80"}
	for range 20000 {
		s := samples[r.IntN(len(samples))] + samples[r.IntN(len(samples))]
		var c textCheck
		ok := true
		for rest := []byte(s); len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			ok = c.add(rest[:n]) && ok
			if !ok {
				break
			}
			rest = rest[n:]
		}
		if ok = ok && c.whole(); ok != utf8.ValidString(s) {
			t.Fatalf("%q: %v", s, ok)
		}
	}
}

func TestDeliveryAllocatesNothing(t *testing.T) {
	g := newRig(t, nil)
	p := g.login("ann")
	p.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":{}}`)
	var s *subscription
	for _, c := range g.server.connections() {
		c := c.(*client)
		c.mu.Lock()
		s = c.subs["s"]
		c.mu.Unlock()
	}
	m := message(t, `{"to":"/topic/chat.x","body":"hello"}`)
	s.client.out.Wait()
	var w outbox.Batch // no writer runs before it is flushed
	if n := testing.AllocsPerRun(200, func() { s.put(m, &w, nil) }); n != 0 {
		t.Errorf("%v allocations a delivery", n)
	}
	w.Flush()
}

func message(t testing.TB, request string) *router.Message {
	t.Helper()
	r, err := decodeRequest([]byte(request))
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.message("")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A frame that could not be written whole is the last: a close frame behind it would
// be read as a part of its payload.
func TestNothingFollowsAFrameThatWasCutOff(t *testing.T) {
	g := newRig(t, func(o *Options) {
		o.ServeSTOMP = func(c net.Conn) {
			part := bytes.Repeat([]byte("x"), 1<<20)
			for c.SetWriteDeadline(time.Now().Add(100*time.Millisecond)) == nil {
				if _, err := c.Write(part); err != nil {
					break
				}
			}
			c.Close()
		}
	})
	c := g.dial("/stomp").NetConn()
	eventually(t, "the server gives up", func() bool { return g.server.Connections() == 0 })
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if tail := bytes.TrimRight(all, "x"); len(all) < 1<<20 || len(tail) == len(all) {
		t.Errorf("%d bytes, then %v; the last are %q", len(all), err, all[max(0, len(all)-60):])
	}
}
