package bench

import (
	"context"
	"errors"
	"time"
)

var errStalled = errors.New("publishing was given up: the broker took, confirmed and delivered nothing for --drain")

// backlog fills queues with nobody consuming, then drains them, and times both.
func (r *run) backlog(ctx context.Context) (*Report, error) {
	defer r.closePublishers()
	defer r.closeSubscribers()
	if err := r.connectPublishers(ctx); err != nil {
		return nil, err
	}
	report := r.newReport()
	r.measuring.Store(true)

	from := r.snapshot()
	r.publishAll(ctx)
	// Without receipts only the answer to the goodbye says that the broker has taken everything.
	r.closePublishers()
	filled := r.snapshot()
	report.fillBacklog(from, filled, r.broker.residentBytes())

	begin := r.snapshot()
	last, how, first, err := r.drainBacklog(ctx, begin.at)
	if err != nil {
		return nil, err
	}
	r.closeSubscribers()
	drained := r.snapshot()
	drained.at = last
	report.FirstMS = first.Seconds() * 1e3
	report.fillDrain(begin, drained)
	drained.sent, drained.received = filled.sent, r.received()
	report.fillWindow(from, drained)
	report.Interrupted = ctx.Err() != nil
	r.fillTotals(report, how)
	return report, nil
}

// drainBacklog subscribes and waits until everything has come; first is how long the first message took.
func (r *run) drainBacklog(ctx context.Context, begin time.Time) (last time.Time, how outcome, first time.Duration, err error) {
	// An interruption while filling must not keep what was filled from being counted.
	if err := r.connectSubscribers(context.WithoutCancel(ctx)); err != nil {
		return begin, stalled, 0, err
	}
	at, _ := r.waitWhileMoving(ctx, func() bool { return r.received() > 0 || r.due() == 0 })
	last, how = r.drain(ctx)
	return last, how, at.Sub(begin), nil
}
