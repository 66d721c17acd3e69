package cluster

import (
	"context"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/integration/harness"
)

// jsonClient is a connection of mqgate.json.v1.
type jsonClient struct {
	load *load
	ws   *websocket.Conn
	id   int
}

// jsonMessage is what the gateway sends: replies and events.
type jsonMessage struct {
	Reply int
	OK    bool
	Error *struct {
		Code, Message string
		Retry         bool
	}
	Message       *jsonMessage // the reply to a request
	Event         string
	Body          string
	ReplyTo       string
	CorrelationID string
	Delivery      uint64
	Redelivered   bool
}

func (c *jsonClient) connect() (net.Conn, error) {
	return c.login(c.load.c.HTTP(), nil)
}

// login connects to an address, by dial unless that is nil.
func (c *jsonClient) login(address string, dial func(string) (net.Conn, error)) (net.Conn, error) {
	d := websocket.Dialer{HandshakeTimeout: patience, Subprotocols: []string{"mqgate.json.v1"}}
	if dial != nil {
		d.NetDial = func(_, addr string) (net.Conn, error) { return dial(addr) }
	}
	ws, resp, err := d.Dial("ws://"+address+"/ws", http.Header{})
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	c.ws, c.id = ws, 0
	id, err := c.ask(map[string]any{"op": "connect", "user": harness.ClusterUser, "password": harness.ClusterPassword})
	if err == nil {
		err = c.answer(id)
	}
	if err != nil {
		ws.Close()
		return nil, err
	}
	return ws.NetConn(), nil
}

// ask sends a request and returns its id.
func (c *jsonClient) ask(request map[string]any) (int, error) {
	c.id++
	request["id"] = c.id
	if err := c.ws.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return c.id, c.ws.WriteJSON(request)
}

func (c *jsonClient) read() (*jsonMessage, error) {
	if err := c.ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var m jsonMessage
	return &m, c.ws.ReadJSON(&m)
}

// answer reads the reply to a request that is the only one under way.
func (c *jsonClient) answer(id int) error {
	m, err := c.read()
	switch {
	case err != nil:
		return err
	case m.Reply != id:
		return errorf("reply %d instead of %d", m.Reply, id)
	case m.Error != nil:
		return errorf("%s: %s", m.Error.Code, m.Error.Message)
	}
	return nil
}

// jsonSender is as stompSender.
type jsonSender struct {
	jsonClient
	load        *load
	ledger      *ledger
	name        string
	destination string
	next        int
	open        []string
	asked       map[int]string
}

func (s *jsonSender) connect() (net.Conn, error) {
	s.jsonClient.load = s.load
	return s.jsonClient.connect()
}

func (s *jsonSender) work(ctx context.Context) error {
	s.asked = map[int]string{}
	for _, id := range s.open {
		if err := s.send(id); err != nil {
			return err
		}
	}
	for {
		for len(s.open) < window && ctx.Err() == nil {
			id := makeID(s.name, s.next)
			s.next++
			s.ledger.sent()
			s.open = append(s.open, id)
			if err := s.send(id); err != nil {
				return err
			}
		}
		m, err := s.read()
		if err != nil {
			return err
		}
		if m.Error != nil {
			s.ledger.refuse(m.Error.Code + ": " + m.Error.Message)
			return errorf("%s", m.Error.Message)
		}
		id := s.asked[m.Reply]
		s.ledger.confirm(id)
		if at := slices.Index(s.open, id); at >= 0 {
			s.open = slices.Delete(s.open, at, at+1)
		}
		s.load.await(ctx)
	}
}

func (s *jsonSender) send(id string) error {
	n, err := s.ask(map[string]any{"op": "publish", "to": s.destination, "body": id, "dedupId": id})
	s.asked[n] = id
	return err
}

// jsonReceiver takes messages of a queue and acknowledges each.
type jsonReceiver struct {
	once
	jsonClient
	load        *load
	ledger      *ledger
	destination string
}

func (r *jsonReceiver) connect() (net.Conn, error) {
	r.jsonClient.load = r.load
	return r.jsonClient.connect()
}

func (r *jsonReceiver) work(context.Context) error {
	subscribe, err := r.ask(map[string]any{"op": "subscribe", "sub": "s", "to": r.destination, "ack": "client", "credit": 20})
	if err != nil {
		return err
	}
	for {
		m, err := r.read()
		switch {
		case err != nil:
			return err
		case m.Error != nil:
			r.ledger.refuse(m.Error.Code + ": " + m.Error.Message)
			return errorf("%s", m.Error.Message)
		case m.Reply == subscribe:
			r.happened()
		case m.Event == "message":
			r.ledger.got(m.Body, m.Redelivered)
			if _, err := r.ask(map[string]any{"op": "ack", "sub": "s", "delivery": m.Delivery}); err != nil {
				return err
			}
		}
	}
}
