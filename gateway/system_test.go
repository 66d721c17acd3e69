package gateway

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// TestSystemValues: the gateway tells of itself to an anonymous client of this machine.
func TestSystemValues(t *testing.T) {
	g := open(t, load(t))
	run(t, g)
	c := dial(t, g)
	talk(t, c, "CONNECT\naccept-version:1.2\nhost:/\n\n\x00")
	talk(t, c, "SEND\ndestination:/queue/jobs\nreceipt:1\n\nx\x00")
	talk(t, c, "SUBSCRIBE\nid:0\ndestination:/queue/jobs\nack:client\n\n\x00") // the message, which is held
	m, err := net.Dial("tcp", g.Addr("mqtt").String())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := io.WriteString(m, "\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c"+"\x82\x0b\x00\x01\x00\x06$SYS/#\x00"); err != nil {
		t.Fatal(err)
	}
	if err := m.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	b := make([]byte, 64<<10)
	for !bytes.Contains(got.Bytes(), []byte("queues/jobs/consumers")) {
		n, err := m.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, got.String())
		}
		got.Write(b[:n])
	}
	values := map[string]string{}
	for _, v := range g.systemValues() {
		if _, twice := values[v.Topic]; twice {
			t.Errorf("%s stands twice", v.Topic)
		}
		values[v.Topic] = v.Text
	}
	for topic, want := range map[string]string{
		"version": "mqgate version test", "clients/connected": "2", "clients/total": "2", "clients/stomp": "1", "clients/mqtt": "1",
		"messages/received": "1", "messages/dropped": "0", "messages/dropped/slow_consumer": "0", "retained messages/count": "0",
		"queues/count": "1", "queues/jobs/ready": "0", "queues/jobs/unacked": "1", "queues/jobs/consumers": "1", "subscriptions/count": "1",
		"uptime": "", "bytes/received": "", "bytes/sent": "", "messages/sent": "", "store/bytes": "", "store/limit": "",
	} {
		have, is := values["$SYS/broker/"+topic]
		if !is || want != "" && have != want {
			t.Errorf("$SYS/broker/%s is %q, want %q", topic, have, want)
		}
		if !bytes.Contains(got.Bytes(), []byte("$SYS/broker/"+topic)) {
			t.Errorf("the subscriber did not get %s", topic)
		}
	}
}
