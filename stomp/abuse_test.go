package stomp

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/stomp/frame"
)

// TestStrangersByTheThousand: silent, slow and nonsensical sockets without a login neither hurt a client nor stay.
func TestStrangersByTheThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 1,000 sockets")
	}
	fx := start(t, func(s *settings) { s.options.LoginTimeout = time.Second })
	good := fx.login(t, ActiveMQ, frame.V12)
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	source := rand.New(rand.NewPCG(1, 2))
	garbage := make([]byte, 4096)
	for i := range garbage {
		garbage[i] = byte(source.Uint32())
	}
	starts := [][]byte{nil, []byte("CONN"), []byte("CONNECT\nlogin:x"), garbage, []byte("GET / HTTP/1.1\r\n\r\n"),
		[]byte("CONNECT\ncontent-length:4294967295\n"), bytes.Repeat([]byte("\n"), 4096), []byte("SEND\ndestination:/queue/a\ncontent-length:9\n\n")}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range 1000 {
		c, err := net.Dial("tcp", fx.addr[Dialect(i%2)])
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := c.Write(starts[i%len(starts)]); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			good.nothing() // it is answered meanwhile
		}
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse); grown > 64<<20 {
		t.Errorf("memory grew by %d MiB for 1,000 strangers", grown>>20)
	}
	fx.connections(t, 1)
	good.nothing()
}

// TestIdleConnectionMemory is the promise of the package: at most 12 KiB for a connection that has a subscription and has
// sent and received before.
func TestIdleConnectionMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	const n = 1000
	fx := start(t)
	measure := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	script := "CONNECT\naccept-version:1.2\n\n\x00SUBSCRIBE\nid:1\ndestination:/topic/idle\n\n\x00" +
		"SEND\ndestination:/queue/idle\nreceipt:r\n\nhello\x00"
	dialAll := func(n int) (conns []net.Conn) {
		for range n {
			c, err := net.Dial("tcp", fx.addr[ActiveMQ])
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if _, err := c.Write([]byte(script)); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		buf := make([]byte, 4096)
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(patience))
			for got := ""; !strings.Contains(got, "receipt-id:r"); {
				k, err := c.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got += string(buf[:k])
			}
		}
		return conns
	}
	dialAll(20) // fills the pools
	before := measure()
	dialAll(n)
	// A client's own socket costs the test process about this much.
	const clientBytes = 700
	per := (measure()-before)/n - clientBytes
	t.Logf("%d bytes for an idle connection", per)
	if per > 12<<10 {
		t.Errorf("an idle connection costs %d bytes", per)
	}
}

// FuzzConnection throws bytes at a whole connection: whatever comes, it ends, without a panic, and what it says is frames.
func FuzzConnection(f *testing.F) {
	login := "CONNECT\naccept-version:1.2\n\n\x00"
	for _, s := range []string{
		"SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client\n\n\x00SEND\ndestination:/queue/a\n\nx\x00ACK\nid:1-1-1-1\n\n\x00",
		"BEGIN\ntransaction:t\n\n\x00SEND\ndestination:a,b\ntransaction:t\n\n\x00COMMIT\ntransaction:t\nreceipt:r\n\n\x00",
		"SUBSCRIBE\nid:1\ndestination:/topic/>\n\n\x00SEND\ndestination:/topic/a\ncontent-length:1\n\n\x00\x00DISCONNECT\nreceipt:x\n\n\x00",
		"SEND\ndestination:/queue/a\nreply-to:/temp-queue/x\n\n\x00SUBSCRIBE\nid:2\ndestination:/temp-queue/x\n\n\x00UNSUBSCRIBE\nid:2\n\n\x00",
		"SUBSCRIBE\nid:3\ndestination:/topic/d\nactivemq.subscriptionName:n\n\n\x00UNSUBSCRIBE\nid:3\nactivemq.subscriptionName:n\n\n\x00",
	} {
		f.Add([]byte(login+s), false)
		f.Add([]byte(login+s), true)
	}
	f.Add([]byte("STOMP\nheart-beat:1,1\nclient-id:c\n\n\x00ABORT\n\n\x00"), false)
	f.Fuzz(func(t *testing.T, script []byte, rabbit bool) {
		fx := newFixture(t)
		far, near := net.Pipe()
		var served sync.WaitGroup
		d := ActiveMQ
		if rabbit {
			d = RabbitMQ
		}
		served.Go(func() { fx.server.ServeConn(near, d) })
		pipe := newAsyncPipe(far)
		if _, err := pipe.Write(script); err != nil {
			t.Fatal(err)
		}
		if _, err := pipe.Write([]byte("\x00\nDISCONNECT\nreceipt:fuzz-end\n\n\x00\x16")); err != nil {
			t.Fatal(err)
		}
		dec := frame.NewDecoder(far, frame.ClientSide)
		dec.SetLimits(frame.Limits{Command: 64, HeaderLine: 1 << 20, HeaderBytes: 1 << 20, Headers: 2000, Body: 32 << 20})
		// A script that ends within a body swallows the end; then closing ends it.
		far.SetReadDeadline(time.Now().Add(2 * time.Second))
		for {
			got, err := dec.Next()
			var wire *frame.Error
			if errors.As(err, &wire) {
				t.Fatalf("the server sent what is no frame: %v", err)
			}
			if err != nil {
				break
			}
			if got.Command == frame.ERROR && got.Value("message") == "" {
				t.Fatal("an ERROR without a message")
			}
			if strings.Contains(got.Value("message"), "internal error") {
				t.Fatalf("an internal error: %s", got.Body)
			}
			far.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		}
		pipe.Close()
		served.Wait()
		if n := fx.server.Stats.Panics.Load(); n > 0 {
			t.Fatal(fmt.Sprint(n, " panics ", fx.log))
		}
	})
}
