package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"

	"github.com/mqgate/mqgate/integration/harness"
)

// pahoClient is the client program on paho.golang (MQTT 5).
func pahoClient() { harness.Serve((&pahogo{session: state.NewInMemory()}).perform) }

type pahogo struct {
	client   *paho.Client
	session  *state.State // outlives connections
	messages chan *paho.Publish
}

func (c *pahogo) perform(r harness.MQTTRequest, reply *harness.MQTTReply) error {
	ctx, cancel := context.WithTimeout(context.Background(), goTimeout)
	defer cancel()
	switch r.Op {
	case "connect":
		return c.connect(ctx, r, reply)
	case "publish":
		return c.publish(ctx, r.MQTTMessage)
	case "subscribe":
		_, err := c.client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: r.Topic, QoS: byte(r.QoS)}}})
		return err
	case "receive":
		c.receive(time.Duration(r.TimeoutMs)*time.Millisecond, reply)
		return nil
	case "disconnect":
		return c.client.Disconnect(&paho.Disconnect{})
	}
	return fmt.Errorf("unknown operation %q", r.Op)
}

func (c *pahogo) connect(ctx context.Context, r harness.MQTTRequest, reply *harness.MQTTReply) error {
	conn, err := net.Dial("tcp", net.JoinHostPort(r.Host, strconv.Itoa(r.Port)))
	if err != nil {
		return err
	}
	c.messages = make(chan *paho.Publish, 1<<10)
	messages := c.messages
	c.client = paho.NewClient(paho.ClientConfig{ClientID: r.ClientID, Conn: conn, Session: c.session,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			messages <- p.Packet
			return true, nil
		}}})
	cp := &paho.Connect{ClientID: r.ClientID, CleanStart: !r.Durable, KeepAlive: 60}
	if r.Durable {
		sec := uint32(3600)
		cp.Properties = &paho.ConnectProperties{SessionExpiryInterval: &sec}
	}
	if w := r.Will; w != nil {
		body, err := base64.StdEncoding.DecodeString(w.Body)
		if err != nil {
			return err
		}
		cp.WillMessage = &paho.WillMessage{Topic: w.Topic, Payload: body, QoS: byte(w.QoS), Retain: w.Retain}
	}
	ack, err := c.client.Connect(ctx, cp)
	if err == nil {
		reply.Present = ack.SessionPresent
	}
	return err
}

func (c *pahogo) publish(ctx context.Context, m harness.MQTTMessage) error {
	p := &paho.PublishProperties{ContentType: m.ContentType, ResponseTopic: m.ResponseTopic}
	if m.Expiry > 0 {
		sec := uint32(m.Expiry)
		p.MessageExpiry = &sec
	}
	var err error
	if m.Correlation != "" {
		if p.CorrelationData, err = base64.StdEncoding.DecodeString(m.Correlation); err != nil {
			return err
		}
	}
	for _, u := range m.User {
		p.User.Add(u[0], u[1])
	}
	_, err = c.client.Publish(ctx, &paho.Publish{Topic: m.Topic, Payload: m.Payload(), QoS: byte(m.QoS), Retain: m.Retain, Properties: p})
	return err
}

func (c *pahogo) receive(limit time.Duration, reply *harness.MQTTReply) {
	select {
	case p := <-c.messages:
		x := p.Properties
		reply.MQTTMessage = harness.MQTTMessage{
			Topic: p.Topic, Body: base64.StdEncoding.EncodeToString(p.Payload), QoS: int(p.QoS), Retain: p.Retain, Dup: p.Duplicate(),
			ContentType: x.ContentType, ResponseTopic: x.ResponseTopic, Correlation: base64.StdEncoding.EncodeToString(x.CorrelationData),
		}
		if x.MessageExpiry != nil {
			reply.Expiry = int(*x.MessageExpiry)
		}
		for _, u := range x.User {
			reply.User = append(reply.User, [2]string{u.Key, u.Value})
		}
	case <-time.After(limit):
		reply.None = true
	}
}
