package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestOneOwner has a session's client connect to another node at once when the node that serves it is cut off, or stands still,
// with its connection open and messages waiting: from then on the old connection gets nothing, whatever it acknowledges, neither
// while the node is away nor when it is back, and ends.
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
	// With a window of one each acknowledgement asks for the next message.
	old, err := attach(from, harness.MQTTOptions{Version: harness.MQTT5, ClientID: "owned", Durable: true, ReceiveMaximum: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	harness.Eventually(t, time.Minute, func() error { return old.Subscribe(1, "owned") })
	sent := 0
	publish(t, to, "owned", &sent, 10)
	held, err := old.Message(patience)
	if err != nil || string(held.Payload) != "0" {
		t.Fatalf("%v, %v", held, err)
	}

	if cut {
		c.Network.Isolate(from.Name, c.Names(from.Name)...)
	} else {
		from.Pause()
	}
	began := time.Now()
	var now *harness.MQTT
	harness.Eventually(t, time.Minute, func() (err error) { now, err = loginAt(to, "owned"); return err })
	defer now.Close()
	took := time.Since(began)
	if !now.Present {
		t.Error("the session was lost")
	}
	wasOpen := old.Answer(packets.Puback, held.PacketID) == nil
	ended := make(chan oldEnd, 1)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer old.Close()
	reading.Go(func() { ended <- readToEnd(t, old) }) // also while the rest goes on: it says at once what came
	take(t, now, 0, 10)
	publish(t, to, "owned", &sent, 20)
	take(t, now, 10, 20)
	if cut {
		c.AwaitReady(t, from, false)
		c.Network.Heal()
	} else {
		from.Resume()
	}
	back := time.Now()
	publish(t, to, "owned", &sent, 20)
	take(t, now, 30, 20)
	c.AwaitReady(t, from, true)
	if leads { // and when it leads again
		to.Kill()
		if err := to.Restart(); err != nil {
			t.Fatal(err)
		}
		c.AwaitReady(t, to, true)
	}
	end := <-ended
	t.Logf("ledger of owners: elsewhere after %s, old connection open then %v; sent %d, taken by the new connection %d, by the old one afterwards %d; that ended %s after the node was back",
		took.Round(time.Millisecond), wasOpen, sent, 50, end.came, end.at.Sub(back).Round(time.Millisecond))
	if end.err != nil {
		t.Errorf("the old connection did not end: %v", end.err)
	}
}

// oldEnd is how the connection of an owner ended that is none any more.
type oldEnd struct {
	came int
	at   time.Time
	err  error // it did not end
}

// readToEnd reads all that comes, which is to be nothing, and acknowledges it.
func readToEnd(t *testing.T, m *harness.MQTT) (end oldEnd) {
	for {
		pk, err := m.Read(3 * time.Minute)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				end.err = err
			}
			end.at = time.Now()
			return end
		}
		if pk.FixedHeader.Type == packets.Publish {
			end.came++
			t.Errorf("the old connection got %q", pk.Payload)
			_ = m.Answer(packets.Puback, pk.PacketID) // it may have ended
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
