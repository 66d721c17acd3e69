package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logins has the users root, who is an administrator, and eve, who is none.
type logins struct{}

func (logins) Authenticate(_ context.Context, c router.Credentials) (*router.Principal, error) {
	if c.Password != "right" {
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "the user name or the password is wrong"}
	}
	return router.NewPrincipal(c.User, "", c.User == "root", nil), nil
}

type fixture struct {
	t      *testing.T
	router *router.Router
	opt    Options
	ready  []Check
	drains int
	backup func(io.Writer) error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	r, err := router.New(context.Background(), router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t, router: r}
	f.opt = Options{
		Router: r, Auth: logins{}, Version: "v1.2.3", Log: slog.New(slog.DiscardHandler),
		Ready: func() []Check { return f.ready }, Usage: func() (uint64, uint64) { return 10, 100 },
		Connections: func() map[string]int { return map[string]int{"stomp": 3} },
		Events:      func() map[string]map[string]uint64 { return map[string]map[string]uint64{"ws": {"throttled": 5}} },
		Federation:  func() (int, map[string]uint64) { return 2, map[string]uint64{"not_sent": 6} },
		Cluster: func(context.Context) (Cluster, error) {
			return Cluster{Name: "c", Node: "a", Leader: "b", LeaseAge: time.Second, Nodes: []Node{{Name: "a", Reachable: true}, {Name: "b"}}}, nil
		},
		Backup: func(_ context.Context, w io.Writer) error { return f.backup(w) },
		Drain: func() DrainState {
			f.drains++
			return DrainState{Spread: time.Second, Connections: map[string]int{"mqtt": 7}}
		},
	}
	return f
}

// put publishes bodies to a queue and waits until they are stored.
func (f *fixture) put(queue string, bodies ...string) {
	f.t.Helper()
	s, err := f.router.Connect(router.SessionOptions{Principal: router.NewPrincipal("p", "", true, nil)})
	if err != nil {
		f.t.Fatal(err)
	}
	defer s.Close()
	to, _, err := router.ParseDestination("", queue)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, b := range bodies {
		stored := make(chan error, 1)
		m := &router.Message{To: to, Body: []byte(b), Headers: []router.Header{{Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}}}
		if _, err := s.Publish(context.Background(), m, nil, func(_ router.Stored, err error, _ *outbox.Batch) { stored <- err }); err != nil {
			f.t.Fatal(err)
		}
		if err := <-stored; err != nil {
			f.t.Fatal(err)
		}
	}
}

// do makes a request and decodes a JSON answer into v if that is not nil.
func (f *fixture) do(trusted bool, req *http.Request, v any) (int, string) {
	f.t.Helper()
	w := httptest.NewRecorder()
	Handler(f.opt, trusted).ServeHTTP(w, req)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		f.t.Fatal(err)
	}
	if v != nil {
		if err := json.Unmarshal(body, v); err != nil {
			f.t.Fatalf("%s: %v", body, err)
		}
	}
	return w.Code, string(body)
}

func request(method, target string) *http.Request {
	return httptest.NewRequest(method, "http://127.0.0.1:9090"+target, nil)
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	if code, _ := f.do(false, request("GET", "/livez"), nil); code != 200 {
		t.Errorf("livez %d", code)
	}
	f.ready = []Check{{Name: "disk"}, {Name: "quorum"}}
	if code, body := f.do(false, request("GET", "/readyz"), nil); code != 200 || body != "ready\n[+] disk\n[+] quorum\n" {
		t.Errorf("readyz %d %q", code, body)
	}
	f.ready[0].Problem = "the disk is nearly full"
	if code, body := f.do(false, request("GET", "/readyz"), nil); code != 503 || body != "not ready\n[-] disk: the disk is nearly full\n[+] quorum\n" {
		t.Errorf("readyz %d %q", code, body)
	}
	if code, _ := f.do(false, request("GET", "/readyz?drain=404"), nil); code != 503 {
		t.Errorf("readyz?drain=404 of a node with a full disk: %d", code)
	}
	f.ready = []Check{{Name: "disk"}, {Name: DrainingCheck, Problem: "clients are being sent away"}}
	for target, want := range map[string]int{"/readyz": 503, "/readyz?drain=404": 404} {
		if code, _ := f.do(false, request("GET", target), nil); code != want {
			t.Errorf("%s of a draining node: %d", target, code)
		}
	}
	if code, _ := f.do(false, request("GET", "/livez"), nil); code != 200 {
		t.Error("livez depends on readiness")
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	f.put("/queue/mail", "a", "b")
	f.router.Stats.Drop(router.DropSlowConsumer, 7)
	f.router.Stats.SessionsExpired.Add(8)
	code, body := f.do(false, request("GET", "/metrics"), nil)
	for _, want := range []string{
		`mqgate_queue_ready{queue="mail",vhost="/"} 2`, `mqgate_messages_published_total 2`, `mqgate_connections{protocol="stomp"} 3`,
		`mqgate_messages_dropped_total{reason="slow_consumer"} 7`, `mqgate_messages_dropped_total{reason="inbox_full"} 0`, `mqgate_sessions_expired_total 8`, `mqgate_store_limit_bytes 100`,
		`mqgate_connection_events_total{event="throttled",protocol="ws"} 5`, "mqgate_federation_links 2", `mqgate_federation_messages_total{event="not_sent"} 6`, `version="v1.2.3"`, "go_goroutines",
	} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("metrics (%d) lack %s", code, want)
		}
	}
}

func TestVerbs(t *testing.T) {
	f := newFixture(t)
	f.put("/queue/mail", "one", "two", "three")
	var queues []router.MailboxInfo
	if f.do(true, request("GET", "/api/v1/queues"), &queues); len(queues) != 1 || queues[0].Name != "mail" || queues[0].Ready != 3 {
		t.Errorf("queues %+v", queues)
	}
	var messages []Message
	f.do(true, request("GET", "/api/v1/queue/messages?name=mail&limit=2"), &messages)
	if len(messages) != 2 || messages[1].Body != "two" || messages[0].State != "ready" || messages[0].Headers["x-a"] != "1" {
		t.Errorf("messages %+v", messages)
	}
	var moved struct{ Moved int }
	if f.do(true, request("POST", "/api/v1/queue/move?from=mail&to=/queue/other&limit=1"), &moved); moved.Moved != 1 {
		t.Errorf("moved %+v", moved)
	}
	var info router.MailboxInfo
	if f.do(true, request("GET", "/api/v1/queue?name=other"), &info); info.Depth != 1 {
		t.Errorf("info %+v", info)
	}
	var purged struct{ Purged int }
	if f.do(true, request("POST", "/api/v1/queue/purge?name=mail"), &purged); purged.Purged != 2 {
		t.Errorf("purged %+v", purged)
	}
	if code, body := f.do(true, request("DELETE", "/api/v1/queue?name=mail"), nil); code != 200 {
		t.Errorf("delete %d %s", code, body)
	}
	var conns []Connection
	if f.do(true, request("GET", "/api/v1/connections"), &conns); len(conns) != 0 {
		t.Errorf("connections %+v", conns)
	}
}

func TestMistakesAreSaid(t *testing.T) {
	f := newFixture(t)
	f.put("/queue/mail", "x")
	for target, want := range map[string]struct {
		code int
		text string
	}{
		"/api/v1/queue":                            {400, "name is missing"},
		"/api/v1/queue?name=nowhere":               {404, "nowhere"},
		"/api/v1/queue?name=/topic/a":              {400, "topics keep no messages"},
		"/api/v1/queue/messages?name=mail&limit=x": {400, "limit is no number"},
	} {
		var answer struct{ Error string }
		if code, _ := f.do(true, request("GET", target), &answer); code != want.code || !strings.Contains(answer.Error, want.text) {
			t.Errorf("%s: %d %q", target, code, answer.Error)
		}
	}
}

func TestOnlyAdministratorsOverTCP(t *testing.T) {
	f := newFixture(t)
	f.put("/queue/mail", "x")
	login := func(r *http.Request, user, password string) *http.Request {
		r.SetBasicAuth(user, password)
		return r
	}
	header := func(r *http.Request) *http.Request {
		r.Header.Set("X-Mqgate-Admin", "1")
		return r
	}
	rebound := login(request("GET", "/api/v1/queues"), "root", "right")
	rebound.Host = "evil.example:9090"
	named := login(request("GET", "/api/v1/queues"), "root", "right")
	named.Host, named.TLS = "gw.example:9090", &tls.ConnectionState{}
	bracketed := login(request("GET", "/api/v1/queues"), "root", "right")
	bracketed.Host = "[::1]"
	for name, c := range map[string]struct {
		r    *http.Request
		want int
	}{
		"by a name that TLS proves":        {named, 200},
		"by an address without a port":     {bracketed, 200},
		"nobody":                           {request("GET", "/api/v1/queues"), 403},
		"wrong password":                   {login(request("GET", "/api/v1/queues"), "root", "wrong"), 403},
		"no administrator":                 {login(request("GET", "/api/v1/queues"), "eve", "right"), 403},
		"administrator":                    {login(request("GET", "/api/v1/queues"), "root", "right"), 200},
		"a page in a browser (no header)":  {login(request("POST", "/api/v1/queue/purge?name=mail"), "root", "right"), 403},
		"a page under a rebound host name": {rebound, 403},
		"administrator purges":             {header(login(request("POST", "/api/v1/queue/purge?name=mail"), "root", "right")), 200},
	} {
		if code, body := f.do(false, c.r, nil); code != c.want {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
}

func TestBodiesOfMessagesAreShownSafely(t *testing.T) {
	long := strings.Repeat("é", maxPeekBody)
	for name, c := range map[string]struct {
		body      string
		base64    bool
		truncated bool
	}{"text": {"hello", false, false}, "binary": {"\xff\x00", true, false}, "long text": {long, false, true}} {
		m := view(router.PeekedMessage{Message: &router.Message{Body: []byte(c.body)}})
		if m.Base64 != c.base64 || m.Truncated != c.truncated || m.Size != len(c.body) || len(m.Body) > maxPeekBody+4 {
			t.Errorf("%s: %+v", name, m)
		}
	}
}
