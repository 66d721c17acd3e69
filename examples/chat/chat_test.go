package chat

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
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

// serve runs the chat's gateway on a store in memory, and returns the URL of its
// JSON protocol and the environment of the scripts.
func serve(t *testing.T) (url string, env []string) {
	t.Helper()
	ctx := context.Background()
	r, err := router.New(ctx, router.Options{
		Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler),
		QueuePolicy: func(router.Address) router.Policy { return router.Policy{} },
		History:     func(router.Address) (int, time.Duration) { return 100, 0 },
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
	return "ws" + strings.TrimPrefix(page.URL, "http") + "/ws", []string{"STOMP=tcp://" + l.Addr().String(), "BANNED=spam"}
}

func dial(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ask(t, c, `{"id":1,"op":"connect"}`)
	return c
}

// follow reads a topic from the beginning of its history.
func follow(t *testing.T, url, topic string) *websocket.Conn {
	t.Helper()
	c := dial(t, url)
	ask(t, c, `{"id":2,"op":"subscribe","sub":"s","to":"`+topic+`","history":{"last":99}}`)
	return c
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

func TestSystemMessageFromPHP(t *testing.T) {
	url, env := serve(t)
	c := follow(t, url, "/topic/chat/system/general")
	for _, args := range [][]string{{"general"}, {"../x", "text"}, {"general", " "}} {
		if err := php(env, "system.php", args...).Run(); err == nil {
			t.Errorf("system.php %q succeeds", args)
		}
	}
	if out, err := php(env, "system.php", "general", "Maintenance: at noon, ü").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if m := next(t, c); !strings.Contains(m, `"body":"Maintenance: at noon, ü"`) || !strings.Contains(m, `"seq":1`) {
		t.Fatalf("system message: %s", m)
	}
}

func php(env []string, script string, args ...string) *exec.Cmd {
	cmd := exec.Command("php", append([]string{script}, args...)...)
	cmd.Env = append(cmd.Environ(), env...)
	return cmd
}

// TestModerationByPHP has a moderator judge what rooms say and what reports name;
// it is not impressed by what reports say.
func TestModerationByPHP(t *testing.T) {
	url, env := serve(t)
	c := dial(t, url)
	cmd := php(env, "moderate.php")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // it runs until it is killed
	moderator := bufio.NewScanner(out)
	if !moderator.Scan() || moderator.Text() != "moderator is here" {
		t.Fatalf("moderate.php says %q", moderator.Text())
	}
	report := func(data string) {
		t.Helper()
		ask(t, c, `{"id":2,"op":"publish","to":"/queue/chat.moderation","data":`+data+`}`)
	}
	for _, nonsense := range []string{`"nonsense"`, `{"room":"general","id":7}`, `[]`} {
		report(nonsense)
	}
	stays := []string{`"body":"fine"`, `"data":{"from":"a","text":"spammers stay"}`, `"data":{"text":7}`, `"base64":"/w=="`, `"body":"once"`, `"body":"once"`, `"body":"once"`}
	goes := []string{`"body":"buy SPAM"`, `"data":{"from":"a","text":"SPAM, SPAM"}`, `"body":"https://a https://b https://c https://d"`, `"body":"once"`}
	for _, text := range append(stays, goes...) {
		ask(t, c, `{"id":3,"op":"publish","to":"/topic/chat/rooms/general",`+text+`}`)
	}
	room, removals := follow(t, url, "/topic/chat/rooms/general"), follow(t, url, "/topic/chat/moderation/general")
	ids := make([]string, len(stays)+len(goes))
	for i := range ids {
		ids[i] = decode(t, next(t, room)).ID
	}
	for i, why := range []string{"banned word", "banned word", "too many links", "said again and again"} {
		if m := decode(t, next(t, removals)); m.Data.Remove != ids[len(stays)+i] || m.Data.Why != why {
			t.Fatalf("removed %+v, want %s: %s", m, goes[i], ids[len(stays)+i])
		}
	}
	// A report that lies: what it names is looked at, and stays.
	report(`{"room":"general","id":"` + ids[0] + `","text":"spam","why":"banned word"}`)
	for moderator.Scan() {
		switch said := moderator.Text(); {
		case strings.HasPrefix(said, "kept "+ids[0]):
			return
		case !strings.HasPrefix(said, "removed "):
			t.Fatalf("the moderator says %q", said)
		}
	}
	t.Fatal("the moderator has ended")
}

type removal struct {
	ID   string
	Data struct{ Remove, Why string }
}

// decode reads a message event; of data of another kind it takes nothing.
func decode(t *testing.T, event string) (m removal) {
	t.Helper()
	var mistyped *json.UnmarshalTypeError
	if err := json.Unmarshal([]byte(event), &m); err != nil && !errors.As(err, &mistyped) || m.ID == "" {
		t.Fatalf("%s: %v", event, err)
	}
	return m
}

func TestPageForbidsForeignContent(t *testing.T) {
	h := Handler("/chat/")
	files, err := fs.Glob(files, "page/*")
	if err != nil || len(files) < 8 {
		t.Fatalf("%v, %v", files, err)
	}
	kinds := map[string]string{".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
	for _, file := range files {
		name := path.Base(file)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/chat/"+strings.TrimSuffix(name, "index.html"), nil))
		csp := w.Header().Get("Content-Security-Policy")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), kinds[path.Ext(name)]) {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "require-trusted-types-for 'script'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: %s", name, csp)
		}
		for _, sink := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick=", "http://"} {
			text := strings.ReplaceAll(w.Body.String(), `xmlns="http://www.w3.org/2000/svg"`, "")
			if strings.Contains(text, sink) {
				t.Errorf("%s has %s", name, sink)
			}
		}
	}
}
