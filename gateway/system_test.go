package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
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

// toldOfAll: what any node tells of the gateway, such as by topics below "$SYS", is of all nodes.
func toldOfAll(t *testing.T, nodes []*Gateway) {
	t.Helper()
	var holds net.Conn
	for i, g := range nodes {
		c := client(t, g)
		if got := talk(t, c, "SEND\ndestination:/queue/told\nreceipt:1\npersistent:true\n\nx\x00"); !strings.HasPrefix(got, "RECEIPT\n") {
			t.Fatal(got)
		}
		if i == 0 {
			holds = c
		}
	}
	if got := talk(t, holds, "SUBSCRIBE\nid:1\nack:client\ndestination:/queue/told\n\n\x00"); !strings.HasPrefix(got, "MESSAGE\n") {
		t.Fatal(got)
	}
	for _, g := range nodes {
		var wrong []string
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if wrong = wrongOf(g, nodes); wrong == nil {
				break
			}
		}
		if wrong != nil {
			t.Errorf("%s tells: %s", g.cfg.NodeName, strings.Join(wrong, ", "))
		}
	}
}

// wrongOf compares what a node tells with what is known of all.
func wrongOf(g *Gateway, nodes []*Gateway) (wrong []string) {
	var connected, received uint64
	for _, x := range nodes {
		connected += uint64(x.stomp.Connections())
		received += x.router.Stats.Published.Load()
	}
	values := map[string]string{}
	for _, v := range g.systemValues() {
		values[strings.TrimPrefix(v.Topic, "$SYS/broker/")] = v.Text
	}
	for topic, want := range map[string]uint64{
		"queues/told/ready": uint64(len(nodes) - 1), "queues/told/unacked": 1, "queues/told/consumers": 1,
		"clients/connected": connected, "messages/received": received,
	} {
		if values[topic] != fmt.Sprint(want) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, not %d", topic, values[topic], want))
		}
	}
	return wrong
}
