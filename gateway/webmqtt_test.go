package gateway

import (
	"testing"

	"github.com/gorilla/websocket"
)

// MQTT over WebSocket (section 6 of both specifications): packets are a stream across
// messages, which are binary, and the subprotocol is mqtt.
func TestMQTTPacketsAcrossMessages(t *testing.T) {
	g := open(t, load(t))
	run(t, g)
	c := onWeb(t, g, "/mqtt", "mqtt", nil)
	if c.Subprotocol() != "mqtt" { // [MQTT-6.0.0-4]
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	// [MQTT-6.0.0-2]: a packet in many messages, with an empty one among them, and many
	// packets in one.
	for i, b := range []byte(helloMQTT3) {
		if i == 7 {
			say(t, c, "")
		}
		say(t, c, string([]byte{b}))
	}
	hearOn(t, c, welcomeMQTT)
	const subscribe, publish, ping = "\x82\x06\x00\x01\x00\x01a\x01", "\x32\x06\x00\x01a\x00\x02x", "\xc0\x00"
	say(t, c, subscribe+publish+ping+"\x32\x06\x00\x01a\x00")
	hearOn(t, c, "\xd0\x00")
	say(t, c, "\x03y")
	hearOn(t, c, "\x40\x02\x00\x03")
	if err := c.WriteMessage(websocket.TextMessage, []byte(ping)); err != nil { // [MQTT-6.0.0-1]
		t.Fatal(err)
	}
	if code, _ := closedWith(t, c); code != websocket.CloseUnsupportedData {
		t.Errorf("text was answered with %d", code)
	}
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+g.Addr("http").String()+"/mqtt", nil)
	if err == nil || resp.StatusCode != 400 { // [MQTT-6.0.0-3]
		t.Errorf("without a subprotocol: %v %v", resp, err)
	}
}
