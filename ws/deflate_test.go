package ws

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
)

// countedConn counts what is read from a socket.
type countedConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// dialDeflate connects with permessage-deflate, and counts what comes.
func (g *rig) dialDeflate(path string, subprotocols ...string) (*websocket.Conn, *atomic.Int64) {
	g.t.Helper()
	var read atomic.Int64
	d := websocket.Dialer{Subprotocols: subprotocols, EnableCompression: true,
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return countedConn{c, &read}, err
		}}
	c, resp, err := d.Dial(g.url(path), nil)
	if err != nil {
		g.t.Fatal(err, resp)
	}
	g.t.Cleanup(func() { c.Close() })
	if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext != "permessage-deflate; server_no_context_takeover; client_no_context_takeover" {
		g.t.Fatalf("extensions %q", ext)
	}
	return c, &read
}

func compressing(o *Options) {
	o.Compression = true
	o.MaxMessageBytes = 256 << 10
	o.MaxFrameBytes = 128 << 10
}

func TestDeflatedJSON(t *testing.T) {
	g := newRig(t, compressing)
	c, read := g.dialDeflate("/ws", JSONSubprotocol)
	p, plain := &peer{t: t, c: c}, g.login("bob")
	p.call(`{"id":1,"op":"connect","user":"ann","password":"pw-ann"}`)
	p.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/a/b"}`)
	p.call(`{"id":3,"op":"subscribe","sub":"` + strings.Repeat("é", 32) + `","to":"/topic/a.b"}`)
	plain.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/a/b"}`)
	before := read.Load()
	for i, body := range []string{"short", strings.Repeat("lang ", 20_000), strings.Repeat("é", 300)} {
		p.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/topic/a/b","body":"%s","headers":{"n":"%d"}}`, i+4, body, i))
		for _, q := range []*peer{p, p, plain} {
			if m := q.event("message"); m["body"] != body {
				t.Fatalf("body %.40v", m["body"])
			}
		}
	}
	if n := read.Load() - before; n > 5000 {
		t.Errorf("%d bytes came: they were not deflated", n)
	}
}

func TestDeflatedStream(t *testing.T) {
	g := newRig(t, compressing)
	for path, kind := range map[string]int{"/stomp": websocket.TextMessage, "/mqtt": websocket.BinaryMessage} {
		c, _ := g.dialDeflate(path, map[string]string{"/stomp": "v12.stomp", "/mqtt": "mqtt"}[path])
		var want, got []byte
		for i, n := range []int{10, 400, 5000, 1, 7000} {
			c.EnableWriteCompression(i%2 == 0)
			part := bytes.Repeat([]byte("hé\x00\n"), n)
			want = append(want, part...)
			if err := c.WriteMessage(kind, part); err != nil {
				t.Fatal(err)
			}
			for len(got) < len(want) {
				_, b, err := c.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatal("bytes differ")
		}
	}
}

// bomb is a deflated message of so many zeros: one MiB again and again.
func bomb(n int) string {
	one := string(appendDeflated(nil, make([]byte, 1<<20))) + packedEnd[:4]
	return strings.TrimSuffix(strings.Repeat(one, n>>20), packedEnd[:4])
}

func TestDeflateBombs(t *testing.T) {
	g := newRig(t, compressing)
	small, large := bomb(1<<20), bomb(128<<20)
	if len(small) > loginMessageBytes || len(large) < loginMessageBytes || len(large) > maxPackedMessage {
		t.Fatalf("the bombs have %d and %d bytes", len(small), len(large))
	}
	for name, c := range map[string]struct {
		path   string
		login  bool
		frames []byte
		code   int
	}{
		"json before the login":         {"/ws", false, clientFrame(0x81|rsv1, small), closeTooBig},
		"json before the login, larger": {"/ws", false, clientFrame(0x81|rsv1, large), closeTooBig},
		"json":                          {"/ws", true, clientFrame(0x81|rsv1, large), closeTooBig},
		"stream before an answer":       {"/mqtt", false, clientFrame(0x82|rsv1, large), closeTooBig},
		"stream":                        {"/mqtt", true, clientFrame(0x82|rsv1, large), closeTooBig},
		"text stream":                   {"/stomp", true, clientFrame(0x81|rsv1, large), closeTooBig},
		"fragments":                     {"/mqtt", true, append(clientFrame(0x02|rsv1, large[:1000]), clientFrame(0x80, large[1000:])...), closeTooBig},
		"rubbish":                       {"/mqtt", true, clientFrame(0x82|rsv1, "\xff\xff\xff"), closeProtocol},
		"rubbish for json":              {"/ws", true, clientFrame(0x81|rsv1, "\xff\xff\xff"), closeProtocol},
		"deflated control frame":        {"/ws", true, clientFrame(0x89|rsv1, ""), closeProtocol},
		"deflated continuation":         {"/ws", true, append(clientFrame(0x01|rsv1, strings.Repeat("a", 20)), clientFrame(0x80|rsv1, "a")...), closeProtocol},
		"bad UTF-8 within":              {"/ws", true, clientFrame(0x81|rsv1, string(appendDeflated(nil, []byte("a\xff")))), closeBadText},
		"bad UTF-8 within a stream":     {"/stomp", true, clientFrame(0x81|rsv1, string(appendDeflated(nil, []byte("a\xc3")))), closeBadText},
		"text for MQTT":                 {"/mqtt", true, clientFrame(0x81|rsv1, string(appendDeflated(nil, []byte("a")))), closeUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			sub := map[string]string{"/ws": JSONSubprotocol, "/stomp": "v12.stomp", "/mqtt": "mqtt"}[c.path]
			conn, _ := g.dialDeflate(c.path, sub)
			switch {
			case c.login && c.path == "/ws":
				(&peer{t: t, c: conn}).call(`{"id":1,"op":"connect","user":"ann","password":"pw-ann"}`)
			case c.login:
				kind := websocket.BinaryMessage
				if c.path == "/stomp" {
					kind = websocket.TextMessage
				}
				if err := conn.WriteMessage(kind, []byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, _, err := conn.ReadMessage(); err != nil {
					t.Fatal(err)
				}
			}
			go conn.NetConn().Write(c.frames) // the server may close before it has read all
			closes(t, conn, c.code)
		})
	}
	eventually(t, "all connections end", func() bool { return g.server.Connections() == 0 })
	if n := g.server.packedBytes.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}

// Deflated messages that never end are bounded in all, and forgotten with their connection.
func TestDeflatedMessagesAreBoundedInAll(t *testing.T) {
	g := newRig(t, compressing)
	g.server.packedBytes.Store(maxPackedBytes - 1000)
	c, _ := g.dialDeflate("/mqtt", "mqtt")
	if _, err := c.NetConn().Write(clientFrame(0x02|rsv1, strings.Repeat("a", 900))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is counted", func() bool { return g.server.packedBytes.Load() == maxPackedBytes-100 })
	d, _ := g.dialDeflate("/mqtt", "mqtt")
	if _, err := d.NetConn().Write(clientFrame(0x02|rsv1, strings.Repeat("a", 900))); err != nil {
		t.Fatal(err)
	}
	closes(t, d, closeTryAgain)
	c.Close()
	eventually(t, "it is forgotten", func() bool { return g.server.packedBytes.Load() == maxPackedBytes-1000 })
}

func TestOffersDeflate(t *testing.T) {
	for text, want := range map[string]bool{
		"permessage-deflate":                                                     true,
		"permessage-deflate; client_max_window_bits":                             true,
		"permessage-deflate; server_max_window_bits=10":                          false,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":      true,
		"x-webkit-deflate-frame, permessage-deflate; server_no_context_takeover": true,
		"permessage-deflated":                                                    false,
		"":                                                                       false,
	} {
		r := &http.Request{Header: http.Header{"Sec-Websocket-Extensions": {text}}}
		if offersDeflate(r) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

func FuzzInflate(f *testing.F) {
	f.Add(appendDeflated(nil, []byte("hello hello hello")))
	f.Add(appendDeflated(appendStoredHead(nil, 0), []byte("x")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packed []byte) {
		const limit = 10_000
		out, err := inflate(nil, packed, limit)
		if len(out) > limit || err == nil && cap(out) > 4*limit {
			t.Fatalf("%d bytes of %d", len(out), cap(out))
		}
		// Whatever it is, deflating it gives it back, also behind a stored block.
		again := append(append(appendStoredHead(nil, 3), "abc"...), appendDeflated(nil, out)...)
		back, err := inflate(nil, again, limit+3)
		if err != nil || string(back) != "abc"+string(out) {
			t.Fatalf("%d bytes became %d: %v", len(out), len(back), err)
		}
	})
}
