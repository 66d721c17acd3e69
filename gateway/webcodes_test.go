package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// closedWith reads to the end, and returns the close code and what came before it.
func closedWith(t *testing.T, c *websocket.Conn) (code int, said string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		_, b, err := c.ReadMessage()
		said += string(b)
		if err == nil {
			continue
		}
		closed, ok := err.(*websocket.CloseError)
		if !ok {
			t.Fatalf("it ended with %v, after %q", err, said)
		}
		return closed.Code, said
	}
}

const (
	helloMQTT3   = "\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02id" // 3.1.1, which says nothing at the end
	helloBrief   = "\x10\x0e\x00\x04MQTT\x04\x02\x00\x01\x00\x02id" // with a keep alive of one second
	welcomeMQTT  = "\x20\x02\x00\x00"
	helloBeats   = "CONNECT\naccept-version:1.2\nhost:/\nheart-beat:100,0\n\n\x00"
	helloSTOMPID = "CONNECT\naccept-version:1.2\nhost:/\nclient-id:id\n\n\x00"
)

// However STOMP and MQTT end a connection, its close code tells a client, also one
// whose protocol has no word for it, whether to come back.
func TestStreamsSayWhetherToComeBack(t *testing.T) {
	rebound := http.Header{"Host": {"rebound.example"}, "Origin": {"http://rebound.example"}}
	for name, c := range map[string]struct {
		mqtt   bool
		set    string
		header http.Header
		hello  string   // after which nothing is said if it is ""
		twice  bool     // by another connection as well
		then   []string // messages
		code   int
		says   string // besides, in STOMP
	}{
		"STOMP, login refused":    {hello: helloSTOMP, header: rebound, code: 4401, says: "a login is needed"},
		"MQTT, login refused":     {hello: helloMQTT3, header: rebound, code: 4401, mqtt: true},
		"STOMP, taken over":       {hello: helloSTOMPID, twice: true, code: 4409, says: "took over"},
		"MQTT, taken over":        {hello: helloMQTT3, twice: true, code: 4409, mqtt: true},
		"STOMP, no login":         {set: "limits.login_timeout=200ms", code: 4502, says: "no CONNECT"},
		"MQTT, no login":          {set: "limits.login_timeout=200ms", code: 4502, mqtt: true},
		"STOMP, half a login":     {set: "limits.login_timeout=200ms", then: []string{"CONN"}, code: 4502, says: "no CONNECT"},
		"STOMP, silent":           {set: "stomp.heartbeat.receive_min=100ms", hello: helloBeats, code: 4501, says: "no heart-beat"},
		"MQTT, silent":            {hello: helloBrief, code: 4501, mqtt: true},
		"STOMP, no frame":         {hello: helloSTOMP, then: []string{"what is this\n\n\x00"}, code: 1008, says: "ERROR"},
		"STOMP, not logged in":    {then: []string{"SEND\ndestination:/queue/a\n\n\x00"}, code: 1008, says: "not logged in"},
		"STOMP, too large":        {set: "limits.frame_bytes=64KiB", hello: helloSTOMP, then: []string{"SEND\ndestination:/queue/a\ncontent-length:99999\n\n", "x"}, code: 1008, says: "ERROR"},
		"MQTT, no packet":         {hello: helloMQTT3, then: []string{"\x00\x00"}, code: 1008, mqtt: true},
		"MQTT, a second CONNECT":  {hello: helloMQTT3, then: []string{helloMQTT3}, code: 1008, mqtt: true},
		"STOMP, one over a limit": {set: "limits.connections_per_user=1", hello: helloSTOMP, twice: true, code: 1013, says: "which is the limit"},
		"STOMP, it leaves":        {hello: helloSTOMP, then: []string{"DISCONNECT\nreceipt:r\n\n\x00"}, code: 1000, says: "RECEIPT"},
		"MQTT, it leaves":         {hello: helloMQTT3, then: []string{"\xe0\x00"}, code: 1000, mqtt: true},
	} {
		t.Run(name, func(t *testing.T) {
			var set []string
			if c.set != "" {
				set = append(set, c.set)
			}
			g := open(t, load(t, set...))
			run(t, g)
			path, protocol, welcome := "/stomp", "v12.stomp", "CONNECTED"
			if c.mqtt {
				path, protocol, welcome = "/mqtt", "mqtt", welcomeMQTT
			}
			ends := onWeb(t, g, path, protocol, c.header)
			if c.hello != "" {
				say(t, ends, c.hello)
			}
			if c.twice {
				hearOn(t, ends, welcome)
				other := onWeb(t, g, path, protocol, nil)
				say(t, other, c.hello)
				if c.code == 1013 {
					ends = other // the first one stays
				}
			}
			for _, message := range c.then {
				say(t, ends, message)
			}
			code, said := closedWith(t, ends)
			if code != c.code || !strings.Contains(said, c.says) {
				t.Errorf("closed with %d after %q; want %d and %q", code, said, c.code, c.says)
			}
		})
	}
}
