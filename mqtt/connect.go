package mqtt

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// errRefused is why a connection ends whose CONNACK said so.
var errRefused = errors.New("CONNECT was refused")

// connect logs the client in and answers CONNACK. Whatever goes wrong ends the connection.
func (c *conn) connect(first byte, body []byte) error {
	resumed, pk, err := c.logIn(first, body)
	if err != nil {
		c.server.Stats.LoginFailures.Add(1)
		c.refuseConnect(err)
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	c.sayConnected(pk, resumed)
	c.connected = true
	c.in.limit = c.server.opt.MaxPacketBytes
	if c.durable != nil {
		if err := c.durable.resume(); err != nil {
			return &fault{code: unavailable, text: "the session could not be resumed", cause: err}
		}
	}
	deadline := time.Time{}
	if c.silence > 0 {
		deadline = time.Now().Add(c.silence)
	}
	return c.socket.SetReadDeadline(deadline)
}

// logIn does what CONNECT asks for. Resumed tells whether there was a session.
func (c *conn) logIn(first byte, body []byte) (resumed bool, pk *packets.Packet, err error) {
	if err := checkFirst(first); err != nil {
		return false, nil, err
	}
	pk = &packets.Packet{}
	if err := c.decodeConnect(pk, first, bytes.Clone(body)); err != nil { // the codec's strings are parts of its input
		return false, nil, err
	}
	if err := c.adopt(pk); err != nil {
		return false, nil, err
	}
	w, err := c.readWill(pk)
	if err != nil {
		return false, nil, err
	}
	if err := c.open(pk); err != nil {
		return false, nil, err
	}
	claim := router.ClaimOptions{Clean: pk.Connect.Clean, Expiry: expiry(c.expirySec)}
	if w != nil {
		if err := c.session.CheckWill(w.Message); err != nil { // authorised like any publish
			return false, nil, err
		}
		claim.Will = w
	}
	ctx, cancel := context.WithDeadline(c.life, c.login)
	defer cancel()
	session, present, err := c.session.Claim(ctx, claim)
	if err != nil {
		return false, nil, err
	}
	c.will = w
	if session != nil {
		if c.durable, err = newDurable(c, session); err != nil {
			return false, nil, err
		}
	}
	return present, pk, nil
}

// decodeConnect reads CONNECT and holds it to the specification.
func (c *conn) decodeConnect(pk *packets.Packet, first byte, body []byte) error {
	if err := checkProtocol(body); err != nil {
		return err
	}
	level := body[len(body)-len(afterName(body))]
	c.version = level
	if err := decode(pk, first, body, level); err != nil {
		if errors.Is(err, errCodec) {
			c.server.Stats.Panics.Add(1)
		}
		return err
	}
	k := &pk.Connect
	switch {
	case pk.ReservedBit != 0: // [MQTT-3.1.2-3]
		return faulty(malformed, "the reserved flag of CONNECT is set")
	case k.WillQos > 2: // [MQTT-3.1.2-12]
		return faulty(malformed, "the will has QoS 3")
	case !k.WillFlag && (k.WillQos != 0 || k.WillRetain): // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		return faulty(malformed, "CONNECT has will options and no will")
	case level != v5 && k.PasswordFlag && !k.UsernameFlag: // [MQTT-3.1.2-22] of 3.1.1; MQTT 5 allows it
		return faulty(malformed, "CONNECT has a password and no user name")
	case k.UsernameFlag && !validText(k.Username): // [MQTT-3.1.3-11]
		return faulty(malformed, "the user name is not valid UTF-8")
	}
	if level != v5 {
		return nil
	}
	// The codec accepts properties that are given twice or are out of range.
	props, _, err := cutProperties(afterName(body)[4:])
	if err == nil {
		err = eachProperty(props, typeConnect, func(property) error { return nil })
	}
	return err
}

// checkProtocol reads the protocol name and level, by which alone it is known how to answer.
func checkProtocol(body []byte) error {
	name, rest, err := cutBytes(body)
	if err != nil || len(rest) == 0 {
		return errShort
	}
	level := rest[0]
	switch {
	case string(name) == "MQIsdp" && level == v31, string(name) == "MQTT" && (level == v311 || level == v5):
		return nil
	case string(name) == "MQTT" || string(name) == "MQIsdp": // [MQTT-3.1.2-2]
		return faulty(badVersion, "protocol level %d of %s is not supported; 3.1, 3.1.1 and 5.0 are", level, name)
	}
	return faulty(malformed, "the protocol name %.16q is not MQTT", name) // [MQTT-3.1.2-1]
}

// afterName returns what begins with the protocol level.
func afterName(body []byte) []byte {
	_, rest, _ := cutBytes(body) // checkProtocol has read it
	return rest
}

// adopt takes over what CONNECT says of the client and the connection.
func (c *conn) adopt(pk *packets.Packet) error {
	k, p := &pk.Connect, &pk.Properties
	if c.version == v5 && p.AuthenticationMethod != "" {
		return faulty(badAuthMethod, "enhanced authentication (%.32q) is not supported; use a user name and password", p.AuthenticationMethod)
	}
	if err := c.chooseID(k); err != nil {
		return err
	}
	opt := &c.server.opt
	c.problemInfo = !p.RequestProblemInfoFlag || p.RequestProblemInfo == 1 // [MQTT-3.1.2-29]
	c.maxPacket, c.aliasMax = int(p.MaximumPacketSize), min(int(p.TopicAliasMaximum), opt.TopicAliases)
	c.window.max = opt.MaxInflight
	if p.ReceiveMaximum > 0 {
		c.window.max = min(c.window.max, int(p.ReceiveMaximum)) // [MQTT-3.3.4-9]
	}
	switch {
	case c.version == v5:
		c.expirySec = min(p.SessionExpiryInterval, c.server.maxExpirySec())
	case !k.Clean:
		c.expirySec = c.server.maxExpirySec()
	}
	keepAlive := time.Duration(k.Keepalive) * time.Second
	if longest := opt.MaxKeepAlive; longest > 0 && c.version == v5 && (keepAlive == 0 || keepAlive > longest) {
		keepAlive = max(longest.Truncate(time.Second), time.Second)
		p.ServerKeepAlive, p.ServerKeepAliveFlag = uint16(min(keepAlive/time.Second, 65535)), true // [MQTT-3.2.2-21]
	}
	c.silence = keepAlive + keepAlive/2 // [MQTT-3.1.2-24]
	return nil
}

func (s *Server) maxExpirySec() uint32 {
	return uint32(min(s.opt.MaxSessionExpiry/time.Second, 1<<32-2))
}

func expiry(sec uint32) time.Duration { return time.Duration(sec) * time.Second }

// chooseID checks the client id, and gives one to a client that has none.
func (c *conn) chooseID(k *packets.ConnectParams) error {
	c.clientID = k.ClientIdentifier
	switch {
	case c.clientID == "" && (c.version == v31 || c.version == v311 && !k.Clean): // [MQTT-3.1.3-8]
		return faulty(badClientID, "the client id is empty; only a clean session of MQTT 3.1.1 or 5 may leave it out")
	case c.clientID == "": // [MQTT-3.1.3-6]
		c.clientID = "auto-" + rand.Text()
		c.assigned = true
	case len(c.clientID) > router.MaxNameBytes:
		return faulty(badClientID, "the client id has %d bytes; at most %d are allowed", len(c.clientID), router.MaxNameBytes)
	}
	for _, r := range c.clientID {
		if r < ' ' || r == 0x7f {
			return faulty(badClientID, "the client id has a control character")
		}
	}
	return nil
}

// readWill makes the will's message, nil if there is none.
func (c *conn) readWill(pk *packets.Packet) (*router.Will, error) {
	k := &pk.Connect
	if !k.WillFlag {
		return nil, nil
	}
	if k.WillTopic == "" || strings.ContainsAny(k.WillTopic, "+#") {
		return nil, faulty(badTopic, "the will's topic is empty or has a wildcard")
	}
	to, err := router.ParseMQTTTopic(c.server.opt.Vhost, k.WillTopic)
	if err != nil {
		return nil, faulty(badTopic, "the will's topic: %s", router.TextOf(err))
	}
	m := &router.Message{To: to, Body: k.WillPayload, Priority: router.DefaultPriority}
	setQoS(m, k.WillQos) // [MQTT-3.1.2-14] [MQTT-3.1.2-15]
	if k.WillRetain {
		m.Flags |= router.FlagRetain
	}
	w := &router.Will{Message: m}
	if c.version != v5 {
		return w, nil
	}
	p := &k.WillProperties
	w.Delay, w.Expiry = expiry(p.WillDelayInterval), expiry(p.MessageExpiryInterval)
	return w, c.setWillProperties(m, p)
}

func (c *conn) setWillProperties(m *router.Message, p *packets.Properties) error {
	var b bytes.Buffer
	p.Encode(packets.WillProperties, packets.Mods{AllowResponseInfo: true}, &b, 0)
	props, _, err := cutProperties(b.Bytes())
	if err != nil {
		return err
	}
	return eachProperty(props, willProperties, func(v property) error { return setProperty(m, v) })
}

// open authenticates and begins the session.
func (c *conn) open(pk *packets.Packet) error {
	ctx, cancel := context.WithDeadline(c.life, c.login)
	defer cancel()
	remote := c.socket.RemoteAddr()
	k := &pk.Connect
	principal, err := c.server.opt.Authenticate.Authenticate(ctx, router.Credentials{
		User: string(k.Username), HasUser: k.UsernameFlag, Password: string(k.Password), ClientID: c.clientID,
		Vhost: c.server.opt.Vhost, Protocol: "mqtt", Remote: remote.String(), TLSNames: certificateNames(c.socket), Loopback: loopback(remote),
	})
	clear(k.Password)
	if err != nil {
		return err
	}
	if principal == nil {
		return fmt.Errorf("the authenticator returned neither a principal nor an error")
	}
	if err := c.server.countUser(c, principal.Name()); err != nil {
		return err
	}
	c.session, err = c.server.opt.Router.Connect(router.SessionOptions{ // [MQTT-3.1.4-3]
		Principal: principal, Vhost: c.server.opt.Vhost, Protocol: "mqtt", Remote: remote.String(), ClientID: c.clientID, Kick: c.disown,
	})
	return err
}

// certificateNames gives the names in the client certificate that TLS verified.
func certificateNames(socket net.Conn) []string {
	t, ok := socket.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	state := t.ConnectionState()
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	var names []string
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	names = append(names, leaf.DNSNames...)
	return append(names, leaf.EmailAddresses...)
}

func loopback(a net.Addr) bool {
	p, err := netip.ParseAddrPort(a.String())
	return err == nil && p.Addr().Unmap().IsLoopback()
}

// refuseConnect answers a CONNECT that failed, where the client's version has words for it.
func (c *conn) refuseConnect(err error) {
	code := connackReason(err)
	if code == unspecified && router.ClassOf(err) == router.Internal {
		c.log().Error("cannot do what a client asked for", "error", err)
	}
	var f *fault
	stranger := c.version == 0 && !(errors.As(err, &f) && f.code == badVersion)
	if c.version != v5 {
		if v3 := connackV3(code); v3 != 0 && !stranger {
			c.control([]byte{typeConnack << 4, 2, 0, v3}) // [MQTT-3.2.2-4]
		}
		return
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: typeConnack}, ProtocolVersion: v5, ReasonCode: byte(code)}
	pk.Properties.ReasonString = publicText(err)
	pk.Mods = packets.Mods{MaxSize: uint32(c.maxPacket), DisallowProblemInfo: c.version == v5 && !c.problemInfo}
	c.control(encode(&pk))
}

// publicText is what a peer may see of an error.
func publicText(err error) string {
	var f *fault
	if errors.As(err, &f) {
		return f.text
	}
	return router.TextOf(err)
}

// sayConnected answers CONNECT.
func (c *conn) sayConnected(connect *packets.Packet, resumed bool) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: typeConnack}, ProtocolVersion: c.version, SessionPresent: resumed}
	if c.version == v31 {
		pk.SessionPresent = false // the byte is reserved there
	}
	if c.version == v5 {
		p, opt := &pk.Properties, &c.server.opt
		p.ReceiveMaximum = uint16(opt.ReceiveMaximum)
		p.MaximumPacketSize = uint32(opt.MaxPacketBytes + 5) // with the fixed header
		p.TopicAliasMaximum = uint16(opt.TopicAliases)
		p.ServerKeepAlive, p.ServerKeepAliveFlag = connect.Properties.ServerKeepAlive, connect.Properties.ServerKeepAliveFlag
		if asked := connect.Properties.SessionExpiryInterval; asked != c.expirySec {
			p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = c.expirySec, true
		}
		if c.assigned { // [MQTT-3.2.2-16]
			p.AssignedClientID = c.clientID
		}
	}
	c.control(encode(&pk))
}

// publishWill publishes the will of a session that ends now.
func (c *conn) publishWill() {
	m := c.will.Message
	if err := c.session.PublishWill(c.server.life, c.will); err != nil {
		c.server.Stats.WillsRefused.Add(1)
		c.log().Warn("a will could not be published", "topic", m.To.String(), "error", err)
		return
	}
	c.server.Stats.Wills.Add(1)
}
