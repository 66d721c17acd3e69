package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// place is where a row of the tables below has its clients: on x and y, and some on the third node.
type place struct {
	*harness.Cluster
	x, y, z *harness.ClusterNode
	name    string // is in all names that the row uses: rows do not meet
}

func (p place) queue(name string) string { return "/queue/" + p.name + "." + name }
func (p place) topic(name string) string { return p.name + "/" + name }

// across are what clients of different nodes do with each other.
var across = []struct {
	name string
	run  func(*testing.T, place)
}{
	{"wills", willsCross},
	{"retained", retainedCrosses},
	{"MQTT session taken over", mqttTakeover},
	{"clean MQTT client taken over", cleanTakeover},
	{"STOMP durable subscription taken over", stompTakeover},
	{"JSON client taken over", jsonTakeover},
	{"temporary queue", temporaryQueueCrosses},
	{"MQTT 5 response topic", responseTopicCrosses},
	{"JSON request", jsonRequestCrosses},
	{"token of a visitor", visitorCrosses},
	{"selectors", selectorsCross},
	{"transaction", transactionCrosses},
	{"shared subscription of clean sessions", liveShareCrosses},
	{"live topic", liveTopicCrosses},
}

// losses are what becomes of it when x is killed: each row sets its clients up, and returns what is to be seen on the others then.
var losses = []struct {
	name string
	run  func(*testing.T, place) func(*testing.T)
}{
	{"sessions", sessionsOfTheDead},
	{"message groups", groupsOfTheDead},
	{"exclusive consumer", exclusiveOfTheDead},
	{"exclusive consumer that lives", exclusiveOfTheLiving},
	{"shared subscription", sharesOfTheDead},
	{"transaction", transactionOfTheDead},
	{"requests, selectors and retained messages", restOfTheLiving},
	{"wills", willsOfTheDead}, // which take the longest
}

// TestAcrossNodes has clients of three real nodes meet: on two that follow, and on one that follows and the one that leads; then a
// node that follows is killed, the one that leads, two, and all.
func TestAcrossNodes(t *testing.T) {
	c := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodeCount, Network: true, Set: visitorsMayCome(t)})
	leader, edges := roles(t, c)
	places := []place{
		{c, edges[0], edges[1], leader, "followers"},
		{c, leader, edges[0], edges[1], "from the leader"},
		{c, edges[0], leader, edges[1], "to the leader"},
	}
	for _, p := range places {
		title := p.name
		p.name = strings.ReplaceAll(p.name, " ", "-")
		t.Run(title, func(t *testing.T) {
			for _, row := range across {
				t.Run(row.name, func(t *testing.T) { row.run(t, p) })
			}
		})
	}
	for _, leads := range []bool{false, true} {
		leader, edges := roles(t, c)
		p := place{c, edges[0], edges[1], leader, "a-follower-dies"}
		if leads {
			p = place{c, leader, edges[0], edges[1], "the-leader-dies"}
		}
		t.Run(strings.ReplaceAll(p.name, "-", " "), func(t *testing.T) { lose(t, p) })
	}
	t.Run("the leader is left", func(t *testing.T) {
		leader, edges := roles(t, c)
		loseMost(t, place{c, edges[0], edges[1], leader, "leader-is-left"})
	})
	t.Run("a follower is left", func(t *testing.T) {
		chaos(t) // it takes ten seconds more
		leader, edges := roles(t, c)
		loseMost(t, place{c, leader, edges[0], edges[1], "follower-is-left"})
	})
	t.Run("all die", func(t *testing.T) {
		leader, edges := roles(t, c)
		loseAll(t, place{c, edges[0], edges[1], leader, "all-die"})
	})
}

// roles returns the node that leads, and the others.
func roles(t *testing.T, c *harness.Cluster) (leader *harness.ClusterNode, edges []*harness.ClusterNode) {
	t.Helper()
	leader, _ = leaderAndOther(t, c)
	return leader, slices.DeleteFunc(slices.Clone(c.Nodes), func(n *harness.ClusterNode) bool { return n == leader })
}

// device is an MQTT client of one node.
func device(t *testing.T, n *harness.ClusterNode, o harness.MQTTOptions) *harness.MQTT {
	t.Helper()
	m, err := attach(n, o)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	t.Cleanup(m.Close)
	return m
}

// page is a JSON client of one node.
func page(t *testing.T, n *harness.ClusterNode, clientID string) *jsonClient {
	t.Helper()
	return pageOf(t, n, map[string]any{"user": harness.ClusterUser, "password": harness.ClusterPassword, "clientId": clientID})
}

// pageOf is page for any login.
func pageOf(t *testing.T, n *harness.ClusterNode, login map[string]any) *jsonClient {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: patience, Subprotocols: []string{"mqgate.json.v1"}, NetDial: dialProxied}
	ws, resp, err := d.Dial("ws://"+n.Port("http")+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	t.Cleanup(func() { ws.Close() })
	c := &jsonClient{ws: ws}
	login["op"] = "connect"
	c.must(t, login)
	return c
}

// must asks what has an answer at once.
func (c *jsonClient) must(t *testing.T, request map[string]any) {
	t.Helper()
	id, err := c.ask(request)
	if err == nil {
		err = c.answer(id)
	}
	if err != nil {
		t.Fatalf("%v: %v", request, err)
	}
}

func subscribe(t *testing.T, m *harness.MQTT, qos byte, filters ...string) {
	t.Helper()
	if err := m.Subscribe(qos, filters...); err != nil {
		t.Fatalf("subscribe to %v: %v", filters, err)
	}
}

// says publishes, and waits for the confirmation.
func says(t *testing.T, m *harness.MQTT, topic, body string, qos byte, change ...func(*packets.Packet)) {
	t.Helper()
	pk := harness.PublishPacket(topic, []byte(body), qos)
	for _, f := range change {
		f(pk)
	}
	if err := m.Publish(pk); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

func retained(pk *packets.Packet) { pk.FixedHeader.Retain = true }

// next takes a message, and acknowledges it.
func next(t *testing.T, m *harness.MQTT) *packets.Packet {
	t.Helper()
	pk, err := m.Message(time.Minute)
	if err == nil {
		err = m.Settle(pk)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pk
}

// gets takes the next messages, which must be these.
func gets(t *testing.T, m *harness.MQTT, bodies ...string) (all []*packets.Packet) {
	t.Helper()
	for _, want := range bodies {
		pk := next(t, m)
		if string(pk.Payload) != want {
			t.Fatalf("%q came on %s, want %q", pk.Payload, pk.TopicName, want)
		}
		all = append(all, pk)
	}
	return all
}

// reads is gets for STOMP, in mode client-individual or auto.
func reads(t *testing.T, w *harness.Wire, bodies ...string) (all []*harness.Frame) {
	t.Helper()
	for _, want := range bodies {
		f := w.Expect(t, "MESSAGE")
		if string(f.Body) != want {
			t.Fatalf("%s came, want %q", f, want)
		}
		if id := f.Headers["ack"]; id != "" {
			w.MustConfirm(t, "ACK", nil, "id:"+id)
		}
		all = append(all, f)
	}
	return all
}

// sends stores messages in a queue or topic.
func sends(t *testing.T, w *harness.Wire, destination string, bodies ...string) {
	t.Helper()
	for _, b := range bodies {
		w.MustConfirm(t, "SEND", []byte(b), "destination:"+destination, "persistent:true")
	}
}

// reaches returns once a subscriber has what is published: until the other nodes know of its interest, which takes some
// milliseconds, what is not stored may miss it.
func reaches(t *testing.T, publish func(body string), sub *harness.MQTT) {
	t.Helper()
	harness.Eventually(t, time.Minute, func() error {
		publish("known?")
		if !sub.Waits(50 * time.Millisecond) {
			return errors.New("a subscription is not known to another node")
		}
		return nil
	})
	publish("known")
	skip(t, sub, "known?", "known")
}

// skip reads messages up to the last one.
func skip(t *testing.T, m *harness.MQTT, some, last string) {
	t.Helper()
	for {
		switch body := string(next(t, m).Payload); body {
		case last:
			return
		case some:
		default:
			t.Fatalf("%q came, want %q or %q", body, some, last)
		}
	}
}

// bye leaves with DISCONNECT, and returns when the gateway has heard it.
func bye(t *testing.T, m *harness.MQTT) {
	t.Helper()
	if err := m.Write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}}); err != nil {
		t.Fatal(err)
	}
	if pk, err := m.Read(time.Minute); !errors.Is(err, io.EOF) {
		t.Fatalf("behind DISCONNECT came %+v, %v", pk, err)
	}
	m.Close()
}

func numbers(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

func willsCross(t *testing.T, p place) {
	topic := p.topic("wills")
	heir, other := device(t, p.y, harness.MQTTOptions{}), device(t, p.y, harness.MQTTOptions{})
	subscribe(t, heir, 1, topic)
	reaches(t, func(body string) { says(t, other, topic, body, 1) }, heir)
	speaker := device(t, p.x, harness.MQTTOptions{})
	reaches(t, func(body string) { says(t, speaker, topic, body, 1) }, heir)
	bye(t, device(t, p.x, harness.MQTTOptions{ClientID: p.name + "-left", Will: harness.PublishPacket(topic, []byte("never"), 1)}))
	says(t, speaker, topic, "none", 1)
	gets(t, heir, "none")
	device(t, p.x, harness.MQTTOptions{ClientID: p.name + "-fell", Will: harness.PublishPacket(topic, []byte("fell"), 1)}).Close()
	gets(t, heir, "fell")
	says(t, speaker, topic, "once", 1)
	gets(t, heir, "once")
}

func retainedCrosses(t *testing.T, p place) {
	stomp, mqtt := login(t, p.x), device(t, p.x, harness.MQTTOptions{})
	set := func(body string) {
		t.Helper()
		stomp.MustConfirm(t, "SEND", []byte(body), "destination:/topic/"+p.topic("kept/stomp"), "retain:true")
		says(t, mqtt, p.topic("kept/mqtt"), body, 1, retained)
	}
	last := func(want ...string) {
		t.Helper()
		for _, n := range []*harness.ClusterNode{p.y, p.z} {
			m := device(t, n, harness.MQTTOptions{})
			subscribe(t, m, 1, p.topic("kept/#"))
			says(t, m, p.topic("kept/end"), "end", 1) // behind the retained ones
			var got []string
			for {
				pk := next(t, m)
				if string(pk.Payload) == "end" {
					break
				}
				if !pk.FixedHeader.Retain {
					t.Errorf("%s: %q on %s is not marked as retained", n.Name, pk.Payload, pk.TopicName)
				}
				got = append(got, pk.TopicName[len(p.topic("kept/")):]+" "+string(pk.Payload))
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: retained are %q, want %q", n.Name, got, want)
			}
		}
	}
	set("old")
	set("new")
	last("mqtt new", "stomp new")
	set("")
	last()
}

// temporaryQueueCrosses: a client of each node answers one of the other.
func temporaryQueueCrosses(t *testing.T, p place) {
	for i, n := range [][2]*harness.ClusterNode{{p.x, p.y}, {p.y, p.x}} {
		requests := p.queue(fmt.Sprintf("requests.%d", i))
		asks, worker := login(t, n[0]), login(t, n[1])
		asks.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/temp-queue/answers")
		worker.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+requests, "ack:client-individual")
		asks.MustConfirm(t, "SEND", []byte("2+2"), "destination:"+requests, "reply-to:/temp-queue/answers", "correlation-id:c1")
		f := reads(t, worker, "2+2")[0]
		worker.MustConfirm(t, "SEND", []byte("4"), "destination:"+f.Headers["reply-to"], "correlation-id:"+f.Headers["correlation-id"])
		if f := reads(t, asks, "4")[0]; f.Headers["correlation-id"] != "c1" {
			t.Errorf("the answer is %s", f)
		}
		asks.Close()
		harness.Eventually(t, time.Minute, func() error {
			worker.Must(t, "SEND", []byte("5"), "destination:"+f.Headers["reply-to"], "receipt:r")
			if answer, err := worker.Read(time.Minute); err != nil || answer.Command != "ERROR" {
				return fmt.Errorf("a reply to a client that has gone was answered by %s, %v", answer, err)
			}
			return nil
		})
		worker.Must(t, "SEND", nil, "destination:/remote-temp-queue/temp.never.was")
		worker.Expect(t, "ERROR")
	}
}

func responseTopicCrosses(t *testing.T, p place) {
	asks, worker := device(t, p.x, harness.MQTTOptions{Version: harness.MQTT5}), device(t, p.y, harness.MQTTOptions{Version: harness.MQTT5})
	subscribe(t, asks, 1, p.topic("answers"))
	subscribe(t, worker, 1, p.topic("requests"))
	reaches(t, func(body string) { says(t, worker, p.topic("answers"), body, 1) }, asks)
	reaches(t, func(body string) { says(t, asks, p.topic("requests"), body, 1) }, worker)
	data := []byte{0, 1, 0xff, '\n'}
	says(t, asks, p.topic("requests"), "2+2", 1, func(pk *packets.Packet) {
		pk.Properties.ResponseTopic, pk.Properties.CorrelationData = p.topic("answers"), data
	})
	request := gets(t, worker, "2+2")[0].Properties
	says(t, worker, request.ResponseTopic, "4", 1, func(pk *packets.Packet) { pk.Properties.CorrelationData = request.CorrelationData })
	if got := gets(t, asks, "4")[0].Properties.CorrelationData; !bytes.Equal(got, data) {
		t.Errorf("correlation data % x", got)
	}
}

func jsonRequestCrosses(t *testing.T, p place) {
	asks, worker := page(t, p.x, ""), page(t, p.y, "")
	worker.must(t, map[string]any{"op": "subscribe", "sub": "s", "to": p.queue("calls")})
	for i := range 3 {
		id, err := asks.ask(map[string]any{"op": "request", "to": p.queue("calls"), "body": fmt.Sprint("how are you, ", i), "timeoutMs": 60000})
		if err != nil {
			t.Fatal(err)
		}
		m, err := worker.read()
		if err != nil || m.Event != "message" || m.Body != fmt.Sprint("how are you, ", i) {
			t.Fatalf("%+v, %v", m, err)
		}
		worker.must(t, map[string]any{"op": "publish", "to": m.ReplyTo, "correlationId": m.CorrelationID, "body": fmt.Sprint("well, ", i)})
		if m, err := asks.read(); err != nil || m.Reply != id || m.Message == nil || m.Message.Body != fmt.Sprint("well, ", i) {
			t.Fatalf("%+v, %v", m, err)
		}
	}
}

func selectorsCross(t *testing.T, p place) {
	queue := p.queue("selected")
	red, blue, sender := login(t, p.x), login(t, p.y), login(t, p.z)
	red.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+queue, "ack:client-individual", "selector:colour = 'red' AND size > 1")
	blue.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+queue, "ack:client-individual", "selector:colour = 'blue'")
	for i := range 6 {
		colour := []string{"red", "blue", "green"}[i%3]
		sender.MustConfirm(t, "SEND", fmt.Append(nil, colour, i), "destination:"+queue, "colour:"+colour, "size:2")
	}
	reads(t, red, "red0", "red3")
	reads(t, blue, "blue1", "blue4")
	rest := login(t, p.z)
	rest.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+queue, "ack:client-individual")
	reads(t, rest, "green2", "green5")
}

// transactionCrosses: COMMIT on x sends to queues that are read on y and z, and settles what was taken from a third; of ABORT
// nothing is left.
func transactionCrosses(t *testing.T, p place) {
	w := login(t, p.x)
	jobs := p.queue("jobs")
	sends(t, w, jobs, "job 1", "job 2")
	worker := login(t, p.x)
	worker.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+jobs, "ack:client-individual")
	do := func(end, body string) {
		t.Helper()
		f := worker.Expect(t, "MESSAGE")
		worker.Must(t, "BEGIN", nil, "transaction:t")
		for _, queue := range []string{"two.y", "two.z"} {
			worker.Must(t, "SEND", []byte(body+" 1"), "destination:"+p.queue(queue), "transaction:t")
			worker.Must(t, "SEND", []byte(body+" 2"), "destination:"+p.queue(queue), "transaction:t")
		}
		worker.Must(t, "ACK", nil, "id:"+f.Headers["ack"], "transaction:t")
		worker.MustConfirm(t, end, nil, "transaction:t")
	}
	do("COMMIT", "done")
	do("ABORT", "not done")
	worker.Close() // which gives back what it has not settled
	for queue, n := range map[string]*harness.ClusterNode{"two.y": p.y, "two.z": p.z} {
		sends(t, w, p.queue(queue), "end")
		r := login(t, n)
		r.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+p.queue(queue), "ack:client-individual")
		reads(t, r, "done 1", "done 2", "end")
	}
	sends(t, w, jobs, "end")
	next := login(t, p.y)
	next.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+jobs, "ack:client-individual")
	reads(t, next, "job 2", "end")
}

// liveShareCrosses: of a group without durable members, which has no mailbox, each message goes to one member, and all get some.
func liveShareCrosses(t *testing.T, p place) {
	var members []*harness.MQTT
	for _, n := range p.Nodes {
		m := device(t, n, harness.MQTTOptions{})
		subscribe(t, m, 1, "$share/live/"+p.topic("live-share"))
		members = append(members, m)
	}
	speaker := device(t, p.x, harness.MQTTOptions{})
	came := make([][]string, len(members))
	take := func() (all []string) {
		for i, m := range members {
			for m.Waits(time.Millisecond) {
				came[i] = append(came[i], string(next(t, m).Payload))
			}
			all = append(all, came[i]...)
		}
		return all
	}
	harness.Eventually(t, time.Minute, func() error {
		says(t, speaker, p.topic("live-share"), "known?", 1)
		if len(take()) == 0 {
			return errors.New("the group is not known to another node")
		}
		return nil
	})
	want := numbers(0, 30)
	for _, body := range want {
		says(t, speaker, p.topic("live-share"), body, 1)
	}
	said := func(body string) bool { return body == "known?" }
	harness.Eventually(t, time.Minute, func() error {
		if got := slices.DeleteFunc(take(), said); len(got) < len(want) {
			return fmt.Errorf("%d of %d came", len(got), len(want))
		}
		return nil
	})
	got := slices.DeleteFunc(take(), said)
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("%v came, want %v", got, want)
	}
	for i, own := range came {
		if len(own) == 0 {
			t.Errorf("the member on %s got nothing", p.Nodes[i].Name)
		}
	}
}

// liveTopicCrosses: each subscriber on y gets each message once, by whichever of two filters, and a message goes to y once for
// all of them, and not to z, where nobody wants it.
func liveTopicCrosses(t *testing.T, p place) {
	topic := p.topic("live/7/temp")
	speaker := device(t, p.x, harness.MQTTOptions{})
	var subscribers []*harness.MQTT
	for i := range 25 {
		m := device(t, p.y, harness.MQTTOptions{})
		subscribe(t, m, 0, []string{p.topic("live/+/temp"), p.topic("live/#")}[i%2])
		subscribers = append(subscribers, m)
	}
	harness.Eventually(t, time.Minute, func() error {
		says(t, speaker, topic, "known?", 0)
		for i, m := range subscribers {
			if !m.Waits(50 * time.Millisecond) {
				return fmt.Errorf("subscriber %d is not known to another node", i)
			}
		}
		return nil
	})
	says(t, speaker, topic, "known", 0)
	for _, m := range subscribers {
		skip(t, m, "known?", "known")
	}
	const messages, size = 20, 64 << 10
	body := make([]byte, size) // which no compression makes smaller
	random := rand.NewChaCha8([32]byte{})
	toY, toZ := p.Network.Carried(p.x.Name, p.y.Name), p.Network.Carried(p.x.Name, p.z.Name)
	var bodies []string
	for range messages {
		_, _ = random.Read(body) // it never fails
		bodies = append(bodies, string(body))
		says(t, speaker, topic, bodies[len(bodies)-1], 0)
	}
	says(t, speaker, topic, "end", 0)
	for _, m := range subscribers {
		gets(t, m, append(bodies, "end")...)
	}
	toY, toZ = p.Network.Carried(p.x.Name, p.y.Name)-toY, p.Network.Carried(p.x.Name, p.z.Name)-toZ
	if all := messages * size; toY < all || toY > all*3/2 || toZ > all/2 {
		t.Errorf("of %d bytes that were published %d went to %s and %d to %s", all, toY, p.y.Name, toZ, p.z.Name)
	}
}
