package stomp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// The tests of this file are the ten rules that break PHP clients when a server misses them, in their order.

// recordingConn remembers each Write apart.
type recordingConn struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
}

func (c *recordingConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, bytes.Clone(b))
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func TestRule01FrameAndLFInOneWrite(t *testing.T) {
	fx := start(t)
	far, near := tcpPair(t)
	rec := &recordingConn{Conn: near}
	var served sync.WaitGroup
	served.Go(func() { fx.server.ServeConn(rec, ActiveMQ) })
	c := newClient(t, far)
	c.login(frame.V10)
	c.do("SUBSCRIBE", "destination:/queue/one", "ack:client")
	c.frame("SEND", "m1", "destination:/queue/one", "receipt:r1")
	c.frame("ACK", "", "message-id:nonsense", "receipt:r2")
	for range 3 { // RECEIPT and MESSAGE in either order, and ERROR
		if _, err := c.read(); err != nil {
			t.Fatal(err)
		}
	}
	c.send("DISCONNECT\nreceipt:bye\n\n^@")
	c.want(frame.RECEIPT)
	c.gone()
	served.Wait()
	if len(rec.writes) == 0 {
		t.Fatal("no write seen")
	}
	for _, w := range rec.writes {
		if !bytes.HasSuffix(w, []byte("\x00\n")) {
			t.Errorf("write %q does not end with a whole frame and its LF", w)
		}
	}
}

// tcpPair gives both ends of a TCP connection.
func tcpPair(t testing.TB) (far, near net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return far, near
}

func TestRule02NoHeartbeatUnlessAsked(t *testing.T) {
	for _, header := range []string{"", "heart-beat:0,0\n", "heart-beat:1000,0\n"} {
		synctest.Test(t, func(t *testing.T) {
			c, over := pipeClient(t)
			c.send("CONNECT\n" + header + "\n^@")
			c.want(frame.CONNECTED)
			if header == "heart-beat:1000,0\n" {
				// It must speak itself, but wants nothing.
				for range 100 {
					time.Sleep(900 * time.Millisecond)
					c.send("\n")
				}
			} else {
				time.Sleep(24 * time.Hour)
			}
			c.raw()
			c.do("BEGIN", "transaction:t")
			if got, want := c.raw(), "RECEIPT\nreceipt-id:do\n\n^@\n"; got != want {
				t.Errorf("%q: got %q, want %q and nothing before it", header, got, want)
			}
			over()
		})
	}
}

// pipeClient serves a connection without a port, for tests with a false clock. Over ends it and the router.
func pipeClient(t *testing.T, change ...func(*settings)) (*client, func()) {
	t.Helper()
	far, near := net.Pipe()
	s := settings{
		options: Options{Authenticate: anyone, Version: "test"},
		router:  router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: discard},
	}
	for _, f := range change {
		f(&s)
	}
	r, err := router.New(context.Background(), s.router)
	if err != nil {
		t.Fatal(err)
	}
	s.options.Router = r
	server, err := New(s.options)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { server.ServeConn(near, ActiveMQ) })
	c := newClient(t, newAsyncPipe(far))
	return c, func() {
		c.conn.Close()
		served.Wait()
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if n := server.Stats.Panics.Load(); n > 0 {
			t.Errorf("%d panics", n)
		}
	}
}

func TestRule03ContentLengthOnSendOnly(t *testing.T) {
	fx := start(t)
	c := fx.dial(t, ActiveMQ)
	c.send("CONNECT\ncontent-length:7\n\n^@")
	c.want(frame.CONNECTED)
	c.send("SUBSCRIBE\ndestination:/queue/three\nack:client\ncontent-length:99\nreceipt:s\n\n^@")
	c.want(frame.RECEIPT)
	c.send("SEND\ndestination:/queue/three\ncontent-length:5\n\na^@b^@c^@\n")
	m := c.message("a\x00b\x00c")
	// A client that copies the MESSAGE's headers into its ACK sends the length too.
	c.send("ACK\nmessage-id:" + m.header("message-id") + "\ncontent-length:5\nreceipt:a\n\n^@DISCONNECT\ncontent-length:3\nreceipt:d\n\n^@")
	for _, id := range []string{"a", "d"} {
		if r := c.want(frame.RECEIPT); r.header("receipt-id") != id {
			t.Fatalf("receipt %q, want %q", r.header("receipt-id"), id)
		}
	}
	c.gone()
	fx.depth(t, "three", 0, 0)
}

func TestRule04AckWithAllHeadersOfMessage(t *testing.T) {
	for _, v := range []frame.Version{frame.V10, frame.V11, frame.V12} {
		t.Run(v.String(), func(t *testing.T) {
			fx := start(t)
			sender, c := fx.login(t, ActiveMQ, v), fx.login(t, ActiveMQ, v)
			c.do("SUBSCRIBE", "id:s", "destination:/queue/four", "ack:client")
			sender.do("BEGIN", "transaction:t")
			sender.frame("SEND", "x", "destination:/queue/four", "receipt:r", "transaction:t", "id:42", "login:me", "passcode:secret", "content-length:1",
				"redelivered:true", "subscription:fake", "message-id:fake", "ack:fake", "k:v")
			sender.want(frame.RECEIPT)
			sender.do("COMMIT", "transaction:t")
			m := c.message("x")
			for _, name := range []string{"receipt", "transaction", "login", "passcode", "redelivered"} {
				if v, ok := m.get(name); ok {
					t.Errorf("MESSAGE has %s:%s", name, v)
				}
			}
			if m.header("subscription") != "s" || m.header("message-id") == "fake" || m.header("k") != "v" || m.header("id") != "42" {
				t.Errorf("headers %v", m.headers)
			}
			ack := []byte("ACK\n")
			for _, h := range m.headers {
				ack = frame.AppendHeader(ack, v, h.Name, h.Value)
			}
			c.send(string(frame.AppendBody(ack, "")))
			c.nothing() // no ERROR, and no receipt that was not asked for
			fx.depth(t, "four", 0, 0)
		})
	}
}

func TestRule05AnswersWithoutDelay(t *testing.T) {
	// With a false clock: CONNECTED, RECEIPT of SEND, SUBSCRIBE and ACK come in no time at all, which no timer, poll or
	// batch interval could do.
	synctest.Test(t, func(t *testing.T) {
		c, over := pipeClient(t)
		began := time.Now()
		c.login(frame.V12)
		c.do("SEND", "destination:/queue/five")
		c.do("SUBSCRIBE", "id:1", "destination:/queue/five", "ack:client")
		m := c.want(frame.MESSAGE)
		c.do("ACK", "id:"+m.header("ack"))
		if d := time.Since(began); d >= 2*time.Second {
			t.Errorf("took %s", d)
		}
		over()
	})
}

func TestRule06Version10IsFirstClass(t *testing.T) {
	fx := start(t)
	c := fx.dial(t, ActiveMQ)
	c.send("CONNECT\nlogin:system\npasscode:manager\nclient-id:php\n\n^@")
	c.want(frame.CONNECTED)
	if got, want := c.raw(), "CONNECTED\nversion:1.0\nsession:php\nserver:ActiveMQ/5.18.0-compatible mqgate/test\nheart-beat:0,0\n\n^@\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c.frame("SEND", `back\slash`, "destination:/queue/six", `path:C:\new\red`, "timestamp:5", "reply-to: /queue/r ")
	c.frame("SUBSCRIBE", "", "destination:/queue/six", "ack:client")
	m := c.message(`back\slash`)
	if got, want := c.raw(), "MESSAGE\ndestination:/queue/six\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\n"+
		"timestamp:5\nreply-to:/queue/r\npath:C:\\new\\red\n\nback\\slash^@\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	c.do("ACK", "message-id:"+m.header("message-id"))
	c.do("UNSUBSCRIBE", "destination:/queue/six")
	c.do("SEND", "destination:/queue/six")
	c.nothing()
	fx.depth(t, "six", 1, 0)
}

func TestRule07LenientIn(t *testing.T) {
	fx := start(t)
	c := fx.dial(t, ActiveMQ)
	c.send("\n\r\n^@^@\nSTOMP \r\naccept-version:1.2\r\n\r\n^@^@\n\n")
	c.want(frame.CONNECTED)
	c.dec.SetVersion(frame.V12)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/seven")
	c.send("SEND\r\ndestination:/queue/seven\r\na:b:k\r\nu:tab\\tx\r\ncontent-length: 2 \r\n\r\nhi^@\n^@\n")
	m := c.message("hi")
	if m.header("a") != "b:k" || m.header("u") != `tab\tx` {
		t.Errorf("headers %v", m.headers)
	}
	c.nothing()
}

func TestRule08AckIDForms(t *testing.T) {
	const id, ack, messageID = "id", "ack", "message-id"
	cases := []struct {
		v             frame.Version
		header, value string
		receipt       bool
	}{
		{frame.V12, id, ack, true},
		{frame.V12, id, messageID, true}, // stomp-php's NACK
		{frame.V12, ack, ack, true},      // php-stomp
		{frame.V12, messageID, messageID, true},
		{frame.V11, messageID, messageID, true},
		{frame.V11, id, messageID, true},
		{frame.V10, messageID, messageID, true},
		{frame.V10, ack, messageID, true},
	}
	for _, tc := range cases {
		for _, command := range []string{"ACK", "NACK"} {
			t.Run(fmt.Sprintf("%s %s %s=%s", command, tc.v, tc.header, tc.value), func(t *testing.T) {
				fx := start(t)
				c := fx.login(t, ActiveMQ, tc.v)
				c.do("SUBSCRIBE", "id:s", "destination:/queue/eight", "ack:client-individual")
				c.frame("SEND", "x", "destination:/queue/eight")
				m := c.message("x")
				name := tc.value
				if m.header(name) == "" {
					t.Fatalf("MESSAGE has no %s: %v", name, m.headers)
				}
				line := frame.AppendHeader(nil, tc.v, tc.header, m.header(name))
				c.do(command, strings.TrimSuffix(string(line), "\n"))
				fx.depth(t, "eight", 0, 0)
				c.frame(command, "", strings.TrimSuffix(string(line), "\n"), "receipt:again")
				if e := c.fails("Unexpected " + command); e.header("receipt-id") != "again" {
					t.Errorf("receipt-id %q", e.header("receipt-id"))
				}
				c.nothing()
			})
		}
	}
}

func TestRule09ErrorsKeepTheConnection(t *testing.T) {
	cases := []struct{ name, frame, says string }{
		{"send without destination", "SEND\nreceipt:e\n\nx", "no destination"},
		{"send to nonsense", "SEND\ndestination:/nonsense/x\nreceipt:e\n\nx", "unknown destination"},
		{"send to wildcard", "SEND\ndestination:/topic/a.*\nreceipt:e\n\nx", "wildcard"},
		{"send bad priority", "SEND\ndestination:/queue/a\npriority:high\nreceipt:e\n\nx", "priority"},
		{"send bad expires", "SEND\ndestination:/queue/a\nexpires:soon\nreceipt:e\n\nx", "expires"},
		{"send scheduled", "SEND\ndestination:/queue/a\nAMQ_SCHEDULED_CRON:never\nreceipt:e\n\nx", "bad crontab line"},
		{"subscribe without id", "SUBSCRIBE\ndestination:/queue/a\nreceipt:e\n\n", "without a subscription id"},
		{"subscribe without destination", "SUBSCRIBE\nid:1\nreceipt:e\n\n", "no destination"},
		{"subscribe to wildcard queue", "SUBSCRIBE\nid:1\ndestination:/queue/a.>\nreceipt:e\n\n", "wildcard"},
		{"subscribe bad ack mode", "SUBSCRIBE\nid:1\ndestination:/queue/a\nack:maybe\nreceipt:e\n\n", "ack mode"},
		{"subscribe selector", "SUBSCRIBE\nid:1\ndestination:/queue/a\nselector:a > \nreceipt:e\n\n", "bad selector: the selector ends where"},
		{"subscribe browser", "SUBSCRIBE\nid:1\ndestination:/topic/a\nbrowser:true\nreceipt:e\n\n", "browser:true is for a queue"},
		{"subscribe exclusive", "SUBSCRIBE\nid:1\ndestination:/queue/a\nexclusive:true\nreceipt:e\n\n", "exclusive is not supported"},
		{"subscribe bad prefetch", "SUBSCRIBE\nid:1\ndestination:/queue/a\nactivemq.prefetchSize:x\nreceipt:e\n\n", "prefetchSize"},
		{"durable without client-id", "SUBSCRIBE\nid:1\ndestination:/topic/a\nactivemq.subscriptionName:n\nreceipt:e\n\n", "client-id"},
		{"unsubscribe unknown", "UNSUBSCRIBE\nid:9\nreceipt:e\n\n", "No subscription matched"},
		{"ack without id", "ACK\nreceipt:e\n\n", "no id header"},
		{"ack unknown", "ACK\nid:1-2-3-4\nreceipt:e\n\n", "Unexpected ACK"},
		{"nack bad requeue", "NACK\nid:1-2-3-4\nrequeue:perhaps\nreceipt:e\n\n", "requeue"},
		{"nack bad delay", "NACK\nid:1-2-3-4\ndelay:-1\nreceipt:e\n\n", "delay"},
		{"nack delay without number", "NACK\nid:1-2-3-4\ndelay:soon\nreceipt:e\n\n", "delay"},
		{"nack delayed dead letter", "NACK\nid:1-2-3-4\nrequeue:false\ndelay:5\nreceipt:e\n\n", "only when it is requeued"},
		{"ack in unknown transaction", "ACK\nid:1-2-3-4\ntransaction:t9\nreceipt:e\n\n", "has not begun"},
		{"commit without id", "COMMIT\nreceipt:e\n\n", "no transaction header"},
		{"abort without id", "ABORT\nreceipt:e\n\n", "no transaction header"},
		{"begin without id", "BEGIN\nreceipt:e\n\n", "no transaction header"},
		{"commit unknown", "COMMIT\ntransaction:t9\nreceipt:e\n\n", "has not begun"},
		{"abort unknown", "ABORT\ntransaction:t9\nreceipt:e\n\n", "has not begun"},
		{"send in unknown transaction", "SEND\ndestination:/queue/a\ntransaction:t9\nreceipt:e\n\nx", "has not begun"},
		{"connect twice", "CONNECT\naccept-version:1.2\nreceipt:e\n\n", "Already connected"},
	}
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	for i, tc := range cases {
		c.send(tc.frame + "^@\n")
		if e := c.fails(tc.says); e.header("receipt-id") != "e" {
			t.Errorf("%s: receipt-id %q", tc.name, e.header("receipt-id"))
		}
		c.do("SEND", "destination:/queue/works")
		fx.depth(t, "works", i+1, 0)
	}
	if n := fx.server.Stats.Errors.Load(); n != uint64(len(cases)) {
		t.Errorf("%d errors counted, want %d", n, len(cases))
	}
}

func TestRule09WhatCloses(t *testing.T) {
	cases := []struct{ name, first, then, says, receipt string }{
		{name: "unknown command", then: "PUBLISH\n\n^@", says: "unknown command"},
		{name: "bad header", then: "SEND\nnonsense\n\n^@", says: "no name before"},
		{name: "negative content-length", then: "SEND\nreceipt:n\ndestination:/queue/a\ncontent-length:-1\n\n^@", says: "content-length", receipt: "n"},
		{name: "false content-length", then: "SEND\nreceipt:n\ndestination:/queue/a\ncontent-length:1\n\nabc^@", says: "content-length", receipt: "n"},
		{name: "too many headers", then: "SEND\n" + strings.Repeat("a:b\n", 1001) + "\n^@", says: "more than 1000 headers"},
		{name: "long header", then: "SEND\na:" + strings.Repeat("x", 11<<10) + "\n\n^@", says: "header line longer"},
		{name: "no CONNECT", first: "SUBSCRIBE\ndestination:/queue/a\nreceipt:n\n\n^@", says: "before CONNECT", receipt: "n"},
		{name: "no common version", first: "CONNECT\naccept-version:2.0\n\n^@", says: "no supported protocol version"},
		{name: "wrong password", first: "CONNECT\nlogin:a\npasscode:wrong\n\n^@", says: "password is wrong"},
		{name: "bad heart-beat", first: "CONNECT\nheart-beat:soon\n\n^@", says: "heart-beat"},
		{name: "large before login", first: "CONNECT\na:" + strings.Repeat("x", 9<<10) + "\n\n^@", says: "longer than"},
		{name: "HTTP", first: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", says: "HTTP"},
		{name: "TLS", first: "\x16\x03\x01\x02\x00\x01\x00", says: "TLS"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			fx := start(t)
			c := fx.dial(t, ActiveMQ)
			if tc.first == "" {
				c.login(frame.V12)
			}
			c.send(tc.first + tc.then)
			e := c.fails(tc.says)
			if e.header("receipt-id") != tc.receipt {
				t.Errorf("receipt-id %q, want %q", e.header("receipt-id"), tc.receipt)
			}
			c.gone()
			eventually(t, func() error {
				if n := fx.server.Connections(); n > 0 {
					return fmt.Errorf("%d connections are left", n)
				}
				return nil
			})
		})
	}
}

func TestRule10ReceiptOfSubscribeFirst(t *testing.T) {
	store := newGatedStore()
	fx := start(t, func(s *settings) { s.router.Store = store })
	sender := fx.login(t, ActiveMQ, frame.V12)
	for i := range 20 {
		sender.frame("SEND", fmt.Sprint(i), "destination:/queue/ten")
	}
	sender.nothing()
	fx.depth(t, "ten", 20, 0)
	c := fx.login(t, ActiveMQ, frame.V12)
	store.close()
	c.frame("SEND", "later", "destination:/queue/other", "receipt:before") // its receipt must come first of all
	eventually(t, func() error {
		if store.waiting() == 0 {
			return fmt.Errorf("the store has nothing")
		}
		return nil
	})
	c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/ten", "receipt:sub")
	store.open()
	for _, id := range []string{"before", "sub"} {
		if r := c.want(frame.RECEIPT); r.header("receipt-id") != id {
			t.Fatalf("receipt %q, want %q", r.header("receipt-id"), id)
		}
	}
	for i := range 20 {
		c.message(fmt.Sprint(i))
	}
}
