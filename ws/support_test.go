package ws

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
)

var nobodyAdmin = router.NewPrincipal("admin", "", true, nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate lets users in whose password is their name reversed, and everyone else as
// nobody; "eve" may read and write nothing below "secret". About "broken" and "busy" it
// cannot say.
type gate struct{}

func (gate) Authenticate(_ context.Context, c router.Credentials) (*router.Principal, error) {
	switch c.User {
	case "broken":
		return nil, errors.New("the users' file is gone")
	case "busy":
		return nil, &router.Error{Op: "connect", Class: router.Unavailable, Text: "come back", RetryAfter: time.Second}
	}
	if c.HasUser && c.Password != "pw-"+c.User {
		return nil, &router.Error{Op: "connect", Class: router.Denied, Text: "wrong user or password"}
	}
	return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
}

func (gate) Authorize(p *router.Principal, _ router.Action, a router.Address) error {
	if p.Name() == "eve" && strings.HasPrefix(a.Name(), "secret") {
		return &router.Error{Op: "authorize", Class: router.Denied, Text: "eve may not use " + a.String()}
	}
	return nil
}

func (g gate) AuthorizeFilter(p *router.Principal, a router.Action, f router.Filter) error {
	if addr, ok := f.Address(); ok {
		return g.Authorize(p, a, addr)
	}
	return nil
}

// rig is a real server.
type rig struct {
	t      testing.TB
	store  *router.MemoryStore
	router *router.Router
	server *Server
	http   *httptest.Server
	over   bool
}

func newRig(t testing.TB, change func(*Options)) *rig {
	return newRigOn(t, router.NewMemoryStore(), "", change)
}

func newRigOn(t testing.TB, store *router.MemoryStore, addr string, change func(*Options)) *rig {
	t.Helper()
	r, err := router.New(context.Background(), router.Options{
		Store: store, Authorize: gate{}, Log: slog.New(slog.DiscardHandler),
		QueuePolicy: func(router.Address) router.Policy { return router.Policy{MaxLength: 50, DeadLetter: "dead"} },
		History: func(a router.Address) (int, time.Duration) {
			if a.Levels()[0] == "chat" {
				return 100, 0
			}
			return 0, 0
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Router: r, Authenticate: gate{}, ServeSTOMP: echo, ServeMQTT: echo, Version: "test"}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, store: store, router: r, server: s}
	g.http = httptest.NewUnstartedServer(s)
	if addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		g.http.Listener.Close()
		g.http.Listener = l
	}
	g.http.Start()
	t.Cleanup(g.stop)
	return g
}

func (g *rig) stop() {
	if g.over {
		return
	}
	g.over = true
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := g.server.Drain(ctx); err != nil {
		g.t.Error(err)
	}
	g.http.Close()
	if err := g.router.Close(ctx); err != nil {
		g.t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// echo serves a connection as STOMP's server does in the ways that matter: it
// reads with deadlines after which it reads on, and writes what it read.
func echo(c net.Conn) {
	defer c.Close()
	b := make([]byte, 512)
	for {
		if c.SetReadDeadline(time.Now().Add(5*time.Millisecond)) != nil {
			return
		}
		n, err := c.Read(b)
		if n > 0 {
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
		if ne, ok := err.(net.Error); err != nil && !(ok && ne.Timeout()) {
			return
		}
	}
}

func (g *rig) url(path string) string { return "ws" + strings.TrimPrefix(g.http.URL, "http") + path }

func (g *rig) dial(path string, subprotocols ...string) *websocket.Conn {
	g.t.Helper()
	d := websocket.Dialer{Subprotocols: subprotocols}
	c, resp, err := d.Dial(g.url(path), nil)
	if err != nil {
		g.t.Fatalf("dial %s: %v %v", path, err, resp)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// peer is a JSON client.
type peer struct {
	t      testing.TB
	c      *websocket.Conn
	events []map[string]any // read while waiting for a reply
}

func (g *rig) peer() *peer { return &peer{t: g.t, c: g.dial("/ws", JSONSubprotocol)} }

// login is a peer that is connected.
func (g *rig) login(user string, more ...string) *peer {
	g.t.Helper()
	p := g.peer()
	p.call(`{"id":1,"op":"connect","user":"` + user + `","password":"pw-` + user + `"` + strings.Join(more, "") + `}`)
	return p
}

func (p *peer) send(s string) {
	p.t.Helper()
	if err := p.c.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) read() map[string]any {
	p.t.Helper()
	if err := p.c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	kind, b, err := p.c.ReadMessage()
	if err != nil {
		p.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil || kind != websocket.TextMessage {
		p.t.Fatalf("message %q of kind %d: %v", b, kind, err)
	}
	definition := "event"
	if m["reply"] != nil {
		definition = "reply"
	}
	if err := protocolSchema().check(definition, m); err != nil {
		p.t.Errorf("the server said %s: %v", b, err)
	}
	return m
}

// event returns the next event of a kind; others are put aside.
func (p *peer) event(kind string) map[string]any {
	p.t.Helper()
	for i, e := range p.events {
		if e["event"] == kind {
			p.events = append(p.events[:i:i], p.events[i+1:]...)
			return e
		}
	}
	for {
		m := p.read()
		if m["event"] == kind {
			return m
		}
		if m["reply"] != nil {
			p.t.Fatalf("reply %v while waiting for event %s", m, kind)
		}
		p.events = append(p.events, m)
	}
}

// reply sends a request and returns the next reply.
func (p *peer) reply(request string) map[string]any {
	p.t.Helper()
	p.send(request)
	for {
		m := p.read()
		if m["reply"] != nil {
			return m
		}
		p.events = append(p.events, m)
	}
}

// call is reply for what must succeed.
func (p *peer) call(request string) map[string]any {
	p.t.Helper()
	m := p.reply(request)
	if m["ok"] != true {
		p.t.Fatalf("%s: %v", request, m)
	}
	var r any
	if err := json.Unmarshal([]byte(request), &r); err != nil {
		p.t.Fatal(err)
	}
	if err := protocolSchema().check("request", r); err != nil {
		p.t.Errorf("the server took what the schema refuses: %s: %v", request, err)
	}
	return m
}

// refused is reply for what must fail with a code.
func (p *peer) refused(code, request string) map[string]any {
	p.t.Helper()
	m := p.reply(request)
	e, _ := m["error"].(map[string]any)
	if e["code"] != code || e["message"] == "" {
		p.t.Fatalf("%s: %v, want code %s", request, m, code)
	}
	return e
}

// closes reads until the connection ends, and checks the close code.
func closes(t testing.TB, c *websocket.Conn, code int) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		_, _, err := c.ReadMessage()
		if err == nil {
			continue
		}
		if !websocket.IsCloseError(err, code) {
			t.Fatalf("ended with %v, want code %d", err, code)
		}
		return
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen: " + what)
		}
	}
}

func get(t testing.TB, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
