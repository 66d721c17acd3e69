package cluster

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// What stands in the store while a test does harm to it, and nobody takes: what comes and goes meanwhile says nothing of what a
// node copied.
const (
	standingQueue   = 400
	standingSession = 200
)

// standingBody is long enough for the messages to fill a good part of a block.
func standingBody(i int) []byte { return fmt.Appendf(nil, "%d %s", i, bytes.Repeat([]byte("x"), 500)) }

// leaveStanding has a queue without a consumer, a retained message and the session of a client that is away.
func leaveStanding(t *testing.T, n *harness.ClusterNode) {
	t.Helper()
	away, err := loginAt(n, "standing")
	if err != nil {
		t.Fatal(err)
	}
	if err := away.Subscribe(1, "standing/session"); err != nil {
		t.Fatal(err)
	}
	if err := away.Disconnect(); err != nil {
		t.Fatal(err)
	}
	w := login(t, n)
	for i := range standingQueue {
		w.MustConfirm(t, "SEND", standingBody(i), "destination:/queue/standing", "persistent:true")
	}
	m, err := loginAt(n, "")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range standingSession {
		if err := m.Publish(harness.PublishPacket("standing/session", standingBody(i), 1)); err != nil {
			t.Fatal(err)
		}
	}
	retained := harness.PublishPacket("standing/retained", []byte("kept"), 1)
	retained.FixedHeader.Retain = true
	if err := m.Publish(retained); err != nil {
		t.Fatal(err)
	}
}

// checkStanding has all of it come, in order and once.
func checkStanding(t *testing.T, n *harness.ClusterNode) {
	t.Helper()
	w := login(t, n)
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:standing", "destination:/queue/standing")
	queue := 0
	for ; queue < standingQueue; queue++ {
		f, err := w.Read(patience)
		if err != nil || f.Command != "MESSAGE" || !bytes.Equal(f.Body, standingBody(queue)) {
			t.Errorf("the queue gave %.80s where message %d was to come: %v", fmt.Sprint(f), queue, err)
			break
		}
	}
	m, err := loginAt(n, "standing")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !m.Present {
		t.Error("the session was lost")
	}
	session, marked := 0, 0
	for ; m.Present && session < standingSession; session++ {
		pk, err := m.Message(patience)
		if err != nil || !bytes.Equal(pk.Payload, standingBody(session)) {
			t.Errorf("the session does not have message %d: %v", session, err)
			break
		}
		if pk.FixedHeader.Dup {
			marked++
		}
		if err := m.Answer(packets.Puback, pk.PacketID); err != nil {
			t.Fatal(err)
		}
	}
	retained := 0
	if err := m.Subscribe(1, "standing/retained"); err != nil {
		t.Error(err)
	} else if pk, err := m.Message(patience); err != nil || string(pk.Payload) != "kept" || !pk.FixedHeader.Retain {
		t.Errorf("the retained message did not come: %v, %v", pk, err)
	} else {
		retained = 1
	}
	t.Logf("ledger of what stood: of a queue without consumer %d of %d, of the session of a client that was away %d of %d (marked %d), retained %d of 1",
		queue, standingQueue, session, standingSession, marked, retained)
}

// inTurn does harm to the data of all nodes, one after the other, each ended for it and current again before the next. One that
// does not start afterwards begins anew without data, as the manual says.
func inTurn(t *testing.T, c *harness.Cluster, l *load, end, harm func(n *harness.ClusterNode)) {
	t.Helper()
	for _, n := range c.Nodes {
		leads := c.Leader(t) == n.Name
		end(n)
		harm(n)
		l.progress(20, time.Minute)
		if err := n.Restart(); err != nil {
			t.Logf("%s does not start: %s", n.Name, lastLine(err.Error()))
			removeData(t, n)
			if err := n.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		c.AwaitReady(t, n, true)
		c.AwaitCurrent(t)
		l.progress(20, time.Minute)
		t.Logf("%s, leader %v: current again", n.Name, leads)
	}
}
