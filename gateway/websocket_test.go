package gateway

import (
	"bytes"
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
