package gateway

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// seated is a connection of some protocol, logged in or not let in.
type seated struct {
	in    bool
	close func()
}

func seatSTOMP(t *testing.T, g *Gateway) seated {
	c := dial(t, g)
	return seated{strings.HasPrefix(talk(t, c, "CONNECT\n\n\x00"), "CONNECTED"), func() { c.Close() }}
}

func seatMQTT(t *testing.T, g *Gateway) seated {
	c, err := net.Dial("tcp", g.Addr("mqtt").String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_, _ = io.WriteString(c, "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00") // the answer tells
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, 4)
	_, err = io.ReadFull(c, answer)
	return seated{err == nil && string(answer) == "\x20\x02\x00\x00", func() { c.Close() }}
}

func seatWebSocket(path, protocol, hello string) func(*testing.T, *Gateway) seated {
	return func(t *testing.T, g *Gateway) seated {
		d := websocket.Dialer{Subprotocols: []string{protocol}}
		c, resp, err := d.Dial("ws://"+g.Addr("http").String()+path, nil)
		if err != nil {
			if resp == nil || resp.StatusCode != 503 {
				t.Fatalf("%s: %v", path, err)
			}
			return seated{false, func() {}}
		}
		t.Cleanup(func() { c.Close() })
		_ = c.WriteMessage(websocket.TextMessage, []byte(hello)) // the answer tells
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, text, err := c.ReadMessage()
		in := err == nil && (strings.HasPrefix(string(text), "CONNECTED") || strings.Contains(string(text), `"ok":true`))
		return seated{in, func() { c.Close() }}
	}
}

// TestProtocolsShareTheLimits: limits.connections and limits.connections_per_user are
// of all protocols together, and each connection counts once.
func TestProtocolsShareTheLimits(t *testing.T) {
	kinds := map[string]func(*testing.T, *Gateway) seated{
		"stomp": seatSTOMP, "mqtt": seatMQTT,
		"json":         seatWebSocket("/ws", "mqgate.json.v1", `{"id":1,"op":"connect"}`),
		"stomp in web": seatWebSocket("/stomp", "v12.stomp", "CONNECT\naccept-version:1.2\nhost:h\n\n\x00"),
	}
	for _, limit := range []string{"limits.connections=4", "limits.connections_per_user=4"} {
		t.Run(limit, func(t *testing.T) {
			g := open(t, load(t, limit))
			run(t, g)
			var all []seated
			for name, seat := range kinds {
				s := seat(t, g)
				if !s.in {
					t.Fatalf("%s was refused", name)
				}
				all = append(all, s)
			}
			for name, seat := range kinds {
				if seat(t, g).in {
					t.Errorf("%s was let in beyond the limit", name)
				}
			}
			for _, s := range all {
				s.close()
			}
			deadline := time.Now().Add(10 * time.Second)
			for name, seat := range kinds { // all seats are free again
				for !seat(t, g).in {
					if time.Now().After(deadline) {
						t.Fatalf("%s is refused for good", name)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
}
