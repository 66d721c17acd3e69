package ws

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// An idle JSON client that is logged in and subscribed costs at most 20 KiB; a
// socket of this process stands in for the client, whose cost counts as well.
func TestIdleConnectionsAreSmall(t *testing.T) {
	g := newRig(t, nil)
	const n = 300
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	addr := strings.TrimPrefix(g.http.URL, "http://")
	before := memory()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = idleClient(t, addr)
	}
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	var each uint64
	eventually(t, "the connections settle below 20 KiB", func() bool {
		after := memory()
		each = (after - min(before, after)) / n
		return each < 20<<10
	})
	t.Logf("%d bytes a connection", each)
}

func idleClient(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	hello := "GET /ws HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := io.WriteString(c, hello); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReaderSize(c, 512)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	for _, request := range []string{`{"id":1,"op":"connect"}`, `{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":{}}`} {
		if _, err := c.Write(clientFrame(0x81, request)); err != nil {
			t.Fatal(err)
		}
		if reply, err := r.ReadString('}'); err != nil || !strings.Contains(reply, `"ok":true`) {
			t.Fatal(reply, err)
		}
	}
	return c
}

// A client that asks faster than its limit is slowed down, and loses nothing.
func TestRequestsOverTheLimitWait(t *testing.T) {
	g := newRig(t, func(o *Options) { o.RequestsPerSecond = 50 })
	p := g.login("ann")
	var limited *client
	for _, c := range g.server.connections() {
		limited = c.(*client)
	}
	for range 120 {
		p.send(`{"id":2,"op":"ping"}`)
	}
	for range 120 {
		if m := p.read(); m["ok"] != true {
			t.Fatal(m)
		}
	}
	// 99 tokens were there; the others came one by one.
	if tokens := limited.limiter.Tokens(); tokens > 50 {
		t.Errorf("%v tokens are left: nothing was counted", tokens)
	}
}

func TestRequestsOverTheLimitClose(t *testing.T) {
	g := newRig(t, func(o *Options) { o.RequestsPerSecond = 5; o.CloseOverRate = true })
	p := g.login("ann")
	for range 20 {
		p.send(`{"id":2,"op":"ping"}`)
	}
	closes(t, p.c, closeRate)
	if g.server.Stats.Throttled.Load() != 1 {
		t.Error("not counted")
	}
}
