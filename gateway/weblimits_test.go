package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const (
	helloSTOMP = "CONNECT\naccept-version:1.2\nhost:/\n\n\x00"
	helloMQTT  = "\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00" // 5.0, clean start, no client id
	helloJSON  = `{"id":1,"op":"connect"}`
)

// onWeb opens a WebSocket that is to take no longer than 20 s for anything.
func onWeb(t *testing.T, g *Gateway, path, protocol string, h http.Header) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{}
	if protocol != "" {
		d.Subprotocols = []string{protocol}
	}
	c, _, err := d.Dial("ws://"+g.Addr("http").String()+path, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t *testing.T, c *websocket.Conn, message string) {
	t.Helper()
	kind := websocket.TextMessage
	if c.Subprotocol() == "mqtt" {
		kind = websocket.BinaryMessage
	}
	if err := c.WriteMessage(kind, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

// hearOn reads until what has come contains the text.
func hearOn(t *testing.T, c *websocket.Conn, text string) string {
	t.Helper()
	var all []byte
	for !bytes.Contains(all, []byte(text)) {
		_, b, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("%q came, and not %q: %v", all, text, err)
		}
		all = append(all, b...)
	}
	return string(all)
}

// A page whose host is a name, which anyone could have made to resolve here, gets no
// anonymous access whatever protocol it speaks.
func TestAnonymousOverWebSocketIsForPagesOfOurOwn(t *testing.T) {
	g := open(t, load(t))
	run(t, g)
	for name, c := range map[string]struct{ path, protocol, hello, welcome, refusal string }{
		"STOMP":      {"/stomp", "v12.stomp", helloSTOMP, "CONNECTED", "a login is needed"},
		"STOMP, /ws": {"/ws", "v12.stomp", helloSTOMP, "CONNECTED", "a login is needed"},
		"MQTT":       {"/mqtt", "mqtt", helloMQTT, "\x00\x00", "\x00\x87"}, // CONNACK with reason "not authorized"
		"JSON":       {"/ws", "mqgate.json.v1", helloJSON, `"ok":true`, `"denied"`},
	} {
		t.Run(name, func(t *testing.T) {
			own := onWeb(t, g, c.path, c.protocol, http.Header{"Origin": {"http://" + g.Addr("http").String()}})
			say(t, own, c.hello)
			hearOn(t, own, c.welcome)
			_, port, _ := strings.Cut(g.Addr("http").String(), ":")
			host := "rebound.example:" + port
			other := onWeb(t, g, c.path, c.protocol, http.Header{"Host": {host}, "Origin": {"http://" + host}})
			say(t, other, c.hello)
			hearOn(t, other, c.refusal)
		})
	}
}

// publishes are requests of each protocol, and what answers the n-th.
var publishes = map[string]struct {
	path, protocol, hello, welcome string
	publish, answer                func(n int) string
}{
	"STOMP": {"/stomp", "v12.stomp", helloSTOMP, "CONNECTED",
		func(n int) string { return fmt.Sprintf("SEND\ndestination:/topic/a\nreceipt:r%d.\n\n\x00", n) },
		func(n int) string { return fmt.Sprintf("receipt-id:r%d.", n) }},
	"MQTT": {"/mqtt", "mqtt", helloMQTT, "\x00\x00",
		func(n int) string { return "\x32\x06\x00\x01a\x00" + string(rune(n+1)) + "\x00" },
		func(n int) string { return "\x00" + string(rune(n+1)) }},
	"JSON": {"/ws", "mqgate.json.v1", helloJSON, `"ok":true`,
		func(n int) string { return fmt.Sprintf(`{"id":%d,"op":"publish","to":"/topic/a","body":"x"}`, n+10) },
		func(n int) string { return fmt.Sprintf(`"reply":%d,`, n+10) }},
}

// http.requests_per_second holds for each WebSocket, whatever it carries: who asks for
// more is read more slowly, and loses nothing.
func TestRequestsOverWebSocketWait(t *testing.T) {
	for name, p := range publishes {
		t.Run(name, func(t *testing.T) {
			g := open(t, load(t, "http.requests_per_second=10"))
			run(t, g)
			c := onWeb(t, g, p.path, p.protocol, nil)
			say(t, c, p.hello)
			hearOn(t, c, p.welcome)
			const n = 25 // 20 at once, the login among them
			for i := range n {
				say(t, c, p.publish(i))
			}
			hearOn(t, c, p.answer(n-1))
			if g.ws.Stats.Throttled.Load() == 0 {
				t.Error("nobody was held back")
			}
		})
	}
}

// With http.over_rate they are closed with the code for "come back later".
func TestRequestsOverWebSocketClose(t *testing.T) {
	for name, p := range publishes {
		t.Run(name, func(t *testing.T) {
			g := open(t, load(t, "http.requests_per_second=1", "http.over_rate=close"))
			run(t, g)
			c := onWeb(t, g, p.path, p.protocol, nil)
			say(t, c, p.hello)
			hearOn(t, c, p.welcome)
			for i := range 10 {
				kind := websocket.TextMessage
				if p.protocol == "mqtt" {
					kind = websocket.BinaryMessage
				}
				if c.WriteMessage(kind, []byte(p.publish(i))) != nil {
					break // it is closed already
				}
			}
			for {
				_, _, err := c.ReadMessage()
				if err == nil {
					continue
				}
				if !websocket.IsCloseError(err, 4503) {
					t.Errorf("closed with %v", err)
				}
				break
			}
			if g.ws.Stats.Throttled.Load() != 1 {
				t.Error("not counted")
			}
		})
	}
}

// Acknowledgements are no requests: a consumer gets as fast as it can what others send.
func TestAcknowledgementsOverWebSocketAreNotHeldBack(t *testing.T) {
	g := open(t, load(t, "http.requests_per_second=4"))
	run(t, g)
	c := onWeb(t, g, "/stomp", "v12.stomp", nil)
	say(t, c, helloSTOMP)
	hearOn(t, c, "CONNECTED")
	say(t, c, strings.Repeat("ACK\nid:none\n\n\x00", 100)+"SEND\ndestination:/topic/a\nreceipt:last.\n\n\x00")
	hearOn(t, c, "receipt-id:last.")
	if n := g.ws.Stats.Throttled.Load(); n != 0 {
		t.Errorf("held back %d times", n)
	}
}
