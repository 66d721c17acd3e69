package router

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// alarms calls mailboxes when they asked to be called. One goroutine runs it; it
// sleeps until the earliest time.
type alarms struct {
	mu   sync.Mutex
	heap alarmHeap // each mailbox at most once
	wake chan struct{}
}

// alarm is the place of a mailbox among the alarms; under their lock.
type alarm struct {
	box   *Mailbox
	atMs  int64
	index int // plus one; 0: not set
}

func newAlarms() *alarms { return &alarms{wake: make(chan struct{}, 1)} }

// set has b tended at a time, or earlier if it asked for that before.
func (a *alarms) set(b *Mailbox, atMs int64) {
	a.mu.Lock()
	first := len(a.heap) == 0 || atMs < a.heap[0].atMs
	switch m := &b.timer; {
	case m.index == 0:
		m.box, m.atMs = b, atMs
		heap.Push(&a.heap, m)
	case atMs < m.atMs:
		m.atMs = atMs
		heap.Fix(&a.heap, m.index-1)
	}
	a.mu.Unlock()
	if first {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// run calls tend for each due mailbox until ctx ends.
func (a *alarms) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(a.ring())
		select {
		case <-timer.C:
		case <-a.wake:
		case <-ctx.Done():
			return
		}
	}
}

// ring tends what is due and returns how long to sleep.
func (a *alarms) ring() time.Duration {
	for {
		now := time.Now().UnixMilli()
		a.mu.Lock()
		if len(a.heap) == 0 {
			a.mu.Unlock()
			return time.Hour
		}
		if next := a.heap[0].atMs; next > now {
			a.mu.Unlock()
			return time.Duration(next-now) * time.Millisecond
		}
		b := heap.Pop(&a.heap).(*alarm).box
		a.mu.Unlock()
		b.tend(now)
	}
}

type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].atMs < h[j].atMs }
func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

// Push is for container/heap.
func (h *alarmHeap) Push(x any) {
	m := x.(*alarm)
	*h = append(*h, m)
	m.index = len(*h)
}

// Pop is for container/heap.
func (h *alarmHeap) Pop() any {
	old := *h
	m := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	m.index = 0
	return m
}
