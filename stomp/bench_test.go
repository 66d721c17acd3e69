package stomp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
	"github.com/mqgate/mqgate/stomp/frame"
)

// sink is a connection that takes everything at once and gives what it was told to.
type sink struct {
	net.Conn
	in      *bytes.Reader
	written atomic.Int64
}

func (s *sink) Read(b []byte) (int, error)       { return s.in.Read(b) }
func (s *sink) Write(b []byte) (int, error)      { s.written.Add(int64(len(b))); return len(b), nil }
func (s *sink) SetReadDeadline(time.Time) error  { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) Close() error                     { return nil }
func (s *sink) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// BenchmarkLiveDelivery is the cost of one delivery of a live message in a fan-out, without sockets: it must not allocate.
func BenchmarkLiveDelivery(b *testing.B) {
	fx := newFixture(b)
	session, err := fx.router.Connect(router.SessionOptions{Principal: router.NewPrincipal("", "", false, nil), Kick: func(error) {}})
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close()
	out := &sink{}
	c := newConn(fx.server, out, ActiveMQ)
	c.version, c.session = frame.V12, session
	s := &subscription{conn: c, key: "i1", id: "1", hasID: true, destination: "/topic/bench"}
	p, err := c.place("/topic/bench")
	if err != nil {
		b.Fatal(err)
	}
	if err := c.openFeed(s, p, router.SubscribeOptions{}); err != nil {
		b.Fatal(err)
	}
	to, _ := p.filter.Address()
	m := &router.Message{To: to, Body: make([]byte, 256), Flags: router.FlagText, Priority: 4}
	var w outbox.Batch
	b.ReportAllocs()
	for b.Loop() {
		for range 50 {
			s.feeds[0].Live(m, &w)
		}
		w.Flush()
		for c.out.Backlog() > 1<<20 {
			c.out.Wait()
		}
	}
	b.StopTimer()
	c.out.Close()
}

// BenchmarkSend is the SEND path from the decoder to the router, to a topic that nobody subscribes.
func BenchmarkSend(b *testing.B) {
	for name, headers := range map[string]string{"plain": "", "headers": "content-type:application/json\ncorrelation-id:abc\nx-tenant:eu\nx-trace:0123456789abcdef\n"} {
		b.Run(name, func(b *testing.B) {
			fx := newFixture(b)
			one := "SEND\ndestination:/topic/bench.x\ncontent-length:256\n" + headers + "\n" + string(make([]byte, 256)) + "\x00"
			in := bytes.NewReader(nil)
			c := newConn(fx.server, &sink{in: in}, ActiveMQ)
			session, err := fx.router.Connect(router.SessionOptions{Principal: router.NewPrincipal("", "", false, nil), Kick: func(error) {}})
			if err != nil {
				b.Fatal(err)
			}
			defer session.Close()
			c.session, c.version = session, frame.V12
			c.decoder.SetLimits(frame.DefaultLimits())
			script := bytes.Repeat([]byte(one), 100)
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(script)
				for range 100 {
					f, err := c.decoder.Next()
					if err != nil {
						b.Fatal(err)
					}
					if err := c.send(f); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/send")
		})
	}
}

// BenchmarkFanOut sends over real sockets to 50 subscribers.
func BenchmarkFanOut(b *testing.B) {
	fx := start(b)
	const subscribers = 50
	var received atomic.Int64
	var readers sync.WaitGroup
	var conns []*client
	for range subscribers {
		c := fx.login(b, ActiveMQ, frame.V12)
		c.do("SUBSCRIBE", "id:1", "destination:/topic/bench")
		c.conn.SetReadDeadline(time.Time{})
		readers.Go(func() {
			r := bufio.NewReaderSize(c.conn, 64<<10)
			for {
				if _, err := r.ReadSlice(0); err != nil {
					return
				}
				received.Add(1)
			}
		})
		conns = append(conns, c)
	}
	b.Cleanup(func() {
		for _, c := range conns {
			c.conn.Close()
		}
		readers.Wait()
	})
	sender := fx.login(b, ActiveMQ, frame.V12)
	one := "SEND\ndestination:/topic/bench\n\n" + fmt.Sprintf("%0256d", 0) + "\x00\n"
	b.ReportAllocs()
	sent := int64(0)
	for b.Loop() {
		if _, err := io.WriteString(sender.conn, one); err != nil {
			b.Fatal(err)
		}
		sent++
		for sent*subscribers-received.Load() > 20_000 {
			time.Sleep(50 * time.Microsecond)
		}
	}
	eventually(b, func() error {
		if got := received.Load(); got < sent*subscribers {
			return fmt.Errorf("%d of %d were received", got, sent*subscribers)
		}
		return nil
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(sent*subscribers), "ns/delivery")
}

// BenchmarkQueue sends to a queue and consumes from it with receipts and client acks, over real sockets.
func BenchmarkQueue(b *testing.B) {
	fx := start(b)
	c, sender := fx.login(b, ActiveMQ, frame.V12), fx.login(b, ActiveMQ, frame.V12)
	c.do("SUBSCRIBE", "id:1", "destination:/queue/bench", "ack:client", "activemq.prefetchSize:1000")
	one := "SEND\ndestination:/queue/bench\nreceipt:r\n\n" + fmt.Sprintf("%0256d", 0) + "\x00\n"
	const window = 100
	var ack []byte
	b.ReportAllocs()
	for b.Loop() {
		sender.send(string(bytes.Repeat([]byte(one), window)))
		for range window {
			sender.tee.b.Reset()
			if f, err := sender.dec.Next(); err != nil || f.Command != frame.RECEIPT {
				b.Fatal(f, err)
			}
		}
		for range window {
			c.tee.b.Reset()
			f, err := c.dec.Next()
			if err != nil {
				b.Fatal(err)
			}
			id, _ := f.Get("ack")
			ack = frame.AppendBody(frame.AppendHeader(frame.AppendCommand(ack[:0], frame.ACK), frame.V12, "id", id), "")
		}
		if _, err := c.conn.Write(ack); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/window, "ns/message")
}
