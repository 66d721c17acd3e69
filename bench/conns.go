package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connectionsPerSource stays well under the 28,232 ports that Linux gives one source address for one target.
	connectionsPerSource = 20_000
	// failuresAllowed is after how many failed connects opening more is pointless.
	failuresAllowed = 100
	// settleTime lets the broker finish what connecting started before it counts as idle.
	settleTime = time.Second
	// closingAtOnce bounds how many goodbyes are under way.
	closingAtOnce = 256
)

// idleClient is the listener of a connection that only exists.
type idleClient struct{ complaints *complaints }

func (c *idleClient) message([]byte, bool, int64)    { c.failed(errors.New("an unasked message")) }
func (c *idleClient) confirmed(uint64, int64)        { c.failed(errors.New("an unasked confirmation")) }
func (c *idleClient) refused(_ uint64, reason error) { c.failed(reason) }
func (c *idleClient) caughtUp()                      {}
func (c *idleClient) failed(err error)               { c.complaints.add(fmt.Errorf("connection: %w", err)) }

// conns opens idle connections, holds them, and reports how fast they opened and what each costs the broker.
func (r *run) conns(ctx context.Context) (*Report, error) {
	report := r.newReport()
	residentBefore := r.broker.residentBytes()
	from := r.snapshot()
	o := &opening{run: r, listener: &idleClient{&r.complaints}, links: make([]connection, r.options.Connections)}
	o.openAll(ctx)
	defer o.closeAll()
	to := r.snapshot()
	report.fillWindow(from, to)
	open := o.opened()
	if len(open) == 0 {
		_, texts := r.complaints.all()
		return nil, fmt.Errorf("no connection could be opened: %v", texts)
	}
	report.Server = open[0].server()
	report.Opened, report.OpenFailed = len(open), int(o.failed.Load())
	report.OpensPerS = float64(len(open)) / max(report.Seconds, 1e-9)
	report.fillLatency(&o.took)

	pause(ctx, settleTime, nil)
	holdFrom, holdStart := r.broker.cpuSeconds(), time.Now()
	r.hold(ctx, open)
	report.HoldCPUPercent = (r.broker.cpuSeconds() - holdFrom) / time.Since(holdStart).Seconds() * 100
	residentAfter := r.broker.residentBytes()
	for _, c := range open {
		if closed(c.ended()) {
			report.Dropped++
		}
	}
	report.fillConnectionMemory(residentBefore, residentAfter, len(open))
	report.Interrupted = ctx.Err() != nil
	r.fillTotals(report, complete)
	return report, nil
}

// hold keeps the connections for Options.Duration, with heart-beats spread over half of their interval.
func (r *run) hold(ctx context.Context, open []connection) {
	end := time.Now().Add(r.options.Duration)
	if r.options.Heartbeat == 0 {
		pause(ctx, r.options.Duration, nil)
		return
	}
	step := r.options.Heartbeat / 2 / time.Duration(len(open))
	due := time.Now()
	for i := 0; due.Before(end); i++ {
		if wait := time.Until(due); wait > 0 && !pause(ctx, wait, nil) {
			return
		}
		_ = open[i%len(open)].ping() // a dead connection is counted when the hold is over
		due = due.Add(max(step, time.Microsecond))
	}
	pause(ctx, time.Until(end), nil)
}

// opening is the connections of one run while and after they are opened.
type opening struct {
	run      *run
	listener listener
	links    []connection // by number; nil where it failed
	next     atomic.Int64
	failed   atomic.Int64

	mu   sync.Mutex
	took histogram
}

// openAll opens them, Options.Dialers at a time, and returns when all are open or have failed.
func (o *opening) openAll(ctx context.Context) {
	var dialers sync.WaitGroup
	for range min(o.run.options.Dialers, len(o.links)) {
		dialers.Go(func() {
			for ctx.Err() == nil && o.failed.Load() < failuresAllowed {
				i := int(o.next.Add(1)) - 1
				if i >= len(o.links) {
					return
				}
				o.open(ctx, i)
			}
		})
	}
	dialers.Wait()
}

func (o *opening) open(ctx context.Context, i int) {
	e := o.run.endpoint(o.run.targets, "c", i, o.listener)
	if len(o.run.options.Sources) == 0 {
		e.source = spreadSource(e.address, i/connectionsPerSource)
	}
	start := o.run.clock.nowNS()
	link, err := o.run.publishing.dial(ctx, e)
	if err != nil {
		if ctx.Err() == nil {
			o.failed.Add(1)
			o.run.complaints.add(err)
		}
		return
	}
	o.mu.Lock()
	o.took.record(o.run.clock.nowNS() - start)
	o.mu.Unlock()
	o.links[i] = link
}

// spreadSource gives a broker on 127.0.0.1 another loopback address as the peer for each share of the connections.
func spreadSource(address string, share int) string {
	host, _, _ := net.SplitHostPort(address)
	if share == 0 || host != "127.0.0.1" {
		return ""
	}
	return net.IPv4(127, 0, byte((share+1)>>8), byte(share+1)).String()
}

func (o *opening) opened() (open []connection) {
	for _, c := range o.links {
		if c != nil {
			open = append(open, c)
		}
	}
	return open
}

func (o *opening) closeAll() {
	open := o.opened()
	for len(open) > 0 {
		n := min(len(open), closingAtOnce)
		var batch sync.WaitGroup
		for _, c := range open[:n] {
			batch.Go(c.close)
		}
		batch.Wait()
		open = open[n:]
	}
}
