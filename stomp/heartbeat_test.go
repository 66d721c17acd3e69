package stomp

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/stomp/frame"
)

func TestParseBeats(t *testing.T) {
	for _, s := range []string{"", "1", "1,2,3", "a,b", "1,", ",1", "-1,0", "1.5,0", "99999999999999999999,0"} {
		if cx, cy, ok := parseBeats(s); ok {
			t.Errorf("%q was read as %v %v", s, cx, cy)
		}
	}
	if cx, cy, ok := parseBeats(" 10 , 20 "); !ok || cx != 10*time.Millisecond || cy != 20*time.Millisecond {
		t.Errorf("got %v %v %v", cx, cy, ok)
	}
	if cx, _, ok := parseBeats("9000000000000000000,0"); !ok || cx != maxHeartbeat {
		t.Errorf("got %v %v", cx, ok)
	}
}

func FuzzBeats(f *testing.F) {
	f.Add("0,0")
	f.Add("5000,10000")
	f.Fuzz(func(t *testing.T, s string) {
		if cx, cy, ok := parseBeats(s); ok && (cx < 0 || cy < 0 || cx > maxHeartbeat || cy > maxHeartbeat) {
			t.Fatalf("%q was read as %v %v", s, cx, cy)
		}
	})
}

// TestServerBeats: a line feed each interval in which nothing else was written, and no sooner.
func TestServerBeats(t *testing.T) {
	for asked, every := range map[string]time.Duration{"0,5000": 5 * time.Second, "0,10": time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c, over := pipeClient(t)
			c.login(frame.V12, "heart-beat:"+asked)
			one := make([]byte, 1)
			for range 3 {
				began := time.Now()
				c.conn.SetReadDeadline(began.Add(time.Hour))
				if _, err := io.ReadFull(c.conn, one); err != nil || one[0] != '\n' {
					t.Fatalf("got %q, %v", one, err)
				}
				if d := time.Since(began); d != every {
					t.Errorf("%s: a beat after %s, want %s", asked, d, every)
				}
			}
			// Other bytes count as a beat.
			time.Sleep(every - 100*time.Millisecond)
			c.do("BEGIN", "transaction:t")
			c.conn.SetReadDeadline(time.Now().Add(every - time.Millisecond))
			if n, err := c.conn.Read(one); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %q, %v too soon", one[:n], err)
			}
			over()
		})
	}
}

func TestSilentClientIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, over := pipeClient(t)
		c.login(frame.V12, "heart-beat:10000,0")
		for range 20 { // it may be late, by less than the grace
			time.Sleep(20 * time.Second)
			c.send("\n")
		}
		began := time.Now()
		c.conn.SetReadDeadline(began.Add(time.Hour))
		f, err := c.dec.Next()
		if err != nil || f.Command != frame.ERROR || !strings.Contains(f.Value("message"), "no heart-beat") {
			t.Fatalf("got %v, %v", f, err)
		}
		if d := time.Since(began); d != 21*time.Second {
			t.Errorf("after %s", d)
		}
		c.gone()
		over()
	})
}

// TestBusyWorkerIsNotSilent: a client with unsettled messages may compute for hours, and is watched again afterwards.
func TestBusyWorkerIsNotSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, over := pipeClient(t)
		c.login(frame.V12, "heart-beat:5000,0")
		c.frame("SEND", "job", "destination:/queue/jobs")
		c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/jobs", "ack:client")
		m := c.message("job")
		time.Sleep(3 * time.Hour)
		c.do("ACK", "id:"+m.header("ack"))
		c.conn.SetReadDeadline(time.Now().Add(time.Hour))
		if f, err := c.dec.Next(); err != nil || f.Command != frame.ERROR {
			t.Fatalf("got %v, %v", f, err)
		}
		over()
	})
}

// TestLoginTimeout holds whatever trickles in meanwhile.
func TestLoginTimeout(t *testing.T) {
	for _, trickle := range []string{"", "\n", "C"} {
		synctest.Test(t, func(t *testing.T) {
			c, over := pipeClient(t)
			began := time.Now()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				script := "CONNECT\nx:" + strings.Repeat("y", 1000)
				for i := 0; trickle != "" && time.Since(began) < 15*time.Second; i++ {
					b := trickle
					if trickle == "C" {
						b = script[i : i+1]
					}
					if _, err := io.WriteString(c.conn, b); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			c.conn.SetReadDeadline(began.Add(time.Hour))
			f, err := c.dec.Next()
			if err != nil || f.Command != frame.ERROR || !strings.Contains(f.Value("message"), "no CONNECT frame came within 10s") {
				t.Fatalf("got %v, %v", f, err)
			}
			if d := time.Since(began); d != 10*time.Second {
				t.Errorf("after %s", d)
			}
			c.gone()
			<-ended
			over()
		})
	}
}

// sizedConn remembers how much room the reader offered last.
type sizedConn struct {
	net.Conn
	room atomic.Int64
}

func (c *sizedConn) Read(b []byte) (int, error) {
	c.room.Store(int64(len(b)))
	return c.Conn.Read(b)
}

// TestIdleConnectionGivesItsBufferBack and goes on where it was.
func TestIdleConnectionGivesItsBufferBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fx := newFixture(t)
		far, near := net.Pipe()
		sized := &sizedConn{Conn: near}
		var served sync.WaitGroup
		served.Go(func() { fx.server.ServeConn(sized, ActiveMQ) })
		c := newClient(t, newAsyncPipe(far))
		c.login(frame.V12)
		big := strings.Repeat("x", 5000)
		c.do("SEND", "destination:/queue/q", "a:"+big)
		synctest.Wait()
		if n := sized.room.Load(); n <= smallRead {
			t.Fatalf("room for %d bytes while busy: the test does not see the buffer", n)
		}
		time.Sleep(time.Hour)
		if n := sized.room.Load(); n > smallRead {
			t.Errorf("room for %d bytes after an hour", n)
		}
		c.send("SEND\ndestination:/queue/q\n") // a part of a frame
		c.send("b:" + big)
		time.Sleep(time.Hour)
		c.send("\nreceipt:r\n\n^@")
		if r := c.want(frame.RECEIPT); r.header("receipt-id") != "r" {
			t.Errorf("receipt-id %q", r.header("receipt-id"))
		}
		c.conn.Close()
		served.Wait()
	})
}
