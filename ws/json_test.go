package ws

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestLogin(t *testing.T) {
	g := newRig(t, nil)
	p := g.peer()
	p.call(`{"id":5,"op":"ping"}`)
	p.refused("not-connected", `{"id":6,"op":"publish","to":"/queue/a"}`)
	m := p.call(`{"id":7,"op":"connect","user":"ann","password":"pw-ann","clientId":"c1"}`)
	if m["reply"] != 7.0 || m["user"] != "ann" || m["session"] == "" {
		t.Fatalf("connected: %v", m)
	}
	p.refused("bad-request", `{"id":8,"op":"connect"}`)

	q := g.peer()
	q.refused("denied", `{"id":1,"op":"connect","user":"ann","password":"no"}`)
	closes(t, q.c, closeLoginRefused)
	q = g.peer()
	q.refused("denied", `{"id":1,"op":"connect","token":"x"}`)
	closes(t, q.c, closeLoginRefused)

	q = g.peer()
	q.refused("internal", `{"id":1,"op":"connect","user":"broken"}`)
	closes(t, q.c, closeInternal)

	// What is no refusal leaves the connection open.
	q = g.peer()
	q.refused("bad-request", `{"id":1,"op":"connect","name":"\u0007"}`)
	q.refused("bad-request", `{"id":2,"op":"connect","token":"x","user":"ann"}`)
	if e := q.refused("unavailable", `{"id":3,"op":"connect","user":"busy"}`); e["retry"] != true || e["retryAfterMs"] != 1000.0 {
		t.Errorf("%v", e)
	}
	q.call(`{"id":4,"op":"connect","user":"ann","password":"pw-ann"}`)

	// The same client again takes over.
	r := g.peer()
	r.call(`{"id":1,"op":"connect","user":"ann","password":"pw-ann","clientId":"c1"}`)
	closes(t, p.c, closeTakenOver)
}

func TestLoginTakesTooLong(t *testing.T) {
	g := newRig(t, func(o *Options) { o.LoginTimeout = 20 * time.Millisecond })
	closes(t, g.peer().c, closeLoginTimeout)
	if g.server.Stats.LoginTimeouts.Load() != 1 {
		t.Error("not counted")
	}
}

func TestMistakesAreAnswered(t *testing.T) {
	g := newRig(t, nil)
	p := g.login("eve")
	for name, c := range map[string]struct{ code, request string }{
		"unknown op":         {"bad-request", `{"id":1,"op":"fly"}`},
		"unknown member":     {"bad-request", `{"id":1,"op":"publish","to":"/queue/a","boddy":"x"}`},
		"wrong type":         {"bad-request", `{"id":1,"op":"publish","to":7}`},
		"two bodies":         {"bad-request", `{"id":1,"op":"publish","to":"/queue/a","body":"x","data":1}`},
		"bad base64":         {"bad-request", `{"id":1,"op":"publish","to":"/queue/a","base64":"%%"}`},
		"header not text":    {"bad-request", `{"id":1,"op":"publish","to":"/queue/a","headers":{"a":1}}`},
		"two objects":        {"bad-request", `{"id":1,"op":"ping"}{"id":2,"op":"ping"}`},
		"bad destination":    {"invalid", `{"id":1,"op":"publish","to":"/nowhere/a"}`},
		"wildcard":           {"invalid", `{"id":1,"op":"publish","to":"/topic/a.*"}`},
		"denied":             {"denied", `{"id":1,"op":"publish","to":"/topic/secret"}`},
		"denied subscribe":   {"denied", `{"id":1,"op":"subscribe","sub":"s","to":"/topic/secret"}`},
		"denied history":     {"denied", `{"id":1,"op":"subscribe","sub":"s","to":"/topic/secret","history":{"last":1}}`},
		"denied presence":    {"denied", `{"id":1,"op":"presence","to":"/topic/secret"}`},
		"reserved topic":     {"denied", `{"id":1,"op":"publish","to":"/topic/$SYS.x"}`},
		"no sub":             {"bad-request", `{"id":1,"op":"subscribe","to":"/topic/a"}`},
		"no such sub":        {"bad-request", `{"id":1,"op":"ack","sub":"s","delivery":1}`},
		"history of nothing": {"not-found", `{"id":1,"op":"subscribe","sub":"s","to":"/topic/a","history":{"last":1}}`},
		"wild history":       {"bad-request", `{"id":1,"op":"subscribe","sub":"s","to":"/topic/chat.*","history":{"last":1}}`},
		"bad ack mode":       {"bad-request", `{"id":1,"op":"subscribe","sub":"s","to":"/queue/a","ack":"maybe"}`},
		"durable nobody":     {"bad-request", `{"id":1,"op":"subscribe","sub":"s","to":"/topic/a","durable":"d"}`},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			if e := p.refused(c.code, c.request); e["retry"] != false {
				t.Errorf("retry %v", e["retry"])
			}
		})
	}
	p.t = t
	p.send(`not json`)
	if e := p.event("error"); e["error"].(map[string]any)["code"] != "bad-request" {
		t.Errorf("%v", e)
	}
	p.send(`{"op":"publish","to":"/topic/secret"}`)
	if e := p.event("error"); e["op"] != "publish" || e["error"].(map[string]any)["code"] != "denied" {
		t.Errorf("%v", e)
	}
	p.call(`{"id":1,"op":"ping"}`)
}

func TestTopic(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	a.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/news/+"}`)
	b.call(`{"id":2,"op":"publish","to":"/topic/news/x","body":"hé\"llo\n","contentType":"text/plain","headers":{"b":"1","a":"2"},"priority":7,"correlationId":"c","replyTo":"/queue/r"}`)
	m := a.event("message")
	for k, want := range map[string]any{"sub": "s", "to": "/topic/news/x", "body": "hé\"llo\n", "contentType": "text/plain", "priority": 7.0,
		"correlationId": "c", "replyTo": "/queue/r", "seq": nil, "delivery": nil} {
		if m[k] != want {
			t.Errorf("%s: %v, want %v", k, m[k], want)
		}
	}
	if h := m["headers"].(map[string]any); len(h) != 2 || h["a"] != "2" {
		t.Errorf("headers %v", h)
	}
	b.call(`{"id":3,"op":"publish","to":"/topic/news.y","data":{"n":12345678901234567890}}`)
	b.call(`{"id":4,"op":"publish","to":"/topic/news.y","base64":"AP8="}`)
	if m := a.event("message"); fmt.Sprint(m["data"]) != "map[n:1.2345678901234567e+19]" || m["contentType"] != "application/json" || m["to"] != "/topic/news/y" {
		t.Errorf("data: %v", m)
	}
	if m := a.event("message"); m["base64"] != "AP8=" || m["body"] != nil {
		t.Errorf("base64: %v", m)
	}
	a.call(`{"id":3,"op":"unsubscribe","sub":"s"}`)
	b.call(`{"id":5,"op":"publish","to":"/topic/news.y","body":"gone"}`)
	a.call(`{"id":4,"op":"ping"}`)
	if len(a.events) != 0 {
		t.Errorf("after unsubscribe: %v", a.events)
	}
}

func TestRetained(t *testing.T) {
	g := newRig(t, func(o *Options) { o.OutboundBytes = 8 << 10 })
	a, b := g.login("ann"), g.login("bob")
	const n = 40 // more than the buffer takes at once
	for i := range n {
		a.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/topic/last.%d","body":"%d %s","retain":true,"persistent":false}`, i+2, i, i, strings.Repeat("x", 1000)))
	}
	a.call(`{"id":90,"op":"publish","to":"/topic/last.0","base64":"","retain":true}`) // it is kept no more
	a.call(`{"id":91,"op":"publish","to":"/topic/last.1","body":"newer","retain":true}`)
	b.call(`{"id":2,"op":"subscribe","sub":"plain","to":"/topic/last.*"}`)
	b.call(`{"id":3,"op":"subscribe","sub":"s","to":"/topic/last.*","retained":true}`)
	seen := map[any]bool{}
	for range n - 1 {
		m := b.event("message")
		if m["sub"] != "s" || m["retained"] != true || (m["body"] == "newer") != (m["persistent"] == nil) {
			t.Fatalf("%v", m)
		}
		seen[m["to"]] = true
	}
	if len(seen) != n-1 || seen["/topic/last.0"] {
		t.Errorf("%d topics: %v", len(seen), seen)
	}
	a.call(`{"id":92,"op":"publish","to":"/topic/last.1","body":"live","retain":true}`)
	for range 2 {
		if m := b.event("message"); m["body"] != "live" || m["retained"] != nil {
			t.Fatalf("%v", m)
		}
	}
	b.refused("bad-request", `{"id":4,"op":"subscribe","sub":"h","to":"/topic/chat.x","retained":true,"history":{}}`)
	if r := g.ask("ann", "POST", "/api/publish/topic/last/2", "by HTTP", "Mqgate-Retain", "true"); r.status != 200 {
		t.Fatalf("%+v", r)
	}
	b.call(`{"id":5,"op":"subscribe","sub":"t","to":"/topic/last.2","retained":true}`)
	for m := b.event("message"); m["sub"] != "t"; m = b.event("message") {
	}
}

func TestQueue(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	a.call(`{"id":2,"op":"publish","to":"/queue/work","body":"1"}`)
	a.call(`{"id":3,"op":"publish","to":"/queue/work","body":"2"}`)
	b.call(`{"id":2,"op":"subscribe","sub":"w","to":"/queue/work","ack":"client"}`)
	m := b.event("message")
	if m["body"] != "1" || m["delivery"] != 1.0 || m["redelivered"] != false {
		t.Fatalf("first: %v", m)
	}
	b.call(`{"id":3,"op":"nack","sub":"w","delivery":1,"delayMs":0}`)
	if m = b.event("message"); m["body"] != "1" || m["redelivered"] != true || m["count"] != 2.0 {
		t.Fatalf("again: %v", m)
	}
	b.refused("not-found", `{"id":4,"op":"ack","sub":"w","delivery":1}`)
	b.call(`{"id":5,"op":"ack","sub":"w","delivery":2}`)
	if m = b.event("message"); m["body"] != "2" {
		t.Fatalf("second: %v", m)
	}
	// What bob holds goes to ann when he leaves.
	b.c.Close()
	a.call(`{"id":4,"op":"subscribe","sub":"w","to":"/queue/work"}`)
	if m := a.event("message"); m["body"] != "2" || m["redelivered"] != true || m["delivery"] != nil {
		t.Fatalf("ann: %v", m)
	}
	for i := range 50 {
		a.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/queue/full","body":"x"}`, 10+i))
	}
	if e := a.refused("full", `{"id":99,"op":"publish","to":"/queue/full","body":"x"}`); e["retry"] != true || e["retryAfterMs"] == nil {
		t.Errorf("full: %v", e)
	}
}

func TestCreditPausesAndGoesOn(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann")
	for i := range 3 {
		a.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/queue/q","body":"%d"}`, i+2, i))
	}
	a.call(`{"id":9,"op":"subscribe","sub":"s","to":"/queue/q","ack":"client","credit":2}`)
	a.event("message")
	a.event("message")
	a.call(`{"id":10,"op":"ping"}`)
	if len(a.events) != 0 {
		t.Fatalf("beyond the credit: %v", a.events)
	}
	a.call(`{"id":11,"op":"credit","sub":"s","credit":3}`)
	if m := a.event("message"); m["body"] != "2" {
		t.Fatalf("%v", m)
	}
}

func TestDurable(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann", `,"clientId":"c"`), g.login("bob")
	a.call(`{"id":2,"op":"subscribe","sub":"d","to":"/topic/t","durable":"d","ack":"client","credit":10}`)
	a.c.Close()
	eventually(t, "ann left", func() bool { return len(g.router.Sessions()) == 1 })
	b.call(`{"id":2,"op":"publish","to":"/topic/t","body":"kept"}`)
	a = g.login("ann", `,"clientId":"c"`)
	a.call(`{"id":2,"op":"subscribe","sub":"d","to":"/topic/t","durable":"d","ack":"client"}`)
	if m := a.event("message"); m["body"] != "kept" {
		t.Fatalf("%v", m)
	}
	a.call(`{"id":3,"op":"unsubscribe","sub":"d","durable":"d","forget":true}`)
	if infos := g.router.MailboxInfos(nobodyAdmin); len(infos) != 0 {
		t.Fatalf("not forgotten: %+v", infos)
	}
}

func TestHistoryAndResume(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	for i := range 5 {
		a.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/topic/chat.x","body":"%d"}`, i+2, i))
	}
	m := b.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":{"last":2}}`)
	if m["complete"] != true || m["last"] != 5.0 || m["first"] != 1.0 {
		t.Fatalf("%v", m)
	}
	epoch := uint64(m["epoch"].(float64))
	first, second := b.event("message"), b.event("message")
	if first["body"] != "3" || second["body"] != "4" || second["seq"] != 5.0 {
		t.Fatalf("%v %v", first, second)
	}
	b.c.Close()
	a.call(`{"id":10,"op":"publish","to":"/topic/chat.x","body":"missed"}`)
	b = g.login("bob")
	m = b.call(fmt.Sprintf(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":{"seq":5,"epoch":%d}}`, epoch))
	if m["complete"] != true {
		t.Fatalf("%v", m)
	}
	a.call(`{"id":11,"op":"publish","to":"/topic/chat.x","body":"live"}`)
	if x, y := b.event("message"), b.event("message"); x["body"] != "missed" || y["body"] != "live" || y["seq"] != 7.0 {
		t.Fatalf("%v %v", x, y)
	}
}

func TestRequestAndReply(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	b.call(`{"id":2,"op":"subscribe","sub":"s","to":"/queue/rpc"}`)
	a.send(`{"id":2,"op":"request","to":"/queue/rpc","body":"2+2"}`)
	m := b.event("message")
	answer := fmt.Sprintf(`{"id":3,"op":"publish","to":%q,"correlationId":%q,"body":"4"}`, m["replyTo"], m["correlationId"])
	b.call(answer)
	r := a.read()
	if r["reply"] != 2.0 || r["message"].(map[string]any)["body"] != "4" {
		t.Fatalf("%v", r)
	}
	b.call(strings.Replace(answer, `"id":3`, `"id":4`, 1)) // nobody waits any more: no event, no error
	a.call(`{"id":3,"op":"ping"}`)
	a.send(`{"id":4,"op":"request","to":"/queue/deaf","timeoutMs":1}`)
	if r := a.read(); r["reply"] != 4.0 || r["error"].(map[string]any)["code"] != "timeout" {
		t.Fatalf("%v", r)
	}
	if len(a.events) != 0 {
		t.Errorf("%v", a.events)
	}
}

func TestPresence(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann", `,"name":"Ann <3"`)
	a.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":{"last":1},"presence":true}`)
	e := a.event("presence")
	who := e["present"].([]any)[0].(map[string]any)
	if e["count"] != 1.0 || who["name"] != "Ann <3" || who["user"] != "ann" || who["protocol"] != "ws" {
		t.Fatalf("%v", e)
	}
	b := g.login("bob")
	b.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.*"}`)
	if e = a.event("presence"); len(e["joined"].([]any)) != 1 || e["count"] != 2.0 {
		t.Fatalf("join: %v", e)
	}
	if l := a.call(`{"id":3,"op":"presence","to":"/topic/chat.x"}`); len(l["present"].([]any)) != 2 {
		t.Fatalf("list: %v", l)
	}
	b.c.Close()
	if e = a.event("presence"); len(e["left"].([]any)) != 1 || e["left"].([]any)[0].(map[string]any)["user"] != "bob" {
		t.Fatalf("leave: %v", e)
	}
}

func TestRepliesKeepTheirOrder(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann")
	const n = 300
	for i := 2; i < n; i++ {
		switch i % 3 {
		case 0:
			a.send(fmt.Sprintf(`{"id":%d,"op":"publish","to":"/queue/o%d","body":"x"}`, i, i%7))
		case 1:
			a.send(fmt.Sprintf(`{"id":%d,"op":"ping"}`, i))
		default:
			a.send(fmt.Sprintf(`{"id":%d,"op":"nonsense"}`, i))
		}
	}
	for i := 2; i < n; i++ {
		if m := a.read(); m["reply"] != float64(i) {
			t.Fatalf("reply %v, want %d", m, i)
		}
	}
}

func TestDrainAsksToComeBack(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann")
	s := g.dial("/stomp")
	done := make(chan struct{})
	go func() { g.stop(); close(done) }()
	closes(t, a.c, closeGoingAway)
	closes(t, s, closeGoingAway)
	<-done
}

func TestSilentClientIsGivenUp(t *testing.T) {
	g := newRig(t, func(o *Options) { o.PingInterval = 10 * time.Millisecond })
	p := g.login("ann")
	p.c.SetPingHandler(func(string) error { return nil }) // deaf
	closes(t, p.c, closeSilent)
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	g := newRig(t, func(o *Options) { o.PingInterval = 10 * time.Millisecond })
	c := g.dial("/mqtt", "mqtt")
	c.SetPingHandler(func(string) error { return nil }) // deaf
	closes(t, c, closeSilent)
	if g.server.Stats.SilentClosed.Load() != 1 {
		t.Error("not counted")
	}
}

// Silence counts while the peer is listened to, not while its reader is held back.
func TestSilence(t *testing.T) {
	var q silence
	q.heard()
	at := func(ms int64) string {
		ping, over := q.look(q.sinceMs.Load()+ms, time.Second)
		return map[[2]bool]string{{false, false}: "", {true, false}: "ping", {false, true}: "over"}[[2]bool{ping, over}]
	}
	if got := at(1e6); got != "" {
		t.Errorf("held back: %q", got)
	}
	q.waiting()
	for _, c := range []struct {
		ms   int64
		want string
	}{{999, ""}, {1000, "ping"}, {1500, ""}, {2000, "over"}} {
		if got := at(c.ms); got != c.want {
			t.Errorf("after %d ms: %q, want %q", c.ms, got, c.want)
		}
	}
	since := q.sinceMs.Load()
	q.waiting() // a reader that reads on after a deadline has heard nothing
	if q.sinceMs.Load() != since {
		t.Error("the silence began anew")
	}
}

// Who never reads again is not waited for.
func TestSlowReaderIsClosed(t *testing.T) {
	g := newRig(t, func(o *Options) { o.OutboundBytes = 20 << 10; o.FlushTimeout = 2 * time.Second })
	a, slow := g.login("ann"), g.narrow("bob")
	slow.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/flood"}`)
	g.flood(a)
	eventually(t, "the slow client is gone", func() bool { return g.server.Connections() == 1 })
	if g.server.Stats.SlowClosed.Load() != 1 {
		t.Error("the end of the slow client is not counted")
	}
}

func TestLimits(t *testing.T) {
	g := newRig(t, func(o *Options) { o.MaxMessageBytes = 20 << 10; o.MaxSubscriptions = 2 })
	p := g.peer()
	p.send(`{"id":1,"op":"connect","name":"` + strings.Repeat("x", 9<<10) + `"}`)
	closes(t, p.c, closeTooBig)
	if g.server.Stats.Counts()["protocol_error"] != 1 {
		t.Error("not counted")
	}
	q := g.login("ann")
	big := func(n int) string {
		return `{"id":2,"op":"publish","to":"/topic/a","body":"` + strings.Repeat("x", n) + `"}`
	}
	q.call(big(19 << 10))
	for _, s := range []string{"a", "b"} {
		q.call(`{"id":3,"op":"subscribe","sub":"` + s + `","to":"/topic/a"}`)
	}
	q.refused("too-large", `{"id":3,"op":"subscribe","sub":"c","to":"/topic/a"}`)
	// In fragments that are each below the limit.
	w, err := q.c.NextWriter(websocket.TextMessage)
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if _, err := w.Write([]byte(big(1 << 10))); err != nil {
			break // the server closed
		}
	}
	closes(t, q.c, closeTooBig)
}

func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{`{"id":1,"op":"ping"}`, `{"id":1,"op":"publish","to":"/queue/a","headers":{"a":"b"},"base64":"AA=="}`,
		`{"data":{"a":[1,2,{"b":null}]}}`, `{"headers":null}`, `{"headers":[]}`, `[]`, `{"id":-1}`, `{"history":{"seq":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRequest(b)
		if err != nil {
			if err.Error() == "" || r == nil {
				t.Fatal("an error without a word")
			}
			return
		}
		m, err := r.message("")
		if err != nil {
			return
		}
		tail := append([]byte("{"), appendTail(nil, m, 0)...)
		var back map[string]any
		if err := json.Unmarshal(tail, &back); err != nil {
			t.Fatalf("tail %q: %v", tail, err)
		}
		if back["to"] != m.To.Text(0) {
			t.Fatalf("destination %q became %q", m.To.Text(0), back["to"])
		}
	})
}
