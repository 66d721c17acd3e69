package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The protocol levels of MQTT.
const (
	MQTT31  = 3
	MQTT311 = 4
	MQTT5   = 5
)

// MQTTOptions are what CONNECT says.
type MQTTOptions struct {
	Version        byte // default MQTT311
	ClientID       string
	Durable        bool // the session outlives the connection, for an hour in MQTT 5
	Fresh          bool // of a durable one: an earlier session ends first
	ReceiveMaximum uint16
	Will           *packets.Packet // a PublishPacket
	User           string
	Password       string
}

// MQTT is an MQTT client on a bare socket: it does what it is told, and nothing on
// its own. One goroutine may write while another reads.
type MQTT struct {
	Socket  net.Conn
	Version byte
	Present bool // CONNACK said that there was a session
	r       *bufio.Reader
	w       *bufio.Writer
	id      uint16
	early   []*packets.Packet // PUBLISHes that came before an answer
}

// DialMQTT connects; on failure no socket is left open.
func DialMQTT(addr string, o MQTTOptions) (*MQTT, error) {
	if addr == "" {
		return nil, errors.New("the gateway is down")
	}
	s, err := net.DialTimeout("tcp", addr, wireTimeout)
	if err != nil {
		return nil, err
	}
	m, err := LoginMQTT(s, o)
	if err != nil {
		s.Close()
	}
	return m, err
}

// LoginMQTT connects on a socket, such as that of a WebSocket.
func LoginMQTT(s net.Conn, o MQTTOptions) (*MQTT, error) {
	if o.Version == 0 {
		o.Version = MQTT311
	}
	m := &MQTT{Socket: s, Version: o.Version, r: bufio.NewReaderSize(s, 16<<10), w: bufio.NewWriterSize(s, 16<<10)}
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
	k := &pk.Connect
	k.ProtocolName, k.ClientIdentifier = []byte("MQTT"), o.ClientID
	if o.Version == MQTT31 {
		k.ProtocolName = []byte("MQIsdp")
	}
	k.Clean = !o.Durable || o.Fresh
	if o.Version == MQTT5 {
		pk.Properties.ReceiveMaximum = o.ReceiveMaximum
		if o.Durable {
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
		}
	}
	if w := o.Will; w != nil {
		k.WillFlag, k.WillTopic, k.WillPayload = true, w.TopicName, w.Payload
		k.WillQos, k.WillRetain = w.FixedHeader.Qos, w.FixedHeader.Retain
	}
	if o.User != "" {
		k.UsernameFlag, k.Username, k.PasswordFlag, k.Password = true, []byte(o.User), true, []byte(o.Password)
	}
	if err := m.Write(pk); err != nil {
		return nil, err
	}
	ack, err := m.Read(wireTimeout)
	switch {
	case err != nil:
		return nil, err
	case ack.FixedHeader.Type != packets.Connack || ack.ReasonCode != 0:
		return nil, fmt.Errorf("CONNECT was answered by packet type %d with reason %#x: %s", ack.FixedHeader.Type, ack.ReasonCode, ack.Properties.ReasonString)
	}
	m.Present = ack.SessionPresent
	return m, nil
}

// MustMQTT is DialMQTT for the main goroutine of a test; the socket closes with it.
func MustMQTT(t testing.TB, addr string, o MQTTOptions) *MQTT {
	t.Helper()
	m, err := DialMQTT(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// MQTTAddr is the address of the main MQTT listener; empty while the gateway is down.
func (b *Broker) MQTTAddr() string { return b.ListenerAddr("mqtt") }

// Close closes the socket.
func (m *MQTT) Close() { m.Socket.Close() }

// Disconnect ends the connection as a client does that leaves.
func (m *MQTT) Disconnect() error {
	err := m.Write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	m.Close()
	return err
}

// NextID gives a packet identifier; all of a client's are given by it, so that none is
// in use twice.
func (m *MQTT) NextID() uint16 {
	if m.id++; m.id == 0 {
		m.id = 1
	}
	return m.id
}

// Write sends a packet.
func (m *MQTT) Write(pk *packets.Packet) error {
	if err := m.Queue(pk); err != nil {
		return err
	}
	return m.Flush()
}

// Queue writes a packet that Flush sends.
func (m *MQTT) Queue(pk *packets.Packet) error {
	pk.ProtocolVersion = m.Version
	b, err := encodeMQTT(pk)
	if err != nil {
		return err
	}
	if err := m.Socket.SetWriteDeadline(time.Now().Add(wireTimeout)); err != nil {
		return err
	}
	_, err = m.w.Write(b)
	return err
}

// Flush sends what Queue wrote.
func (m *MQTT) Flush() error { return m.w.Flush() }

// encodeMQTT is for what clients send.
func encodeMQTT(pk *packets.Packet) ([]byte, error) {
	var b bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&b)
	case packets.Publish:
		pk.Mods.AllowResponseInfo = true
		err = pk.PublishEncode(&b)
	case packets.Puback:
		err = pk.PubackEncode(&b)
	case packets.Pubrec:
		err = pk.PubrecEncode(&b)
	case packets.Pubrel:
		pk.FixedHeader.Qos = 1
		err = pk.PubrelEncode(&b)
	case packets.Pubcomp:
		err = pk.PubcompEncode(&b)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&b)
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&b)
	case packets.Pingreq:
		err = pk.PingreqEncode(&b)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&b)
	default:
		err = fmt.Errorf("a client does not send packet type %d", pk.FixedHeader.Type)
	}
	return b.Bytes(), err
}

// Waits reports whether something to read has come within limit; an error shows when
// it is read.
func (m *MQTT) Waits(limit time.Duration) bool {
	if m.Socket.SetReadDeadline(time.Now().Add(limit)) != nil {
		return true
	}
	_, err := m.r.Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// Read reads a packet.
func (m *MQTT) Read(limit time.Duration) (*packets.Packet, error) {
	if err := m.Socket.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	first, err := m.r.ReadByte()
	if err != nil {
		return nil, err
	}
	pk := &packets.Packet{ProtocolVersion: m.Version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return nil, fmt.Errorf("first byte %#x: %w", first, err)
	}
	n, _, err := packets.DecodeLength(m.r)
	if err != nil {
		return nil, err
	}
	body := make([]byte, n) // it is our own gateway that says so
	if _, err := io.ReadFull(m.r, body); err != nil {
		return nil, err
	}
	pk.FixedHeader.Remaining = n
	return pk, decodeMQTT(pk, body)
}

// decodeMQTT is for what clients receive.
func decodeMQTT(pk *packets.Packet, body []byte) error {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		return pk.ConnackDecode(body)
	case packets.Publish:
		return pk.PublishDecode(body)
	case packets.Puback:
		return pk.PubackDecode(body)
	case packets.Pubrec:
		return pk.PubrecDecode(body)
	case packets.Pubrel:
		return pk.PubrelDecode(body)
	case packets.Pubcomp:
		return pk.PubcompDecode(body)
	case packets.Suback:
		return pk.SubackDecode(body)
	case packets.Unsuback:
		return pk.UnsubackDecode(body)
	case packets.Pingresp:
		return nil
	case packets.Disconnect:
		return pk.DisconnectDecode(body)
	}
	return fmt.Errorf("a server does not send packet type %d", pk.FixedHeader.Type)
}

// Answer writes an acknowledgement.
func (m *MQTT) Answer(kind byte, id uint16) error {
	return m.Write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id})
}

// await reads until a packet of a type with an identifier comes. PUBLISHes that come
// before are kept for Message.
func (m *MQTT) await(kind byte, id uint16) (*packets.Packet, error) {
	for {
		pk, err := m.Read(wireTimeout)
		switch {
		case err != nil:
			return nil, err
		case pk.FixedHeader.Type == kind && pk.PacketID == id:
			return pk, nil
		case pk.FixedHeader.Type == packets.Publish:
			m.early = append(m.early, pk)
		case pk.FixedHeader.Type != packets.Pubrel: // of a message that Message gave before
			return nil, fmt.Errorf("packet type %d with id %d and reason %#x instead of %d with %d", pk.FixedHeader.Type, pk.PacketID, pk.ReasonCode, kind, id)
		default:
			if err := m.Answer(packets.Pubcomp, pk.PacketID); err != nil {
				return nil, err
			}
		}
	}
}

// Subscribe subscribes to filters with one QoS, and fails if any is refused.
func (m *MQTT) Subscribe(qos byte, filters ...string) error {
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: m.NextID()}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	if err := m.Write(pk); err != nil {
		return err
	}
	ack, err := m.await(packets.Suback, pk.PacketID)
	if err != nil {
		return err
	}
	for i, code := range ack.ReasonCodes {
		if code > 2 {
			return fmt.Errorf("subscribe to %s: reason %#x", filters[i], code)
		}
	}
	return nil
}

// Unsubscribe ends subscriptions.
func (m *MQTT) Unsubscribe(filters ...string) error {
	pk := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: m.NextID()}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
	}
	if err := m.Write(pk); err != nil {
		return err
	}
	_, err := m.await(packets.Unsuback, pk.PacketID)
	return err
}

// PublishPacket makes a PUBLISH; its identifier is set by Publish.
func PublishPacket(topic string, payload []byte, qos byte) *packets.Packet {
	return &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: payload}
}

// Publish publishes and returns once the gateway has confirmed; with QoS 0, once it
// has answered a ping behind it.
func (m *MQTT) Publish(pk *packets.Packet) error {
	qos := pk.FixedHeader.Qos
	if qos > 0 {
		pk.PacketID = m.NextID()
	}
	if err := m.Write(pk); err != nil {
		return err
	}
	switch qos {
	case 0:
		return m.Ping()
	case 1:
		return m.confirmed(packets.Puback, pk.PacketID)
	}
	if err := m.confirmed(packets.Pubrec, pk.PacketID); err != nil {
		return err
	}
	if err := m.Answer(packets.Pubrel, pk.PacketID); err != nil {
		return err
	}
	return m.confirmed(packets.Pubcomp, pk.PacketID)
}

func (m *MQTT) confirmed(kind byte, id uint16) error {
	pk, err := m.await(kind, id)
	if err == nil && pk.ReasonCode >= 0x80 {
		err = fmt.Errorf("reason %#x: %s", pk.ReasonCode, pk.Properties.ReasonString)
	}
	return err
}

// Ping returns when the gateway has handled all that was sent.
func (m *MQTT) Ping() error {
	if err := m.Write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}); err != nil {
		return err
	}
	_, err := m.await(packets.Pingresp, 0)
	return err
}

// Message reads a PUBLISH without acknowledging it.
func (m *MQTT) Message(limit time.Duration) (*packets.Packet, error) {
	if len(m.early) > 0 {
		pk := m.early[0]
		m.early = m.early[1:]
		return pk, nil
	}
	for {
		pk, err := m.Read(limit)
		if err != nil {
			return nil, err
		}
		switch pk.FixedHeader.Type {
		case packets.Publish:
			return pk, nil
		case packets.Pubrel:
			if err := m.Answer(packets.Pubcomp, pk.PacketID); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("packet type %d with reason %#x instead of PUBLISH", pk.FixedHeader.Type, pk.ReasonCode)
		}
	}
}

// Settle acknowledges a PUBLISH, by both steps if it has QoS 2.
func (m *MQTT) Settle(pk *packets.Packet) error {
	switch pk.FixedHeader.Qos {
	case 1:
		return m.Answer(packets.Puback, pk.PacketID)
	case 2:
		if err := m.Answer(packets.Pubrec, pk.PacketID); err != nil {
			return err
		}
		if _, err := m.await(packets.Pubrel, pk.PacketID); err != nil {
			return err
		}
		return m.Answer(packets.Pubcomp, pk.PacketID)
	}
	return nil
}
