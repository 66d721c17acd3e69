package jetstream_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

func openStore(t testing.TB, dir string, always bool) *jetstream.Store {
	t.Helper()
	s, err := jetstream.Open(context.Background(), jetstream.Options{
		Dir: dir, NodeName: "test", SyncAlways: always, SyncInterval: time.Second, MaxBytes: 8 << 30,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newRouter(t testing.TB, s router.Store) *router.Router {
	t.Helper()
	r, err := router.New(context.Background(), router.Options{
		Store: s, Authorize: router.AllowAll{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ackAll is a consumer that settles what it gets at once, on another goroutine.
type ackAll struct {
	n  atomic.Int64
	ch chan *router.Delivery
}

func (a *ackAll) Live(*router.Message, *outbox.Batch) bool { return true }

func (a *ackAll) Stored(d *router.Delivery, _ *outbox.Batch) bool {
	a.ch <- d
	return true
}

func (a *ackAll) run() {
	for d := range a.ch {
		a.n.Add(1)
		_ = d.Ack(nil, nil)
	}
}

// BenchmarkQueue is one publisher with a window of 100 and one consumer.
func BenchmarkQueue(b *testing.B) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("syncAlways=%v", always), func(b *testing.B) {
			s := openStore(b, b.TempDir(), always)
			defer s.Close()
			r := newRouter(b, s)
			defer r.Close(context.Background())
			p := router.NewPrincipal("bench", "", true, nil)
			sess, err := r.Connect(router.SessionOptions{Principal: p})
			if err != nil {
				b.Fatal(err)
			}
			to, _, _ := router.ParseDestination("", "/queue/bench")
			c := &ackAll{ch: make(chan *router.Delivery, 1000)}
			go c.run()
			sub, err := sess.Subscribe(context.Background(), router.SubscribeOptions{Filter: router.FilterOf(to), Receiver: c, Credit: 100})
			if err != nil {
				b.Fatal(err)
			}
			sub.Start(nil)
			window := make(chan struct{}, 100)
			body := make([]byte, 256)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				window <- struct{}{}
				m := &router.Message{To: to, Body: body, Priority: 4}
				if _, err := sess.Publish(context.Background(), m, nil, func(_ router.Stored, err error, _ *outbox.Batch) {
					if err != nil {
						b.Error(err)
					}
					<-window
				}); err != nil {
					b.Fatal(err)
				}
			}
			for c.n.Load() < int64(b.N) {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			sess.Close()
			close(c.ch)
		})
	}
}

// BenchmarkInterest subscribes a node to 100,000 distinct filters: the rate, and
// the memory of both sides, gateway and embedded server.
func BenchmarkInterest(b *testing.B) {
	const filters = 100_000
	for b.Loop() {
		s := openStore(b, b.TempDir(), false)
		c, err := s.Carrier()
		if err != nil {
			b.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		began := time.Now()
		stops := make([]func(), 0, filters)
		for i := range filters {
			f, _, err := router.ParseFilter("", fmt.Sprintf("/topic/plant.%d.line.%d.temp", i%100, i))
			if err != nil {
				b.Fatal(err)
			}
			stop, _, err := c.Interest(f, func(*router.Message, *outbox.Batch) {})
			if err != nil {
				b.Fatal(err)
			}
			stops = append(stops, stop)
		}
		if err := c.Flush(); err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(filters/took.Seconds(), "filters/s")
		b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/filters, "heap-B/filter")
		b.ReportMetric((float64(after.StackInuse)-float64(before.StackInuse))/filters, "stack-B/filter")
		for _, stop := range stops {
			stop()
		}
		c.Close()
		s.Close()
	}
}
