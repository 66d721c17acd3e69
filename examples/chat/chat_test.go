package chat

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp"
	"github.com/mqgate/mqgate/ws"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type anyone struct{}

func (anyone) Authenticate(_ context.Context, c router.Credentials) (*router.Principal, error) {
	return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
}

// serve runs the chat with STOMP beside it, and returns a room's reader and the
// environment of the scripts.
func serve(t *testing.T) (*websocket.Conn, []string) {
	t.Helper()
	ctx := context.Background()
	r, err := router.New(ctx, router.Options{
		Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler),
		QueuePolicy: func(router.Address) router.Policy { return router.Policy{} },
		History:     func(router.Address) (int, time.Duration) { return 10, 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := stomp.New(stomp.Options{Router: r, Authenticate: anyone{}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := ws.New(ws.Options{Router: r, Authenticate: anyone{}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	life, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- st.Serve(life, l, stomp.ActiveMQ) }()
	page := httptest.NewServer(w)
	t.Cleanup(func() {
		stop()
		end, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		for _, f := range []func(context.Context) error{st.Drain, w.Drain, r.Close} {
			if err := f(end); err != nil {
				t.Error(err)
			}
		}
		page.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(page.URL, "http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ask(t, c, `{"id":1,"op":"connect"}`)
	return c, []string{"STOMP=tcp://" + l.Addr().String(), "BANNED=spam"}
}

// ask sends a request and reads its reply.
func ask(t *testing.T, c *websocket.Conn, request string) {
	t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(request)); err != nil {
		t.Fatal(err)
	}
	if got := next(t, c); !strings.Contains(got, `"ok":true`) {
		t.Fatalf("%s: %s", request, got)
	}
}

func next(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, b, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAnnouncementFromPHP(t *testing.T) {
	c, env := serve(t)
	ask(t, c, `{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat/rooms/general","history":{"last":9}}`)
	cmd := exec.Command("php", "announce.php", "general", "Maintenance: at noon, ü")
	cmd.Env = append(cmd.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if m := next(t, c); !strings.Contains(m, `"body":"Maintenance: at noon, ü"`) || !strings.Contains(m, `"from":"System"`) || !strings.Contains(m, `"seq":1`) {
		t.Fatalf("announced: %s", m)
	}
}

func TestModerationByPHP(t *testing.T) {
	c, env := serve(t)
	for _, report := range []string{`{"room":"general","id":"m-1","text":"fine"}`, `{"room":"general","id":7}`, `"nonsense"`,
		`{"room":"general","id":"m-2","text":"buy SPAM"}`, `{"room":"../x","id":"m-3","text":"spam"}`, `{"room":"general","id":"m-4","text":"spam"}`} {
		ask(t, c, `{"id":2,"op":"publish","to":"/queue/chat.moderation","data":`+report+`}`)
	}
	ask(t, c, `{"id":3,"op":"subscribe","sub":"s","to":"/topic/chat/moderation/general","history":{"last":9}}`)
	cmd := exec.Command("php", "moderate.php")
	cmd.Env = append(cmd.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it runs until it is killed
	for _, id := range []string{"m-2", "m-4"} {
		if m := next(t, c); !strings.Contains(m, `"data":{"remove":"`+id+`"}`) {
			t.Fatalf("removed %s, want %s", m, id)
		}
	}
}

func TestPageForbidsForeignContent(t *testing.T) {
	h := Handler("/chat/")
	for path, kind := range map[string]string{"/chat/": "text/html", "/chat/chat.js": "text/javascript", "/chat/chat.css": "text/css"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		csp := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		for _, sink := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if strings.Contains(w.Body.String(), sink) {
				t.Errorf("%s uses %s", path, sink)
			}
		}
	}
}
