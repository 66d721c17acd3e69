package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestPagesAskAndAreAsked has requests of the JSON protocol answered over STOMP and
// over MQTT 5, and those of STOMP and MQTT 5 clients over JSON.
func TestPagesAskAndAreAsked(t *testing.T) {
	b := harness.StartPlain(t)
	page := jsonClient(t, b.ListenerAddr("http"))
	worker := harness.MustLogin(t, b.Addr())
	device := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{Version: harness.MQTT5, ClientID: "device"})

	worker.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/stomp", "ack:auto")
	if err := device.Subscribe(1, "$queue/mqtt", "answers/1"); err != nil {
		t.Fatal(err)
	}
	ask := func(id int, queue string) {
		t.Helper()
		request := fmt.Sprintf(`{"id":%d,"op":"request","to":"/queue/%s","body":"how are you?","timeoutMs":60000}`, id, queue)
		if err := page.c.WriteMessage(websocket.TextMessage, []byte(request)); err != nil {
			t.Fatal(err)
		}
	}
	answered := func(id float64, body string) {
		t.Helper()
		m := page.read(t)
		if got, _ := m["message"].(map[string]any); m["reply"] != id || got["body"] != body {
			t.Errorf("%v, want %q", m, body)
		}
	}
	ask(2, "stomp")
	f := worker.Expect(t, "MESSAGE")
	worker.MustConfirm(t, "SEND", []byte("over STOMP"), "destination:"+f.Headers["reply-to"], "correlation-id:"+f.Headers["correlation-id"])
	answered(2, "over STOMP")

	ask(3, "mqtt")
	pk, err := device.Message(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	reply := harness.PublishPacket(pk.Properties.ResponseTopic, []byte("over MQTT"), 1)
	reply.Properties.CorrelationData = pk.Properties.CorrelationData
	if err := device.Publish(reply); err != nil {
		t.Fatal(err)
	}
	if err := device.Settle(pk); err != nil {
		t.Fatal(err)
	}
	answered(3, "over MQTT")

	// The other way round.
	page.call(t, `{"id":4,"op":"subscribe","sub":"s","to":"/queue/page"}`)
	answer := func() {
		t.Helper()
		m := page.event(t)
		page.call(t, fmt.Sprintf(`{"id":5,"op":"publish","to":%q,"correlationId":%q,"body":"re: %s"}`, m["replyTo"], m["correlationId"], m["body"]))
	}
	worker.MustConfirm(t, "SUBSCRIBE", nil, "id:2", "destination:/temp-queue/answers")
	worker.MustConfirm(t, "SEND", []byte("of STOMP"), "destination:/queue/page", "reply-to:/temp-queue/answers", "correlation-id:c1")
	answer()
	if f := worker.Expect(t, "MESSAGE"); string(f.Body) != "re: of STOMP" || f.Headers["correlation-id"] != "c1" {
		t.Errorf("%s", f)
	}
	if err := device.Subscribe(1, "device/ask"); err != nil {
		t.Fatal(err)
	}
	worker.MustConfirm(t, "SEND", []byte("how are you?"), "destination:/topic/device/ask", "reply-to:/temp-queue/answers", "correlation-id:c3")
	if pk, err = device.Message(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := device.Publish(harness.PublishPacket(pk.Properties.ResponseTopic, []byte("well"), 1)); err != nil {
		t.Fatal(err)
	}
	if f := worker.Expect(t, "MESSAGE"); string(f.Body) != "well" {
		t.Errorf("%s", f)
	}
	question := harness.PublishPacket("$queue/page", []byte("of MQTT"), 1)
	question.Properties.ResponseTopic, question.Properties.CorrelationData = "answers/1", []byte("c2")
	if err := device.Publish(question); err != nil {
		t.Fatal(err)
	}
	answer()
	if pk, err := device.Message(time.Minute); err != nil || string(pk.Payload) != "re: of MQTT" || string(pk.Properties.CorrelationData) != "c2" {
		t.Errorf("%+v, %v", pk, err)
	}
}
