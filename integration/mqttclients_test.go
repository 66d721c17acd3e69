package integration

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestMQTTClients runs every scenario with every client library and version, each
// library on a gateway of its own, which the last scenario restarts.
func TestMQTTClients(t *testing.T) {
	scenarios := []struct {
		name string
		run  func(*testing.T, *mqttBench)
	}{
		{"every QoS both ways, all bodies", mqttBodies},
		{"retained messages", mqttRetained},
		{"will of a killed client", mqttWill},
		{"session with messages while away", mqttSession},
		{"wildcards", mqttWildcards},
		{"shared subscription", mqttShared},
		{"properties, request and response", mqttProperties},
		{"session across a restart", mqttRestart},
	}
	for _, l := range []struct {
		lang     harness.Language
		versions []int
	}{
		{harness.PahoPython, []int{harness.MQTT31, harness.MQTT311, harness.MQTT5}},
		{harness.MQTTJS, []int{harness.MQTT31, harness.MQTT311, harness.MQTT5}},
		{harness.PahoGo, []int{harness.MQTT5}},
	} {
		t.Run(l.lang.Name, func(t *testing.T) {
			t.Parallel()
			b := harness.StartPlain(t)
			for _, v := range l.versions {
				t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
					for _, s := range scenarios {
						t.Run(s.name, func(t *testing.T) { s.run(t, &mqttBench{t: t, b: b, lang: l.lang, version: v}) })
					}
				})
			}
		})
	}
}

// mqttBench is where one scenario works.
type mqttBench struct {
	t       *testing.T
	b       *harness.Broker
	lang    harness.Language
	version int
}

// name makes a name that no other scenario has, of at most 23 bytes for MQTT 3.1.
func (x *mqttBench) name() string { return fmt.Sprintf("n%x", rand.Uint64()) }

// client starts a program that is connected in a clean session.
func (x *mqttBench) client() *harness.MQTTClient {
	x.t.Helper()
	c := x.lang.StartMQTT(x.t, x.version, x.name())
	c.Connect(x.b.MQTTAddr(), false, nil)
	return c
}

func mqttBodies(t *testing.T, x *mqttBench) {
	topic := x.name()
	c := x.client()
	for qos := range 3 {
		filter := fmt.Sprintf("%s/%d", topic, qos)
		c.Subscribe(filter, qos)
		bodies := [][]byte{[]byte("plain text"), []byte("Grüße, 世界 🐘"), {}, {0xff, 0x00, 0x80, '\n'}, large(1 << 20), []byte("last")}
		for _, body := range bodies {
			c.Publish(harness.MQTTMessage{Topic: filter, QoS: qos}, body)
		}
		for _, body := range bodies {
			m := c.Receive()
			if !bytes.Equal(m.Payload(), body) || m.QoS != qos || m.Retain || m.Dup || m.Topic != filter {
				t.Fatalf("sent %d bytes with QoS %d; on %s came %d bytes %.40q with QoS %d, retain %v, DUP %v", len(body), qos, m.Topic, len(m.Payload()), m.Payload(), m.QoS, m.Retain, m.Dup)
			}
		}
	}
	c.Disconnect()
}

func mqttRetained(t *testing.T, x *mqttBench) {
	topic := x.name()
	c := x.client()
	c.Publish(harness.MQTTMessage{Topic: topic, QoS: 1, Retain: true}, []byte("old"))
	c.Publish(harness.MQTTMessage{Topic: topic, QoS: 2, Retain: true}, []byte("kept"))
	late := x.client()
	late.Subscribe(topic, 1)
	if m := late.Receive(); string(m.Payload()) != "kept" || !m.Retain || m.QoS != 1 {
		t.Errorf("%q came, retain %v, QoS %d", m.Payload(), m.Retain, m.QoS)
	}
	c.Publish(harness.MQTTMessage{Topic: topic, QoS: 1, Retain: true}, nil)
	if m := late.Receive(); len(m.Payload()) != 0 || m.Retain { // the removal itself is a message
		t.Errorf("%q came, retain %v", m.Payload(), m.Retain)
	}
	later := x.client()
	later.Subscribe(topic, 1)
	later.ReceiveNothing(quiet)
}

func mqttWill(t *testing.T, x *mqttBench) {
	topic := x.name()
	watcher := x.client()
	watcher.Subscribe(topic, 2)
	c := x.lang.StartMQTT(t, x.version, x.name())
	c.Connect(x.b.MQTTAddr(), false, &harness.MQTTWill{Topic: topic, Body: body64("gone"), QoS: 2})
	c.Kill()
	if m := watcher.Receive(); string(m.Payload()) != "gone" || m.QoS != 2 {
		t.Errorf("%q came with QoS %d", m.Payload(), m.QoS)
	}
	c = x.lang.StartMQTT(t, x.version, x.name())
	c.Connect(x.b.MQTTAddr(), false, &harness.MQTTWill{Topic: topic, Body: body64("never")})
	c.Disconnect()
	watcher.ReceiveNothing(quiet)
}

// TestWillOfAKilledGateway: what devices in clean sessions left behind is published after the gateway itself was killed, to
// those who are back by then.
func TestWillOfAKilledGateway(t *testing.T) {
	t.Parallel()
	b := harness.StartPlain(t)
	c := harness.PahoPython.StartMQTT(t, harness.MQTT311, "device")
	c.Connect(b.MQTTAddr(), false, &harness.MQTTWill{Topic: "gone/device", Body: body64("lost"), QoS: 1})
	b.Kill()
	b.Start()
	watcher := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{ClientID: "watcher"})
	defer watcher.Close()
	if err := watcher.Subscribe(1, "gone/#"); err != nil {
		t.Fatal(err)
	}
	m, err := watcher.Message(30 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if m.TopicName != "gone/device" || string(m.Payload) != "lost" {
		t.Errorf("%q came from %s", m.Payload, m.TopicName)
	}
}

// expectNumbers receives so many numbered messages, once each and those of one QoS in
// order: some libraries show a message of QoS 2 when it is released, behind later ones
// of QoS 1.
func expectNumbers(t *testing.T, c *harness.MQTTClient, from, to int) {
	t.Helper()
	next := [2]int{from + from%2, from + 1 - from%2}
	for range to - from {
		m := c.Receive()
		want := next[m.QoS-1]
		if string(m.Payload()) != fmt.Sprint(want) {
			t.Fatalf("%q came with QoS %d, want %d", m.Payload(), m.QoS, want)
		}
		next[m.QoS-1] += 2
	}
}

func publishNumbers(c *harness.MQTTClient, topic string, from, to int) {
	for n := from; n < to; n++ {
		c.Publish(harness.MQTTMessage{Topic: topic, QoS: 1 + n%2}, fmt.Append(nil, n))
	}
}

// resume starts a new program that takes up the session of one that is gone.
func (x *mqttBench) resume(gone *harness.MQTTClient) *harness.MQTTClient {
	x.t.Helper()
	c := x.lang.StartMQTT(x.t, x.version, gone.ClientID)
	present := c.Connect(x.b.MQTTAddr(), true, nil)
	if x.version > harness.MQTT31 && !present { // which MQTT 3.1 cannot say
		x.t.Error("CONNACK says that there was no session")
	}
	return c
}

func mqttSession(t *testing.T, x *mqttBench) {
	topic := x.name()
	sender := x.client()
	c := x.lang.StartMQTT(t, x.version, x.name())
	if c.Connect(x.b.MQTTAddr(), true, nil) {
		t.Error("there was a session before the first connection")
	}
	c.Subscribe(topic, 2)
	c.Disconnect()
	publishNumbers(sender, topic, 0, 20)
	c = x.resume(c)
	expectNumbers(t, c, 0, 20)
	c.Kill()
	publishNumbers(sender, topic, 20, 40)
	c = x.resume(c)
	expectNumbers(t, c, 20, 40)
	publishNumbers(sender, topic, 40, 42)
	expectNumbers(t, c, 40, 42)
	c.Disconnect()
}

func mqttRestart(t *testing.T, x *mqttBench) {
	topic := x.name()
	sender := x.client()
	c := x.lang.StartMQTT(t, x.version, x.name())
	c.Connect(x.b.MQTTAddr(), true, nil)
	c.Subscribe(topic, 2)
	c.Disconnect()
	publishNumbers(sender, topic, 0, 10)
	sender.Publish(harness.MQTTMessage{Topic: topic + "/kept", QoS: 1, Retain: true}, []byte("kept"))
	sender.Kill()
	x.b.Kill()
	x.b.Start()
	c = x.resume(c)
	expectNumbers(t, c, 0, 10)
	c.Subscribe(topic+"/kept", 1)
	if m := c.Receive(); string(m.Payload()) != "kept" || !m.Retain {
		t.Errorf("%q came, retain %v", m.Payload(), m.Retain)
	}
	publishNumbers(c, topic, 10, 12)
	expectNumbers(t, c, 10, 12)
	c.Disconnect()
}

func mqttWildcards(t *testing.T, x *mqttBench) {
	root := x.name()
	c, sender := x.client(), x.client()
	c.Subscribe(root+"/+/temp", 1)
	c.Subscribe(root+"/all/#", 1)
	for _, topic := range []string{"/7/temp", "/7/pressure", "/all", "/all/a/b", "/7/8/temp", "/9/temp"} {
		sender.Publish(harness.MQTTMessage{Topic: root + topic, QoS: 1}, []byte(topic))
	}
	var got []string
	for range 4 {
		m := c.Receive()
		if m.Topic != root+string(m.Payload()) {
			t.Errorf("the topic is %q", m.Topic)
		}
		got = append(got, string(m.Payload()))
	}
	if want := []string{"/7/temp", "/all", "/all/a/b", "/9/temp"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.ReceiveNothing(quiet)
}

func mqttShared(t *testing.T, x *mqttBench) {
	const messages = 20
	topic := x.name()
	members := []*harness.MQTTClient{x.client(), x.client()}
	for _, m := range members {
		m.Subscribe("$share/group/"+topic, 1)
	}
	sender := x.client()
	for n := range messages {
		sender.Publish(harness.MQTTMessage{Topic: topic, QoS: 1}, fmt.Append(nil, n))
	}
	var got []string
	for len(got) < messages/4 { // each has a part, and the rest is the other's
		got = append(got, string(first(members[0].Receive()).Payload()))
	}
	members[0].Disconnect()
	for len(got) < messages/2 {
		got = append(got, string(first(members[1].Receive()).Payload()))
	}
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != messages/2 {
		t.Errorf("%d messages came twice", messages/2-n)
	}
}

// first makes an addressable message of a result.
func first(m harness.MQTTMessage) *harness.MQTTMessage { return &m }

func mqttProperties(t *testing.T, x *mqttBench) {
	if x.version < harness.MQTT5 {
		t.Skip("of MQTT 5")
	}
	topic, answers := x.name(), x.name()
	c, responder := x.client(), x.client()
	responder.Subscribe(topic, 1)
	c.Subscribe(answers, 1)
	sent := harness.MQTTMessage{
		Topic: topic, QoS: 1, ContentType: "application/json; ü", ResponseTopic: answers, Expiry: 3600,
		Correlation: base64.StdEncoding.EncodeToString([]byte{0, 1, 0xff}), User: [][2]string{{"größe", "40 µm"}, {"x", "1"}, {"x", "2"}},
	}
	c.Publish(sent, []byte("{}"))
	m := responder.Receive()
	if m.ContentType != sent.ContentType || m.ResponseTopic != answers || m.Correlation != sent.Correlation || !slices.Equal(m.User, sent.User) || m.Expiry < 3000 || m.Expiry > 3600 {
		t.Errorf("sent %+v, got %+v", sent, m)
	}
	responder.Publish(harness.MQTTMessage{Topic: m.ResponseTopic, QoS: 1, Correlation: m.Correlation}, []byte("answer"))
	if m := c.Receive(); string(m.Payload()) != "answer" || m.Correlation != sent.Correlation {
		t.Errorf("the answer is %q with %q", m.Payload(), m.Correlation)
	}
}
