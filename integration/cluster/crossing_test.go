package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/integration/harness"
)

// member is a JSON client of one node that watches a room.
type member struct {
	ws   *websocket.Conn
	room map[string]string // session: name, or user

	changes int // of the room that it was told of
}

// dialProxied connects as the load balancer would, for a WebSocket.
func dialProxied(_, addr string) (net.Conn, error) { return proxied(addr) }

func joinRoom(t *testing.T, n *harness.ClusterNode, name, room string) *member {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: patience, Subprotocols: []string{"mqgate.json.v1"},
		NetDial: dialProxied}
	ws, resp, err := d.Dial("ws://"+n.Port("http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	t.Cleanup(func() { ws.Close() })
	m := &member{ws: ws, room: map[string]string{}}
	for _, r := range []map[string]any{
		{"id": 1, "op": "connect", "user": harness.ClusterUser, "password": harness.ClusterPassword, "name": name},
		{"id": 2, "op": "subscribe", "sub": "room", "to": room, "presence": true},
	} {
		if err := ws.WriteJSON(r); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// await reads events until those present are these.
func (m *member) await(t *testing.T, want ...string) {
	t.Helper()
	if err := m.ws.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	for {
		var here []string
		for _, name := range m.room {
			here = append(here, name)
		}
		if slices.Sort(here); slices.Equal(here, want) {
			return
		}
		var e struct {
			Event, Error          string
			Present, Joined, Left []struct{ Session, Name, Protocol string }
		}
		_, text, err := m.ws.ReadMessage()
		if err != nil {
			t.Fatalf("present are %v, not %v: %v", here, want, err)
		}
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if e.Event == "presence" {
			m.changes++
		}
		if e.Event == "presence" && e.Present != nil {
			clear(m.room)
		}
		for _, p := range slices.Concat(e.Present, e.Joined) {
			m.room[p.Session] = p.Protocol + " " + p.Name
		}
		for _, p := range e.Left {
			delete(m.room, p.Session)
		}
	}
}

// login is a STOMP client of one node, past the load balancer.
func login(t *testing.T, n *harness.ClusterNode, headers ...string) *harness.Wire {
	t.Helper()
	s, err := proxied(n.Port("stomp"))
	if err != nil {
		t.Fatal(err)
	}
	w := harness.NewWire(s)
	t.Cleanup(w.Close)
	if err := w.Login(append(headers, "login:"+harness.ClusterUser, "passcode:"+harness.ClusterPassword)...); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestCrossing runs three nodes with storage and one without: who is in a room is the
// same on all of them and over all protocols, the people of a node that is killed
// leave it, and any node tells of all queues.
func TestCrossing(t *testing.T) {
	dirs := harness.TempDir(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: 4, Set: []string{"limits.subscriptions_per_connection=100000"}, Data: func(node string) (string, []string) {
		return filepath.Join(dirs, node), []string{fmt.Sprintf("cluster.storage=%v", node != "n4")}
	}})
	leader, bare := c.Leader(t), c.Nodes[3]
	if leader == bare.Name {
		t.Errorf("%s leads, which stores nothing", leader)
	}
	if _, err := os.Stat(filepath.Join(bare.DataDir(), "jetstream")); err == nil {
		t.Errorf("%s stores something", bare.Name)
	}
	edges := slices.DeleteFunc(slices.Clone(c.Nodes[:3]), func(n *harness.ClusterNode) bool { return n.Name == leader })
	stays, dies := edges[0], edges[1]
	ann := joinRoom(t, bare, "Ann", "/topic/rooms.x")
	ann.await(t, "ws Ann")
	joinRoom(t, dies, "Bob", "/topic/rooms.x")
	s, err := proxied(dies.Port("mqtt"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	device, err := harness.LoginMQTT(s, harness.MQTTOptions{ClientID: "sensor", User: harness.ClusterUser, Password: harness.ClusterPassword})
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Subscribe(0, "rooms/+"); err != nil {
		t.Fatal(err)
	}
	ann.await(t, "ws Ann", "ws Bob", "mqtt sensor")
	stomp := login(t, stays)
	stomp.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/topic/rooms.x")
	ann.await(t, "ws Ann", "ws Bob", "mqtt sensor", "stomp ")
	dee := joinRoom(t, stays, "Dee", "/topic/rooms.x") // gets the list
	dee.await(t, "ws Ann", "ws Bob", "ws Dee", "mqtt sensor", "stomp ")

	// What is stored through a node that stores nothing is there for a client of any other.
	login(t, bare).MustConfirm(t, "SEND", []byte("x"), "destination:/queue/crossing", "persistent:true")
	for _, n := range c.Nodes {
		if out := n.Queue("ls"); !strings.Contains(out, "crossing") {
			t.Errorf("mqgate queue ls on %s: %s", n.Name, out)
		}
	}

	dies.Kill()
	ann.await(t, "ws Ann", "ws Dee", "stomp ")
	dee.await(t, "ws Ann", "ws Dee", "stomp ")
	stomp.Close()
	ann.await(t, "ws Ann", "ws Dee")

	n := setting(t, "MQGATE_TEST_INTERESTS", 2000)
	found := interests(t, login(t, bare), bare, login(t, stays), n)
	t.Logf("ledger of crossing: 4 nodes, one without storage and one killed; who is in a room agreed at %d and %d changes; of %d filters %d were sent to from another node, lost 0", ann.changes, dee.changes, n, found)
}

// interests has a client subscribe to n topics that nobody else wants: a message to any
// of them finds it from another node. How long that took and what it takes of the node's
// memory is in the log. It returns to how many it sent.
func interests(t *testing.T, in *harness.Wire, node *harness.ClusterNode, from *harness.Wire, n int) (sent int) {
	t.Helper()
	before, began := node.RSS(), time.Now()
	out := bufio.NewWriter(in.Socket)
	receipt := ""
	for i := range n {
		if i == n-1 {
			receipt = "receipt:all\n"
		}
		fmt.Fprintf(out, "SUBSCRIBE\nid:i%d\n%sdestination:/topic/interest.%d.x\n\n\x00", i, receipt, i)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	f, err := in.Read(2 * time.Minute)
	if err != nil || f.Command != "RECEIPT" {
		t.Fatalf("%v, %v", f, err)
	}
	took := time.Since(began)
	t.Logf("%d filters on a node: %.0f/s, %.1f KiB each", n, float64(n)/took.Seconds(), float64(node.RSS()-before)/1024/float64(n))
	for ; sent < 20; sent++ {
		i := rand.IntN(n)
		from.MustConfirm(t, "SEND", []byte("x"), fmt.Sprintf("destination:/topic/interest.%d.x", i))
		m := in.Expect(t, "MESSAGE")
		if got := m.Headers["subscription"]; got != fmt.Sprint("i", i) {
			t.Fatalf("the message came for %s, not for i%d", got, i)
		}
	}
	return sent
}
