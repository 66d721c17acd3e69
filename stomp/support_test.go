package stomp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

func TestMain(m *testing.M) {
	// go-stomp leaves this one behind when it misses its wake-up: see endGoStomp.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/go-stomp/stomp/v3.waitWithTimeout.func1"))
}

// patience is how long a test waits for what must come: long enough for a busy machine.
const patience = 20 * time.Second

// authenticator is a router.Authenticator made of a function.
type authenticator func(context.Context, router.Credentials) (*router.Principal, error)

func (a authenticator) Authenticate(ctx context.Context, c router.Credentials) (*router.Principal, error) {
	return a(ctx, c)
}

// anyone lets everybody in under the name they give; the password "wrong" is wrong.
var anyone authenticator = func(_ context.Context, c router.Credentials) (*router.Principal, error) {
	if c.Password == "wrong" {
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "the user name or the password is wrong"}
	}
	return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
}

// fixture is a server on a loopback port with a router in memory.
type fixture struct {
	server *Server
	router *router.Router
	addr   map[Dialect]string
	log    *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type settings struct {
	options Options
	router  router.Options
}

func start(t testing.TB, change ...func(*settings)) *fixture {
	t.Helper()
	fx := newFixture(t, change...)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	for _, d := range []Dialect{ActiveMQ, RabbitMQ} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		fx.addr[d] = l.Addr().String()
		serving.Go(func() {
			if err := fx.server.Serve(ctx, l, d); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(func() { cancel(); serving.Wait() })
	return fx
}

// newFixture makes a server without a port.
func newFixture(t testing.TB, change ...func(*settings)) *fixture {
	t.Helper()
	fx := &fixture{addr: map[Dialect]string{}, log: &logBuffer{}}
	s := settings{
		options: Options{Authenticate: anyone, Version: "test", Log: slog.New(slog.NewTextHandler(fx.log, nil))},
		router:  router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler)},
	}
	for _, f := range change {
		f(&s)
	}
	var err error
	if fx.router, err = router.New(context.Background(), s.router); err != nil {
		t.Fatal(err)
	}
	s.options.Router = fx.router
	if fx.server, err = New(s.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := fx.server.Drain(ctx); err != nil {
			t.Error(err)
		}
		if err := fx.router.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := fx.server.Stats.Panics.Load(); n != fx.allowedPanics() {
			t.Errorf("%d panics\n%s", n, fx.log)
		}
	})
	return fx
}

// allowedPanics is more than 0 only in the test that provokes one.
func (fx *fixture) allowedPanics() uint64 {
	return uint64(strings.Count(fx.log.String(), "panic=provoked"))
}

// client is a scripted STOMP client that sees every byte.
type client struct {
	t    testing.TB
	conn net.Conn
	dec  *frame.Decoder
	tee  *tee
}

// tee remembers what was read since the last take.
type tee struct {
	io.Reader
	b bytes.Buffer
}

func (r *tee) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.b.Write(p[:n])
	return n, err
}

func (fx *fixture) dial(t testing.TB, d Dialect) *client {
	t.Helper()
	conn, err := net.Dial("tcp", fx.addr[d])
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, conn)
}

func newClient(t testing.TB, conn net.Conn) *client {
	c := &client{t: t, conn: conn, tee: &tee{Reader: conn}}
	c.dec = frame.NewDecoder(c.tee, frame.ClientSide)
	c.dec.SetLimits(frame.Limits{Command: 64, HeaderLine: 64 << 10, HeaderBytes: 1 << 20, Headers: 1000, Body: 64 << 20})
	t.Cleanup(func() { conn.Close() })
	return c
}

// pipe connects by a pipe, which buffers nothing that the client has not read.
func (fx *fixture) pipe(t testing.TB, d Dialect) *client {
	t.Helper()
	far, near := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() { fx.server.ServeConn(near, d) })
	c := newClient(t, newAsyncPipe(far))
	t.Cleanup(func() { c.conn.Close(); served.Wait() })
	return c
}

// login dials and connects with a version and further header lines.
func (fx *fixture) login(t testing.TB, d Dialect, v frame.Version, headers ...string) *client {
	t.Helper()
	c := fx.dial(t, d)
	c.login(v, headers...)
	return c
}

func (c *client) login(v frame.Version, headers ...string) received {
	c.t.Helper()
	accept := "accept-version:" + v.String() + "\n"
	if v == frame.V10 {
		accept = ""
	}
	c.send("CONNECT\n" + accept + lines(headers) + "\n^@")
	c.dec.SetVersion(v)
	return c.want(frame.CONNECTED)
}

func lines(headers []string) string {
	s := ""
	for _, h := range headers {
		s += h + "\n"
	}
	return s
}

// send writes a script in which "^@" is NUL.
func (c *client) send(script string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, strings.ReplaceAll(script, "^@", "\x00")); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// do sends a frame and waits for its receipt.
func (c *client) do(command string, headers ...string) {
	c.t.Helper()
	c.frame(command, "", append(headers, "receipt:do")...)
	if r := c.want(frame.RECEIPT); r.header("receipt-id") != "do" {
		c.t.Fatalf("receipt-id %q", r.header("receipt-id"))
	}
}

func (c *client) frame(command, body string, headers ...string) {
	c.t.Helper()
	c.send(command + "\n" + lines(headers) + "\n" + body + "^@\n")
}

// received is a frame that outlives the next one.
type received struct {
	command frame.Command
	headers []frame.Header
	body    string
}

func (r received) header(name string) string {
	v, _ := r.get(name)
	return v
}

func (r received) get(name string) (string, bool) {
	for _, h := range r.headers {
		if h.Name == name {
			return h.Value, true
		}
	}
	return "", false
}

func (c *client) read() (received, error) {
	c.conn.SetReadDeadline(time.Now().Add(patience))
	f, err := c.dec.Next()
	if err != nil {
		return received{}, err
	}
	r := received{command: f.Command, body: string(f.Body)}
	for name, value := range f.All() {
		r.headers = append(r.headers, frame.Header{Name: string(name), Value: string(value)})
	}
	return r, nil
}

// want reads one frame, which must be of that command.
func (c *client) want(command frame.Command) received {
	c.t.Helper()
	r, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", command, err)
	}
	if r.command != command {
		c.t.Fatalf("got %s %v %q, want %s", r.command, r.headers, r.body, command)
	}
	return r
}

// either reads one frame of each command, in whatever order they come.
func (c *client) either(commands ...frame.Command) map[frame.Command]received {
	c.t.Helper()
	got := map[frame.Command]received{}
	for range commands {
		r, err := c.read()
		if err != nil {
			c.t.Fatalf("waiting for %v: %v", commands, err)
		}
		got[r.command] = r
	}
	for _, command := range commands {
		if _, ok := got[command]; !ok {
			c.t.Fatalf("got %v, want one of each of %v", got, commands)
		}
	}
	return got
}

// message reads a MESSAGE with that body.
func (c *client) message(body string) received {
	c.t.Helper()
	m := c.want(frame.MESSAGE)
	if m.body != body {
		c.t.Fatalf("got message %q, want %q", m.body, body)
	}
	return m
}

// fails reads an ERROR whose message has a part, and that is as every ERROR must be.
func (c *client) fails(part string) received {
	c.t.Helper()
	e := c.want(frame.ERROR)
	message := e.header("message")
	if !strings.Contains(e.body, part) || message == "" { // the body begins with the message
		c.t.Fatalf("ERROR says %q, want something with %q", message, part)
	}
	if e.header("content-type") != "text/plain" || !strings.HasPrefix(e.body, message+"\n") {
		c.t.Fatalf("ERROR is not complete: %v %q", e.headers, e.body)
	}
	return e
}

// nothing proves that no frame is on its way: the answer to a frame of its own is the next one.
func (c *client) nothing() {
	c.t.Helper()
	c.do("BEGIN", "transaction:nothing")
	c.do("ABORT", "transaction:nothing")
}

// gone waits for the server to close the connection.
func (c *client) gone() {
	c.t.Helper()
	if r, err := c.read(); err == nil {
		c.t.Fatalf("got %s %v, want the end", r.command, r.headers)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("the connection stays open")
	}
	c.conn.Close()
}

// raw gives the bytes that arrived since the last call, with what differs from run to run replaced.
func (c *client) raw() string {
	s := c.tee.b.String()
	c.tee.b.Reset()
	s = strings.ReplaceAll(s, "\x00", "^@")
	for _, v := range varying {
		s = v.pattern.ReplaceAllString(s, v.with)
	}
	return s
}

var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(message-id|ack|session):[0-9a-z]+-[0-9a-z]+(-[0-9a-z]+)?(-[0-9a-z]+)?\n`), "$1:ID\n"},
	{regexp.MustCompile(`timestamp:1[0-9]{12}\n`), "timestamp:NOW\n"},
}

// eventually polls until check returns nil.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// depth polls until a queue holds so many messages, of which so many are with consumers.
func (fx *fixture) depth(t testing.TB, queue string, all, unacked int) {
	t.Helper()
	a, err := router.QueueAddress("/", queue)
	if err != nil {
		t.Fatal(err)
	}
	admin := router.NewPrincipal("admin", "", true, nil)
	eventually(t, func() error {
		info, err := fx.router.QueueInfo(admin, a)
		if err != nil {
			return err
		}
		if info.Depth != all || info.Unacked != unacked {
			return fmt.Errorf("queue %s has %d messages and %d unacked, want %d and %d", queue, info.Depth, info.Unacked, all, unacked)
		}
		return nil
	})
}

// gatedStore holds the answers to appends back until open is called.
type gatedStore struct {
	*router.MemoryStore
	mu   sync.Mutex
	shut bool
	wait []func()
	fail error
}

type gatedLog struct {
	router.Log
	store *gatedStore
}

func newGatedStore() *gatedStore { return &gatedStore{MemoryStore: router.NewMemoryStore()} }

func (s *gatedStore) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := s.MemoryStore.OpenLog(ctx, id)
	return gatedLog{l, s}, err
}

func (l gatedLog) Append(envelope []byte, dedup string, done router.Done) {
	l.store.mu.Lock()
	fail := l.store.fail
	l.store.mu.Unlock()
	if fail != nil {
		go l.store.pass(func() { done(router.Stored{}, fail, nil) })
		return
	}
	l.Log.Append(envelope, dedup, func(s router.Stored, err error, w *outbox.Batch) {
		l.store.pass(func() { done(s, err, nil) })
	})
}

// pass calls f now or when the gate opens.
func (s *gatedStore) pass(f func()) {
	s.mu.Lock()
	if s.shut {
		s.wait = append(s.wait, f)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	f()
}

func (s *gatedStore) close() {
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
}

func (s *gatedStore) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wait)
}

// open lets the answers go that wait, from a position on, and those that come.
func (s *gatedStore) open() {
	s.mu.Lock()
	wait := s.wait
	s.wait, s.shut = nil, false
	s.mu.Unlock()
	for _, f := range wait {
		f()
	}
}

// release lets one waiting answer go.
func (s *gatedStore) release(i int) {
	s.mu.Lock()
	f := s.wait[i]
	s.wait = append(s.wait[:i:i], s.wait[i+1:]...)
	s.mu.Unlock()
	f()
}
