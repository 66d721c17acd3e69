package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// sessionClient is one device of TestSessionsReconnect.
type sessionClient struct {
	id   int
	m    *harness.MQTT
	lost bool // it did not find its session again
	dead bool // its connection carried nothing any more
}

func (s *sessionClient) connect(ctx context.Context, c *harness.Cluster) error {
	for ctx.Err() == nil {
		n := c.Nodes[rand.IntN(len(c.Nodes))]
		socket, err := proxied(n.Port("mqtt"))
		if err == nil {
			var m *harness.MQTT
			m, err = harness.LoginMQTT(socket, harness.MQTTOptions{ClientID: fmt.Sprint("device-", s.id), Durable: true,
				User: harness.ClusterUser, Password: harness.ClusterPassword})
			if err == nil {
				s.lost = s.lost || s.m != nil && !m.Present
				s.m = m
				return nil
			}
			socket.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(100+rand.IntN(400)) * time.Millisecond):
		}
	}
	return ctx.Err()
}

// take reads one message, acknowledges it and returns its body. As a device does, it asks whether its connection is alive when
// nothing comes, and makes another if not: with thousands of sockets on loopback some stop carrying anything.
func (s *sessionClient) take(ctx context.Context, c *harness.Cluster) (string, error) {
	pk, err := s.m.Message(patience)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.m.Ping() != nil {
		s.dead = true
		s.m.Close()
		if err := s.connect(ctx, c); err != nil {
			return "", err
		}
		pk, err = s.m.Message(patience)
	}
	if err != nil {
		return "", err
	}
	return string(pk.Payload), s.m.Answer(packets.Puback, pk.PacketID)
}

// TestSessionsReconnect has many MQTT sessions, spread over all nodes, and kills a
// node. Its clients come back within 10 seconds, on other nodes: each finds its
// session, and what was published for it meanwhile.
func TestSessionsReconnect(t *testing.T) {
	chaos(t)
	size := setting(t, "MQGATE_TEST_SESSIONS", 500)
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodes(t)})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	clients := make([]*sessionClient, size)
	each(clients, func(i int) error {
		clients[i] = &sessionClient{id: i}
		if err := clients[i].connect(ctx, c); err != nil {
			return err
		}
		return clients[i].m.Subscribe(1, fmt.Sprint("device/", i))
	}).check(t)

	victim := c.Nodes[0]
	victim.Kill()
	killed := time.Now()
	restarted := make(chan error, 1)
	if len(c.Nodes) == 1 {
		restarted <- victim.Restart()
	} else {
		restarted <- nil
	}
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var back []time.Duration
	moved := 0
	atATime(len(clients), clients, func(i int) error { // each is on its own: none waits for others' waits
		s := clients[i]
		if err := s.m.Ping(); err != nil { // its node is gone
			select {
			case <-time.After(time.Duration(rand.IntN(10_000)) * time.Millisecond): // devices do not come all at once
			case <-ctx.Done():
			}
			if err := s.connect(ctx, c); err != nil {
				return err
			}
			mu.Lock()
			moved++
			mu.Unlock()
		}
		mu.Lock()
		defer mu.Unlock()
		back = append(back, time.Since(killed))
		return nil
	}).check(t)
	slices.Sort(back)
	sender := publisher(t, ctx, c)
	defer sender.Close()
	for i := range clients {
		if err := sender.Publish(harness.PublishPacket(fmt.Sprint("device/", i), fmt.Append(nil, i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	each(clients, func(i int) error {
		defer clients[i].m.Close()
		if body, err := clients[i].take(ctx, c); err != nil || body != fmt.Sprint(i) {
			return fmt.Errorf("device %d: %q, %w", i, body, err)
		}
		return nil
	}).check(t)
	lost, dead := 0, 0
	for _, s := range clients {
		if s.lost {
			lost++
		}
		if s.dead {
			dead++
		}
	}
	t.Logf("ledger: %d sessions on %d nodes, %d lost their connection with a node; 99%% were there %s after the kill, all after %s; connections dead without an end %d; sessions lost %d",
		size, len(c.Nodes), moved, back[len(back)*99/100].Round(time.Millisecond), back[len(back)-1].Round(time.Millisecond), dead, lost)
	if lost > 0 || moved == 0 {
		t.Errorf("%d sessions lost of %d that had to reconnect", lost, moved)
	}
}

func publisher(t *testing.T, ctx context.Context, c *harness.Cluster) *harness.MQTT {
	t.Helper()
	s := &sessionClient{id: -1}
	if err := s.connect(ctx, c); err != nil {
		t.Fatal(err)
	}
	return s.m
}

// failures are those of many clients.
type failures []error

func (f failures) check(t *testing.T) {
	t.Helper()
	if err := errors.Join(f[:min(len(f), 5)]...); err != nil {
		t.Fatalf("%d clients failed, such as: %v", len(f), err)
	}
}

// each does something for all clients, some hundred at a time.
func each(clients []*sessionClient, f func(i int) error) failures {
	return atATime(min(len(clients), 400), clients, f)
}

func atATime(n int, clients []*sessionClient, f func(i int) error) (all failures) {
	var mu sync.Mutex
	var group sync.WaitGroup
	next := make(chan int)
	for range n {
		group.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					mu.Lock()
					all = append(all, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range clients {
		next <- i
	}
	close(next)
	group.Wait()
	return all
}
