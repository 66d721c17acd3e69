package ws

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// answer is what an HTTP request got.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// ask makes a request as a user, "" is nobody; header are names and values.
func (g *rig) ask(user, method, path, body string, header ...string) answer {
	g.t.Helper()
	return askAt(g.t, g.http.URL, user, method, path, body, header...)
}

func askAt(t testing.TB, base, user, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "pw-"+user)
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
	a := answer{status: resp.StatusCode, header: resp.Header}
	if len(b) > 0 {
		if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: headers %v", method, path, resp.Header)
		}
		if err := json.Unmarshal(b, &a.body); err != nil {
			t.Fatalf("%s %s: %q: %v", method, path, b, err)
		}
	}
	if e := a.body["error"]; e != nil {
		if err := protocolSchema().check("error", e); err != nil {
			t.Error(err)
		}
	}
	if m, ok := a.body["message"].(map[string]any); ok {
		m["event"], m["sub"] = "message", "s"
		if err := protocolSchema().check("event", a.body["message"]); err != nil {
			t.Error(err)
		}
	}
	return a
}

// code is that of the error, "" if there is none.
func (a answer) code() string {
	e, _ := a.body["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

func (a answer) message() map[string]any {
	m, _ := a.body["message"].(map[string]any)
	return m
}

func TestHTTPPublish(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann")
	a.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/news/+"}`)
	r := g.ask("bob", "POST", "/api/publish/topic/news/x", `{"t":1}`, "Content-Type", "application/json", "Mqgate-Header", "Order-Id: 17", "Mqgate-Header", "b: x: y",
		"Mqgate-Reply-To", "/queue/r", "Mqgate-Correlation-Id", "c", "Mqgate-Priority", "7", "Mqgate-Ttl", "1h")
	if r.status != 200 || r.body["ok"] != true || r.body["id"] == "" {
		t.Fatalf("%+v", r)
	}
	m := a.event("message")
	for k, want := range map[string]any{"contentType": "application/json", "replyTo": "/queue/r", "correlationId": "c", "priority": 7.0, "id": r.body["id"]} {
		if m[k] != want {
			t.Errorf("%s: %v, want %v", k, m[k], want)
		}
	}
	if h := m["headers"].(map[string]any); h["Order-Id"] != "17" || h["b"] != "x: y" || m["data"].(map[string]any)["t"] != 1.0 || m["expiresMs"] == nil {
		t.Errorf("%v", m)
	}
	// What curl says by itself is no content type; bytes stay bytes; a queue has it stored.
	for range 2 { // the second is dropped as a duplicate
		r = g.ask("bob", "POST", "/api/publish/queue/bytes", "\x00\xff", "Content-Type", "application/x-www-form-urlencoded", "Mqgate-Dedup-Id", "d", "Mqgate-Persistent", "false")
		if r.status != 200 {
			t.Fatalf("%+v", r)
		}
	}
	if r = g.ask("bob", "GET", "/api/queues/bytes/next", ""); r.message()["base64"] != "AP8=" || r.message()["contentType"] != nil {
		t.Fatalf("%+v", r)
	}
	if r := g.ask("bob", "GET", "/api/queues/bytes/next", ""); r.status != 204 {
		t.Fatalf("the duplicate was stored: %+v", r)
	}
}

func TestHTTPMistakes(t *testing.T) {
	g := newRig(t, func(o *Options) { o.MaxMessageBytes = 10 << 10 })
	for range 50 {
		g.ask("ann", "POST", "/api/publish/queue/full", "x")
	}
	for name, c := range map[string]struct {
		user, method, path, body string
		header                   []string
		status                   int
		code                     string
	}{
		"wrong password":      {"", "POST", "/api/publish/queue/a", "", []string{"Authorization", "Basic YW5uOm5v"}, 401, "denied"},
		"no tokens here":      {"", "POST", "/api/publish/queue/a", "", []string{"Authorization", "Bearer x"}, 401, "denied"},
		"odd scheme":          {"", "POST", "/api/publish/queue/a", "", []string{"Authorization", "Digest x"}, 401, "denied"},
		"denied":              {"eve", "POST", "/api/publish/topic/secret", "", nil, 403, "denied"},
		"denied stream":       {"eve", "GET", "/api/topics/secret", "", nil, 403, "denied"},
		"denied queue":        {"eve", "GET", "/api/queues/secret/next", "", nil, 403, "denied"},
		"reserved":            {"ann", "POST", "/api/publish/topic/$SYS/x", "", nil, 403, "denied"},
		"nowhere":             {"ann", "POST", "/api/publish/nowhere/a", "", nil, 400, "invalid"},
		"wildcard":            {"ann", "POST", "/api/publish/topic/a/*", "", nil, 400, "invalid"},
		"unknown header":      {"ann", "POST", "/api/publish/queue/a", "", []string{"Mqgate-Tll", "1s"}, 400, "bad-request"},
		"bad ttl":             {"ann", "POST", "/api/publish/queue/a", "", []string{"Mqgate-Ttl", "soon"}, 400, "bad-request"},
		"bad priority":        {"ann", "POST", "/api/publish/queue/a", "", []string{"Mqgate-Priority", "10"}, 400, "bad-request"},
		"bad persistent":      {"ann", "POST", "/api/publish/queue/a", "", []string{"Mqgate-Persistent", "maybe"}, 400, "bad-request"},
		"bad message header":  {"ann", "POST", "/api/publish/queue/a", "", []string{"Mqgate-Header", "no colon"}, 400, "bad-request"},
		"long correlation":    {"ann", "POST", "/api/publish/queue/a", "", []string{"Mqgate-Correlation-Id", strings.Repeat("x", 5000)}, 400, "bad-request"},
		"unknown parameter":   {"ann", "POST", "/api/publish/queue/a?ttl=1", "", nil, 400, "bad-request"},
		"too large":           {"ann", "POST", "/api/publish/queue/a", strings.Repeat("x", 10<<10+1), nil, 413, "too-large"},
		"full":                {"ann", "POST", "/api/publish/queue/full", "x", nil, 503, "full"},
		"bad wait":            {"ann", "GET", "/api/queues/a/next?wait=long", "", nil, 400, "bad-request"},
		"long wait":           {"ann", "GET", "/api/queues/a/next?wait=1h", "", nil, 400, "bad-request"},
		"misspelt wait":       {"ann", "GET", "/api/queues/a/next?wiat=1s", "", nil, 400, "bad-request"},
		"bad queue":           {"ann", "GET", "/api/queues/a,b/next", "", nil, 400, "invalid"},
		"no lease":            {"ann", "POST", "/api/leases/x/ack", "", nil, 404, "not-found"},
		"no verb":             {"ann", "POST", "/api/leases/x/eat", "", nil, 404, "not-found"},
		"bad delay":           {"ann", "POST", "/api/leases/x/nack?delay=-1s", "", nil, 400, "bad-request"},
		"bad reject":          {"ann", "POST", "/api/leases/x/nack?reject=perhaps", "", nil, 400, "bad-request"},
		"no history":          {"ann", "GET", "/api/topics/a?last=1", "", nil, 404, "not-found"},
		"history of many":     {"ann", "GET", "/api/topics/chat/*?last=1", "", nil, 400, "bad-request"},
		"bad last":            {"ann", "GET", "/api/topics/chat/x?last=-1", "", nil, 400, "bad-request"},
		"bad since":           {"ann", "GET", "/api/topics/chat/x?since=yesterday", "", nil, 400, "bad-request"},
		"bad id":              {"ann", "GET", "/api/topics/chat/x", "", []string{"Last-Event-ID", "7"}, 400, "bad-request"},
		"bad filter":          {"ann", "GET", "/api/topics/a/%3E/b", "", nil, 400, "invalid"},
		"page of elsewhere":   {"ann", "POST", "/api/publish/queue/a", "", []string{"Origin", "https://evil.example"}, 403, "denied"},
		"image of elsewhere":  {"ann", "GET", "/api/queues/a/next", "", []string{"Sec-Fetch-Site", "cross-site"}, 403, "denied"},
		"two origins":         {"ann", "GET", "/api/queues/a/next", "", []string{"Origin", g.http.URL, "Origin", g.http.URL}, 403, "denied"},
		"the null origin":     {"ann", "GET", "/api/queues/a/next", "", []string{"Origin", "null"}, 403, "denied"},
		"asked by a stranger": {"", "OPTIONS", "/api/queues/a/next", "", []string{"Origin", "https://evil.example"}, 403, "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			r := askAt(t, g.http.URL, c.user, c.method, c.path, c.body, c.header...)
			if r.status != c.status || r.code() != c.code {
				t.Fatalf("%d %v, want %d %s", r.status, r.body, c.status, c.code)
			}
			if (r.status == 401) != (r.header.Get("WWW-Authenticate") != "") || (c.code == "full") != (r.header.Get("Retry-After") != "") {
				t.Errorf("headers %v", r.header)
			}
			if r.header.Get("Access-Control-Allow-Origin") != "" {
				t.Error("a stranger may read it")
			}
		})
	}
	if status, _ := get(t, g.http.URL+"/api/nothing"); status != 404 {
		t.Errorf("an unknown address: %d", status)
	}
}

func TestHTTPQueue(t *testing.T) {
	g := newRig(t, nil)
	for _, body := range []string{"1", "2", "3"} {
		g.ask("ann", "POST", "/api/publish/queue/work", body)
	}
	next := func() answer {
		t.Helper()
		r := g.ask("bob", "GET", "/api/queues/work/next?wait=10s", "")
		if r.status != 200 || r.body["leaseMs"] != 60000.0 {
			t.Fatalf("%+v", r)
		}
		return r
	}
	one, two := next(), next()
	if m := one.message(); m["body"] != "1" || m["count"] != 1.0 || m["redelivered"] != false {
		t.Fatalf("first: %v", m)
	}
	// Only who took it settles it.
	if r := g.ask("ann", "POST", one.body["ack"].(string), ""); r.status != 404 {
		t.Fatalf("another user: %+v", r)
	}
	if r := g.ask("bob", "POST", one.body["nack"].(string)+"?delay=0&cause=busy", ""); r.status != 200 {
		t.Fatalf("nack: %+v", r)
	}
	again := next()
	if m := again.message(); m["body"] != "1" || m["redelivered"] != true || m["count"] != 2.0 {
		t.Fatalf("again: %v", m)
	}
	for _, r := range []answer{again, two} {
		if r := g.ask("bob", "POST", r.body["ack"].(string), ""); r.status != 200 {
			t.Fatalf("ack: %+v", r)
		}
		if r := g.ask("bob", "POST", r.body["ack"].(string), ""); r.code() != "not-found" {
			t.Fatalf("second ack: %+v", r)
		}
	}
	// A connected consumer competes, and gets what is rejected no more.
	three := next()
	if r := g.ask("bob", "POST", three.body["nack"].(string)+"?reject=true", ""); r.status != 200 {
		t.Fatalf("reject: %+v", r)
	}
	if r := g.ask("bob", "GET", "/api/queues/work/next", ""); r.status != 204 {
		t.Fatalf("the queue is not empty: %+v", r)
	}
	if n := len(g.router.Sessions()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestHTTPLongPollGetsWhatComesLater(t *testing.T) {
	g := newRig(t, nil)
	got := make(chan answer, 1)
	go func() { got <- g.ask("bob", "GET", "/api/queues/later/next?wait=1m", "") }()
	eventually(t, "bob waits", func() bool { return g.server.Connections() == 1 })
	g.ask("ann", "POST", "/api/publish/queue/later", "here")
	if r := <-got; r.message()["body"] != "here" {
		t.Fatalf("%+v", r)
	}
}

func TestHTTPLeaseEnds(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Lease = 50 * time.Millisecond })
	g.ask("ann", "POST", "/api/publish/queue/work", "x")
	first := g.ask("ann", "GET", "/api/queues/work/next?wait=10s", "")
	if first.message()["body"] != "x" {
		t.Fatalf("%+v", first)
	}
	// It comes again by itself, to whoever waits.
	second := g.ask("bob", "GET", "/api/queues/work/next?wait=10s&lease=1h", "")
	if m := second.message(); m["body"] != "x" || m["redelivered"] != true || second.body["leaseMs"] != 3.6e6 {
		t.Fatalf("%+v", second)
	}
	if r := g.ask("ann", "POST", first.body["ack"].(string), ""); r.code() != "not-found" {
		t.Fatalf("an ended lease: %+v", r)
	}
	if n := g.server.Stats.LeasesExpired.Load(); n != 1 {
		t.Errorf("%d leases are counted", n)
	}
	lease := "/api/leases/" + second.body["lease"].(string)
	if r := g.ask("bob", "POST", lease+"/extend?lease=30s", ""); r.body["leaseMs"] != 30000.0 {
		t.Fatalf("%+v", r)
	}
	if r := g.ask("bob", "POST", lease+"/ack", ""); r.status != 200 {
		t.Fatalf("%+v", r)
	}
}

// What an extended lease holds stays; what is let go comes back.
func TestHTTPLeaseIsExtended(t *testing.T) {
	g := newRig(t, nil)
	g.ask("ann", "POST", "/api/publish/queue/work", "x")
	r := g.ask("ann", "GET", "/api/queues/work/next?wait=10s", "")
	if r := g.ask("ann", "POST", "/api/leases/"+r.body["lease"].(string)+"/extend?lease=10ms", ""); r.status != 200 {
		t.Fatalf("%+v", r)
	}
	if r := g.ask("ann", "GET", "/api/queues/work/next?wait=10s", ""); r.message()["redelivered"] != true {
		t.Fatalf("%+v", r)
	}
}

func TestHTTPLimits(t *testing.T) {
	g := newRig(t, func(o *Options) { o.RequestsPerSecond = 1; o.MaxLeases = 1; o.Seats = door.NewSeats(100, 2) })
	over := func(user string) answer {
		for range 50 {
			if r := g.ask(user, "POST", "/api/publish/topic/a", ""); r.status != 200 {
				return r
			}
		}
		return answer{}
	}
	if r := over("ann"); r.status != 429 || r.code() != "rate" || r.header.Get("Retry-After") != "1" {
		t.Fatalf("%+v", r)
	}
	if g.server.Stats.Throttled.Load() == 0 {
		t.Error("not counted")
	}
	// Others have their own limits.
	done := make(chan answer, 1)
	go func() { done <- g.ask("bob", "GET", "/api/queues/a/next?wait=1m", "") }()
	eventually(t, "bob waits", func() bool { return g.server.Connections() == 1 })
	if r := g.ask("bob", "GET", "/api/queues/a/next", ""); r.status != 503 || r.code() != "full" {
		t.Fatalf("a second lease: %+v", r)
	}
	g.ask("cat", "POST", "/api/publish/queue/a", "x")
	if r := <-done; r.status != 200 {
		t.Fatalf("%+v", r)
	}
	// The lease counts as a connection of bob's.
	p := g.login("bob")
	q := g.peer()
	if e := q.refused("full", `{"id":1,"op":"connect","user":"bob","password":"pw-bob"}`); e["retry"] != true {
		t.Errorf("%v", e)
	}
	p.c.Close()
	eventually(t, "bob may come again", func() bool {
		return q.reply(`{"id":2,"op":"connect","user":"bob","password":"pw-bob"}`)["ok"] == true
	})
}

func TestHTTPGuessersAreSlowedDown(t *testing.T) {
	g := newRig(t, nil)
	for range failuresBurst {
		if r := g.ask("", "GET", "/api/queues/a/next", "", "Authorization", "Basic YW5uOm5v"); r.status != 401 {
			t.Fatalf("%+v", r)
		}
	}
	eventually(t, "further guesses are refused", func() bool {
		return g.ask("", "GET", "/api/queues/a/next", "", "Authorization", "Basic YW5uOm5v").status == 429
	})
}

func TestHTTPOrigins(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Origins = []string{"https://friend.example"} })
	r := g.ask("", "OPTIONS", "/api/publish/queue/a", "", "Origin", "https://friend.example", "Access-Control-Request-Method", "POST")
	if r.status != 204 || r.header.Get("Access-Control-Allow-Origin") != "https://friend.example" ||
		!strings.Contains(r.header.Get("Access-Control-Allow-Headers"), "Mqgate-Header") || r.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Fatalf("%+v", r)
	}
	if r := g.ask("ann", "POST", "/api/publish/queue/a", "x", "Origin", "https://friend.example"); r.status != 200 || r.header.Get("Access-Control-Allow-Origin") == "" {
		t.Fatalf("%+v", r)
	}
	if r := g.ask("ann", "POST", "/api/publish/queue/a", "x", "Origin", g.http.URL); r.status != 200 || r.header.Get("Access-Control-Allow-Origin") != "" {
		t.Fatalf("%+v", r)
	}
}

// Whoever is not on this machine, or comes by a name that anyone can give to this
// machine's address, has to log in.
func TestHTTPAnonymousOnlyFromHere(t *testing.T) {
	g := newRig(t, func(o *Options) {
		o.Token = func(_ context.Context, token string, _ router.Credentials) (*router.Principal, error) {
			if token != "good" {
				return nil, &router.Error{Op: "login", Class: router.Denied, Text: "bad token"}
			}
			return router.NewPrincipal("tom", "", false, nil), nil
		}
	})
	afar := httptest.NewServer(from("192.0.2.1:4711", g.server))
	t.Cleanup(afar.Close)
	const path = "/api/publish/topic/a"
	for name, c := range map[string]struct {
		base, user string
		header     []string
		query      string
		status     int
	}{
		"here":                  {g.http.URL, "", nil, "", 200},
		"afar":                  {afar.URL, "", nil, "", 401},
		"afar with a cookie":    {afar.URL, "", []string{"Cookie", "session=x"}, "", 401},
		"afar with a password":  {afar.URL, "ann", nil, "", 200},
		"afar with a token":     {afar.URL, "", []string{"Authorization", "bearer good"}, "", 200},
		"afar with a bad token": {afar.URL, "", []string{"Authorization", "Bearer bad"}, "", 401},
		"a token in the query":  {afar.URL, "", nil, "?access_token=good", 401}, // only a GET may
		"rebound name":          {strings.Replace(g.http.URL, "127.0.0.1", "rebound.example", 1), "", nil, "", 401},
		"rebound page": {strings.Replace(g.http.URL, "127.0.0.1", "rebound.example", 1), "",
			[]string{"Origin", strings.Replace(g.http.URL, "127.0.0.1", "rebound.example", 1)}, "", 401},
	} {
		t.Run(name, func(t *testing.T) {
			base := c.base
			if strings.Contains(base, "rebound") {
				base = g.http.URL
			}
			req, err := http.NewRequest("POST", base+path+c.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = strings.TrimPrefix(c.base, "http://")
			if c.user != "" {
				req.SetBasicAuth(c.user, "pw-"+c.user)
			}
			for i := 0; i < len(c.header); i += 2 {
				req.Header.Add(c.header[i], c.header[i+1])
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%d, want %d", resp.StatusCode, c.status)
			}
		})
	}
	if r := askAt(t, afar.URL, "", "GET", "/api/queues/a/next?access_token=good", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
}

// A server that stops answers those who wait, and what was leased is there after it.
func TestHTTPDrain(t *testing.T) {
	store := router.NewMemoryStore()
	g := newRigOn(t, store, "", nil)
	g.ask("ann", "POST", "/api/publish/queue/work", "x")
	if r := g.ask("ann", "GET", "/api/queues/work/next?wait=10s", ""); r.status != 200 {
		t.Fatalf("%+v", r)
	}
	waited := make(chan answer, 1)
	go func() { waited <- g.ask("bob", "GET", "/api/queues/other/next?wait=2m", "") }()
	eventually(t, "bob waits", func() bool { return g.server.Connections() == 1 })
	g.stop()
	if r := <-waited; r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Fatalf("%+v", r)
	}
	again := newRigOn(t, store, "", nil)
	if r := again.ask("bob", "GET", "/api/queues/work/next?wait=10s", ""); r.message()["redelivered"] != true {
		t.Fatalf("%+v", r)
	}
}

func TestHTTPPanicIsOneRequests(t *testing.T) {
	g := newRig(t, func(o *Options) {
		o.Token = func(context.Context, string, router.Credentials) (*router.Principal, error) { panic("a fault") }
	})
	if r := g.ask("", "POST", "/api/publish/queue/a", "", "Authorization", "Bearer x"); r.status != 500 || r.code() != "internal" {
		t.Fatalf("%+v", r)
	}
	if g.server.Stats.Panics.Load() != 1 {
		t.Error("not counted")
	}
}

func FuzzUserHeaders(f *testing.F) {
	f.Add("a: b")
	f.Add(":")
	f.Fuzz(func(t *testing.T, line string) {
		hs, err := userHeaders([]string{line})
		if err == nil && (len(hs) != 1 || hs[0].Name == "" || !bytes.Contains([]byte(line), []byte(hs[0].Value))) {
			t.Fatalf("%q became %q", line, hs)
		}
	})
}
