package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// abuse is what a stranger does on a socket before any login.
type abuse struct {
	name string
	send func(net.Conn) // until the gateway closes
	// errorSeen: an ERROR can be read for sure. Who goes on sending after the gateway
	// closed may have it destroyed by the reset that TCP answers with.
	errorSeen bool
}

// writeAll writes until the other side closes.
func writeAll(c net.Conn, total int, chunk []byte) {
	for sent := 0; sent < total; sent += len(chunk) {
		if _, err := c.Write(chunk); err != nil {
			return
		}
	}
}

var abuses = []abuse{
	{"4 GiB content-length", func(c net.Conn) { io.WriteString(c, "SEND\ndestination:/queue/x\ncontent-length:4294967296\n\nx") }, true},
	{"header of 5 MB", func(c net.Conn) {
		io.WriteString(c, "CONNECT\nlogin:")
		writeAll(c, 5_000_000, bytes.Repeat([]byte("x"), 50_000))
	}, false},
	{"200,000 headers", func(c net.Conn) {
		io.WriteString(c, "CONNECT\n")
		writeAll(c, 200_000*4, bytes.Repeat([]byte("a:b\n"), 10_000))
	}, false},
	{"one byte a second", func(c net.Conn) {
		for _, b := range []byte("CONNECT\naccept-version:1.2\nhost:h\n\n\x00") {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}, true},
	{"garbage", func(c net.Conn) { c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n\xff\xfe\x00\x01\x02")) }, true},
}

// TestUnauthenticatedAbuse has 1,000 strangers misbehave at once. Each is closed,
// with an ERROR where it can arrive; the gateway's memory stays within 50 MB of what
// it was, and an honest client is served meanwhile.
func TestUnauthenticatedAbuse(t *testing.T) {
	const sockets, most = 1000, int64(50 << 20)
	b := harness.StartPlain(t, "limits.login_timeout=3s", "storage.sync=1s")
	honest := harness.MustLogin(t, b.Addr())
	honest.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/honest", "ack:client")
	before := b.RSS()

	var closed, told sync.Map // by name, *atomic.Int64
	var group sync.WaitGroup
	var open atomic.Int64
	for i := range sockets {
		a := abuses[i%len(abuses)]
		open.Add(1)
		group.Go(func() {
			defer open.Add(-1)
			if sawError, ended := misbehave(b.Addr(), a); ended {
				count(&closed, a.name).Add(1)
				if sawError {
					count(&told, a.name).Add(1)
				}
			}
		})
	}
	peak, rounds := before, 0
	for ; open.Load() > 0 || rounds < 100; rounds++ {
		honest.MustConfirm(t, "SEND", fmt.Appendf(nil, "%d", rounds), "destination:/queue/honest")
		m := honest.Expect(t, "MESSAGE")
		honest.Must(t, "ACK", nil, "id:"+m.Headers["ack"])
		peak = max(peak, b.RSS())
		time.Sleep(5 * time.Millisecond) // leave the strangers some processor
	}
	group.Wait()
	t.Logf("RSS %d MiB before, %d MiB at most; the honest client had %d messages meanwhile", before>>20, peak>>20, rounds)
	if peak-before > most {
		t.Errorf("RSS grew by %d MiB", (peak-before)>>20)
	}
	for _, a := range abuses {
		n, e := count(&closed, a.name).Load(), count(&told, a.name).Load()
		t.Logf("%s: %d closed, %d of them read an ERROR", a.name, n, e)
		if n != sockets/int64(len(abuses)) {
			t.Errorf("%s: only %d sockets were closed", a.name, n)
		}
		if a.errorSeen && e != n {
			t.Errorf("%s: only %d of %d read an ERROR", a.name, e, n)
		}
	}
}

func count(m *sync.Map, name string) *atomic.Int64 {
	v, _ := m.LoadOrStore(name, new(atomic.Int64))
	return v.(*atomic.Int64)
}

// misbehave returns whether an ERROR came, and whether the gateway ended the
// connection.
func misbehave(addr string, a abuse) (sawError, ended bool) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false, false
	}
	defer c.Close()
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { a.send(c) })
	if c.SetReadDeadline(time.Now().Add(time.Minute)) != nil {
		return false, false
	}
	text, err := io.ReadAll(io.LimitReader(c, 64<<10))
	var timeout net.Error
	if e, ok := err.(net.Error); ok {
		timeout = e
	}
	c.Close() // ends the sender
	return bytes.HasPrefix(text, []byte("ERROR\n")) && bytes.Contains(text, []byte("\nmessage:")), timeout == nil || !timeout.Timeout()
}

// TestTooLargeAfterLogin has a client that is logged in announce 4 GiB: the ERROR
// names the limit, and nothing is allocated for it.
func TestTooLargeAfterLogin(t *testing.T) {
	b := harness.Start(t)
	w := harness.MustLogin(t, b.Addr())
	if err := w.WriteRaw([]byte("SEND\ndestination:/queue/x\ncontent-length:4294967296\n\nx")); err != nil {
		t.Fatal(err)
	}
	f := w.Expect(t, "ERROR")
	if !bytes.Contains([]byte(f.Headers["message"]), []byte("16777216")) && !bytes.Contains([]byte(f.Headers["message"]), []byte("16 MiB")) {
		t.Errorf("the ERROR does not name the limit: %s", f)
	}
}
