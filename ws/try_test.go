package ws

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/router/outbox"
)

// deaf is an outbox owner that hears nothing.
type deaf struct{}

func (deaf) Written(uint64) {}
func (deaf) Drained()       {}
func (deaf) Failed(error)   {}

// Frames stay whole though the socket takes only parts of them, and pongs and
// large messages go between.
func TestFramesStayWholeWhenTheSocketIsFull(t *testing.T) {
	const messages = 400
	var want bytes.Buffer
	for n := range messages {
		fmt.Fprintf(&want, "%d;%s", n, bytes.Repeat([]byte("y"), n%9*3000))
	}
	r := newRig(t, func(o *Options) {
		o.ServeMQTT = func(c net.Conn) {
			defer c.Close()
			if s := c.(*stream); s.try == nil || s.Conn.(*net.TCPConn).SetWriteBuffer(8<<10) != nil {
				t.Error("the socket cannot be tried")
			}
			go func() { // answers pings; ends when the socket closes
				for {
					if _, err := c.Read(make([]byte, 100)); err != nil {
						return
					}
				}
			}()
			o := outbox.New(c, deaf{}, outbox.Options{MaxBytes: 1 << 30, Reserve: 1})
			for n := range messages {
				buf, _ := o.Begin(100)
				o.End(nil, fmt.Appendf(buf, "%d;%s", n, bytes.Repeat([]byte("y"), n%9*3000)))
				if n%10 == 0 {
					time.Sleep(time.Millisecond) // many writes, not one
				}
			}
			o.Close()
		}
	})
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
	c, _, err := d.Dial("ws"+r.http.URL[len("http"):]+"/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pongs := 0
	c.SetPongHandler(func(string) error { pongs++; return nil })
	var got bytes.Buffer
	for n := 0; got.Len() < want.Len(); n++ {
		if n%3 == 0 {
			// The server may have written all and closed: what it wrote is still to be read, and that reading fails if it was less.
			_ = c.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(20*time.Second))
		}
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, b, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", got.Len(), want.Len(), err)
		}
		got.Write(b)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("the bytes changed on their way")
	}
	if pongs == 0 {
		t.Error("no ping was answered")
	}
}
