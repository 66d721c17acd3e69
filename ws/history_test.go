package ws

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// tell publishes numbered messages to a topic and returns the request id behind them.
func (p *peer) tell(topic string, from, to int, pad string) {
	p.t.Helper()
	for i := from; i < to; i++ {
		p.call(fmt.Sprintf(`{"id":%d,"op":"publish","to":%q,"body":"%d%s"}`, i+100, topic, i, pad))
	}
}

// From where a history begins: each way that the protocol has.
func TestHistoryBegins(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	a.tell("/topic/chat.x", 0, 4, "")
	seen := b.call(`{"id":2,"op":"subscribe","sub":"all","to":"/topic/chat.x","history":{"last":9}}`)
	epoch, third := uint64(seen["epoch"].(float64)), map[string]any{}
	for range 3 {
		third = b.event("message")
	}
	b.event("message")
	for name, c := range map[string]struct {
		history  string
		first    string // "": nothing but what comes later
		complete bool
	}{
		"from now":                 {`{}`, "", true},
		"the last":                 {`{"last":2}`, "2", true},
		"more than there are":      {`{"last":50}`, "0", true},
		"since a time":             {`{"sinceMs":1}`, "0", true},
		"since the third":          {fmt.Sprintf(`{"sinceMs":%.0f}`, third["timeMs"]), "", true}, // others may have come in its millisecond
		"since later":              {`{"sinceMs":99999999999999}`, "", true},
		"behind the third":         {fmt.Sprintf(`{"epoch":%d,"seq":3}`, epoch), "3", true},
		"behind, before the rest":  {fmt.Sprintf(`{"last":1,"sinceMs":1,"epoch":%d,"seq":2}`, epoch), "2", true},
		"of another epoch":         {fmt.Sprintf(`{"epoch":%d,"seq":3}`, epoch+1), "0", false},
		"from its first minus one": {fmt.Sprintf(`{"epoch":%d,"seq":%d}`, epoch, int(seen["first"].(float64))-1), "0", true},
	} {
		t.Run(name, func(t *testing.T) {
			p := g.login("eve")
			p.t = t
			r := p.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":` + c.history + `}`)
			if r["complete"] != c.complete || r["last"] != seen["last"] {
				t.Errorf("%v", r)
			}
			if strings.HasPrefix(name, "since the") {
				for m := p.event("message"); m["body"] != "3"; m = p.event("message") {
					if m["timeMs"].(float64) < third["timeMs"].(float64) {
						t.Errorf("%v is older", m)
					}
				}
				return
			}
			want := c.first
			if want == "" {
				p.call(`{"id":3,"op":"ping"}`)
				if len(p.events) > 0 {
					t.Errorf("%v", p.events)
				}
				return
			}
			if m := p.event("message"); m["body"] != want {
				t.Errorf("first %v, want %s", m, want)
			}
		})
	}
}

// narrow is a peer that is connected through a socket that holds next to nothing, so
// that it takes little to be slow.
func (g *rig) narrow(user string) *peer {
	g.t.Helper()
	s := httptest.NewUnstartedServer(g.server)
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			_ = c.(*net.TCPConn).SetWriteBuffer(32 << 10) // else the test takes more messages
		}
	}
	s.Start()
	g.t.Cleanup(s.Close)
	d := websocket.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(32 << 10)
		}
		return c, err
	}}
	c, _, err := d.Dial("ws"+strings.TrimPrefix(s.URL, "http")+"/ws", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	p := &peer{t: g.t, c: c}
	p.call(`{"id":1,"op":"connect","user":"` + user + `","password":"pw-` + user + `"}`)
	return p
}

// A reader of a history that is too slow is waited for, and told what left the history
// meanwhile; nothing that is kept is left out, and nothing comes twice.
func TestSlowReaderOfAHistoryIsToldWhatItMissed(t *testing.T) {
	g := newRig(t, func(o *Options) { o.OutboundBytes = 20 << 10; o.FlushTimeout = time.Minute })
	a, slow := g.login("ann"), g.narrow("bob")
	slow.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/chat.x","history":{}}`)
	const n = 250 // of which 100 are kept; the buffers take fewer than the others
	a.tell("/topic/chat.x", 0, n, strings.Repeat("x", 4<<10))
	next, missed := 1.0, 0
	for next <= n {
		m := slow.read()
		switch m["event"] {
		case "missed":
			missed++
			if m["before"].(float64) <= next {
				t.Fatalf("missed before %v, after %v was read", m["before"], next-1)
			}
			next = m["before"].(float64)
		case "message":
			if m["seq"] != next {
				t.Fatalf("seq %v, want %v", m["seq"], next)
			}
			next++
		}
	}
	if missed == 0 {
		t.Error("nothing was missed: the test does not see what it is for")
	}
}

// A subscriber without a history that is too slow is told to come back.
func TestSlowReaderIsTold(t *testing.T) {
	g := newRig(t, func(o *Options) { o.OutboundBytes = 20 << 10; o.FlushTimeout = time.Minute })
	a, slow := g.login("ann"), g.narrow("bob")
	slow.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/flood"}`)
	g.flood(a)
	closes(t, slow.c, closeSlow)
}

// flood has a peer publish to /topic/flood until a subscriber does not take it.
func (g *rig) flood(p *peer) {
	g.t.Helper()
	for i := 0; g.router.Stats.Dropped()["slow_consumer"] == 0; i++ {
		if i == 5000 {
			g.t.Fatal("20 MB went to who does not read")
		}
		p.tell("/topic/flood", i, i+1, strings.Repeat("x", 4<<10))
	}
}
