package cluster

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// elsewhere stands in each refusal of a node that cannot store: what the client is to do.
const elsewhere = "another node"

// refused is how a node answered to a message that it could not have stored.
type refused struct {
	protocol, text string
	after          time.Duration // since the fault
	err            error         // it was not refused
}

// check fails the test if it was not refused, or not as a client understands it.
func (r refused) check(t *testing.T, fault string) {
	t.Helper()
	if r.err != nil {
		t.Errorf("%s: by %s the message was not refused with an error (%s after the cut): %v", fault, r.protocol, r.after.Round(time.Millisecond), r.err)
	} else if !strings.Contains(r.text, elsewhere) {
		t.Errorf("%s: by %s the refusal %q does not speak of %s", fault, r.protocol, r.text, elsewhere)
	}
}

// sender sends one message to a queue, and returns the error that was answered; none is a failure.
type sender func() (refusal string, err error)

// senders are logged in at a node, past the load balancer, by each protocol.
func senders(t *testing.T, n *harness.ClusterNode) map[string]sender {
	t.Helper()
	return map[string]sender{"STOMP": stompRefusal(login(t, n)), "MQTT 5": mqttRefusal(t, n), "JSON": jsonRefusal(t, n)}
}

// refuseAll has all of them send at once, and returns how each was refused.
func refuseAll(all map[string]sender, since time.Time) (out []refused) {
	var mu sync.Mutex
	var group sync.WaitGroup
	for protocol, send := range all {
		group.Go(func() {
			text, err := send()
			after := time.Since(since)
			mu.Lock()
			out = append(out, refused{protocol, text, after, err})
			mu.Unlock()
		})
	}
	group.Wait()
	return out
}

func stompRefusal(w *harness.Wire) sender {
	return func() (string, error) {
		if err := w.Write("SEND", []byte("x"), "destination:/queue/refused", "persistent:true", "receipt:r"); err != nil {
			return "", err
		}
		f, err := w.Read(time.Minute)
		if err != nil {
			return "", err
		}
		if f.Command != "ERROR" {
			return "", fmt.Errorf("%s", f)
		}
		return f.Headers["message"] + " " + string(f.Body), nil
	}
}

func mqttRefusal(t *testing.T, n *harness.ClusterNode) sender {
	t.Helper()
	m, err := attach(n, harness.MQTTOptions{Version: harness.MQTT5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return func() (string, error) {
		pk := harness.PublishPacket("$queue/refused", []byte("x"), 1)
		pk.PacketID = m.NextID()
		if err := m.Write(pk); err != nil {
			return "", err
		}
		ack, err := m.Read(time.Minute)
		if err != nil {
			return "", err
		}
		if ack.FixedHeader.Type != packets.Puback || ack.PacketID != pk.PacketID || ack.ReasonCode < 0x80 {
			return "", fmt.Errorf("packet type %d for %d, reason %#x %s", ack.FixedHeader.Type, ack.PacketID, ack.ReasonCode, ack.Properties.ReasonString)
		}
		return fmt.Sprintf("reason %#x: %s", ack.ReasonCode, ack.Properties.ReasonString), nil
	}
}

func jsonRefusal(t *testing.T, n *harness.ClusterNode) sender {
	t.Helper()
	c := &jsonClient{}
	if _, err := c.login(n.Port("http"), proxied); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.ws.Close() })
	return func() (string, error) {
		id, err := c.ask(map[string]any{"op": "publish", "to": "/queue/refused", "body": "x"})
		if err == nil {
			err = c.ws.SetReadDeadline(time.Now().Add(time.Minute))
		}
		var m jsonMessage
		if err == nil {
			err = c.ws.ReadJSON(&m)
		}
		if err != nil {
			return "", err
		}
		if m.Reply != id || m.Error == nil {
			return "", fmt.Errorf("reply %d to %d without an error", m.Reply, id)
		}
		return m.Error.Code + ": " + m.Error.Message, nil
	}
}
