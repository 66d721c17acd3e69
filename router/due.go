package router

import (
	"container/heap"
	"context"
	"math"
	"time"
)

// schedule has the session looked at when its will or its end is due; with the lock held.
func (d *durables) schedule(x *DurableSession) {
	x.dueMs = x.rec.ExpiresAtMs
	if x.rec.WillAtMs != 0 {
		x.dueMs = min(x.dueMs, x.rec.WillAtMs)
	}
	if x.dueMs == math.MaxInt64 {
		return
	}
	heap.Push(&d.due, dueAt{x.dueMs, x})
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run does what is due until ctx ends.
func (d *durables) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(d.next(ctx))
		select {
		case <-timer.C:
		case <-d.wake:
		case <-ctx.Done():
			return
		}
	}
}

// next does what is due and returns how long to sleep.
func (d *durables) next(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		now := time.Now().UnixMilli()
		d.mu.Lock()
		if len(d.due) == 0 {
			d.mu.Unlock()
			return time.Hour
		}
		if at := max(d.due[0].ms, d.holdMs); at > now {
			d.mu.Unlock()
			return min(time.Duration(at-now)*time.Millisecond, time.Hour)
		}
		x := heap.Pop(&d.due).(dueAt)
		if x.session.free != nil || x.session.dueMs != x.ms { // it is back, or due at another time [MQTT-4.1.0-1]
			d.mu.Unlock()
			continue
		}
		x.session.free = make(chan struct{}) // whoever comes now waits
		d.mu.Unlock()
		d.tend(ctx, x.session, now)
	}
	return time.Hour
}

// tend publishes a will that is due and ends a session that has expired.
func (d *durables) tend(ctx context.Context, x *DurableSession, nowMs int64) {
	if x.rec.WillAtMs != 0 && x.rec.WillAtMs <= nowMs && x.will != nil {
		if !x.publishWill(ctx) {
			d.mu.Lock()
			x.postpone()
			x.release()
			d.mu.Unlock()
			return
		}
		if x.rec.ExpiresAtMs > nowMs {
			if err := x.saveAndWait(ctx); err != nil && ctx.Err() == nil {
				d.router.log.Warn("a session could not be stored", "client_id", x.key.id, "error", err)
			}
		}
	}
	if x.rec.WillOnly {
		x.dropWill(ctx)
		return
	}
	if x.rec.ExpiresAtMs <= nowMs {
		d.router.Stats.SessionsExpired.Add(1)
		if err := x.end(ctx); err != nil && ctx.Err() == nil { // [MQTT-4.1.0-2]
			d.router.log.Warn("an expired session could not be removed, will retry", "client_id", x.key.id, "error", err)
		}
		return
	}
	d.mu.Lock()
	d.schedule(x)
	x.release()
	d.mu.Unlock()
}

// dueHeap is ordered by time; entries that no longer hold are skipped.
type dueHeap []dueAt

type dueAt struct {
	ms      int64
	session *DurableSession
}

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].ms < h[j].ms }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(dueAt)) }

// Pop is for container/heap.
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = dueAt{}
	*h = old[:len(old)-1]
	return x
}
