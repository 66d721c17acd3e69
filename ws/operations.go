package ws

import (
	"context"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// handle does what a message asks for. It answers; an error that it returns ends
// the connection.
func (c *client) handle(b []byte) error {
	if err := c.throttle(); err != nil {
		return err
	}
	r, err := decodeRequest(b)
	if err == nil {
		err = c.dispatch(r)
	}
	if err == nil {
		return nil
	}
	e := c.explain(err)
	c.answer(r, nil, e)
	if e.fatal != nil {
		return e.fatal
	}
	return nil
}

// throttle holds a client back that asks faster than its limit, or ends its connection.
func (c *client) throttle() error {
	if c.limiter.Allow() {
		return nil
	}
	c.server.Stats.Throttled.Add(1)
	if c.server.opt.CloseOverRate {
		return errRate
	}
	c.batch.Flush()
	if c.limiter.Wait(c.life) != nil {
		return context.Cause(c.life)
	}
	return nil
}

func (c *client) dispatch(r *request) error {
	switch {
	case r.Op == "ping":
		c.answer(r, strconv.AppendInt([]byte(`,"timeMs":`), time.Now().UnixMilli(), 10), nil)
		return nil
	case r.Op == "connect" && c.session != nil:
		return mistake("already connected; open another connection to log in as someone else")
	case r.Op == "connect":
		return c.connect(r)
	case c.session == nil:
		return &apiError{code: "not-connected", text: "send connect first"}
	}
	switch r.Op {
	case "publish":
		return c.publish(r)
	case "request":
		return c.request(r)
	case "subscribe":
		return c.subscribe(r)
	case "unsubscribe":
		return c.unsubscribe(r)
	case "ack", "nack":
		return c.settle(r)
	case "credit":
		return c.setCredit(r)
	case "presence":
		return c.listPresence(r)
	}
	return mistake("unknown op %.64q", r.Op)
}

// maxNackDelay bounds how long a message may be put off.
const maxNackDelay = 30 * 24 * time.Hour

const (
	maxNameBytes     = 64
	maxClientIDBytes = 256
)

// connect logs in. Its refusal ends the connection, so that nobody guesses on.
func (c *client) connect(r *request) error {
	if err := checkClient(r); err != nil {
		return err
	}
	remote := c.socket.RemoteAddr().String()
	cred := router.Credentials{
		Password: r.Password, ClientID: r.ClientID, Vhost: router.DefaultVhost, Protocol: "ws", Remote: remote, Loopback: door.Loopback(remote),
	}
	if r.User != nil {
		cred.User, cred.HasUser = *r.User, true
	}
	p, err := c.authenticate(r, cred)
	if err != nil {
		c.server.Stats.LoginFailures.Add(1)
		e := c.explain(err)
		switch {
		case e.code == router.Denied.String():
			e.fatal = errRefused
		case !e.retry:
			e.fatal = errFailed // a fault of ours: coming back may help
		}
		return e
	}
	if err := c.server.enter(p.Name()); err != nil {
		return err
	}
	s, err := c.server.opt.Router.Connect(router.SessionOptions{
		Principal: p, Vhost: cred.Vhost, Protocol: "ws", Remote: remote, Name: r.Name, ClientID: r.ClientID, Kick: c.disown,
	})
	if err != nil {
		c.server.exit(p.Name())
		return err
	}
	c.session, c.clientID = s, r.ClientID
	c.decoder.maxFrame = uint64(c.server.opt.MaxMessageBytes)
	m := appendQuoted([]byte(`,"session":`), s.ID.String())
	m = appendQuoted(append(m, `,"user":`...), p.Name())
	m = appendQuoted(append(m, `,"server":`...), "mqgate/"+c.server.opt.Version)
	m = strconv.AppendInt(append(m, `,"maxMessageBytes":`...), int64(c.server.opt.MaxMessageBytes), 10)
	m = strconv.AppendInt(append(m, `,"pingMs":`...), c.server.opt.PingInterval.Milliseconds(), 10)
	c.answer(r, m, nil)
	return c.socket.SetReadDeadline(time.Time{})
}

func checkClient(r *request) error {
	switch {
	case r.Token != nil && (r.User != nil || r.Password != ""):
		return mistake("give a token, or user and password, not both")
	case len(r.ClientID) > maxClientIDBytes || !printable(r.ClientID):
		return mistake("clientId is at most %d bytes without control characters", maxClientIDBytes)
	case len(r.Name) > maxNameBytes || !printable(r.Name):
		return mistake("name is at most %d bytes without control characters", maxNameBytes)
	}
	return nil
}

func printable(s string) bool {
	for _, c := range s {
		if c < ' ' || c == 0x7f || c == utf8.RuneError {
			return false
		}
	}
	return true
}

func (c *client) authenticate(r *request, cred router.Credentials) (*router.Principal, error) {
	ctx, cancel := context.WithDeadline(c.life, c.login)
	defer cancel()
	switch {
	case r.Token != nil && c.server.opt.Token == nil:
		return nil, &router.Error{Op: "connect", Class: router.Denied, Text: "tokens are not accepted here; give user and password"}
	case r.Token != nil:
		return c.server.opt.Token(ctx, *r.Token, cred)
	case !cred.HasUser && c.strict:
		return nil, &router.Error{Op: "connect", Class: router.Denied, Text: "without an Origin header, from another machine, a login is needed: give a token, or user and password"}
	}
	return c.server.opt.Authenticate.Authenticate(ctx, cred)
}

// publish answers when the store has what is stored, or at once.
func (c *client) publish(r *request) error {
	m, err := r.message(c.session.Vhost)
	if err != nil {
		return err
	}
	return c.send(r, m)
}

func (c *client) send(r *request, m *router.Message) error {
	if r.TTLMs > 0 {
		m.ExpiresUnixMs = time.Now().UnixMilli() + min(r.TTLMs, 1<<50)
	}
	p := c.expect(r, m.Size())
	pending, err := c.session.Publish(c.life, m, &c.batch, p.stored)
	if err != nil || !pending {
		p.stored(router.Stored{}, err, &c.batch) // an error is the reply's
	}
	return nil
}

// settle handles ack and nack. The reply follows the store.
func (c *client) settle(r *request) error {
	s := c.subs[r.Sub]
	if s == nil {
		return mistake("there is no subscription %.64q", r.Sub)
	}
	c.mu.Lock()
	h, ok := s.held[r.Delivery]
	delete(s.held, r.Delivery)
	c.mu.Unlock()
	if !ok {
		return &apiError{code: router.NotFound.String(), text: "no unsettled delivery has that number: it was settled before, or went back"}
	}
	var done router.Done
	var p *reply
	if r.ID != 0 {
		p = c.expect(r, 0)
		done = p.stored
	}
	var err error
	switch {
	case r.Op == "ack":
		err = h.d.Ack(&c.batch, done)
	case r.Reject:
		err = h.d.Reject(r.Cause, &c.batch, done)
	default:
		delay := time.Duration(-1) // the policy's
		if r.DelayMs != nil {
			delay = time.Duration(max(min(*r.DelayMs, maxNackDelay.Milliseconds()), 0)) * time.Millisecond
		}
		err = h.d.Nack(delay, r.Cause, &c.batch, done)
	}
	if err != nil && p != nil {
		p.stored(router.Stored{}, err, &c.batch)
		return nil
	}
	return err
}

func (c *client) setCredit(r *request) error {
	s := c.subs[r.Sub]
	switch {
	case s == nil:
		return mistake("there is no subscription %.64q", r.Sub)
	case s.source == nil || !s.source.Stores():
		return mistake("credit is for queues and durable subscriptions")
	case r.Credit < 0 || r.Credit > maxCredit:
		return mistake("credit must be 0 to %d", maxCredit)
	}
	s.source.SetCredit(r.Credit, &c.batch)
	c.answer(r, nil, nil)
	return nil
}
