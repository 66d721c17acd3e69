package proxy

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal is a log that can be read meanwhile.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}
func (j *journal) String() string { j.mu.Lock(); defer j.mu.Unlock(); return j.buf.String() }

func open(t *testing.T, o Options) (*Listener, *journal) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var j journal
	o.Log = slog.New(slog.NewTextHandler(&j, nil))
	o.Name = "test"
	if o.Trusted == nil {
		o.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	p := NewListener(l, o)
	t.Cleanup(func() { p.Close() })
	return p, &j
}

func dial(t *testing.T, p *Listener, send string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return c
}

// closed fails the test unless the peer closes the connection without a word.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q, %v; want a closed connection", b, err)
	}
}

func TestListenerTellsTheClientsAddress(t *testing.T) {
	p, _ := open(t, Options{})
	client := dial(t, p, v2(0x21, 0x11, four)+"hello")
	c, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a := c.RemoteAddr().String(); a != "192.0.2.1:56324" {
		t.Errorf("address %s", a)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, ok := c.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
		t.Error("the socket cannot be reached for its keep-alive")
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	closed(t, client)
}

// A health check of the proxy itself has the proxy's address.
func TestListenerLetsTheProxyItselfIn(t *testing.T) {
	p, _ := open(t, Options{})
	client := dial(t, p, v2(0x20, 0, ""))
	c, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.RemoteAddr().String() != client.LocalAddr().String() {
		t.Errorf("address %s, want %s", c.RemoteAddr(), client.LocalAddr())
	}
}

func TestListenerRefuses(t *testing.T) {
	far := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for name, c := range map[string]struct {
		o    Options
		send string
		log  string
	}{
		"untrusted":       {Options{Trusted: far}, "PROXY UNKNOWN\r\n", "not in the networks"},
		"without header":  {Options{}, "CONNECT\naccept-version:1.2\n\n\x00", "does not begin with"},
		"malformed":       {Options{}, "PROXY TCP4 a b c d\r\n", "malformed"},
		"too slow":        {Options{Timeout: 20 * time.Millisecond}, "PROXY TC", "timeout"},
		"one that leaves": {Options{}, "PROXY TCP4 192.0", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			p, j := open(t, c.o)
			accepted := make(chan error, 1)
			go func() {
				c, err := p.Accept()
				if err == nil {
					c.Close()
				}
				accepted <- err
			}()
			client := dial(t, p, c.send)
			if name == "one that leaves" {
				client.(*net.TCPConn).CloseWrite()
			}
			closed(t, client)
			for p.Refused() == 0 || !strings.Contains(j.String(), c.log) {
				select {
				case err := <-accepted:
					t.Fatalf("it was accepted, or %v", err)
				case <-time.After(time.Millisecond):
				}
			}
			if s := j.String(); !strings.Contains(s, "peer=127.0.0.1:") {
				t.Errorf("log %s", s)
			}
			p.Close()
			if err := <-accepted; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v", err)
			}
		})
	}
}

// Peers that send nothing delay nobody, and Close ends them.
func TestSilentPeersDelayNobody(t *testing.T) {
	p, _ := open(t, Options{Timeout: time.Hour})
	var silent []net.Conn
	for range 50 {
		silent = append(silent, dial(t, p, "PRO"))
	}
	dial(t, p, "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n")
	c, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	p.Close()
	for _, s := range silent {
		closed(t, s)
	}
}
