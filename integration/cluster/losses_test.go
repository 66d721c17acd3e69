package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// lose kills x with the clients of all rows on it, looks on the others what became of them, and starts it again.
func lose(t *testing.T, p place) {
	after := make([]func(*testing.T), len(losses))
	for i, row := range losses {
		after[i] = row.run(t, p)
	}
	p.x.Kill()
	for _, n := range []*harness.ClusterNode{p.y, p.z} {
		harness.Eventually(t, time.Minute, func() error { return stores(n) })
	}
	for i, row := range losses {
		t.Run(row.name, after[i])
	}
	if err := p.x.Restart(); err != nil {
		t.Fatal(err)
	}
	p.AwaitReady(t, p.x, true)
	p.AwaitCurrent(t)
}

// stores returns nil if a node confirms a message.
func stores(n *harness.ClusterNode) error {
	m, err := loginAt(n, "")
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Publish(harness.PublishPacket("$queue/stores", []byte("?"), 1))
}

func willsOfTheDead(t *testing.T, p place) func(*testing.T) {
	topic := p.topic("wills")
	heir := device(t, p.y, harness.MQTTOptions{ClientID: p.name + "-heir", Durable: true})
	subscribe(t, heir, 1, topic)
	will := func(body string) *packets.Packet { return harness.PublishPacket(topic, []byte(body), 1) }
	device(t, p.x, harness.MQTTOptions{ClientID: p.name + "-clean", Will: will("of a clean client")})
	device(t, p.x, harness.MQTTOptions{ClientID: p.name + "-durable", Durable: true, Will: will("of a session")})
	bye(t, device(t, p.x, harness.MQTTOptions{ClientID: p.name + "-left", Will: will("never")}))
	return func(t *testing.T) {
		var got []string
		for range 2 {
			got = append(got, string(next(t, heir).Payload))
		}
		if slices.Sort(got); !slices.Equal(got, []string{"of a clean client", "of a session"}) {
			t.Errorf("the wills are %q", got)
		}
		says(t, device(t, p.z, harness.MQTTOptions{}), topic, "end", 1)
		gets(t, heir, "end")
	}
}

// sessionsOfTheDead: what an MQTT session and a durable subscription held comes again in order on another node, before what came
// meanwhile.
func sessionsOfTheDead(t *testing.T, p place) func(*testing.T) {
	o := harness.MQTTOptions{Version: harness.MQTT5, ClientID: p.name + "-session", Durable: true}
	topic := p.topic("session")
	old := device(t, p.x, o)
	subscribe(t, old, 1, topic)
	follow := func(t *testing.T, n *harness.ClusterNode) *harness.Wire {
		t.Helper()
		w := login(t, n, "client-id:"+p.name+"-follower")
		w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/topic/"+topic, "ack:client-individual", "activemq.subscriptionName:s", "activemq.prefetchSize:10")
		return w
	}
	w := follow(t, p.x)
	sends(t, login(t, p.y), "/topic/"+topic, numbers(0, 5)...)
	gets(t, old, "0")
	if err := old.Ping(); err != nil { // its PUBACK was heard
		t.Fatal(err)
	}
	reads(t, w, "0")
	for _, body := range numbers(1, 5) {
		if pk, err := old.Message(time.Minute); err != nil || string(pk.Payload) != body {
			t.Fatalf("%+v, %v", pk, err)
		}
		if f := w.Expect(t, "MESSAGE"); string(f.Body) != body {
			t.Fatalf("%s came, want %q", f, body)
		}
	}
	return func(t *testing.T) {
		sends(t, login(t, p.z), "/topic/"+topic, "5")
		now := device(t, p.y, o)
		if !now.Present {
			t.Error("the session was lost")
		}
		from := 1
		switch body := string(next(t, now).Payload); body {
		case "0":
			from = 0 // its PUBACK was lost with the node: a client has no word that it was heard
		case "1":
		default:
			t.Fatalf("%q came first", body)
		}
		gets(t, now, numbers(from+1, 6)...)
		for i, f := range reads(t, follow(t, p.z), numbers(1, 6)...) {
			if i < 4 && f.Headers["redelivered"] != "true" { // the last one may have been on its way to the dead node
				t.Errorf("%s is not marked as redelivered", f.Body)
			}
		}
	}
}

// groupWorker is a consumer of message groups.
type groupWorker struct {
	*harness.Wire
	owns []string
	held map[string]*harness.Frame
}

// take reads messages of n groups, and holds them.
func (w *groupWorker) take(t *testing.T, n int, body string) (groups []string) {
	t.Helper()
	for range n {
		f := w.Expect(t, "MESSAGE")
		g := f.Headers["JMSXGroupID"]
		if string(f.Body) != body {
			t.Errorf("of group %s came %s, want %s", g, f.Body, body)
		}
		w.held[g] = f
		groups = append(groups, g)
	}
	slices.Sort(groups)
	return groups
}

func (w *groupWorker) ack(t *testing.T, groups ...string) {
	t.Helper()
	for _, g := range groups {
		w.MustConfirm(t, "ACK", nil, "id:"+w.held[g].Headers["ack"])
		delete(w.held, g)
	}
}

// groupsOfTheDead: each of three consumers gets the messages of the same groups again, and those of the dead one go to the others.
// A consumer may hold as many messages as there are groups for it, which makes the shares equal.
func groupsOfTheDead(t *testing.T, p place) func(*testing.T) {
	const each = 8
	queue := p.queue("groups")
	sender := login(t, p.y)
	send := func(t *testing.T, body string, groups ...string) {
		t.Helper()
		for _, g := range groups {
			sender.MustConfirm(t, "SEND", []byte(body), "destination:"+queue, "JMSXGroupID:"+g)
		}
	}
	var workers []*groupWorker
	for _, n := range []*harness.ClusterNode{p.x, p.y, p.z} {
		w := &groupWorker{Wire: login(t, n), held: map[string]*harness.Frame{}}
		w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+queue, "ack:client-individual", fmt.Sprintf("activemq.prefetchSize:%d", each))
		workers = append(workers, w)
	}
	dead, living := workers[0], workers[1:]
	all := numbers(0, each*len(workers))
	send(t, "first", all...)
	for _, w := range workers {
		w.owns = w.take(t, each, "first")
		w.ack(t, w.owns...)
	}
	send(t, "second", all...)
	for _, w := range workers {
		if got := w.take(t, each, "second"); !slices.Equal(got, w.owns) {
			t.Errorf("a consumer of the groups %v got %v", w.owns, got)
		}
	}
	for _, w := range living {
		w.ack(t, w.owns[each/2:]...) // half of them: there is room for half of the dead one's
	}
	return func(t *testing.T) {
		var moved []string
		for _, w := range living {
			got := w.take(t, each/2, "second")
			for _, g := range got {
				if w.held[g].Headers["redelivered"] != "true" {
					t.Errorf("%s is not marked", w.held[g])
				}
			}
			moved = append(moved, got...)
			send(t, "third", got...) // which go where the group went
			w.ack(t, got...)
			if again := w.take(t, each/2, "third"); !slices.Equal(again, got) {
				t.Errorf("a consumer of the groups %v got %v", got, again)
			}
			w.ack(t, got...)
		}
		if slices.Sort(moved); !slices.Equal(moved, dead.owns) {
			t.Errorf("of the groups %v of the dead consumer %v went to others", dead.owns, moved)
		}
		for _, w := range living {
			send(t, "third", w.owns[:each/2]...) // of which it holds the second
		}
		for _, w := range living {
			if got := w.take(t, each/2, "third"); !slices.Equal(got, w.owns[:each/2]) {
				t.Errorf("a consumer that holds messages of the groups %v got %v", w.owns[:each/2], got)
			}
		}
	}
}

// alone subscribes to a queue as the only consumer.
func alone(t *testing.T, n *harness.ClusterNode, queue string) *harness.Wire {
	t.Helper()
	w := login(t, n)
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+queue, "ack:client-individual", "activemq.exclusive:true", "activemq.prefetchSize:10")
	return w
}

func exclusiveOfTheDead(t *testing.T, p place) func(*testing.T) {
	queue := p.queue("exclusive")
	first, second := alone(t, p.x, queue), alone(t, p.y, queue)
	sends(t, login(t, p.z), queue, numbers(0, 3)...)
	for _, body := range numbers(0, 3) {
		if f := first.Expect(t, "MESSAGE"); string(f.Body) != body {
			t.Fatalf("%s came, want %q", f, body)
		}
	}
	return func(t *testing.T) {
		sends(t, login(t, p.z), queue, "3")
		for i, f := range reads(t, second, numbers(0, 4)...) {
			if again := f.Headers["redelivered"] == "true"; again != (i < 3) {
				t.Errorf("redelivered of %s is %v", f.Body, again)
			}
		}
	}
}

// exclusiveOfTheLiving: the consumer that has a queue alone keeps it, whoever leads.
func exclusiveOfTheLiving(t *testing.T, p place) func(*testing.T) {
	queue := p.queue("exclusive.lives")
	first, second := alone(t, p.y, queue), alone(t, p.z, queue)
	sends(t, login(t, p.z), queue, "0")
	f := first.Expect(t, "MESSAGE")
	return func(t *testing.T) {
		sends(t, login(t, p.z), queue, "1")
		reads(t, first, "1")
		first.MustConfirm(t, "ACK", nil, "id:"+f.Headers["ack"])
		first.Close()
		sends(t, login(t, p.y), queue, "2")
		reads(t, second, "2")
	}
}

// sharesOfTheDead: of a shared subscription with members on all nodes each message goes to one, all get some, and what the dead one
// has not acknowledged goes to the others.
func sharesOfTheDead(t *testing.T, p place) func(*testing.T) {
	const first, second = 60, 20
	var members []*harness.MQTT
	for i, n := range []*harness.ClusterNode{p.x, p.y, p.z} {
		m := device(t, n, harness.MQTTOptions{Version: harness.MQTT5, ClientID: fmt.Sprintf("%s-member-%d", p.name, i), Durable: true, ReceiveMaximum: first / 3})
		subscribe(t, m, 1, "$share/g/"+p.topic("shared/+"))
		members = append(members, m)
	}
	speaker := device(t, p.y, harness.MQTTOptions{})
	for _, body := range numbers(0, first) {
		says(t, speaker, p.topic("shared/x"), body, 1)
	}
	// A member may hold a third of them: none is acknowledged before all three have theirs.
	got := map[string]int{}
	var unsettled [][]*packets.Packet
	for _, m := range members {
		var own []*packets.Packet
		for range first / 3 {
			pk, err := m.Message(time.Minute)
			if err != nil {
				t.Fatalf("%d messages came: %v", len(got), err)
			}
			got[string(pk.Payload)]++
			own = append(own, pk)
		}
		unsettled = append(unsettled, own)
	}
	if len(got) != first {
		t.Errorf("of %d messages %d came to a member, some twice", first, len(got))
	}
	return func(t *testing.T) {
		for i, m := range members[1:] {
			for _, pk := range unsettled[i+1] {
				if err := m.Settle(pk); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, body := range numbers(first, first+second) {
			says(t, speaker, p.topic("shared/x"), body, 1)
		}
		want := numbers(first, first+second)
		for _, pk := range unsettled[0] {
			want = append(want, string(pk.Payload))
		}
		var came []string
		harness.Eventually(t, time.Minute, func() error {
			for _, m := range members[1:] {
				for len(came) < len(want) && m.Waits(10*time.Millisecond) {
					came = append(came, string(next(t, m).Payload))
				}
			}
			if len(came) < len(want) {
				return fmt.Errorf("%d of %d came", len(came), len(want))
			}
			return nil
		})
		slices.Sort(want)
		if slices.Sort(came); !slices.Equal(came, want) {
			t.Errorf("the living members got %v, want %v", came, want)
		}
	}
}

// transactionOfTheDead: of a transaction whose client's node dies before COMMIT nothing is left.
func transactionOfTheDead(t *testing.T, p place) func(*testing.T) {
	jobs, out := p.queue("jobs"), []string{p.queue("out.1"), p.queue("out.2")}
	for _, queue := range append(out, jobs) {
		sends(t, login(t, p.y), queue, "job")
	}
	w := login(t, p.x)
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+jobs, "ack:client-individual")
	f := w.Expect(t, "MESSAGE")
	w.Must(t, "BEGIN", nil, "transaction:t")
	for _, queue := range out {
		w.MustConfirm(t, "SEND", []byte("never"), "destination:"+queue, "transaction:t")
	}
	w.MustConfirm(t, "ACK", nil, "id:"+f.Headers["ack"], "transaction:t")
	return func(t *testing.T) {
		r := login(t, p.y)
		for i, queue := range append(out, jobs) {
			sends(t, login(t, p.z), queue, "end")
			r.MustConfirm(t, "SUBSCRIBE", nil, fmt.Sprint("id:", i), "destination:"+queue, "ack:client-individual")
			reads(t, r, "job", "end")
		}
	}
}

// restOfTheLiving: requests, selectors and retained messages work for the clients of the other nodes as before.
func restOfTheLiving(t *testing.T, p place) func(*testing.T) {
	requests, selected := p.queue("requests"), p.queue("selected")
	asks, worker := login(t, p.y), login(t, p.z)
	asks.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/temp-queue/answers")
	worker.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+requests, "ack:client-individual")
	asks.MustConfirm(t, "SUBSCRIBE", nil, "id:2", "destination:"+selected, "ack:client-individual", "selector:colour = 'red'")
	worker.MustConfirm(t, "SUBSCRIBE", nil, "id:2", "destination:"+selected, "ack:client-individual", "selector:colour = 'blue'")
	says(t, device(t, p.x, harness.MQTTOptions{}), p.topic("kept"), "kept", 1, retained)
	asks.MustConfirm(t, "SEND", []byte("2+2"), "destination:"+requests, "reply-to:/temp-queue/answers")
	f := worker.Expect(t, "MESSAGE")
	return func(t *testing.T) {
		worker.MustConfirm(t, "SEND", []byte("4"), "destination:"+f.Headers["reply-to"])
		worker.MustConfirm(t, "ACK", nil, "id:"+f.Headers["ack"])
		reads(t, asks, "4")
		for _, colour := range []string{"red", "blue"} {
			worker.MustConfirm(t, "SEND", []byte(colour), "destination:"+selected, "colour:"+colour)
		}
		reads(t, asks, "red")
		reads(t, worker, "blue")
		m := device(t, p.z, harness.MQTTOptions{})
		subscribe(t, m, 1, p.topic("kept"))
		gets(t, m, "kept")
	}
}

// confirmed are messages of all kinds that were confirmed on a node.
type confirmed struct {
	p    place
	name string
}

func confirm(t *testing.T, p place, n *harness.ClusterNode, name string) confirmed {
	t.Helper()
	c := confirmed{p, name}
	session := device(t, n, harness.MQTTOptions{ClientID: c.clientID(), Durable: true})
	subscribe(t, session, 1, p.topic(name))
	bye(t, session)
	w := login(t, n)
	sends(t, w, p.queue(name), numbers(0, 20)...)
	w.Must(t, "BEGIN", nil, "transaction:t")
	for _, body := range numbers(20, 25) {
		w.Must(t, "SEND", []byte(body), "destination:"+p.queue(name), "transaction:t")
	}
	w.MustConfirm(t, "COMMIT", nil, "transaction:t")
	m := device(t, n, harness.MQTTOptions{})
	for _, body := range numbers(0, 5) {
		says(t, m, p.topic(name), body, 2, retained)
	}
	return c
}

func (c confirmed) clientID() string { return c.p.name + "-" + c.name }

// check finds all of them on a node.
func (c confirmed) check(t *testing.T, n *harness.ClusterNode) {
	t.Helper()
	m := device(t, n, harness.MQTTOptions{})
	subscribe(t, m, 1, c.p.topic(c.name))
	gets(t, m, "4") // the retained one
	session := device(t, n, harness.MQTTOptions{ClientID: c.clientID(), Durable: true})
	if !session.Present {
		t.Error("a session was lost")
	}
	gets(t, session, numbers(0, 5)...)
	w := login(t, n)
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+c.p.queue(c.name), "ack:client-individual")
	reads(t, w, numbers(0, 25)...)
}

// loseMost kills x and y: z refuses what is to be stored, and says what to do. With the others back all that was confirmed is there.
func loseMost(t *testing.T, p place) {
	before := confirm(t, p, p.x, "before")
	stomp, mqtt, json := login(t, p.z), device(t, p.z, harness.MQTTOptions{Version: harness.MQTT5}), page(t, p.z, "")
	p.x.Kill()
	p.y.Kill()
	stomp.Must(t, "SEND", []byte("x"), "destination:"+p.queue("refused"), "persistent:true", "receipt:r")
	id, err := json.ask(map[string]any{"op": "publish", "to": p.queue("refused"), "body": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := mqtt.Publish(harness.PublishPacket("$queue/refused", nil, 1)); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("PUBLISH was answered by: %v", err)
	}
	if f, err := stomp.Read(time.Minute); err != nil || f.Command != "ERROR" || !strings.Contains(f.Headers["message"]+string(f.Body), "try again") {
		t.Errorf("SEND was answered by %s, %v", f, err)
	}
	if m, err := json.read(); err != nil || m.Reply != id || m.Error == nil || m.Error.Code != "unavailable" || !m.Error.Retry {
		t.Errorf("the JSON publish was answered by %+v, %v", m, err)
	}
	p.AwaitReady(t, p.z, false)
	if p.x.Ready() == nil || p.y.Ready() == nil {
		t.Error("a node that was killed is ready")
	}
	p.back(t)
	before.check(t, p.y)
}

// back starts the nodes that do not run, and returns when all can store.
func (p place) back(t *testing.T) {
	t.Helper()
	p.StartAll(t)
	for _, n := range p.Nodes {
		p.AwaitReady(t, n, true)
		harness.Eventually(t, time.Minute, func() error { return stores(n) })
	}
	p.AwaitCurrent(t)
}

// loseAll kills all nodes at once.
func loseAll(t *testing.T, p place) {
	var all []confirmed
	for _, n := range p.Nodes {
		all = append(all, confirm(t, p, n, "on-"+n.Name))
	}
	killed := make(chan struct{})
	for _, n := range p.Nodes {
		go func() { n.Kill(); killed <- struct{}{} }()
	}
	for range p.Nodes {
		<-killed
	}
	p.back(t)
	for i, c := range all {
		c.check(t, p.Nodes[(i+1)%len(p.Nodes)])
	}
}
