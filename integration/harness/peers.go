package harness

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// BarePeers are the clients on bare sockets: STOMP 1.0, 1.1 and 1.2, MQTT 3.1.1 and 5.
func BarePeers(b *Broker) []Peer {
	stomp := func(version string) Peer {
		return Peer{Name: "STOMP " + version, Metadata: true, Lines: version != "1.0", Connect: func(t testing.TB, identity string) CrossConn {
			return connectSTOMP(t, b.Addr(), version, identity)
		}}
	}
	mqtt := func(version byte, name string) Peer {
		return Peer{Name: name, Metadata: version == MQTT5, Lines: true, Bytes: version == MQTT5, Repeats: version == MQTT5, Connect: func(t testing.TB, identity string) CrossConn {
			return &mqttPeer{m: MustMQTT(t, b.MQTTAddr(), MQTTOptions{Version: version, ClientID: identity, Durable: identity != ""})}
		}}
	}
	return []Peer{stomp("1.0"), stomp("1.1"), stomp("1.2"), mqtt(MQTT311, "MQTT 3.1.1"), mqtt(MQTT5, "MQTT 5")}
}

// stompPeer is a connection of one STOMP version.
type stompPeer struct {
	t        testing.TB
	w        *Wire
	version  string
	identity string
	from     Place
}

func connectSTOMP(t testing.TB, addr, version, identity string) *stompPeer {
	t.Helper()
	w, err := Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	w.version = version
	var headers []string
	if version != "1.0" {
		headers = []string{"accept-version:" + version, "host:localhost"}
	}
	if identity != "" {
		headers = append(headers, "client-id:"+identity)
	}
	w.Must(t, "CONNECT", nil, headers...)
	if f := w.Expect(t, "CONNECTED"); f.Headers["version"] != version {
		t.Fatalf("asked for STOMP %s, got %s", version, f)
	}
	return &stompPeer{t: t, w: w, version: version, identity: identity}
}

// header writes a header line as the version escapes it.
func (c *stompPeer) header(name, value string) string {
	var escape *strings.Replacer
	switch c.version {
	case "1.0":
		return name + ":" + value
	case "1.1":
		escape = strings.NewReplacer(`\`, `\\`, ":", `\c`, "\n", `\n`)
	default:
		escape = strings.NewReplacer(`\`, `\\`, ":", `\c`, "\n", `\n`, "\r", `\r`)
	}
	return escape.Replace(name) + ":" + escape.Replace(value)
}

func (c *stompPeer) confirm(command string, body []byte, headers ...string) error {
	if err := c.w.Write(command, body, append(headers, "receipt:r")...); err != nil {
		return err
	}
	for {
		f, err := c.w.Read(wireTimeout)
		switch {
		case err != nil:
			return err
		case f.Command == "MESSAGE":
			c.w.early = append(c.w.early, f)
		case f.Command != "RECEIPT":
			return fmt.Errorf("%s was answered by %s", command, f)
		default:
			return nil
		}
	}
}

func (c *stompPeer) Send(to Place, p Post) error {
	headers := []string{c.header("destination", to.STOMP())}
	add := func(name, value string) {
		if value != "" {
			headers = append(headers, c.header(name, value))
		}
	}
	add("content-type", p.ContentType)
	add("correlation-id", string(p.Correlation))
	if p.ReplyTo.String() != "" {
		add("reply-to", p.ReplyTo.STOMP())
	}
	if p.Expires > 0 {
		add("expires", strconv.FormatInt(time.Now().Add(p.Expires).UnixMilli(), 10))
	}
	if p.Persistent {
		add("persistent", "true")
	}
	if p.Retain {
		add("retain", "true")
	}
	for _, h := range p.Headers {
		add(h[0], h[1])
	}
	if !p.Text {
		add("content-length", strconv.Itoa(len(p.Body)))
	}
	return c.confirm("SEND", p.Body, headers...)
}

func (c *stompPeer) Subscribe(from Place, a Asking) error {
	c.from = from
	headers := []string{c.header("destination", from.STOMP()), "ack:client-individual", "id:1"}
	if a.Durable {
		headers = append(headers, c.header("activemq.subscriptionName", c.identity))
	}
	if a.Retained {
		headers = append(headers, "retained:true")
	}
	return c.confirm("SUBSCRIBE", nil, headers...)
}

// standard are the headers of MESSAGE that are no user's.
var standard = map[string]bool{"subscription": true, "message-id": true, "destination": true, "ack": true, "redelivered": true,
	"x-delivery-count": true, "JMSXDeliveryCount": true, "expires": true, "priority": true, "timestamp": true, "persistent": true,
	"correlation-id": true, "reply-to": true, "content-type": true, "content-length": true, "retained": true}

func (c *stompPeer) Receive(limit time.Duration) (Post, error) {
	var f *Frame
	var err error
	if len(c.w.early) > 0 {
		f, c.w.early = c.w.early[0], c.w.early[1:]
	} else if f, err = c.w.Read(limit); err != nil {
		return Post{}, err
	}
	if f.Command != "MESSAGE" {
		return Post{}, fmt.Errorf("not a MESSAGE: %s", f)
	}
	h := f.Headers
	p := Post{
		Body: f.Body, To: PlaceOfSTOMP(h["destination"]), ContentType: h["content-type"], ReplyTo: PlaceOfSTOMP(h["reply-to"]),
		Correlation: []byte(h["correlation-id"]), Persistent: h["persistent"] == "true", Retain: h["retained"] == "true",
	}
	for _, x := range f.All {
		if !standard[x[0]] {
			p.Headers = append(p.Headers, x)
		}
	}
	if ms, err := strconv.ParseInt(h["expires"], 10, 64); err == nil && ms > 0 {
		p.Expires = time.Until(time.UnixMilli(ms))
	}
	return p, c.confirm("ACK", nil, c.acknowledges(h)...)
}

// acknowledges are the headers of an ACK.
func (c *stompPeer) acknowledges(h map[string]string) []string {
	switch c.version {
	case "1.0":
		return []string{c.header("message-id", h["message-id"])}
	case "1.1":
		return []string{c.header("message-id", h["message-id"]), "subscription:1"}
	}
	return []string{c.header("id", h["ack"])}
}

func (c *stompPeer) Leave(forget bool) error {
	if forget {
		if err := c.confirm("UNSUBSCRIBE", nil, "id:1", c.header("activemq.subscriptionName", c.identity)); err != nil {
			return err
		}
	}
	err := c.confirm("DISCONNECT", nil)
	c.w.Close()
	return err
}

// mqttPeer is a connection of one MQTT version.
type mqttPeer struct {
	m    *MQTT
	from Place
}

func (c *mqttPeer) Send(to Place, p Post) error {
	pk := PublishPacket(to.MQTT(), p.Body, 0)
	if p.Persistent {
		pk.FixedHeader.Qos = 1
	}
	pk.FixedHeader.Retain = p.Retain
	if c.m.Version < MQTT5 {
		return c.m.Publish(pk)
	}
	x := &pk.Properties
	x.ContentType, x.ResponseTopic, x.CorrelationData = p.ContentType, p.ReplyTo.MQTT(), p.Correlation
	x.PayloadFormatFlag = p.Text
	if p.Text {
		x.PayloadFormat = 1
	}
	x.MessageExpiryInterval = uint32(p.Expires / time.Second)
	for _, h := range p.Headers {
		x.User = append(x.User, packets.UserProperty{Key: h[0], Val: h[1]})
	}
	return c.m.Publish(pk)
}

func (c *mqttPeer) Subscribe(from Place, a Asking) error {
	c.from = from
	if a.Durable && c.m.Present {
		return nil // the session has it
	}
	return c.m.Subscribe(1, from.MQTT())
}

func (c *mqttPeer) Receive(limit time.Duration) (Post, error) {
	pk, err := c.m.Message(limit)
	if err != nil {
		return Post{}, err
	}
	x := &pk.Properties
	p := Post{
		Body: bytes.Clone(pk.Payload), To: PlaceOfMQTT(pk.TopicName), Persistent: pk.FixedHeader.Qos > 0, Retain: pk.FixedHeader.Retain,
		ContentType: x.ContentType, ReplyTo: PlaceOfMQTT(x.ResponseTopic), Correlation: x.CorrelationData,
		Expires: time.Duration(x.MessageExpiryInterval) * time.Second,
	}
	for _, u := range x.User {
		p.Headers = append(p.Headers, [2]string{u.Key, u.Val})
	}
	return p, c.m.Settle(pk)
}

func (c *mqttPeer) Leave(forget bool) error {
	if forget {
		if err := c.m.Unsubscribe(c.from.MQTT()); err != nil {
			return err
		}
	}
	if err := c.m.Ping(); err != nil { // so that the last acknowledgement has been heard
		return err
	}
	return c.m.Disconnect()
}
