package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

func (l *load) mqtt(version byte, clientID string, first bool, g *ledger) (*harness.MQTT, error) {
	m, err := harness.DialMQTT(l.c.MQTT(), harness.MQTTOptions{Version: version, ClientID: clientID, Durable: true,
		User: harness.ClusterUser, Password: harness.ClusterPassword})
	if err == nil && !first && !m.Present {
		g.lostSession()
	}
	return m, err
}

// publication is a message that is not completed: published, or with QoS 2 also
// received by the gateway.
type publication struct {
	id       string
	packet   uint16
	received bool
}

// mqttSender publishes numbered messages from a durable session, and after a
// reconnect goes on with each where it was, as [MQTT-4.4.0-1] has it.
type mqttSender struct {
	load   *load
	ledger *ledger
	qos    byte
	topic  string
	m      *harness.MQTT
	known  bool // there was a connection before
	next   int
	packet uint16
	open   []*publication
}

func (s *mqttSender) connect() (net.Conn, error) {
	m, err := s.load.mqtt(harness.MQTT5, fmt.Sprintf("sender-%d", s.qos), !s.known, s.ledger)
	if err != nil {
		return nil, err
	}
	s.m, s.known = m, true
	return m.Socket, nil
}

func (s *mqttSender) work(ctx context.Context) error {
	for _, p := range s.open {
		var err error
		if p.received {
			err = s.m.Answer(packets.Pubrel, p.packet)
		} else {
			s.ledger.again(p.id)
			err = s.publish(p, true)
		}
		if err != nil {
			return err
		}
	}
	for {
		for len(s.open) < window && ctx.Err() == nil {
			p := &publication{id: makeID(fmt.Sprintf("m%d", s.qos), s.next), packet: s.nextPacket()}
			s.next++
			s.ledger.sent()
			s.open = append(s.open, p)
			if err := s.publish(p, false); err != nil {
				return err
			}
		}
		pk, err := s.m.Read(patience)
		if err != nil {
			return err
		}
		if err := s.answered(pk); err != nil {
			return err
		}
		s.load.await(ctx)
	}
}

// nextPacket returns an identifier that is not in use.
func (s *mqttSender) nextPacket() uint16 {
	for {
		if s.packet++; s.packet != 0 && !slices.ContainsFunc(s.open, func(p *publication) bool { return p.packet == s.packet }) {
			return s.packet
		}
	}
}

func (s *mqttSender) publish(p *publication, again bool) error {
	pk := harness.PublishPacket(s.topic, []byte(p.id), s.qos)
	pk.PacketID, pk.FixedHeader.Dup = p.packet, again
	return s.m.Write(pk)
}

func (s *mqttSender) unconfirmed() (ids []string) {
	for _, p := range s.open {
		ids = append(ids, p.id)
	}
	return ids
}

func (s *mqttSender) answered(pk *packets.Packet) error {
	at := slices.IndexFunc(s.open, func(p *publication) bool { return p.packet == pk.PacketID })
	if at < 0 || pk.FixedHeader.Type == packets.Disconnect {
		s.ledger.refuse(fmt.Sprintf("packet type %d, reason %#x %s", pk.FixedHeader.Type, pk.ReasonCode, pk.Properties.ReasonString))
		return errorf("packet type %d %s", pk.FixedHeader.Type, pk.Properties.ReasonString)
	}
	p := s.open[at]
	// A PUBCOMP completes in any case: its 0x92 says that it was complete already.
	if pk.ReasonCode >= 0x80 && pk.FixedHeader.Type != packets.Pubcomp {
		// It is refused, and its identifier free [MQTT-4.3.3-3]: it is sent as a new one, later.
		s.ledger.refuse(fmt.Sprintf("reason %#x %s", pk.ReasonCode, pk.Properties.ReasonString), s.unconfirmed()...)
		p.packet, p.received = s.nextPacket(), false
		return errorf("reason %#x", pk.ReasonCode)
	}
	switch pk.FixedHeader.Type {
	case packets.Pubrec:
		p.received = true
		return s.m.Answer(packets.Pubrel, p.packet)
	case packets.Puback, packets.Pubcomp:
		s.ledger.confirm(p.id)
		s.open = slices.Delete(s.open, at, at+1)
		return nil
	}
	return errorf("packet type %d", pk.FixedHeader.Type)
}

// mqttReceiver has a durable session, and remembers what it received by QoS 2 and
// was not released, over all its connections.
type mqttReceiver struct {
	once
	load     *load
	ledger   *ledger
	qos      byte
	topic    string
	m        *harness.MQTT
	known    bool
	received map[uint16]bool
}

func (r *mqttReceiver) connect() (net.Conn, error) {
	m, err := r.load.mqtt(harness.MQTT311, fmt.Sprintf("receiver-%d", r.qos), !r.known, r.ledger)
	if err != nil {
		return nil, err
	}
	r.m = m
	if !m.Present {
		r.received = map[uint16]bool{}
		if err := m.Subscribe(r.qos, r.topic); err != nil {
			m.Close()
			return nil, err
		}
	}
	r.known = true
	r.happened()
	return m.Socket, nil
}

func (r *mqttReceiver) work(context.Context) error {
	for {
		pk, err := r.m.Read(patience)
		if err != nil {
			return err
		}
		switch pk.FixedHeader.Type {
		case packets.Publish:
			if err := r.publish(pk); err != nil {
				return err
			}
		case packets.Pubrel:
			delete(r.received, pk.PacketID)
			if err := r.m.Answer(packets.Pubcomp, pk.PacketID); err != nil {
				return err
			}
		default:
			return errorf("packet type %d", pk.FixedHeader.Type)
		}
	}
}

func (r *mqttReceiver) publish(pk *packets.Packet) error {
	id := string(pk.Payload)
	if pk.FixedHeader.Qos < 2 {
		r.ledger.got(id, pk.FixedHeader.Dup)
		return r.m.Answer(packets.Puback, pk.PacketID)
	}
	if !r.received[pk.PacketID] { // [MQTT-4.3.3-10]: one that is not released is the same message
		r.received[pk.PacketID] = true
		r.ledger.got(id, pk.FixedHeader.Dup)
	}
	return r.m.Answer(packets.Pubrec, pk.PacketID)
}
