package browsertest

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/ws"
)

type anyone struct{}

func (anyone) Authenticate(_ context.Context, c router.Credentials) (*router.Principal, error) {
	return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
}

// gateway is a server that can be restarted in its place, as an operator does.
type gateway struct {
	t     testing.TB
	store *router.MemoryStore
	addr  string

	mu     sync.Mutex
	router *router.Router
	ws     *ws.Server
	http   *http.Server
}

const anyPort = "127.0.0.1:0"

func start(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{t: t, store: router.NewMemoryStore(), addr: anyPort}
	if err := g.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return g
}

func (g *gateway) open() error {
	r, err := router.New(context.Background(), router.Options{
		Store: g.store, Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler),
		QueuePolicy: func(router.Address) router.Policy { return router.Policy{} },
		History: func(a router.Address) (int, time.Duration) {
			if l := a.Levels(); l[0] == "chat" {
				return 100, 0
			}
			return 0, 0
		},
	})
	if err != nil {
		return err
	}
	s, err := ws.New(ws.Options{Router: r, Authenticate: anyone{}, ServeSTOMP: tinySTOMP, ServeMQTT: tinyMQTT})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", g.addr)
	if err != nil {
		return err
	}
	if g.addr == anyPort { // it stays, for a restart
		g.addr = l.Addr().String()
	}
	g.router, g.ws, g.http = r, s, &http.Server{Handler: s}
	go g.http.Serve(l) // ends with close
	return nil
}

// control lets a script stop the gateway and start it again.
func (g *gateway) control() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /stop", func(http.ResponseWriter, *http.Request) { g.close() })
	mux.HandleFunc("POST /start", func(http.ResponseWriter, *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if err := g.open(); err != nil {
			g.t.Error(err)
		}
	})
	return httptest.NewServer(mux)
}

func (g *gateway) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.http != nil {
		g.shut()
	}
}

func (g *gateway) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := g.ws.Drain(ctx); err != nil {
		g.t.Error(err)
	}
	g.http.Close()
	if err := g.router.Close(ctx); err != nil {
		g.t.Error(err)
	}
	g.http = nil
}

// node runs a script next to the installed packages; it fails the test unless the
// script ends with 0.
func (g *gateway) node(script string, env ...string) {
	g.t.Helper()
	dir := harness.NodeScripts(g.t, script, "../client/mqgate.js")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(dir, script))
	control := g.control()
	defer control.Close()
	cmd.Env = append(append(os.Environ(), "GATEWAY="+g.addr, "CONTROL="+control.URL), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	g.t.Logf("%s", out)
}

// tinySTOMP does what stompjs needs to connect, publish with a receipt and get
// its message back. The real server is tested through the gateway.
func tinySTOMP(c net.Conn) {
	defer c.Close()
	r, sub := bufio.NewReader(c), ""
	for {
		frame, err := r.ReadString(0)
		if err != nil {
			return
		}
		head, body, _ := strings.Cut(strings.TrimLeft(frame, "\n"), "\n\n")
		command, _, _ := strings.Cut(head, "\n")
		value := func(name string) string {
			_, rest, _ := strings.Cut(head, "\n"+name+":")
			v, _, _ := strings.Cut(rest, "\n")
			return v
		}
		answer := ""
		switch command {
		case "CONNECT", "STOMP":
			answer = "CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\x00\n"
		case "SUBSCRIBE":
			sub = value("id")
		case "SEND":
			answer = "RECEIPT\nreceipt-id:" + value("receipt") + "\n\n\x00\nMESSAGE\nsubscription:" + sub + "\nmessage-id:1\ndestination:/queue/a\n\n" + body
		case "DISCONNECT":
			answer = "RECEIPT\nreceipt-id:" + value("receipt") + "\n\n\x00\n"
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// tinyMQTT does what mqtt.js needs for a CONNECT, a QoS 1 PUBLISH and a ping.
func tinyMQTT(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return
		}
		n, shift := 0, 0
		for {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			n |= int(b&0x7f) << shift
			if shift += 7; b < 0x80 {
				break
			}
		}
		var p bytes.Buffer
		if _, err := io.CopyN(&p, r, int64(n)); err != nil {
			return
		}
		var answer []byte
		switch b := p.Bytes(); kind >> 4 {
		case 1:
			answer = []byte{0x20, 2, 0, 0}
		case 3:
			at := 2 + int(b[0])<<8 + int(b[1])
			answer = []byte{0x40, 2, b[at], b[at+1]}
		case 12:
			answer = []byte{0xd0, 0}
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}
