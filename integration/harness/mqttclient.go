package harness

import (
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// MQTTRequest tells an MQTT client program what to do, as Request does for STOMP. Bodies
// and correlation data are base64.
type MQTTRequest struct {
	Op        string    `json:"op"`
	Host      string    `json:"host,omitempty"`
	Port      int       `json:"port,omitempty"`
	Version   int       `json:"version,omitempty"`
	ClientID  string    `json:"client_id"`
	Durable   bool      `json:"durable,omitempty"`
	Will      *MQTTWill `json:"will,omitempty"`
	TimeoutMs int       `json:"timeout_ms,omitempty"`
	MQTTMessage
}

// MQTTWill is the will of a connection.
type MQTTWill struct {
	Topic  string `json:"topic"`
	Body   string `json:"body"`
	QoS    int    `json:"qos"`
	Retain bool   `json:"retain"`
}

// MQTTMessage is a message in either direction.
type MQTTMessage struct {
	Topic         string      `json:"topic,omitempty"` // or the filter to subscribe to
	Body          string      `json:"body,omitempty"`
	QoS           int         `json:"qos"`
	Retain        bool        `json:"retain,omitempty"`
	Dup           bool        `json:"dup,omitempty"`
	ContentType   string      `json:"content_type,omitempty"`
	ResponseTopic string      `json:"response_topic,omitempty"`
	Correlation   string      `json:"correlation,omitempty"`
	Expiry        int         `json:"expiry,omitempty"` // seconds
	User          [][2]string `json:"user,omitempty"`
}

// Payload is the message's body.
func (m *MQTTMessage) Payload() []byte {
	b, err := base64.StdEncoding.DecodeString(m.Body)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// MQTTReply is the program's answer.
type MQTTReply struct {
	Outcome
	None    bool `json:"none"`
	Present bool `json:"present"` // connect: there was a session
	MQTTMessage
}

// PahoPython, MQTTJS and PahoGo are the MQTT client programs.
var (
	PahoPython = Language{Name: "paho python", Command: []string{"/usr/bin/python3", "-B", script("mqtt.py")}, Package: "python3-paho-mqtt",
		Probe: []string{"/usr/bin/python3", "-c", "import paho.mqtt.client"}}
	MQTTJS = Language{Name: "mqtt.js", Command: []string{"node", filepath.Join(NodeDir(), "mqtt.mjs")}, Package: "nodejs",
		Probe: []string{"node", "--version"}}
	PahoGo = Language{Name: "paho go", Command: []string{os.Args[0]}, Package: "nothing"}
)

// MQTTClient is a client program that speaks MQTT of one version.
type MQTTClient struct {
	*Client
	Version  int
	ClientID string
}

// StartMQTT starts a client program.
func (l Language) StartMQTT(t testing.TB, version int, clientID string) *MQTTClient {
	t.Helper()
	if l.Name == MQTTJS.Name {
		RequireNode(t)
	}
	return &MQTTClient{Client: l.Start(t), Version: version, ClientID: clientID}
}

func (c *MQTTClient) do(r MQTTRequest) (reply MQTTReply) {
	c.t.Helper()
	if c.exchange(r.Op, r, &reply); !reply.OK {
		c.t.Fatalf("%s client, %s %s: %s", c.lang.Name, r.Op, r.Topic, reply.Error)
	}
	return reply
}

// Connect connects, and reports whether there was a session.
func (c *MQTTClient) Connect(addr string, durable bool, will *MQTTWill) (present bool) {
	c.t.Helper()
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.do(MQTTRequest{Op: "connect", Host: host, Port: port, Version: c.Version, ClientID: c.ClientID, Durable: durable, Will: will}).Present
}

// Subscribe waits for SUBACK, and fails the test if it refuses.
func (c *MQTTClient) Subscribe(filter string, qos int) {
	c.t.Helper()
	c.do(MQTTRequest{Op: "subscribe", MQTTMessage: MQTTMessage{Topic: filter, QoS: qos}})
}

// Publish returns when the flow of the message is complete.
func (c *MQTTClient) Publish(m MQTTMessage, body []byte) {
	c.t.Helper()
	m.Body = base64.StdEncoding.EncodeToString(body)
	c.do(MQTTRequest{Op: "publish", MQTTMessage: m})
}

// Receive waits for a message.
func (c *MQTTClient) Receive() MQTTMessage {
	c.t.Helper()
	r := c.do(MQTTRequest{Op: "receive", TimeoutMs: int(receiveTimeout.Milliseconds())})
	if r.None {
		c.t.Fatalf("%s client: no message came", c.lang.Name)
	}
	return r.MQTTMessage
}

// ReceiveNothing fails the test if a message comes within quiet.
func (c *MQTTClient) ReceiveNothing(quiet time.Duration) {
	c.t.Helper()
	if r := c.do(MQTTRequest{Op: "receive", TimeoutMs: int(quiet.Milliseconds())}); !r.None {
		c.t.Fatalf("%s client: a message that should not come: %s %.100q", c.lang.Name, r.Topic, r.Payload())
	}
}

// Disconnect leaves in order.
func (c *MQTTClient) Disconnect() {
	c.t.Helper()
	c.do(MQTTRequest{Op: "disconnect"})
}
