package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// mqttTakeover: the connection of a client that comes on another node ends before the new one is told that it has the session,
// and what was in flight on the old comes again on the new, in order.
func mqttTakeover(t *testing.T, p place) {
	for _, version := range []byte{harness.MQTT311, harness.MQTT5} {
		topic := p.topic(fmt.Sprintf("taken/%d", version))
		o := harness.MQTTOptions{Version: version, ClientID: fmt.Sprintf("%s-taken-%d", p.name, version), Durable: true}
		old := device(t, p.x, o)
		subscribe(t, old, 1, topic)
		speaker := device(t, p.z, harness.MQTTOptions{})
		for _, body := range numbers(0, 5) {
			says(t, speaker, topic, body, 1)
			if pk, err := old.Message(time.Minute); err != nil || string(pk.Payload) != body {
				t.Fatalf("%+v, %v", pk, err)
			}
		} // and nothing is acknowledged
		now := device(t, p.y, o)
		endedByTakeover(t, old, version)
		if !now.Present {
			t.Error("the session was lost")
		}
		says(t, speaker, topic, "5", 1)
		for i, pk := range gets(t, now, numbers(0, 6)...) {
			if pk.FixedHeader.Dup != (i < 5) {
				t.Errorf("DUP of %s is %v", pk.Payload, pk.FixedHeader.Dup)
			}
		}
	}
}

func endedByTakeover(t *testing.T, old *harness.MQTT, version byte) {
	t.Helper()
	rest, ended, err := harness.Ended(old.Socket)
	if err != nil || !ended {
		t.Errorf("the old connection is open when the new one is confirmed: %v, % x came", err, rest)
	}
	if told := len(rest) > 2 && rest[0] == packets.Disconnect<<4 && rest[2] == packets.ErrSessionTakenOver.Code; told != (version == harness.MQTT5) {
		t.Errorf("the old connection was told % x", rest)
	}
}

func cleanTakeover(t *testing.T, p place) {
	for range 10 { // what is not in order comes in order sometimes
		o := harness.MQTTOptions{Version: harness.MQTT5, ClientID: p.name + "-clean"}
		old := device(t, p.x, o)
		now := device(t, p.y, o)
		endedByTakeover(t, old, o.Version)
		bye(t, now)
	}
}

func stompTakeover(t *testing.T, p place) {
	destination := "/topic/" + p.topic("durable")
	join := func(n *harness.ClusterNode) *harness.Wire { return login(t, n, "client-id:"+p.name+"-durable") }
	follow := func(w *harness.Wire) {
		t.Helper()
		w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+destination, "ack:client-individual", "activemq.subscriptionName:s", "activemq.prefetchSize:10")
	}
	old := join(p.x)
	follow(old)
	sender := login(t, p.z)
	sends(t, sender, destination, numbers(0, 5)...)
	for _, body := range numbers(0, 5) {
		if f := old.Expect(t, "MESSAGE"); string(f.Body) != body {
			t.Fatalf("%s came, want %q", f, body)
		}
	}
	for range 10 {
		now := join(p.y)
		rest, ended, err := harness.Ended(old.Socket)
		if err != nil || !ended || !strings.Contains(string(rest), "took over") {
			t.Fatalf("the old connection is told %q, ended %v, %v", rest, ended, err)
		}
		old = now
		p.x, p.y = p.y, p.x
	}
	follow(old)
	sends(t, sender, destination, "5")
	for i, f := range reads(t, old, numbers(0, 6)...) {
		if again := f.Headers["redelivered"] == "true"; again != (i < 5) {
			t.Errorf("redelivered of %s is %v", f.Body, again)
		}
	}
}

func jsonTakeover(t *testing.T, p place) {
	old := page(t, p.x, p.name)
	page(t, p.y, p.name)
	const takenOver = "\x11\x39" // 4409
	if rest, _, err := harness.Ended(old.ws.NetConn()); err != nil || !strings.Contains(string(rest), takenOver) {
		t.Errorf("when the new connection is confirmed the old one was told % x, %v", rest, err)
	}
}
