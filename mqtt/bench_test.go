package mqtt

import (
	"bufio"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// BenchmarkLive measures publish to delivery over loopback sockets, generator included.
func BenchmarkLive(b *testing.B) {
	for _, subscribers := range []int{1, 50} {
		b.Run(fmt.Sprint("QoS0/1to", subscribers), func(b *testing.B) {
			fx := start(b, func(s *settings) { s.options.OutboundBytes = 1 << 30 })
			frame := encodePacket(b, publishPacket("bench/topic", string(make([]byte, 64)), 0, 0))
			done := make(chan error, subscribers)
			for i := range subscribers {
				s := fx.login(v311, fmt.Sprint("s", i))
				s.subscribe(1, 0, "bench/topic")
				_ = s.conn.SetReadDeadline(time.Time{})
				go func() { // ends when all has arrived
					_, err := io.CopyN(io.Discard, s.conn, int64(b.N)*int64(len(frame)))
					done <- err
				}()
			}
			p := fx.login(v311, "p")
			w := bufio.NewWriterSize(p.conn, 64<<10)
			_ = p.conn.SetWriteDeadline(time.Time{})
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, err := w.Write(frame); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
			for range subscribers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*subscribers), "ns/delivery")
		})
	}
}

type sink struct{}

func (sink) Written(uint64) {}
func (sink) Drained()       {}
func (sink) Failed(error)   {}

// TestSharedDeliveryAllocatesNothing holds the hot path to its promise.
func TestSharedDeliveryAllocatesNothing(t *testing.T) {
	fx := start(t)
	c := newConn(fx.server, nil)
	c.version = v311
	c.out = outbox.New(nil, sink{}, outbox.Options{MaxBytes: 1 << 20})
	fd := &feed{conn: c}
	fd.set(&subscription{})
	to, err := router.ParseMQTTTopic("", "a/b")
	if err != nil {
		t.Fatal(err)
	}
	m := &router.Message{To: to, Body: []byte("x")}
	var w outbox.Batch
	fd.Live(m, &w) // encodes, and takes a buffer
	if n := testing.AllocsPerRun(200, func() {
		if !fd.Live(m, &w) {
			t.Fatal("dropped")
		}
	}); n > 0 {
		t.Errorf("%v allocations per delivery", n)
	}
}
