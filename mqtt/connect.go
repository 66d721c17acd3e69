package mqtt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// errRefused is why a connection ends whose CONNACK said so.
var errRefused = errors.New("CONNECT was refused")

// connect logs the client in and answers CONNACK. Whatever goes wrong ends the connection.
func (c *conn) connect(first byte, body []byte) error {
	resumed, k, err := c.logIn(first, body)
	if err != nil {
		c.server.Stats.LoginFailures.Add(1)
		c.refuseConnect(err)                         // [MQTT-3.1.4-6]
		return fmt.Errorf("%w: %w", errRefused, err) // [MQTT-3.2.2-7]
	}
	c.sayConnected(k, resumed) // [MQTT-3.1.4-5]
	c.connected = true         // [MQTT-3.2.0-1]
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
func (c *conn) logIn(first byte, body []byte) (resumed bool, k *connect, err error) {
	if err := checkFirst(first); err != nil {
		return false, nil, err
	}
	k = &connect{}
	err = k.decode(body)                                                                  // [MQTT-3.1.4-1]
	c.version, c.problemInfo, c.maxPacket = k.version, !k.noProblemInfo, int(k.maxPacket) // also where it is refused
	if err != nil {
		return false, nil, err
	}
	if err := c.adopt(k); err != nil {
		return false, nil, err
	}
	w, err := c.readWill(k)
	if err != nil {
		return false, nil, err
	}
	if err := c.open(k); err != nil {
		return false, nil, err
	}
	claim := router.ClaimOptions{Clean: k.clean, Expiry: expiry(c.expirySec)} // [MQTT-3.1.4-4]
	if w != nil {
		if err := c.session.CheckWill(w.Message); err != nil { // authorised like any publish
			return false, nil, err
		}
		claim.Will = w
	}
	ctx, cancel := context.WithDeadline(c.life, c.login)
	defer cancel()
	session, present, err := c.session.Claim(ctx, claim) // [MQTT-3.2.2-3]
	if err != nil {
		return false, nil, err
	}
	c.will = w
	if session != nil {
		if c.durable, err = newDurable(c, session); err != nil {
			return false, nil, err
		}
	}
	return present, k, nil // [MQTT-3.2.2-2]
}

// adopt takes over what CONNECT says of the client and the connection.
func (c *conn) adopt(k *connect) error {
	if k.authMethod != "" { // [MQTT-4.12.0-1]
		return faulty(badAuthMethod, "enhanced authentication (%.32q) is not supported; use a user name and password", k.authMethod)
	}
	if err := c.chooseID(k); err != nil {
		return err
	}
	opt := &c.server.opt
	c.aliasMax = min(int(k.aliasMax), opt.TopicAliases) // [MQTT-3.1.2-26]
	c.window.max = opt.MaxInflight
	if k.receiveMax > 0 {
		c.window.max = min(c.window.max, int(k.receiveMax)) // [MQTT-3.3.4-9] [MQTT-4.9.0-1]
	}
	switch {
	case c.version == v5:
		c.expirySec = min(k.expirySec, c.server.maxExpirySec())
	case !k.clean:
		c.expirySec = c.server.maxExpirySec()
	}
	keepAlive := time.Duration(k.keepAlive) * time.Second // [MQTT-3.2.2-22]
	c.silence = keepAlive + keepAlive/2                   // [MQTT-3.1.2-22]
	return nil
}

func (s *Server) maxExpirySec() uint32 {
	return uint32(min(s.opt.MaxSessionExpiry/time.Second, 1<<32-2))
}

func expiry(sec uint32) time.Duration { return time.Duration(sec) * time.Second }

// chooseID checks the client id, and gives one to a client that has none.
func (c *conn) chooseID(k *connect) error {
	c.clientID = k.id // [MQTT-3.1.3-5]: more than 23 letters and digits are allowed
	switch {
	case c.clientID == "" && (c.version == v31 || c.version == v311 && !k.clean): // [MQTT-3.1.3-8]
		return faulty(badClientID, "the client id is empty; only a clean session of MQTT 3.1.1 or 5 may leave it out")
	case c.clientID == "": // [MQTT-3.1.3-6]
		c.clientID = "auto-" + rand.Text()
		c.assigned = true // [MQTT-3.1.3-7]
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
func (c *conn) readWill(k *connect) (*router.Will, error) {
	if !k.will {
		return nil, nil
	}
	if k.willTopic == "" || strings.ContainsAny(k.willTopic, "+#") {
		return nil, faulty(badTopic, "the will's topic is empty or has a wildcard")
	}
	to, err := router.ParseMQTTTopic(router.DefaultVhost, k.willTopic)
	if err != nil {
		return nil, faulty(badTopic, "the will's topic: %s", router.TextOf(err))
	}
	m := &router.Message{To: to, Body: k.willPayload, Priority: router.DefaultPriority}
	setQoS(m, k.willQoS)
	if k.willRetain { // [MQTT-3.1.2-14] [MQTT-3.1.2-15]
		m.Flags |= router.FlagRetain
	}
	w := &router.Will{Message: m}
	return w, eachProperty(k.willProps, willProperties, func(p property) error { // [MQTT-3.1.3-10]
		switch p.id {
		case packets.PropWillDelayInterval:
			w.Delay = expiry(p.number)
		case packets.PropMessageExpiryInterval:
			w.Expiry = expiry(p.number)
		}
		return setProperty(m, p)
	})
}

// open authenticates and begins the session.
func (c *conn) open(k *connect) error {
	if c.guard != nil && c.guard.CredentialRequired() && !k.hasUser {
		return &router.Error{Op: "connect", Class: router.Denied,
			Text: "a login is needed: give user name and password (the page or the machine that connects gets no anonymous access)"}
	}
	ctx, cancel := context.WithDeadline(c.life, c.login)
	defer cancel()
	remote := c.socket.RemoteAddr()
	principal, err := c.server.opt.Authenticate.Authenticate(ctx, router.Credentials{ // [MQTT-3.1.4-2]
		User: k.user, HasUser: k.hasUser, Password: string(k.password), ClientID: c.clientID,
		Vhost: router.DefaultVhost, Protocol: "mqtt", Remote: remote.String(), TLSNames: door.CertificateNames(c.socket), Loopback: door.Loopback(remote.String()),
	})
	clear(k.password)
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
		Principal: principal, Vhost: router.DefaultVhost, Protocol: "mqtt", Remote: remote.String(), ClientID: c.clientID, Kick: c.disown,
	})
	return err
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
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: typeConnack}, ProtocolVersion: v5, ReasonCode: byte(code)} // [MQTT-3.2.2-6]
	pk.Properties.ReasonString = publicText(err)
	pk.Mods = packets.Mods{MaxSize: uint32(c.maxPacket)} // [MQTT-3.2.2-19]
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

// sayConnected answers CONNECT [MQTT-3.2.2-1].
func (c *conn) sayConnected(k *connect, resumed bool) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: typeConnack}, ProtocolVersion: c.version, SessionPresent: resumed}
	if c.version == v31 {
		pk.SessionPresent = false // the byte is reserved there
	}
	if c.version == v5 {
		p, opt := &pk.Properties, &c.server.opt              // [MQTT-3.1.2-28]
		p.ReceiveMaximum = uint16(opt.ReceiveMaximum)        // [MQTT-3.2.2-9]
		p.MaximumPacketSize = uint32(opt.MaxPacketBytes + 5) // with the fixed header
		p.TopicAliasMaximum = uint16(opt.TopicAliases)
		if k.expirySec != c.expirySec {
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
