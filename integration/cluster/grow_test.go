package cluster

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestOneNodeBecomesThree has a node that stood alone become one of three: its backlog, retained values and sessions are there for the
// clients of any of them, also when it is gone.
func TestOneNodeBecomesThree(t *testing.T) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: 1})
	alone := c.Nodes[0]
	const backlog = 50
	w := login(t, alone)
	for i := range backlog {
		w.MustConfirm(t, "SEND", fmt.Append(nil, i), "destination:/queue/backlog", "persistent:true")
	}
	device := deviceAt(t, alone, "device")
	if err := device.Subscribe(1, "field/#"); err != nil {
		t.Fatal(err)
	}
	if err := device.Disconnect(); err != nil {
		t.Fatal(err)
	}
	sensor := deviceAt(t, alone, "")
	state := harness.PublishPacket("state/pump", []byte("on"), 1)
	state.FixedHeader.Retain = true
	for _, pk := range []*packets.Packet{state, harness.PublishPacket("field/1", []byte("while it was away"), 1)} {
		if err := sensor.Publish(pk); err != nil {
			t.Fatal(err)
		}
	}
	alone.Terminate()
	if code := alone.Wait(); code != 0 {
		t.Fatalf("the node ended with %d", code)
	}

	c.Grow(t, 2)
	c.AwaitCurrent(t)
	alone.Kill()
	n2, n3 := c.Nodes[1], c.Nodes[2]
	device = deviceAt(t, n3, "device")
	if !device.Present {
		t.Error("the session is gone")
	}
	expect := func(m *harness.MQTT, topic, body string) {
		t.Helper()
		pk, err := m.Message(patience)
		if err != nil || pk.TopicName != topic || string(pk.Payload) != body {
			t.Errorf("%v, %v; want %s on %s", pk, err, body, topic)
		}
	}
	expect(device, "field/1", "while it was away")
	other := deviceAt(t, n2, "")
	if err := other.Subscribe(1, "state/#"); err != nil {
		t.Fatal(err)
	}
	expect(other, "state/pump", "on")
	w = login(t, n2)
	w.MustConfirm(t, "SEND", fmt.Append(nil, backlog), "destination:/queue/backlog", "persistent:true")
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/backlog")
	for i := range backlog + 1 {
		if f := w.Expect(t, "MESSAGE"); string(f.Body) != fmt.Sprint(i) {
			t.Fatalf("message %s, want %d", f.Body, i)
		}
	}
}

// deviceAt is an MQTT client of a node, with a session if it has a name.
func deviceAt(t *testing.T, n *harness.ClusterNode, id string) *harness.MQTT {
	t.Helper()
	var m *harness.MQTT
	harness.Eventually(t, harness.StartTimeout, func() (err error) {
		m, err = loginAt(n, id)
		return err
	})
	t.Cleanup(m.Close)
	return m
}
