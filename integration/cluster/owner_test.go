package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestOneOwner has a session's client connect to another node while the node that serves it is cut off, or stands still, with its
// connection open: from then on the old connection gets nothing, neither while the node is away nor when it is back, and ends.
func TestOneOwner(t *testing.T) {
	chaos(t)
	for _, kind := range []string{"cut off", "standing still"} {
		for _, leads := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, leading %v", kind, leads), func(t *testing.T) { testOneOwner(t, kind == "cut off", leads) })
		}
	}
}

func testOneOwner(t *testing.T, cut, leads bool) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: several(t), Network: true})
	leader, other := leaderAndOther(t, c)
	from, to := other, leader
	if leads {
		from, to = leader, other
	}
	old, err := loginAt(from, "owned")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	harness.Eventually(t, time.Minute, func() error { return old.Subscribe(1, "owned") })
	sent := 0
	publish(t, to, "owned", &sent, 1)
	if pk, err := old.Message(patience); err != nil || string(pk.Payload) != "0" {
		t.Fatalf("%v, %v", pk, err)
	} // and it is not acknowledged

	if cut {
		c.Network.Isolate(from.Name, c.Names(from.Name)...)
		c.AwaitReady(t, from, false)
	} else {
		from.Pause()
	}
	var now *harness.MQTT
	harness.Eventually(t, time.Minute, func() (err error) { now, err = loginAt(to, "owned"); return err })
	defer now.Close()
	if !now.Present {
		t.Error("the session was lost")
	}
	take(t, now, 0, 1)
	publish(t, to, "owned", &sent, 20)
	take(t, now, 1, 20)
	if cut {
		c.Network.Heal()
	} else {
		from.Resume()
	}
	publish(t, to, "owned", &sent, 20)
	take(t, now, 21, 20)
	c.AwaitReady(t, from, true)
	if leads { // and when it leads again
		to.Kill()
		if err := to.Restart(); err != nil {
			t.Fatal(err)
		}
		c.AwaitReady(t, to, true)
	}
	for {
		pk, err := old.Read(time.Minute)
		var op net.Error
		switch {
		case err != nil && errors.As(err, &op) && op.Timeout():
			t.Error("the old connection is still open")
			return
		case err != nil:
			return // it has ended
		case pk.FixedHeader.Type == packets.Publish:
			t.Errorf("the old connection got %q", pk.Payload)
		}
	}
}

// loginAt is an MQTT client of one node, past the load balancer, with a session if it has a name.
func loginAt(n *harness.ClusterNode, clientID string) (*harness.MQTT, error) {
	return attach(n, harness.MQTTOptions{ClientID: clientID, Durable: clientID != ""})
}

func attach(n *harness.ClusterNode, o harness.MQTTOptions) (*harness.MQTT, error) {
	socket, err := proxied(n.Port("mqtt"))
	if err != nil {
		return nil, err
	}
	o.User, o.Password = harness.ClusterUser, harness.ClusterPassword
	m, err := harness.LoginMQTT(socket, o)
	if err != nil {
		socket.Close()
	}
	return m, err
}

// publish sends numbers, each until it is confirmed.
func publish(t *testing.T, n *harness.ClusterNode, topic string, next *int, count int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range count {
		harness.Eventually(t, time.Minute, func() error {
			m, err := loginAt(n, "")
			if err != nil {
				return err
			}
			defer m.Close()
			return m.Publish(harness.PublishPacket(topic, fmt.Append(nil, *next), 1))
		})
		if *next++; ctx.Err() != nil {
			t.Fatal("nothing is confirmed")
		}
	}
}

// take receives numbers in order, whatever comes again.
func take(t *testing.T, m *harness.MQTT, from, count int) {
	t.Helper()
	for want := from; want < from+count; {
		pk, err := m.Message(patience)
		if err != nil {
			t.Fatalf("waiting for %d: %v", want, err)
		}
		var got int
		if _, err := fmt.Sscan(string(pk.Payload), &got); err != nil || got > want {
			t.Fatalf("got %q, want %d", pk.Payload, want)
		}
		if err := m.Answer(packets.Puback, pk.PacketID); err != nil {
			t.Fatal(err)
		}
		if got == want {
			want++
		}
	}
}
