package cluster

import (
	"fmt"
	"testing"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestSubscribeIsABarrier has a client of one node subscribe a thousand times, and one of another publish as soon as that is
// confirmed, once: by all protocols, live and kept. Every message comes.
func TestSubscribeIsABarrier(t *testing.T) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodeCount})
	c.Leader(t)
	kinds := []struct {
		name      string
		rounds    int
		subscribe func(t *testing.T, n *harness.ClusterNode) (subscribe, receive func(topic string))
	}{
		{"STOMP", 1000, stompSubscriber},
		{"STOMP durable", 300, durableSubscriber},
		{"MQTT QoS 0", 1000, mqttSubscriber("", 0, false)},
		{"MQTT QoS 1", 1000, mqttSubscriber("", 1, false)},
		{"MQTT QoS 1 in a session", 300, mqttSubscriber("", 1, true)},
		{"MQTT shared", 1000, mqttSubscriber("$share/g/", 1, false)},
		{"JSON", 1000, jsonSubscriber},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			var subscribe, receive []func(string)
			var senders []*harness.Wire
			for _, n := range c.Nodes {
				s, r := k.subscribe(t, n)
				subscribe, receive = append(subscribe, s), append(receive, r)
				senders = append(senders, login(t, n))
			}
			for i := range k.rounds {
				topic := fmt.Sprintf("barrier/%x/%d", k.name, i)
				at, from := i%len(c.Nodes), (i+1+i/len(c.Nodes)%2)%len(c.Nodes)
				subscribe[at](topic)
				senders[from].MustConfirm(t, "SEND", []byte(topic), "destination:/topic/"+topic)
				receive[at](topic)
			}
			t.Logf("ledger: rounds %d, sends %d, lost 0", k.rounds, k.rounds)
		})
	}
}

func stompSubscriber(t *testing.T, n *harness.ClusterNode) (subscribe, receive func(string)) {
	w := login(t, n)
	return func(topic string) {
			w.MustConfirm(t, "SUBSCRIBE", nil, "id:"+topic, "destination:/topic/"+topic)
		}, func(topic string) {
			if m := w.Expect(t, "MESSAGE"); string(m.Body) != topic {
				t.Fatalf("%s came, not %s", m.Body, topic)
			}
			w.MustConfirm(t, "UNSUBSCRIBE", nil, "id:"+topic)
		}
}

func durableSubscriber(t *testing.T, n *harness.ClusterNode) (subscribe, receive func(string)) {
	s, err := proxied(n.Port("stomp"))
	if err != nil {
		t.Fatal(err)
	}
	w := harness.NewWire(s)
	t.Cleanup(w.Close)
	if err := w.Login("client-id:durable-"+n.Name, "login:"+harness.ClusterUser, "passcode:"+harness.ClusterPassword); err != nil {
		t.Fatal(err)
	}
	return func(topic string) {
			w.MustConfirm(t, "SUBSCRIBE", nil, "id:"+topic, "destination:/topic/"+topic, "activemq.subscriptionName:"+topic)
		}, func(topic string) {
			if m := w.Expect(t, "MESSAGE"); string(m.Body) != topic {
				t.Fatalf("%s came, not %s", m.Body, topic)
			}
			w.MustConfirm(t, "UNSUBSCRIBE", nil, "id:"+topic)
		}
}

func mqttSubscriber(prefix string, qos byte, durable bool) func(*testing.T, *harness.ClusterNode) (subscribe, receive func(string)) {
	return func(t *testing.T, n *harness.ClusterNode) (subscribe, receive func(string)) {
		m := device(t, n, harness.MQTTOptions{ClientID: fmt.Sprintf("barrier-%s-%d-%v%s", n.Name, qos, durable, prefix), Durable: durable})
		return func(topic string) {
				if err := m.Subscribe(qos, prefix+topic); err != nil {
					t.Fatal(err)
				}
			}, func(topic string) {
				pk, err := m.Message(patience)
				if err != nil || string(pk.Payload) != topic {
					t.Fatalf("%v, not %s: %v", pk, topic, err)
				}
				if err := m.Settle(pk); err != nil {
					t.Fatal(err)
				}
				if err := m.Unsubscribe(prefix + topic); err != nil {
					t.Fatal(err)
				}
			}
	}
}

func jsonSubscriber(t *testing.T, n *harness.ClusterNode) (subscribe, receive func(string)) {
	c := page(t, n, "")
	return func(topic string) {
			c.must(t, map[string]any{"op": "subscribe", "sub": topic, "to": "/topic/" + topic})
		}, func(topic string) {
			if m, err := c.read(); err != nil || m.Body != topic {
				t.Fatalf("%+v, not %s: %v", m, topic, err)
			}
			c.must(t, map[string]any{"op": "unsubscribe", "sub": topic})
		}
}
