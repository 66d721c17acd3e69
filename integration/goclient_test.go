package integration

import (
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/go-stomp/stomp/v3"
	"github.com/go-stomp/stomp/v3/frame"

	"github.com/mqgate/mqgate/integration/harness"
)

// goClient is the client program on go-stomp (STOMP 1.2).
func goClient() { harness.Serve((&gostomp{}).perform) }

// gostomp is one connection. All its subscriptions feed one channel.
type gostomp struct {
	conn     *stomp.Conn
	subs     map[string]*stomp.Subscription
	txs      map[string]*stomp.Transaction
	held     map[string]*stomp.Message
	messages chan *stomp.Message
}

// goTimeout is set for everything that go-stomp would otherwise wait for without end.
const goTimeout = 60 * time.Second

func (c *gostomp) connect(r harness.Request) error {
	c.subs, c.txs, c.held = map[string]*stomp.Subscription{}, map[string]*stomp.Transaction{}, map[string]*stomp.Message{}
	c.messages = make(chan *stomp.Message, 1<<10) // not the last connection's, which tell of its end
	opts := []func(*stomp.Conn) error{
		stomp.ConnOpt.AcceptVersion(stomp.V12), stomp.ConnOpt.HeartBeat(0, 0),
		stomp.ConnOpt.MsgSendTimeout(goTimeout), stomp.ConnOpt.RcvReceiptTimeout(goTimeout),
		stomp.ConnOpt.DisconnectReceiptTimeout(goTimeout), stomp.ConnOpt.UnsubscribeReceiptTimeout(goTimeout),
		stomp.ConnOpt.Logger(silent{}),
	}
	if r.Login != "" {
		opts = append(opts, stomp.ConnOpt.Login(r.Login, r.Passcode))
	}
	for name, value := range r.Headers {
		opts = append(opts, stomp.ConnOpt.Header(name, value))
	}
	var err error
	c.conn, err = stomp.Dial("tcp", net.JoinHostPort(r.Host, strconv.Itoa(r.Port)), opts...)
	return err
}

func (c *gostomp) perform(r harness.Request, reply *harness.Reply) (err error) {
	switch r.Op {
	case "connect":
		err = c.connect(r)
	case "send":
		err = c.send(r)
	case "subscribe":
		err = c.subscribe(r)
	case "unsubscribe":
		err = c.subs[r.ID].Unsubscribe(options(r)...)
		delete(c.subs, r.ID)
	case "receive":
		return c.receive(r, reply)
	case "ack", "nack":
		err = c.settle(r)
	case "begin":
		c.txs[r.Transaction], err = c.conn.BeginWithError()
	case "commit":
		err = c.txs[r.Transaction].CommitWithReceipt()
	case "abort":
		err = c.txs[r.Transaction].AbortWithReceipt()
	case "disconnect":
		err = c.conn.Disconnect()
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	return err
}

func options(r harness.Request) []func(*frame.Frame) error {
	var opts []func(*frame.Frame) error
	for name, value := range r.Headers {
		opts = append(opts, header(name, value))
	}
	return opts
}

// header adds one to any frame: the options of go-stomp are for one command each.
func header(name, value string) func(*frame.Frame) error {
	return func(f *frame.Frame) error {
		f.Header.Add(name, value)
		return nil
	}
}

func (c *gostomp) send(r harness.Request) error {
	body, err := base64.StdEncoding.DecodeString(r.Body)
	if err != nil {
		return err
	}
	opts := options(r)
	if r.Receipt {
		opts = append(opts, stomp.SendOpt.Receipt)
	}
	if r.Transaction != "" {
		return c.txs[r.Transaction].Send(r.Destination, "application/octet-stream", body, opts...)
	}
	return c.conn.Send(r.Destination, "application/octet-stream", body, opts...)
}

func (c *gostomp) subscribe(r harness.Request) error {
	mode := map[string]stomp.AckMode{"auto": stomp.AckAuto, "client": stomp.AckClient, "client-individual": stomp.AckClientIndividual}[r.Ack]
	s, err := c.conn.Subscribe(r.Destination, mode, append(options(r), stomp.SubscribeOpt.Id(r.ID))...)
	if err != nil {
		return err
	}
	c.subs[r.ID] = s
	messages := c.messages
	go func() { // ends with the subscription, at the latest with the process
		for m := range s.C {
			messages <- m
		}
	}()
	if r.Receipt {
		return c.barrier()
	}
	return nil
}

// barrier returns when the gateway has acted on all that was sent before: it answers
// in order. go-stomp closes a subscription whose SUBSCRIBE has a receipt header, and
// has no receipts for ACK and NACK: that one is in the store is nothing it can know.
func (c *gostomp) barrier() error {
	tx, err := c.conn.BeginWithError()
	if err != nil {
		return err
	}
	return tx.CommitWithReceipt()
}

func (c *gostomp) receive(r harness.Request, reply *harness.Reply) error {
	select {
	case m := <-c.messages:
		if m.Err != nil {
			return m.Err
		}
		reply.Headers, reply.Body = map[string]string{}, base64.StdEncoding.EncodeToString(m.Body)
		for i := range m.Header.Len() {
			name, value := m.Header.GetAt(i)
			reply.Headers[name] = value
		}
		c.held[reply.Headers["message-id"]] = m
	case <-time.After(time.Duration(r.TimeoutMs) * time.Millisecond):
		reply.None = true
	}
	return nil
}

func (c *gostomp) settle(r harness.Request) (err error) {
	m, tx := c.held[r.Message], c.txs[r.Transaction]
	switch {
	case tx != nil && r.Op == "ack":
		err = tx.Ack(m)
	case tx != nil:
		err = tx.Nack(m)
	case r.Op == "ack":
		err = c.conn.Ack(m)
	default:
		err = c.conn.Nack(m)
	}
	if err == nil && r.Receipt {
		err = c.barrier()
	}
	return err
}

// silent is a logger for go-stomp, which otherwise reports each connection's end.
type silent struct{}

func (silent) Debugf(string, ...any)   {}
func (silent) Infof(string, ...any)    {}
func (silent) Warningf(string, ...any) {}
func (silent) Errorf(string, ...any)   {}
func (silent) Debug(string)            {}
func (silent) Info(string)             {}
func (silent) Warning(string)          {}
func (silent) Error(string)            {}
