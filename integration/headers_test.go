package integration

import (
	"encoding/base64"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestHeadersBetweenProtocols has what the table of package router says of standard
// fields that TestCrossProtocol leaves out, and what STOMP's own headers are to MQTT:
// each is sent by a client of one protocol, live, by a queue and as a dead letter, and
// read by a client of the other.
func TestHeadersBetweenProtocols(t *testing.T) {
	b := harness.Start(t)
	m := harness.PahoGo.StartMQTT(t, 5, "headers")
	m.Connect(b.ListenerAddr("mqtt"), false, nil)
	w := harness.MustLogin(t, b.Addr())
	expires := time.Now().Add(time.Hour)

	sent := []string{"persistent:true", "priority:7", "timestamp:1700000000000", "expires:" + strconv.FormatInt(expires.UnixMilli(), 10),
		`correlation-id:c\c1`, "reply-to:/queue/back", "content-type:text/plain", "type:order.new", "JMSXGroupID:g", `x-path:a\cb`,
		"receipt-x:kept", "message-id:mine", "subscription:s", "redelivered:true", "JMSXUserID:root", "login:l", "passcode:p", "ack:a"}
	want := [][2]string{{"priority", "7"}, {"timestamp", "1700000000000"}, {"type", "order.new"}, {"JMSXGroupID", "g"}, {"x-path", "a:b"}, {"receipt-x", "kept"}}
	toMQTT := func(destination, topic string) {
		t.Helper()
		m.Subscribe(topic, 1)
		w.MustConfirm(t, "SEND", []byte("x"), append(sent, "destination:"+destination)...)
		got := m.Receive()
		if got.Topic != topic || got.QoS != 1 || got.ContentType != "text/plain" || got.ResponseTopic != "$queue/back" ||
			got.Correlation != base64.StdEncoding.EncodeToString([]byte("c:1")) || got.Expiry < 3000 || got.Expiry > 3601 {
			t.Errorf("by %s came %+v", destination, got)
		}
		if fmt.Sprint(got.User) != fmt.Sprint(want) {
			t.Errorf("by %s came the user properties %q, want %q", destination, got.User, want)
		}
	}
	toMQTT("/topic/headers.live", "headers/live")
	toMQTT("/queue/headers", "$queue/headers")

	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/refused", "ack:client-individual")
	w.MustConfirm(t, "SEND", []byte("x"), "destination:/queue/refused")
	w.MustConfirm(t, "NACK", nil, "id:"+w.Expect(t, "MESSAGE").Headers["ack"], "message:no such customer")
	m.Subscribe("$queue/DLQ.refused", 1)
	dead := map[string]string{}
	for _, u := range m.Receive().User {
		dead[u[0]] = u[1]
	}
	if want := map[string]string{"x-dead-letter-reason": "rejected", "x-dead-letter-origin": "/queue/refused", "x-dead-letter-count": "1",
		"x-dead-letter-error": "no such customer", "original-destination": "/queue/refused"}; !maps.Equal(dead, want) {
		t.Errorf("a dead letter came with %v, want %v", dead, want)
	}

	for _, x := range []struct{ topic, destination string }{{"headers/back", "/topic/headers.back"}, {"$queue/headers.back", "/queue/headers.back"}} {
		w.MustConfirm(t, "SUBSCRIBE", nil, "id:"+x.topic, "destination:"+x.destination)
		m.Publish(harness.MQTTMessage{Topic: x.topic, QoS: 1, ContentType: "text/plain", ResponseTopic: "answers/7", Expiry: 3600,
			Correlation: base64.StdEncoding.EncodeToString([]byte("c:1")), User: [][2]string{
				{"priority", "7"}, {"timestamp", "1700000000000"}, {"type", "order.new"}, {"JMSXGroupID", "g"}, {"x-path", "a:b"},
				// What would mean something in a frame of STOMP is not shown.
				{"receipt", "r"}, {"transaction", "t"}, {"message-id", "mine"}, {"content-length", "9"}, {"subscription", "s"}, {"ack", "a"}, {"redelivered", "true"}}}, []byte("x"))
		f := w.Expect(t, "MESSAGE")
		ms, err := strconv.ParseInt(f.Headers["expires"], 10, 64)
		if left := time.Until(time.UnixMilli(ms)); err != nil || left < 50*time.Minute || left > time.Hour {
			t.Errorf("by %s came %s", x.topic, f)
		}
		for name, value := range map[string]string{"destination": x.destination, "subscription": x.topic, "persistent": "true", "priority": "7",
			"timestamp": "1700000000000", "correlation-id": "c:1", "reply-to": "/topic/answers/7", "content-type": "text/plain", "type": "order.new",
			"JMSXGroupID": "g", "x-path": "a:b", "content-length": "1", "receipt": "", "transaction": "", "ack": "", "redelivered": ""} {
			if f.Headers[name] != value {
				t.Errorf("by %s came %s:%q, want %q", x.topic, name, f.Headers[name], value)
			}
		}
		if f.Headers["message-id"] == "mine" {
			t.Error("an MQTT client chose the message-id")
		}
	}

	// What is not said.
	m.Publish(harness.MQTTMessage{Topic: "headers/back"}, []byte("plain"))
	f := w.Expect(t, "MESSAGE")
	ms, err := strconv.ParseInt(f.Headers["timestamp"], 10, 64)
	if now := time.Now().UnixMilli(); err != nil || ms > now || ms < now-60_000 || f.Headers["priority"] != "4" || f.Headers["expires"] != "0" || f.Headers["persistent"] != "" {
		t.Errorf("of a message that says nothing of itself came %s", f)
	}
	w.MustConfirm(t, "SEND", []byte("plain"), "destination:/topic/headers.live")
	if got := m.Receive(); got.QoS != 0 || len(got.User) > 0 || got.Expiry != 0 || got.ContentType != "" || got.ResponseTopic != "" {
		t.Errorf("of one by STOMP came %+v", got)
	}
}
