package stomp

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/stomp/frame"
)

// connect logs the client in and answers CONNECTED. Whatever goes wrong ends the connection.
func (c *conn) connect(f *frame.Frame) error {
	err := c.logIn(f)
	if err == nil {
		return nil
	}
	c.server.Stats.LoginFailures.Add(1)
	r := explain(err)
	r.fatal = true
	if r.why == 0 && router.ClassOf(err) == router.Denied {
		r.why = door.Refused
	}
	return r
}

func (c *conn) logIn(f *frame.Frame) error {
	accept, _ := f.Get("accept-version")
	version, known := frame.Negotiate(accept)
	if !known {
		return &refusal{message: "no supported protocol version is offered; supported are " + versions,
			hint: "Set accept-version to one or more of " + versions + ".", version: true}
	}
	if err := c.checkHost(f); err != nil {
		return err
	}
	beats, err := c.negotiateBeats(f)
	if err != nil {
		return err
	}
	credentials := c.credentials(f)
	if err := checkClientID(credentials.ClientID); err != nil {
		return err
	}
	session, err := c.open(credentials)
	if err != nil {
		return err
	}
	c.version, c.clientID = version, credentials.ClientID
	c.decoder.SetVersion(version)
	c.decoder.SetLimits(c.server.opt.Limits)
	c.session = session
	if beats.sendEvery > 0 || beats.silentAfter > 0 {
		c.beat = newHeartbeat(c, beats)
	}
	c.sayConnected(f, beats)
	if c.beat != nil {
		c.beat.start()
	}
	return c.socket.SetReadDeadline(time.Time{})
}

// open authenticates and begins the session.
func (c *conn) open(credentials router.Credentials) (*router.Session, error) {
	if c.guard != nil && c.guard.CredentialRequired() && !credentials.HasUser {
		return nil, &router.Error{Op: "connect", Class: router.Denied,
			Text: "a login is needed: give login and passcode (the page or the machine that connects gets no anonymous access)"}
	}
	ctx, cancel := context.WithDeadline(c.life, c.login)
	defer cancel()
	principal, err := c.server.opt.Authenticate.Authenticate(ctx, credentials)
	if err != nil {
		return nil, err
	}
	if principal == nil {
		return nil, fmt.Errorf("the authenticator returned neither a principal nor an error")
	}
	if err := c.server.countUser(c, principal.Name()); err != nil {
		return nil, err
	}
	return c.server.opt.Router.Connect(router.SessionOptions{
		Principal: principal, Vhost: credentials.Vhost, Protocol: "stomp", Remote: credentials.Remote,
		ClientID: credentials.ClientID, Kick: c.disown,
	})
}

// checkHost refuses a vhost that does not exist: in the RabbitMQ dialect the host header names it, and "/" is the only one.
// ActiveMQ gives it no meaning, and its clients send the broker's name.
func (c *conn) checkHost(f *frame.Frame) error {
	host := f.Value("host")
	if !c.dialect.rabbit() || host == "" || host == router.DefaultVhost {
		return nil
	}
	return fatal("Set the host header (vhost in some clients) to /, or leave it out.",
		"Bad CONNECT: the virtual host %.64q does not exist", host)
}

// credentials collects what the client shows.
func (c *conn) credentials(f *frame.Frame) router.Credentials {
	login, named := f.Get("login")
	remote := c.socket.RemoteAddr()
	return router.Credentials{
		User: string(login), HasUser: named, Password: f.Value("passcode"), ClientID: f.Value("client-id"),
		Vhost: router.DefaultVhost, Protocol: "stomp", Remote: remote.String(), TLSNames: door.CertificateNames(c.socket), Loopback: door.Loopback(remote.String()),
	}
}

// checkClientID refuses what would be unreadable in logs and unsafe as a part of names.
func checkClientID(id string) error {
	if len(id) > router.MaxNameBytes {
		return fatal("Choose a shorter client-id.", "the client-id has %d bytes; at most %d are allowed", len(id), router.MaxNameBytes)
	}
	if !utf8.ValidString(id) {
		return fatal("Send the client-id as UTF-8.", "the client-id is not valid UTF-8")
	}
	for _, r := range id {
		if r < ' ' || r == 0x7f {
			return fatal("Use printable characters.", "the client-id has a control character")
		}
	}
	return nil
}

// sayConnected answers CONNECT.
func (c *conn) sayConnected(f *frame.Frame, b beats) {
	session := c.clientID
	if session == "" || c.dialect.rabbit() {
		session = c.session.ID.String()
	}
	buf, ok := c.out.BeginControl(256)
	if !ok {
		c.out.End(&c.batch, buf)
		return
	}
	// CONNECTED is never escaped (STOMP 1.2 "Value Encoding").
	const plain = frame.V10
	buf = frame.AppendCommand(buf, frame.CONNECTED)
	buf = frame.AppendHeader(buf, plain, "version", c.version.String())
	buf = frame.AppendHeader(buf, plain, "session", session)
	buf = frame.AppendHeader(buf, plain, "server", c.dialect.server(c.server.opt.Version))
	buf = frame.AppendHeader(buf, plain, "heart-beat", b.header)
	if receipt, asked := f.Get("receipt"); asked {
		buf = frame.AppendHeader(buf, plain, "receipt-id", receipt)
	}
	if id, asked := f.Get("request-id"); asked {
		buf = frame.AppendHeader(buf, plain, "response-id", id)
	}
	c.out.End(&c.batch, frame.AppendBody(buf, ""))
}
