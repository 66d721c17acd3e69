package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/stomp/frame"
)

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

func (fx *fixture) connections(t testing.TB, want int) {
	t.Helper()
	eventually(t, func() error {
		if n := fx.server.Connections(); n != want {
			return fmt.Errorf("%d connections, want %d", n, want)
		}
		return nil
	})
}

func TestConnected(t *testing.T) {
	cases := []struct {
		d             Dialect
		connect, want string
	}{
		{ActiveMQ, "CONNECT\n\n^@", "CONNECTED\nversion:1.0\nsession:ID\nserver:ActiveMQ/5.18.0-compatible mqgate/test\nheart-beat:0,0\n\n^@\n"},
		{ActiveMQ, "STOMP\naccept-version:1.0,1.1,1.2\nhost:anything\nheart-beat:0,0\n\n^@", "CONNECTED\nversion:1.2\nsession:ID\nserver:ActiveMQ/5.18.0-compatible mqgate/test\nheart-beat:0,0\n\n^@\n"},
		{ActiveMQ, "CONNECT\naccept-version:1.1,9\nheart-beat:5000,10000\nclient-id:a:b\nreceipt:r\nrequest-id:q\n\n^@",
			"CONNECTED\nversion:1.1\nsession:a:b\nserver:ActiveMQ/5.18.0-compatible mqgate/test\nheart-beat:10000,5000\nreceipt-id:r\nresponse-id:q\n\n^@\n"},
		{ActiveMQ, "CONNECT\nheart-beat:5, 5 \n\n^@", "CONNECTED\nversion:1.0\nsession:ID\nserver:ActiveMQ/5.18.0-compatible mqgate/test\nheart-beat:1000,1000\n\n^@\n"},
		{RabbitMQ, "CONNECT\naccept-version:1.2\nhost:/\nheart-beat:2500,10\n\n^@", "CONNECTED\nversion:1.2\nsession:ID\nserver:RabbitMQ/3.12.0-compatible mqgate/test\nheart-beat:1000,2000\n\n^@\n"},
		{RabbitMQ, "CONNECT\n\n^@", "CONNECTED\nversion:1.0\nsession:ID\nserver:RabbitMQ/3.12.0-compatible mqgate/test\nheart-beat:0,0\n\n^@\n"},
		{RabbitMQ, "CONNECT\naccept-version:1.2\nhost:localhost\n\n^@", "ERROR\nmessage:Bad CONNECT: the virtual host \"localhost\" does not exist\ncontent-type:text/plain\nversion:1.0\ncontent-length:124\n\n" +
			"Bad CONNECT: the virtual host \"localhost\" does not exist\nSet the host header (vhost in some clients) to /, or leave it out.\n^@\n"},
		{RabbitMQ, "CONNECT\naccept-version:3\n\n^@", "ERROR\nmessage:no supported protocol version is offered; supported are 1.0,1.1,1.2\ncontent-type:text/plain\nversion:1.0,1.1,1.2\ncontent-length:118\n\n" +
			"no supported protocol version is offered; supported are 1.0,1.1,1.2\nSet accept-version to one or more of 1.0,1.1,1.2.\n^@\n"},
	}
	fx := start(t)
	for _, tc := range cases {
		c := fx.dial(t, tc.d)
		c.send(tc.connect)
		if _, err := c.read(); err != nil {
			t.Fatal(err)
		}
		if got := c.raw(); got != tc.want {
			t.Errorf("%q\ngot  %q\nwant %q", tc.connect, got, tc.want)
		}
	}
}

func TestCredentials(t *testing.T) {
	var got []router.Credentials
	var mu sync.Mutex
	fx := start(t, func(s *settings) {
		s.options.Authenticate = authenticator(func(_ context.Context, c router.Credentials) (*router.Principal, error) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, c)
			return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
		})
	})
	fx.login(t, ActiveMQ, frame.V12, `login:DOMAIN\nick`, `passcode:a\cb`, "client-id:w")
	fx.login(t, ActiveMQ, frame.V12)
	mu.Lock()
	defer mu.Unlock()
	// CONNECT is not unescaped: the name has a backslash, not a line feed.
	if c := got[0]; c.User != `DOMAIN\nick` || c.Password != `a\cb` || !c.HasUser || c.ClientID != "w" || c.Vhost != "/" || c.Protocol != "stomp" || !c.Loopback || c.Remote == "" {
		t.Errorf("%+v", c)
	}
	if c := got[1]; c.HasUser || c.User != "" {
		t.Errorf("%+v", c)
	}
}

func TestClientIDsAreChecked(t *testing.T) {
	fx := start(t)
	for _, id := range []string{strings.Repeat("x", 1025), "a\x01b", "a\xffb"} {
		c := fx.dial(t, ActiveMQ)
		c.send("CONNECT\nclient-id:" + id + "\n\n^@")
		c.fails("client-id")
		c.gone()
	}
}

func TestTakeOver(t *testing.T) {
	fx := start(t)
	old := fx.login(t, ActiveMQ, frame.V12, "client-id:worker")
	old.fill("/queue/t", 1)
	old.do("SUBSCRIBE", "id:1", "destination:/queue/t", "ack:client")
	old.message("0")
	now := fx.login(t, ActiveMQ, frame.V12, "client-id:worker")
	old.fails("another connection took over")
	old.gone()
	now.do("SUBSCRIBE", "id:1", "destination:/queue/t", "ack:client")
	m := now.message("0")
	if m.header("redelivered") != "true" {
		t.Errorf("headers %v", m.headers)
	}
	now.do("ACK", "id:"+m.header("ack"))
	other := fx.dial(t, ActiveMQ) // of another user: refused, not taken over
	other.send("CONNECT\nclient-id:worker\nlogin:mallory\n\n^@")
	other.fails("in use by another user")
	other.gone()
	now.nothing()
}

func TestDrain(t *testing.T) {
	store := newGatedStore()
	fx := start(t, func(s *settings) { s.router.Store = store })
	idle, busy, stranger := fx.login(t, ActiveMQ, frame.V12), fx.login(t, RabbitMQ, frame.V10), fx.dial(t, ActiveMQ)
	fx.connections(t, 3)
	store.close()
	busy.frame("SEND", "", "destination:/queue/q", "receipt:r")
	store.await(t, 1)
	drained := make(chan error, 1)
	go func() { drained <- fx.server.Drain(t.Context()) }()
	for _, c := range []*client{idle, stranger} {
		c.fails("server is shutting down, reconnect")
		c.gone()
	}
	select {
	case err := <-drained:
		t.Fatalf("Drain returned %v before the store had answered", err)
	default:
	}
	store.open()
	busy.want(frame.RECEIPT)
	busy.fails("server is shutting down, reconnect")
	busy.gone()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", fx.addr[ActiveMQ]); err == nil {
		c.Close()
		t.Error("the port is open")
	}
}

func TestDrainGivesUp(t *testing.T) {
	store := newGatedStore()
	fx := start(t, func(s *settings) { s.router.Store = store })
	c := fx.login(t, ActiveMQ, frame.V12)
	store.close()
	c.frame("SEND", "", "destination:/queue/q", "receipt:r")
	store.await(t, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := fx.server.Drain(ctx); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	c.gone()
	store.open()
}

func TestServeAfterDrain(t *testing.T) {
	fx := start(t)
	for _, d := range []Dialect{ActiveMQ, RabbitMQ} {
		fx.login(t, d, frame.V12) // both listeners are served
	}
	if err := fx.server.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := fx.server.Serve(t.Context(), l, ActiveMQ); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	far, near := tcpPair(t)
	fx.server.ServeConn(near, ActiveMQ)
	c := newClient(t, far)
	c.fails("server is shutting down, reconnect")
	c.gone()
}

// flakyListener fails before it works.
type flakyListener struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (l *flakyListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		l.mu.Unlock()
		return nil, err
	}
	l.mu.Unlock()
	return l.Listener.Accept()
}

func TestAcceptErrors(t *testing.T) {
	fx := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	passing := &net.OpError{Op: "accept", Err: syscall.EMFILE}
	var served sync.WaitGroup
	served.Go(func() {
		if err := fx.server.Serve(t.Context(), &flakyListener{Listener: l, errs: []error{passing, passing, passing}}, ActiveMQ); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	newClient(t, conn).login(frame.V12)
	if n := fx.server.Stats.AcceptErrors.Load(); n != 3 {
		t.Errorf("%d errors counted", n)
	}
	broken := errors.New("broken")
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := fx.server.Serve(t.Context(), &flakyListener{Listener: l2, errs: []error{broken}}, ActiveMQ); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if err := fx.server.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	served.Wait()
}

func TestConnectionLimits(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.Seats = door.NewSeats(3, 1) })
	alice := fx.login(t, ActiveMQ, frame.V12, "login:alice")
	second := fx.dial(t, ActiveMQ)
	second.send("CONNECT\nlogin:alice\n\n^@")
	second.fails(`user "alice" has 1 connections`)
	second.gone()
	fx.connections(t, 1)
	fx.login(t, ActiveMQ, frame.V12, "login:bob")
	third := fx.login(t, ActiveMQ, frame.V12, "login:carol")
	over := fx.dial(t, ActiveMQ)
	over.fails("too many connections")
	over.gone()
	if n := fx.server.Stats.OverLimit.Load(); n != 2 {
		t.Errorf("%d counted", n)
	}
	third.do("DISCONNECT")
	third.gone()
	alice.do("DISCONNECT")
	alice.gone()
	fx.connections(t, 1)
	fx.login(t, ActiveMQ, frame.V12, "login:alice")
}

func TestPanicEndsOneConnection(t *testing.T) {
	fx := start(t, func(s *settings) {
		s.options.Authenticate = authenticator(func(_ context.Context, c router.Credentials) (*router.Principal, error) {
			if c.User == "bomb" {
				panic("provoked")
			}
			return router.NewPrincipal(c.User, "", false, nil), nil
		})
	})
	other := fx.login(t, ActiveMQ, frame.V12)
	c := fx.dial(t, ActiveMQ)
	c.send("CONNECT\nlogin:bomb\n\n^@")
	c.gone()
	fx.connections(t, 1)
	other.nothing()
	if n := fx.server.Stats.Panics.Load(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

func TestNewChecksItsOptions(t *testing.T) {
	if _, err := New(Options{Authenticate: anyone}); err == nil {
		t.Error("no router is no error")
	}
	if _, err := New(Options{Router: &router.Router{}}); err == nil {
		t.Error("no authenticator is no error")
	}
	for _, d := range []Dialect{ActiveMQ, RabbitMQ} {
		if got, err := ParseDialect(d.String()); err != nil || got != d {
			t.Errorf("%s: %v %v", d, got, err)
		}
	}
	if _, err := ParseDialect("kafka"); err == nil {
		t.Error("an unknown dialect is no error")
	}
}

// TestDisconnect: with a receipt, without one, and by closing only.
func TestDisconnect(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("DISCONNECT")
	c.gone()
	c = fx.login(t, ActiveMQ, frame.V12)
	c.send("SEND\ndestination:/queue/q\nreceipt:r\n\n^@DISCONNECT\n\n^@")
	c.want(frame.RECEIPT)
	c.gone()
	c = fx.login(t, ActiveMQ, frame.V12)
	c.send("SEND\ndestination:/queue/q\nreceipt:r\n\n^@")
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil { // as nc does
		t.Fatal(err)
	}
	c.want(frame.RECEIPT)
	c.gone()
	fx.connections(t, 0)
	if log := fx.log.String(); log != "" {
		t.Errorf("clients that just left are logged: %s", log)
	}
}

// TestUnwrittenAutoMessagesComeBack: a client that vanishes without reading loses nothing that was not on its way.
func TestUnwrittenAutoMessagesComeBack(t *testing.T) {
	fx := start(t)
	c := fx.pipe(t, ActiveMQ)
	c.login(frame.V12)
	sender := fx.login(t, ActiveMQ, frame.V12)
	sender.fill("/queue/u", 500)
	fx.depth(t, "u", 500, 0)
	c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/u", "receipt:s")
	c.want(frame.RECEIPT)
	a, _ := router.QueueAddress("/", "u")
	admin := router.NewPrincipal("admin", "", true, nil)
	var info router.MailboxInfo
	held := func(ok func() bool) {
		t.Helper()
		eventually(t, func() (err error) {
			if info, err = fx.router.QueueInfo(admin, a); err == nil && !ok() {
				err = fmt.Errorf("queue: %+v", info)
			}
			return err
		})
	}
	held(func() bool { return info.Depth > 0 && info.Unacked == info.Depth })
	c.conn.Close()
	held(func() bool { return info.Unacked == 0 && info.Consumers == 0 })
	settled := 500 - info.Depth
	for i := range settled { // what came with the receipt in one write
		c.message(fmt.Sprint(i))
	}
	w := fx.login(t, ActiveMQ, frame.V12)
	w.frame("SUBSCRIBE", "", "id:1", "destination:/queue/u", "receipt:s")
	w.want(frame.RECEIPT)
	for i := settled; i < 500; i++ {
		if m := w.message(fmt.Sprint(i)); m.header("x-delivery-count") != "1" || m.header("redelivered") != "" {
			t.Fatalf("message %d counts as delivered: %v", i, m.headers)
		}
	}
}

func TestUnsubscribeInAutoModeDeliversOnce(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	for round := range 20 {
		c.fill("/queue/once", 200)
		c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/once", "ack:auto")
		c.frame("UNSUBSCRIBE", "", "id:1", "receipt:u")
		n := 0
		for {
			r, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			if r.command == frame.RECEIPT {
				break
			}
			if r.header("redelivered") != "" {
				t.Fatalf("round %d: message %s was given before", round, r.body)
			}
			n++
		}
		w := fx.login(t, ActiveMQ, frame.V12)
		w.frame("SUBSCRIBE", "", "id:1", "destination:/queue/once", "ack:auto")
		for i := n; i < 200; i++ {
			if m := w.want(frame.MESSAGE); m.header("redelivered") != "" {
				t.Fatalf("round %d: message %s was given before", round, m.body)
			}
		}
		w.nothing()
		w.do("DISCONNECT")
		fx.depth(t, "once", 0, 0)
	}
}

// TestSlowConsumer: live messages are dropped and counted, stored ones wait, and nobody else is held up.
func TestSlowConsumer(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.OutboundBytes, s.options.FlushTimeout = 64<<10, patience })
	slow, quick, sender := fx.pipe(t, ActiveMQ), fx.login(t, ActiveMQ, frame.V12), fx.login(t, ActiveMQ, frame.V12)
	slow.login(frame.V12)
	slow.do("SUBSCRIBE", "id:1", "destination:/topic/flood")
	quick.do("SUBSCRIBE", "id:1", "destination:/topic/flood")
	header := "k:" + strings.Repeat("x", 8000)
	sent := 0
	for fx.router.Stats.Dropped()[router.DropSlowConsumer] == 0 {
		sender.do("SEND", "destination:/topic/flood", header)
		quick.want(frame.MESSAGE)
		if sent++; sent > 1000 {
			t.Fatal("nothing was dropped")
		}
	}
	for range uint64(sent) - fx.router.Stats.Dropped()[router.DropSlowConsumer] {
		slow.want(frame.MESSAGE)
	}
	slow.nothing()
}

// TestStoredMessagesWaitForRoom: a queue's messages stay there while the outbox is full and go on when it is not.
func TestStoredMessagesWaitForRoom(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.OutboundBytes = 64 << 10; s.options.FlushTimeout = patience })
	sender := fx.login(t, ActiveMQ, frame.V12)
	body := strings.Repeat("x", 8<<10)
	const n = 200
	for i := range n {
		sender.frame("SEND", fmt.Sprint(i, " ", body), "destination:/queue/room")
	}
	sender.nothing()
	c := fx.pipe(t, ActiveMQ)
	c.login(frame.V12)
	c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/room", "ack:client", "activemq.prefetchSize:65535")
	a, _ := router.QueueAddress("/", "room")
	eventually(t, func() error {
		info, err := fx.router.QueueInfo(router.NewPrincipal("", "", true, nil), a)
		if err == nil && (len(info.Holders) == 0 || !info.Holders[0].Paused) {
			err = errors.New("the subscription is not paused")
		}
		return err
	})
	var last received
	for i := range n {
		last = c.message(fmt.Sprint(i, " ", body))
		if last.header("redelivered") != "" {
			t.Fatalf("message %d is marked redelivered", i)
		}
	}
	c.do("ACK", "id:"+last.header("ack"))
	fx.depth(t, "room", 0, 0)
}

// TestClientThatDoesNotRead is given up when even receipts have no room.
func TestClientThatDoesNotRead(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.OutboundBytes = 4096; s.options.FlushTimeout = patience })
	c := fx.pipe(t, ActiveMQ)
	c.login(frame.V12)
	id := strings.Repeat("r", 8000)
	c.send(strings.Repeat("BEGIN\ntransaction:t\nreceipt:"+id+"\n\n^@ABORT\ntransaction:t\nreceipt:"+id+"\n\n^@", 50))
	fx.connections(t, 0)
	if n := fx.server.Stats.SlowClosed.Load(); n == 0 {
		t.Error("it was not counted")
	}
}

func TestTLSNames(t *testing.T) {
	cert, pool := selfSigned(t, "worker.example")
	got := make(chan []string, 1)
	fx := newFixture(t, func(s *settings) {
		s.options.Authenticate = authenticator(func(_ context.Context, c router.Credentials) (*router.Principal, error) {
			got <- c.TLSNames
			return router.NewPrincipal("", "", false, nil), nil
		})
	})
	far, near := tcpPair(t)
	var served sync.WaitGroup
	served.Go(func() {
		fx.server.ServeConn(tls.Server(near, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}), ActiveMQ)
	})
	c := newClient(t, tls.Client(far, &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "worker.example"}))
	c.login(frame.V12)
	if names := <-got; !slices.Contains(names, "worker.example") {
		t.Errorf("names %v", names)
	}
	c.do("DISCONNECT")
	c.gone()
	served.Wait()
}
