package bench

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// fakeProtocol is a broker inside a synctest bubble: every message reaches every subscriber a fixed time after it was
// flushed, and is confirmed then. Time is the bubble's, so figures are exact.
type fakeProtocol struct {
	latency         time.Duration
	blockAt         uint64 // send of this number takes blockFor
	blockFor        time.Duration
	swallowFrom     uint64 // messages from this number on are never delivered, if above 0
	mostUnconfirmed int
	subscribers     []*fakeConnection
	dialed          []*fakeConnection
}

func (p *fakeProtocol) name() string                   { return "fake" }
func (p *fakeProtocol) confirms() bool                 { return true }
func (p *fakeProtocol) destinationPattern(bool) string { return "d" }
func (p *fakeProtocol) webPath() string                { return "/" }

func (p *fakeProtocol) dial(_ context.Context, e endpoint) (connection, error) {
	c := &fakeConnection{protocol: p, endpoint: e, in: make(chan fakeEvent, 1<<16), gone: make(chan struct{}), stop: make(chan struct{})}
	p.dialed = append(p.dialed, c)
	go c.read()
	return c, nil
}

type fakeEvent struct {
	at   time.Time
	id   uint64
	body []byte // nil for a confirmation
}

type fakeConnection struct {
	protocol *fakeProtocol
	endpoint endpoint
	in       chan fakeEvent
	buffered []fakeEvent
	writes   []int // messages in each flush that had any
	sent     uint64
	stop     chan struct{}
	gone     chan struct{}
	lulls    int
}

func (c *fakeConnection) read() {
	defer close(c.gone)
	l := c.endpoint.listener
	for {
		l.caughtUp()
		if c.endpoint.lull != nil && len(c.in) == 0 {
			c.endpoint.lull()
			c.lulls++
		}
		select {
		case e := <-c.in:
			time.Sleep(time.Until(e.at))
			if e.body != nil {
				l.message(e.body, false, c.endpoint.clock.nowNS())
			} else {
				l.confirmed(e.id, c.endpoint.clock.nowNS())
			}
		case <-c.stop:
			return
		}
	}
}

func (c *fakeConnection) server() string { return "fake" }
func (c *fakeConnection) subscribe(context.Context, string) error {
	c.protocol.subscribers = append(c.protocol.subscribers, c)
	return nil
}
func (c *fakeConnection) prepare(string, int) int { return c.protocol.mostUnconfirmed }

func (c *fakeConnection) send(id uint64, body []byte) error {
	c.sent++
	if c.protocol.blockFor > 0 && c.sent == c.protocol.blockAt {
		time.Sleep(c.protocol.blockFor)
	}
	c.buffered = append(c.buffered, fakeEvent{id: id, body: append([]byte(nil), body...)})
	return nil
}

func (c *fakeConnection) flush() error {
	if len(c.buffered) > 0 {
		c.writes = append(c.writes, len(c.buffered))
	}
	at := time.Now().Add(c.protocol.latency)
	for _, e := range c.buffered {
		m, _ := readStamp(e.body)
		if from := c.protocol.swallowFrom; from == 0 || m.number < from {
			for _, s := range c.protocol.subscribers {
				s.in <- fakeEvent{at: at, body: e.body}
			}
		}
		c.in <- fakeEvent{at: at, id: e.id}
	}
	c.buffered = nil
	return nil
}

func (c *fakeConnection) ping() error { return nil }
func (c *fakeConnection) close() {
	c.abort()
	<-c.gone
}
func (c *fakeConnection) abort() {
	if !closed(c.stop) {
		close(c.stop)
	}
}
func (c *fakeConnection) ended() <-chan struct{} { return c.gone }

func fakeOptions() Options {
	return Options{Scenario: Topic, Addresses: []string{"x:1"}, Destinations: 1, Publishers: 1, Subscribers: 1, SizeBytes: 64,
		Window: 1000, Warmup: time.Second, Duration: 10 * time.Second, Drain: 3 * time.Second, Timeout: time.Second,
		Connections: 10, Dialers: 1, Cores: 1}
}

func executeFake(t *testing.T, o Options, p *fakeProtocol) *Report {
	t.Helper()
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	r, err := execute(t.Context(), o, p, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// within says whether a histogram's figure is what it should be, up to the width of its buckets.
func within(us, want float64) bool { return us > want*0.99 && us < want*1.01 }

func TestPacedRunKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.RatePerSecond, o.Publishers, o.Subscribers = 100, 2, 3
		r := executeFake(t, o, &fakeProtocol{latency: 5 * time.Millisecond})
		// The edges of the window may fall on either side of a message.
		if r.SentPerS < 99.9 || r.SentPerS > 100.1 || r.ReceivedPerS < 299.7 || r.ReceivedPerS > 300.3 {
			t.Errorf("sent %v/s, received %v/s", r.SentPerS, r.ReceivedPerS)
		}
		if !within(r.P50US, 5000) || !within(r.MaxUS, 5000) || !within(r.ConfirmP99US, 5000) {
			t.Errorf("latency is not the broker's 5 ms: %s", describe(r))
		}
		if len(r.Faults()) > 0 || len(r.Notes) > 0 {
			t.Errorf("faults %v, notes %v", r.Faults(), r.Notes)
		}
	})
}

// A broker that stops taking messages for a second makes a hundred of them late, not one: the latency counts from when
// each was due.
func TestPacedLatencyCountsFromDueTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.RatePerSecond, o.Warmup = 100, 0
		r := executeFake(t, o, &fakeProtocol{latency: time.Millisecond, blockAt: 200, blockFor: time.Second})
		if !within(r.MaxUS, 1_001_000) {
			t.Errorf("the longest wait was %v us, want the second of blocking", r.MaxUS)
		}
		// 101 of about 1,000 messages waited between 0 and 1 s, so a hundredth waited over 0.9 s.
		if r.P99US < 850_000 || r.P50US > 1_100 {
			t.Errorf("p50 %v, p99 %v us", r.P50US, r.P99US)
		}
	})
}

// All that one read confirmed goes out in one write.
func TestClosedLoopSendsInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Window, o.Count = 50, 1000
		p := &fakeProtocol{latency: time.Millisecond}
		executeFake(t, o, p)
		writes := p.dialed[1].writes
		if total := sum(writes); total != 1000 || writes[0] != 50 {
			t.Errorf("%d messages in %d writes, the first of %d", total, len(writes), writes[0])
		}
	})
}

func sum(values []int) (n int) {
	for _, v := range values {
		n += v
	}
	return n
}

// With an end-to-end loop of 10 and a round trip of 10 ms, half of the loop is refilled each time half has arrived.
func TestInflightBoundsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Inflight, o.Subscribers = 10, 2
		r := executeFake(t, o, &fakeProtocol{latency: 10 * time.Millisecond})
		if r.SentPerS < 450 || r.SentPerS > 1050 {
			t.Errorf("%v/s, want 500 to 1000", r.SentPerS)
		}
		if len(r.Faults()) > 0 || r.Stalls > 0 || !within(r.MaxUS, 10_000) {
			t.Errorf("faults %v: %s", r.Faults(), describe(r))
		}
	})
}

func TestStalledInflightIsGivenUpAndLossReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Inflight = 10
		r := executeFake(t, o, &fakeProtocol{latency: time.Millisecond, swallowFrom: 100})
		if r.Received != 100 || r.Lost != r.Sent-100 || r.Lost == 0 || r.Stalls == 0 || len(r.Notes) == 0 {
			t.Errorf("%s", describe(r))
		}
	})
}

// A run in which something is missing ends Options.Drain after the last arrival.
func TestDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Count = 100
		start := time.Now()
		r := executeFake(t, o, &fakeProtocol{latency: time.Millisecond, swallowFrom: 99})
		if took := time.Since(start); r.Lost != 1 || took < o.Drain || took > o.Drain+time.Second {
			t.Errorf("took %v: %s", took, describe(r))
		}
		if r.Seconds > 0.1 {
			t.Errorf("the measured time %v s includes the wait for what never came", r.Seconds)
		}
	})
}

// A very slow pace is no stall.
func TestSlowPaceIsNotAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Count, o.RatePerSecond = 5, 0.1
		if r := executeFake(t, o, &fakeProtocol{latency: time.Millisecond}); r.Received != 5 || len(r.Faults()) > 0 {
			t.Errorf("%v %s", r.Faults(), describe(r))
		}
	})
}

// Interrupted while a slow broker still delivers, what is missing is on its way and not lost.
func TestInterruptionDoesNotCallLateMessagesLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Window, o.RatePerSecond, o.Warmup = 100_000, 100, 0
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		time.AfterFunc(5*time.Second, interrupt)
		p := &fakeProtocol{latency: 4 * time.Second}
		r, err := execute(ctx, o, p, p)
		if err != nil {
			t.Fatal(err)
		}
		if !r.Interrupted || r.Lost != 0 || r.Undelivered < 50 || len(r.Faults()) > 0 {
			t.Errorf("%v %s", r.Faults(), describe(r))
		}
	})
}

func TestDroppedIdleConnectionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Scenario = Conns
		p := &fakeProtocol{}
		time.AfterFunc(5*time.Second, func() {
			for _, c := range p.dialed[:3] {
				c.abort()
			}
		})
		r := executeFake(t, o, p)
		if r.Opened != 10 || r.Dropped != 3 || len(r.Faults()) != 1 {
			t.Errorf("%v %s", r.Faults(), describe(r))
		}
	})
}

// The latency is that of the timed subscribers; the others read about once a second, and all is counted.
func TestTimedSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fakeOptions()
		o.Subscribers, o.Timed, o.RatePerSecond = 10, 3, 100
		p := &fakeProtocol{latency: 5 * time.Millisecond}
		r := executeFake(t, o, p)
		if !within(r.P50US, 5e3) || !within(r.P99US, 5e3) || !within(r.MaxUS, 5e3) {
			t.Errorf("latency is not that of who reads at once: %s", describe(r))
		}
		if r.Timed != 3 || r.Received != 10*r.Sent || len(r.Faults()) > 0 {
			t.Errorf("%s", describe(r))
		}
		var timed []int
		for i, c := range p.subscribers {
			if c.endpoint.lull == nil {
				timed = append(timed, i)
			} else if c.lulls < 8 || c.lulls > 11+2+int(r.Sent/100) {
				t.Errorf("subscriber %d waited %d times in 11 s", i, c.lulls)
			}
		}
		if !slices.Equal(timed, []int{3, 6, 9}) {
			t.Errorf("timed are %v", timed)
		}
	})
}
