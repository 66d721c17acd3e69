package ws

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// eventStream is a reader of server-sent events, as the HTML standard has it.
type eventStream struct {
	t      testing.TB
	resp   *http.Response
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

type sent struct {
	name, id string
	data     map[string]any
}

func (g *rig) stream(user, path string, header ...string) *eventStream {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.http.URL+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	req.SetBasicAuth(user, "pw-"+user)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	e := &eventStream{t: g.t, resp: resp, lines: bufio.NewScanner(resp.Body), cancel: cancel}
	e.lines.Buffer(nil, 4<<20)
	g.t.Cleanup(e.close)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		g.t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
	}
	return e
}

func (e *eventStream) close() {
	e.cancel()
	e.resp.Body.Close()
}

// next returns the next event; false at the end of the stream.
func (e *eventStream) next() (sent, bool) {
	e.t.Helper()
	s := sent{name: "message"}
	var data []string
	for e.lines.Scan() {
		line := e.lines.Text()
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && data == nil:
			s = sent{name: "message"}
		case line == "":
			if err := json.Unmarshal([]byte(strings.Join(data, "\n")), &s.data); err != nil {
				e.t.Fatalf("%q: %v", data, err)
			}
			if s.name == "message" {
				m := map[string]any{"event": "message", "sub": "s"}
				for k, v := range s.data {
					m[k] = v
				}
				if err := protocolSchema().check("event", m); err != nil {
					e.t.Error(err)
				}
			}
			return s, true
		case field == "event":
			s.name = value
		case field == "id":
			s.id = value
		case field == "data":
			data = append(data, value)
		case field == "retry", field == "":
		default:
			e.t.Fatalf("line %q", line)
		}
	}
	return sent{}, false
}

// must returns the next event, which has a name.
func (e *eventStream) must(name string) sent {
	e.t.Helper()
	s, ok := e.next()
	if !ok || s.name != name {
		e.t.Fatalf("%+v (%v), want an event %s", s, e.lines.Err(), name)
	}
	return s
}

func TestEventsOfATopic(t *testing.T) {
	g := newRig(t, nil)
	e := g.stream("ann", "/api/topics/news/*")
	e.must("ready")
	eventually(t, "ann listens", func() bool { return g.router.PresenceRevision() > 0 })
	b := g.login("bob")
	b.call(`{"id":2,"op":"publish","to":"/topic/news.x","body":"one\ntwo\r\n: three"}`)
	if s := e.must("message"); s.data["body"] != "one\ntwo\r\n: three" || s.data["to"] != "/topic/news/x" || s.id != "" {
		t.Fatalf("%+v", s)
	}
	// Someone's JSON with line ends between its tokens stays one event.
	if r := g.ask("bob", "POST", "/api/publish/topic/news/y", "{\r\n\"a\":\n[1,\"\\n\"]}", "Content-Type", "application/json"); r.status != 200 {
		t.Fatalf("%+v", r)
	}
	if s := e.must("message"); fmt.Sprint(s.data["data"]) != "map[a:[1 \n]]" {
		t.Fatalf("%+v", s)
	}
	e.close()
	eventually(t, "the stream ends with its client", func() bool { return g.server.Connections() == 1 && len(g.router.Sessions()) == 1 })
}

func TestEventsResume(t *testing.T) {
	g := newRig(t, nil)
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			g.ask("bob", "POST", "/api/publish/topic/chat/x", fmt.Sprint(i))
		}
	}
	publish(0, 5)
	e := g.stream("ann", "/api/topics/chat/x?last=2")
	if s := e.must("ready"); s.id != "" || s.data["complete"] != true || s.data["last"] != 5.0 {
		t.Fatalf("%+v", s)
	}
	e.must("message")
	s := e.must("message")
	if s.data["body"] != "4" || s.data["seq"] != 5.0 || !strings.HasSuffix(s.id, "-5") {
		t.Fatalf("%+v", s)
	}
	e.close()
	publish(5, 8)
	// The browser sends the same address again, and the last id.
	e = g.stream("ann", "/api/topics/chat/x?last=2", "Last-Event-ID", s.id)
	e.must("ready")
	publish(8, 9)
	for i := 5; i < 9; i++ {
		if s = e.must("message"); s.data["body"] != fmt.Sprint(i) {
			t.Fatalf("%+v, want %d", s, i)
		}
	}
	e.close()
	// Beyond what is kept it says so.
	publish(9, 150)
	if r := g.stream("ann", "/api/topics/chat/x?after="+s.id).must("ready"); r.data["complete"] != false {
		t.Fatalf("%+v", r)
	}
	// Who begins now has a place to resume from at once.
	if r := g.stream("ann", "/api/topics/chat/x").must("ready"); !strings.HasSuffix(r.id, "-150") {
		t.Fatalf("%+v", r)
	}
	if r := g.stream("ann", "/api/topics/chat/x?since=1").must("ready"); r.id != "" || r.data["first"] != 51.0 {
		t.Fatalf("%+v", r)
	}
}

func TestEventsOfASlowReader(t *testing.T) {
	g := newRig(t, func(o *Options) { o.OutboundBytes = 64 << 10; o.FlushTimeout = 200 * time.Millisecond })
	e := g.stream("ann", "/api/topics/flood")
	e.must("ready")
	eventually(t, "ann listens", func() bool { return g.router.PresenceRevision() > 0 })
	bob, body := g.login("bob"), strings.Repeat("x", 100<<10)
	for i := 0; g.server.Connections() > 1; i++ {
		if i == 2000 {
			t.Fatal("200 MB went to who does not read")
		}
		bob.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/topic/flood","body":"%s"}`, i+2, body))
	}
	eventually(t, "it is counted", func() bool { return g.server.Stats.SlowClosed.Load() > 0 })
}

// A history waits for its reader instead.
func TestEventsOfAHistoryWait(t *testing.T) {
	g := newRig(t, func(o *Options) { o.OutboundBytes = 20 << 10 })
	e := g.stream("ann", "/api/topics/chat/x")
	e.must("ready")
	bob, body := g.login("bob"), strings.Repeat("x", 21<<10)
	const n = 30
	for i := range n {
		bob.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/topic/chat.x","body":"%d %s"}`, i+2, i, body))
	}
	for i := range n {
		if s := e.must("message"); !strings.HasPrefix(s.data["body"].(string), fmt.Sprint(i, " ")) {
			t.Fatalf("%.20v, want %d", s.data["body"], i)
		}
	}
}

func TestEventsKeepTheConnectionAndEndWithTheServer(t *testing.T) {
	g := newRig(t, func(o *Options) { o.PingInterval = 10 * time.Millisecond })
	e := g.stream("ann", "/api/topics/a")
	e.must("ready")
	for e.lines.Scan() && e.lines.Text() != ":" { // a comment
	}
	go g.stop()
	if s, ok := e.next(); ok || e.lines.Err() != nil {
		t.Fatalf("%+v, %v", s, e.lines.Err())
	}
}
