package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	procfs = "/proc"
	// pollInterval is how often a waiting run looks at its counters; it bounds the error of a fixed count's end time.
	pollInterval = 2 * time.Millisecond
)

// run is one execution of a scenario.
type run struct {
	options    Options
	publishing protocol
	consuming  protocol
	targets    []target // of publishers
	sources    []target // of subscribers
	id         uint32
	clock      clock
	reference  []byte // a body of this run, whose filler every arriving one must have
	measuring  atomic.Bool
	underway   atomic.Bool // publishers of a timed run publish
	complaints complaints
	broker     *processes

	publishers  []*publisher
	subscribers []*subscriber
	latencies   []times // of the subscribers, in turn

	quit        chan struct{} // closed to stop the publishers
	loops       sync.WaitGroup
	interrupted time.Time // when a wait first saw the interruption; all waits after it share Options.Drain
}

// Run executes one scenario against a broker. Cancelling ctx ends it early: publishing stops, what is on
// its way is awaited for Options.Drain at most, and the report says it was interrupted. The error is why the run could not
// be made; what went wrong during it is in the report (see Report.Faults).
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	publishing := newProtocol(o.protocol(), o)
	consuming := publishing
	if name := o.subscriberProtocol(); name != o.protocol() {
		consuming = newProtocol(name, o)
	}
	return execute(ctx, o, publishing, consuming)
}

func execute(ctx context.Context, o Options, publishing, consuming protocol) (*Report, error) {
	broker, err := watchProcesses(procfs, o.BrokerPIDs)
	if err != nil {
		return nil, err
	}
	r := newRun(o, publishing, consuming, broker)
	if broker != nil {
		var sampler sync.WaitGroup
		quit := make(chan struct{})
		sampler.Go(func() { broker.samplePeak(quit) })
		defer sampler.Wait()
		defer close(quit)
	}
	switch o.Scenario {
	case Queue, Topic:
		return r.flow(ctx)
	case Backlog:
		return r.backlog(ctx)
	case Conns:
		return r.conns(ctx)
	}
	return nil, fmt.Errorf("unknown scenario %q", o.Scenario)
}

func newRun(o Options, publishing, consuming protocol, broker *processes) *run {
	r := &run{options: o, publishing: publishing, consuming: consuming, broker: broker, id: rand.Uint32(), clock: clock{time.Now()},
		quit: make(chan struct{}), targets: o.targets(o.Addresses, publishing), sources: o.targets(o.subscriberAddresses(), consuming)}
	if o.Scenario == Conns {
		return r
	}
	r.reference = newBody(r.id, 0, o.SizeBytes)
	perDestination := make([]int, o.Destinations)
	for i := range o.Subscribers {
		perDestination[i%o.Destinations]++
	}
	for i := range o.Publishers {
		fan := int64(1)
		if !o.shared() {
			fan = int64(perDestination[i%o.Destinations])
		}
		r.publishers = append(r.publishers, r.newPublisher(i, fan))
	}
	r.latencies = make([]times, min(o.Subscribers, latencyShares))
	queues := make([][]*ledger, o.Destinations)
	for i := range o.Subscribers {
		d := i % o.Destinations
		if queues[d] == nil || !o.shared() {
			queues[d] = r.newLedgers(d)
		}
		s := &subscriber{run: r, index: i, ledgers: queues[d], highest: make([]uint64, o.Publishers)}
		if o.timed(i) {
			s.latency = &r.latencies[i%len(r.latencies)]
		}
		r.subscribers = append(r.subscribers, s)
	}
	return r
}

// latencyShares is how many histograms of latency there are: few enough to stay in the cache, enough for as many cores.
const latencyShares = 4

func (r *run) newPublisher(index int, fan int64) *publisher {
	p := &publisher{run: r, index: index, deliveries: fan}
	if r.publishing.confirms() {
		p.window = newWindow(r.options.Window)
	}
	if n := r.options.Inflight; n > 0 {
		p.credit = newCredit(int64(n) * fan)
	}
	return p
}

// newLedgers makes a ledger for each publisher that sends to destination d.
func (r *run) newLedgers(d int) []*ledger {
	l := make([]*ledger, r.options.Publishers)
	for i := d; i < len(l); i += r.options.Destinations {
		l[i] = &ledger{}
	}
	return l
}

// publishTo names where publisher i sends.
func (r *run) publishTo(i int) string { return r.destination(r.publishing, r.options.Destination, i) }

// consumeFrom names where subscriber i receives.
func (r *run) consumeFrom(i int) string {
	return r.destination(r.consuming, r.options.subscriberDestination(), i)
}

func (r *run) destination(p protocol, pattern string, i int) string {
	if pattern == "" {
		pattern = p.destinationPattern(r.options.shared())
	}
	return strings.NewReplacer("%r", fmt.Sprintf("%08x", r.id), "%d", strconv.Itoa(i%r.options.Destinations)).Replace(pattern)
}

// endpoint is connection i of those that go to targets; role keeps their names apart.
func (r *run) endpoint(targets []target, role string, i int, l listener) endpoint {
	t := targets[i%len(targets)]
	e := endpoint{address: t.address, websocket: t.websocket, path: t.path, clock: r.clock, listener: l,
		name: fmt.Sprintf("bench-%08x-%s%d", r.id, role, i)}
	if n := len(r.options.Sources); n > 0 {
		e.source = r.options.Sources[i%n]
	}
	return e
}

func (r *run) connectSubscribers(ctx context.Context) error {
	return r.each(len(r.subscribers), func(i int) error {
		s := r.subscribers[i]
		e := r.endpoint(r.sources, "s", i, s)
		if s.latency == nil {
			e.lull = r.lull
		}
		link, err := r.consuming.dial(ctx, e)
		if err != nil {
			return fmt.Errorf("subscriber %d: %w", i, err)
		}
		s.link = link
		if err := link.subscribe(ctx, r.consumeFrom(i)); err != nil {
			return fmt.Errorf("subscriber %d: subscribe to %s: %w", i, r.consumeFrom(i), err)
		}
		return nil
	})
}

// lull is what a subscriber that is not timed waits between two reads while publishers publish. Its length varies, so that
// those of many do not end together.
func (r *run) lull() {
	if r.underway.Load() {
		time.Sleep(lullLeast + rand.N(lullLeast))
	}
}

const lullLeast = 700 * time.Millisecond

func (r *run) connectPublishers(ctx context.Context) error {
	return r.each(len(r.publishers), func(i int) error {
		p := r.publishers[i]
		link, err := r.publishing.dial(ctx, r.endpoint(r.targets, "p", i, p))
		if err != nil {
			return fmt.Errorf("publisher %d: %w", i, err)
		}
		p.link = link
		if most := link.prepare(r.publishTo(i), r.options.SizeBytes); most > 0 && p.window != nil {
			p.window.limit(most)
		}
		return nil
	})
}

// each does something for n connections, Options.Dialers at a time, until one fails.
func (r *run) each(n int, do func(i int) error) error {
	var next atomic.Int64
	var failure atomic.Pointer[error]
	var dialers sync.WaitGroup
	for range min(r.options.Dialers, n) {
		dialers.Go(func() {
			for failure.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					failure.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	dialers.Wait()
	if err := failure.Load(); err != nil {
		return *err
	}
	return nil
}

// closeSubscribers says goodbye to all side by side; afterwards their readers have ended and their counts stand.
func (r *run) closeSubscribers() {
	var all sync.WaitGroup
	for _, s := range r.subscribers {
		if s.link != nil {
			all.Go(s.link.close)
		}
	}
	all.Wait()
}

func (r *run) closePublishers() {
	var all sync.WaitGroup
	for _, p := range r.publishers {
		if p.link != nil {
			all.Go(p.link.close)
		}
	}
	all.Wait()
}

// startPublishers starts every publisher's loop; the channel is closed when all have ended and had their confirmations.
func (r *run) startPublishers() <-chan struct{} {
	now := r.clock.nowNS()
	finished := make(chan struct{})
	running := atomic.Int64{}
	running.Store(int64(len(r.publishers)))
	for i, p := range r.publishers {
		var pace *pacer
		if r.options.RatePerSecond > 0 {
			pace = newPacer(r.options.RatePerSecond, i, len(r.publishers), now)
		}
		r.loops.Go(func() {
			if limit := r.share(i); limit > 0 || r.options.Count == 0 { // to publish, 0 means no limit
				p.publish(r.quit, limit, pace)
			}
			if running.Add(-1) == 0 {
				close(finished)
			}
		})
	}
	return finished
}

// share is publisher i's part of a fixed count.
func (r *run) share(i int) uint64 {
	n := int64(len(r.publishers))
	part := r.options.Count / n
	if int64(i) < r.options.Count%n {
		part++
	}
	return uint64(part)
}

// stopPublishers ends the loops: at once if they can, and by closing their sockets if the broker has stopped taking or
// confirming what they sent.
func (r *run) stopPublishers(ctx context.Context, finished <-chan struct{}) {
	close(r.quit)
	if _, how := r.waitWhileMoving(ctx, func() bool { return closed(finished) }); how != complete {
		for _, p := range r.publishers {
			p.link.abort()
		}
	}
	r.loops.Wait()
}

// outcome is how a wait ended.
type outcome int

const (
	complete outcome = iota // what was waited for is there
	stalled                 // nothing moved for the run's patience
	cut                     // the run was interrupted, and Options.Drain has passed since
)

// patience is how long nothing may move before the run gives up: Options.Drain, and the pause between two paced messages.
func (r *run) patience() time.Duration {
	idle := r.options.Drain
	if rate := r.options.RatePerSecond; rate > 0 {
		idle += time.Duration(min(1e9/rate, float64(24*time.Hour)))
	}
	return idle
}

// waitWhileMoving waits until done, or until nothing was sent, confirmed or received for the run's patience; after an
// interruption all waits together get Options.Drain. It returns when something moved last.
func (r *run) waitWhileMoving(ctx context.Context, done func() bool) (last time.Time, how outcome) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	last = time.Now()
	for moved := int64(-1); ; <-tick.C {
		now := time.Now()
		if n := r.moved(); n != moved {
			moved, last = n, now
		}
		if ctx.Err() != nil && r.interrupted.IsZero() {
			r.interrupted = now
		}
		switch {
		case done():
			return last, complete
		case now.Sub(last) >= r.patience():
			return last, stalled
		case !r.interrupted.IsZero() && now.Sub(r.interrupted) >= r.options.Drain:
			return last, cut
		}
	}
}

// moved grows whenever something is sent, confirmed or received.
func (r *run) moved() (n int64) {
	for _, p := range r.publishers {
		n += 2 * int64(p.issued.Load())
		if p.window != nil {
			n -= p.window.outstanding.Load()
		}
	}
	return n + r.received()
}

func (r *run) received() (n int64) {
	for _, s := range r.subscribers {
		n += s.received.Load()
	}
	return n
}

// due is how many deliveries everything sent and not refused should give.
func (r *run) due() (n int64) {
	for _, p := range r.publishers {
		n += (int64(p.issued.Load()) - p.refusal.Load()) * p.deliveries
	}
	return n
}

// drain waits for what is due.
func (r *run) drain(ctx context.Context) (last time.Time, how outcome) {
	return r.waitWhileMoving(ctx, func() bool { return r.received() >= r.due() })
}

// pause sleeps for d; an interruption or done ends it early.
func pause(ctx context.Context, d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-done:
	}
	return false
}
