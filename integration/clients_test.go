package integration

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// quiet is how long a test listens for a message that must not come. It is never
// the only proof: the depth of the queue is checked as well.
const quiet = 300 * time.Millisecond

// TestClients runs every scenario with every client library, against one gateway.
func TestClients(t *testing.T) {
	b := harness.Start(t)
	scenarios := []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"text and binary bodies", bodies},
		{"ack auto", ackAuto},
		{"ack client is cumulative", ackClient},
		{"ack client-individual", ackIndividual},
		{"transaction commit", transactionCommit},
		{"transaction abort", transactionAbort},
		{"acknowledgement in a transaction", transactionAck},
		{"durable subscription across reconnects", durable},
		{"receipts", receipts},
		{"wildcard topic", wildcard},
		{"redelivery after SIGKILL", redelivery},
		{"nack makes a dead letter", deadLetter},
	}
	for _, l := range harness.Languages {
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) { s.run(t, &bench{t: t, b: b, lang: l, addr: b.Addr()}) })
			}
		})
	}
}

// bench is where one scenario works: a gateway and a language.
type bench struct {
	t    *testing.T
	b    *harness.Broker
	lang harness.Language
	addr string
	n    int
}

// name makes a name that no other scenario has.
func (x *bench) name(kind string) string {
	x.n++
	return fmt.Sprintf("%s.%s.%x.%d", x.lang.Name, kind, rand.Uint32(), x.n)
}

// client starts a client program that is connected.
func (x *bench) client(headers ...string) *harness.Client {
	x.t.Helper()
	c := x.lang.Start(x.t)
	connect(x.t, c, x.addr, headers...)
	return c
}

// connect connects with headers, name and value in turn.
func connect(t *testing.T, c *harness.Client, addr string, headers ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	r := harness.Request{Op: "connect", Host: host, Port: n, Headers: map[string]string{}}
	for i := 0; i < len(headers); i += 2 {
		r.Headers[headers[i]] = headers[i+1]
	}
	c.Do(r)
}

func subscribe(c *harness.Client, destination, ack string, headers ...string) {
	r := harness.Request{Op: "subscribe", Destination: destination, ID: "s1", Ack: ack, Receipt: true, Headers: map[string]string{}}
	for i := 0; i < len(headers); i += 2 {
		r.Headers[headers[i]] = headers[i+1]
	}
	c.Do(r)
}

// depth waits until a queue has so many messages, held ones included.
func (x *bench) depth(queue string, want int) {
	x.t.Helper()
	harness.Eventually(x.t, 20*time.Second, func() error {
		if got := x.b.Depths(queue); got.Depth != want {
			return fmt.Errorf("queue %s has %+v, want depth %d", queue, got, want)
		}
		return nil
	})
}

func sendNumbers(c *harness.Client, destination string, n int) {
	for i := range n {
		c.Send(destination, fmt.Appendf(nil, "m%d", i), true, nil)
	}
}

func expectBody(t *testing.T, m *harness.Message, want string) {
	t.Helper()
	if string(m.Body) != want {
		t.Fatalf("got message %.100q, want %q", m.Body, want)
	}
}

// large is a body of n bytes in which all byte values occur, NUL included.
func large(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func bodies(t *testing.T, x *bench) {
	queue := x.name("bodies")
	c := x.client()
	subscribe(c, "/queue/"+queue, "client-individual")
	for _, body := range [][]byte{
		[]byte("plain text"), []byte("Grüße, 世界 🐘"), []byte("line\r\n\r\nCONNECTED\n\n"), {}, {0}, []byte("a\x00b\x00\x00c\x00"),
		[]byte("\n"), {0xff, 0xfe, 0x00, 0x0a, 0x80}, large(70_000), large(4 << 20),
	} {
		c.Send("/queue/"+queue, body, true, map[string]string{"x-case": "yes"})
		m := c.Receive()
		if !bytes.Equal(m.Body, body) {
			t.Fatalf("sent %d bytes %.60q, got %d bytes %.60q", len(body), body, len(m.Body), m.Body)
		}
		if m.Headers["x-case"] != "yes" || m.Headers["destination"] != "/queue/"+queue || m.Redelivered() {
			t.Errorf("headers are %v", m.Headers)
		}
		c.Do(harness.Request{Op: "ack", Message: m.ID, Receipt: true})
	}
	c.Do(harness.Request{Op: "disconnect"})
	x.depth(queue, 0)
}

func ackAuto(t *testing.T, x *bench) {
	queue := x.name("auto")
	c := x.client()
	subscribe(c, "/queue/"+queue, "auto")
	sendNumbers(c, "/queue/"+queue, 3)
	for i := range 3 {
		expectBody(t, c.Receive(), fmt.Sprintf("m%d", i))
	}
	c.Kill() // and still nothing comes back
	x.depth(queue, 0)
}

func ackClient(t *testing.T, x *bench) {
	queue := x.name("client")
	c := x.client()
	subscribe(c, "/queue/"+queue, "client", "activemq.prefetchSize", "10")
	sendNumbers(c, "/queue/"+queue, 4)
	var ms []*harness.Message
	for i := range 4 {
		ms = append(ms, c.Receive())
		expectBody(t, ms[i], fmt.Sprintf("m%d", i))
	}
	c.Do(harness.Request{Op: "ack", Message: ms[2].ID, Receipt: true}) // of the first three
	c.Do(harness.Request{Op: "disconnect"})
	x.depth(queue, 1)
	next := x.client()
	subscribe(next, "/queue/"+queue, "auto")
	m := next.Receive()
	expectBody(t, m, "m3")
	if !m.Redelivered() {
		t.Errorf("not marked redelivered: %v", m.Headers)
	}
}

func ackIndividual(t *testing.T, x *bench) {
	queue := x.name("each")
	c := x.client()
	subscribe(c, "/queue/"+queue, "client-individual", "activemq.prefetchSize", "10")
	sendNumbers(c, "/queue/"+queue, 3)
	var ms []*harness.Message
	for range 3 {
		ms = append(ms, c.Receive())
	}
	c.Do(harness.Request{Op: "ack", Message: ms[1].ID, Receipt: true})
	c.Do(harness.Request{Op: "disconnect"})
	x.depth(queue, 2)
	next := x.client()
	subscribe(next, "/queue/"+queue, "auto")
	for _, want := range []string{"m0", "m2"} {
		m := next.Receive()
		expectBody(t, m, want)
		if !m.Redelivered() {
			t.Errorf("%s is not marked redelivered: %v", want, m.Headers)
		}
	}
}

func transactionCommit(t *testing.T, x *bench) {
	queue := x.name("tx")
	c, reader := x.client(), x.client()
	subscribe(reader, "/queue/"+queue, "auto")
	c.Do(harness.Request{Op: "begin", Transaction: "t1", Receipt: true})
	for i := range 3 {
		c.Do(harness.Request{Op: "send", Destination: "/queue/" + queue, Body: body64(fmt.Sprintf("m%d", i)), Transaction: "t1"})
	}
	reader.ReceiveNothing(quiet)
	c.Do(harness.Request{Op: "commit", Transaction: "t1", Receipt: true})
	for i := range 3 {
		expectBody(t, reader.Receive(), fmt.Sprintf("m%d", i))
	}
}

func body64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func transactionAbort(t *testing.T, x *bench) {
	queue := x.name("abort")
	c := x.client()
	c.Do(harness.Request{Op: "begin", Transaction: "t1", Receipt: true})
	c.Do(harness.Request{Op: "send", Destination: "/queue/" + queue, Body: body64("never"), Transaction: "t1"})
	c.Do(harness.Request{Op: "abort", Transaction: "t1", Receipt: true})
	c.Send("/queue/"+queue, []byte("after"), true, nil)
	subscribe(c, "/queue/"+queue, "auto")
	expectBody(t, c.Receive(), "after")
	c.ReceiveNothing(quiet)
	x.depth(queue, 0)
}

// transactionAck acknowledges in a transaction: an aborted one leaves the message
// with the client, and a committed one settles it.
func transactionAck(t *testing.T, x *bench) {
	queue := x.name("txack")
	c := x.client()
	c.Send("/queue/"+queue, []byte("job"), true, nil)
	subscribe(c, "/queue/"+queue, "client-individual")
	m := c.Receive()
	c.Do(harness.Request{Op: "begin", Transaction: "t1", Receipt: true})
	c.Do(harness.Request{Op: "ack", Message: m.ID, Transaction: "t1"})
	c.Do(harness.Request{Op: "abort", Transaction: "t1", Receipt: true})
	x.depth(queue, 1)
	c.Do(harness.Request{Op: "begin", Transaction: "t2", Receipt: true})
	c.Do(harness.Request{Op: "ack", Message: m.ID, Transaction: "t2"})
	c.Do(harness.Request{Op: "send", Destination: "/queue/" + queue + ".done", Body: body64("done"), Transaction: "t2"})
	c.Do(harness.Request{Op: "commit", Transaction: "t2", Receipt: true})
	x.depth(queue, 0)
	x.depth(queue+".done", 1)
}

// durable uses the headers of ActiveMQ. In STOMP 1.0 the names of client and
// subscription must be the same for UNSUBSCRIBE, so they are in all clients here.
func durable(t *testing.T, x *bench) {
	topic, name := x.name("news"), x.name("dur")
	c := x.client("client-id", name)
	subscribe(c, "/topic/"+topic, "client-individual", "activemq.subscriptionName", name)
	sender := x.client()
	sender.Send("/topic/"+topic, []byte("while here"), true, nil)
	m := c.Receive()
	expectBody(t, m, "while here")
	c.Do(harness.Request{Op: "ack", Message: m.ID, Receipt: true})
	c.Do(harness.Request{Op: "disconnect"})
	for i := range 3 {
		sender.Send("/topic/"+topic, fmt.Appendf(nil, "while away %d", i), true, nil)
	}
	connect(t, c, x.addr, "client-id", name)
	subscribe(c, "/topic/"+topic, "client-individual", "activemq.subscriptionName", name)
	for i := range 3 {
		m := c.Receive()
		expectBody(t, m, fmt.Sprintf("while away %d", i))
		c.Do(harness.Request{Op: "ack", Message: m.ID, Receipt: true})
	}
	c.Do(harness.Request{Op: "unsubscribe", Destination: "/topic/" + topic, ID: "s1", Headers: map[string]string{"activemq.subscriptionName": name}})
	c.Do(harness.Request{Op: "disconnect"})
	sender.Send("/topic/"+topic, []byte("after the end"), true, nil)
	connect(t, c, x.addr, "client-id", name)
	subscribe(c, "/topic/"+topic, "auto", "activemq.subscriptionName", name)
	c.ReceiveNothing(quiet)
}

// receipts asks for one on everything that the library can ask for.
func receipts(t *testing.T, x *bench) {
	queue := x.name("receipts")
	c := x.client()
	subscribe(c, "/queue/"+queue, "client-individual") // with a receipt, as all below
	sendNumbers(c, "/queue/"+queue, 20)
	for i := range 20 {
		m := c.Receive()
		expectBody(t, m, fmt.Sprintf("m%d", i))
		c.Do(harness.Request{Op: "ack", Message: m.ID, Receipt: true})
	}
	c.Do(harness.Request{Op: "begin", Transaction: "t", Receipt: true})
	c.Do(harness.Request{Op: "commit", Transaction: "t", Receipt: true})
	if x.lang.Name == "go" {
		return // go-stomp's Unsubscribe always waits for a receipt, under a name of its own
	}
	c.Do(harness.Request{Op: "unsubscribe", Destination: "/queue/" + queue, ID: "s1", Receipt: true})
	x.depth(queue, 0)
}

func wildcard(t *testing.T, x *bench) {
	root := x.name("plant")
	c, sender := x.client(), x.client()
	subscribe(c, "/topic/"+root+".*.temp", "auto")
	c.Do(harness.Request{Op: "subscribe", Destination: "/topic/" + root + ".all.>", ID: "s2", Ack: "auto", Receipt: true})
	for _, topic := range []string{".7.temp", ".7.pressure", ".all.a.b.c", ".7.8.temp", ".9.temp"} {
		sender.Send("/topic/"+root+topic, []byte(topic), true, nil)
	}
	var got []string
	for range 3 {
		m := c.Receive()
		got = append(got, string(m.Body))
		if d := m.Headers["destination"]; d != "/topic/"+root+string(m.Body) {
			t.Errorf("destination is %q, not the concrete topic", d)
		}
	}
	slices.Sort(got) // there is no order between two subscriptions
	if want := []string{".7.temp", ".9.temp", ".all.a.b.c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.ReceiveNothing(quiet)
}

func redelivery(t *testing.T, x *bench) {
	queue := x.name("killed")
	c, next := x.client(), x.client()
	sendNumbers(next, "/queue/"+queue, 3)
	subscribe(c, "/queue/"+queue, "client", "activemq.prefetchSize", "2")
	expectBody(t, c.Receive(), "m0")
	expectBody(t, c.Receive(), "m1")
	c.Kill()
	harness.Eventually(t, 20*time.Second, func() error {
		if d := x.b.Depths(queue); d.Unacked != 0 {
			return fmt.Errorf("the dead client still holds messages: %+v", d)
		}
		return nil
	})
	subscribe(next, "/queue/"+queue, "client-individual", "activemq.prefetchSize", "5")
	for i := range 3 {
		m := next.Receive()
		expectBody(t, m, fmt.Sprintf("m%d", i))
		if m.Redelivered() != (i < 2) {
			t.Errorf("m%d: redelivered is %v", i, m.Redelivered())
		}
		next.Do(harness.Request{Op: "ack", Message: m.ID, Receipt: true})
	}
	next.Do(harness.Request{Op: "disconnect"})
	x.depth(queue, 0)
}

func deadLetter(t *testing.T, x *bench) {
	queue := x.name("nack")
	c := x.client()
	c.Send("/queue/"+queue, []byte("bad"), true, nil)
	subscribe(c, "/queue/"+queue, "client-individual")
	m := c.Receive()
	c.Do(harness.Request{Op: "nack", Message: m.ID, Receipt: true})
	x.depth(queue, 0)
	x.depth("DLQ."+queue, 1)
	c.Do(harness.Request{Op: "subscribe", Destination: "/queue/DLQ." + queue, ID: "s2", Ack: "auto", Receipt: true})
	m = c.Receive()
	expectBody(t, m, "bad")
	if m.Headers["original-destination"] != "/queue/"+queue {
		t.Errorf("headers of the dead letter: %v", m.Headers)
	}
}
