package bench

import (
	"context"
	"time"
)

// snapshot is the state at one edge of the measured window.
type snapshot struct {
	at                   time.Time
	sent, received       int64
	broker, own, machine float64 // CPU seconds so far
}

func (r *run) snapshot() snapshot {
	s := snapshot{at: time.Now(), received: r.received(),
		broker: r.broker.cpuSeconds(), own: ownCPUSeconds(procfs), machine: machineCPUSeconds(procfs)}
	for _, p := range r.publishers {
		s.sent += int64(p.issued.Load())
	}
	return s
}

// manyConnections is from how many on the broker's memory divided by them says what each costs, and not what messages do.
const manyConnections = 1000

// flow is the scenarios queue and topic: publishers and subscribers at work together.
func (r *run) flow(ctx context.Context) (*Report, error) {
	defer r.closePublishers()
	defer r.closeSubscribers()
	residentBefore := r.broker.residentBytes()
	if err := r.connectSubscribers(ctx); err != nil {
		return nil, err
	}
	if err := r.connectPublishers(ctx); err != nil {
		return nil, err
	}
	report := r.newReport()
	var how outcome
	if r.options.Count > 0 {
		how = r.counted(ctx, report)
	} else {
		how = r.timed(ctx, report)
	}
	report.Interrupted = ctx.Err() != nil
	if n := len(r.publishers) + len(r.subscribers); n >= manyConnections {
		report.fillConnectionMemory(residentBefore, r.broker.residentBytes(), n)
	}
	// Acknowledgements still buffered leave with the goodbye, and what arrives until its answer is counted.
	r.closeSubscribers()
	r.closePublishers()
	r.fillTotals(report, how)
	return report, nil
}

// counted measures from the first send to the last delivery.
func (r *run) counted(ctx context.Context, report *Report) outcome {
	r.measuring.Store(true)
	from := r.snapshot()
	r.publishAll(ctx)
	last, how := r.drain(ctx)
	to := r.snapshot()
	to.at = last
	report.fillWindow(from, to)
	return how
}

// publishAll runs the publishers to the end of their count, an interruption, or a broker that makes no progress at all.
func (r *run) publishAll(ctx context.Context) {
	finished := r.startPublishers()
	_, how := r.waitWhileMoving(ctx, func() bool { return closed(finished) || ctx.Err() != nil })
	if how == stalled {
		r.complaints.add(errStalled)
	}
	r.stopPublishers(ctx, finished)
}

// timed measures Options.Duration after Options.Warmup. Interrupted during the warm-up, the figures are the warm-up's.
func (r *run) timed(ctx context.Context, report *Report) outcome {
	from := r.snapshot()
	r.underway.Store(true)
	finished := r.startPublishers()
	if pause(ctx, r.options.Warmup, finished) {
		from = r.snapshot()
		r.measuring.Store(true)
		pause(ctx, r.options.Duration, finished)
		r.measuring.Store(false)
	} else if ctx.Err() != nil {
		report.Notes = append(report.Notes, "interrupted during the warm-up: latencies were not measured yet, rates are the warm-up's")
	}
	to := r.snapshot()
	r.stopPublishers(ctx, finished)
	r.underway.Store(false)
	_, how := r.drain(ctx)
	report.fillWindow(from, to)
	return how
}
