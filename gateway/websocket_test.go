package gateway

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/config"
)

// Clients of ActiveMQ and of RabbitMQ's plugins keep their URLs.
func TestWebSocketPortsOfOtherBrokers(t *testing.T) {
	cfg := load(t)
	cfg.HTTP.Listeners = []config.WebListener{
		{Listen: "127.0.0.1:0", Carries: config.CarriesSTOMP, Dialect: config.DialectActiveMQ},
		{Listen: "127.0.0.1:0", Carries: config.CarriesSTOMP, Dialect: config.DialectRabbitMQ},
		{Listen: "127.0.0.1:0", Carries: config.CarriesMQTT, Dialect: config.DialectActiveMQ},
	}
	g := open(t, cfg)
	run(t, g)
	const connectSTOMP = "CONNECT\naccept-version:1.2\nhost:/\n\n\x00"
	connectMQTT := "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test"
	for name, c := range map[string]struct {
		listener, path, offered, send, want string
		kind                                int
	}{
		"ActiveMQ":            {"http.listeners[0]", "/", "stomp", connectSTOMP, "server:ActiveMQ/", websocket.TextMessage},
		"ActiveMQ, a path":    {"http.listeners[0]", "/a/path", "v12.stomp", connectSTOMP, "server:ActiveMQ/", websocket.BinaryMessage},
		"RabbitMQ web-stomp":  {"http.listeners[1]", "/ws", "v12.stomp", connectSTOMP, "server:RabbitMQ/", websocket.TextMessage},
		"RabbitMQ web-mqtt":   {"http.listeners[2]", "/ws", "mqtt", connectMQTT, "\x20\x02\x00\x00", websocket.BinaryMessage},
		"the gateway's STOMP": {"http", "/stomp", "v12.stomp", connectSTOMP, "server:ActiveMQ/", websocket.TextMessage},
		"the gateway's MQTT":  {"http", "/mqtt", "mqtt", connectMQTT, "\x20\x02\x00\x00", websocket.BinaryMessage},
	} {
		t.Run(name, func(t *testing.T) {
			d := websocket.Dialer{Subprotocols: []string{c.offered}}
			conn, resp, err := d.Dial("ws://"+g.Addr(c.listener).String()+c.path, nil)
			if err != nil {
				t.Fatal(err, resp)
			}
			defer conn.Close()
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := conn.WriteMessage(c.kind, []byte(c.send)); err != nil {
				t.Fatal(err)
			}
			kind, got, err := conn.ReadMessage()
			if err != nil || kind != c.kind || !bytes.Contains(got, []byte(c.want)) {
				t.Fatalf("kind %d, %q, %v; want %q", kind, got, err, c.want)
			}
			if conn.Subprotocol() != c.offered {
				t.Errorf("subprotocol %q", conn.Subprotocol())
			}
		})
	}
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+g.Addr("http.listeners[2]").String()+"/", nil)
	if err == nil || resp.StatusCode != 400 || !strings.Contains(resp.Status, "Bad Request") {
		t.Errorf("MQTT without its subprotocol: %v %v", resp, err)
	}
}

// The path /stomp speaks the dialect of the main listener for STOMP, whether that is open or not, and /mqtt answers without one for
// MQTT.
func TestWebSocketBesideTheListeners(t *testing.T) {
	for _, set := range [][]string{{"stomp.dialect=rabbitmq"}, {"stomp.dialect=rabbitmq", "stomp.listen=", "mqtt.listen="}} {
		g := open(t, load(t, set...))
		run(t, g)
		stomp := onWeb(t, g, "/stomp", "v12.stomp", nil)
		say(t, stomp, helloSTOMP)
		if got := hearOn(t, stomp, "\x00"); !strings.Contains(got, "server:RabbitMQ/") {
			t.Errorf("%v: STOMP says %q", set, got)
		}
		mqtt := onWeb(t, g, "/mqtt", "mqtt", nil)
		say(t, mqtt, helloMQTT)
		hearOn(t, mqtt, "\x00\x00")
	}
}

// An idle client over WebSocket costs at most 16 KiB, with the socket of this process
// that stands in for it.
func TestIdleWebSocketsAreSmall(t *testing.T) {
	g := open(t, load(t))
	run(t, g)
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	for name, c := range map[string]struct{ path, offered, send string }{
		"STOMP": {"/stomp", "v12.stomp", "CONNECT\naccept-version:1.2\nhost:/\n\n\x00"},
		"MQTT":  {"/mqtt", "mqtt", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 200
			addr := g.Addr("http").String()
			idleWebSocket(t, addr, c.path, c.offered, c.send) // whatever the first one brings along
			before := memory()
			for range n {
				idleWebSocket(t, addr, c.path, c.offered, c.send)
			}
			each := uint64(0)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				after := memory()
				if each = (after - min(before, after)) / n; each < 16<<10 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d bytes a connection", each)
				}
			}
			t.Logf("%d bytes a connection", each)
		})
	}
}

func idleWebSocket(t *testing.T, addr, path, offered, send string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	hello := "GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: " + offered +
		"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := io.WriteString(c, hello); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReaderSize(c, 512)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	frame := append([]byte{0x82, 0x80 | byte(len(send)), 0, 0, 0, 0}, send...)
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	if b, err := r.ReadByte(); err != nil || b&0x80 == 0 {
		t.Fatal(b, err)
	}
}
