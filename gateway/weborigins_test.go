package gateway

import (
	"net/http"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/config"
)

// http.origins is what lets a page of elsewhere in, on every address and port for
// browsers; nothing else does, and compression is nobody's who did not ask for it.
func TestPagesOfElsewhereNeedTheOperator(t *testing.T) {
	cfg := load(t, "http.origins=[https://friend.example]")
	cfg.HTTP.Listeners = []config.WebListener{
		{Listen: "127.0.0.1:0", Carries: config.CarriesSTOMP, Dialect: config.DialectActiveMQ},
		{Listen: "127.0.0.1:0", Carries: config.CarriesMQTT, Dialect: config.DialectActiveMQ},
	}
	g := open(t, cfg)
	run(t, g)
	defer http.DefaultClient.CloseIdleConnections()
	for name, c := range map[string]struct{ listener, path, protocol string }{
		"JSON": {"http", "/ws", "mqgate.json.v1"}, "STOMP": {"http", "/stomp", "v12.stomp"}, "MQTT": {"http", "/mqtt", "mqtt"},
		"STOMP's port": {"http.listeners[0]", "/", "v12.stomp"}, "MQTT's port": {"http.listeners[1]", "/", "mqtt"},
	} {
		for origin, status := range map[string]int{
			"": 101, "http://" + g.Addr(c.listener).String(): 101, "https://friend.example": 101, "https://foe.example": 403, "http://friend.example": 403, "null": 403,
		} {
			h := http.Header{}
			if origin != "" {
				h.Set("Origin", origin)
			}
			d := websocket.Dialer{Subprotocols: []string{c.protocol}, EnableCompression: true}
			conn, resp, err := d.Dial("ws://"+g.Addr(c.listener).String()+c.path, h)
			if resp == nil || resp.StatusCode != status {
				t.Fatalf("%s from %q: %v, %v; want %d", name, origin, resp, err, status)
			}
			if err == nil {
				if x := resp.Header.Get("Sec-WebSocket-Extensions"); x != "" {
					t.Errorf("%s: extensions %q by default", name, x)
				}
				conn.Close()
			}
		}
	}
	for origin, want := range map[string]struct {
		status  int
		allowed string
	}{"https://friend.example": {200, "https://friend.example"}, "https://foe.example": {403, ""}} {
		req, err := http.NewRequest(http.MethodPost, "http://"+g.Addr("http").String()+"/api/publish/topic/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != want.status || got != want.allowed {
			t.Errorf("HTTP from %s: %s, allowed %q", origin, resp.Status, got)
		}
	}
}
