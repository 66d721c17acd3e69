package ws

import (
	"sync/atomic"
	"time"
)

// silence measures how long a peer has said nothing while it was listened to: a
// reader that is held back, since the store is slow or a limit is reached, must not
// have its peer given up.
type silence struct {
	sinceMs atomic.Int64
	busy    atomic.Bool // the reader does something else than reading
	pinged  atomic.Bool
}

// heard notes that something came.
func (q *silence) heard() {
	q.sinceMs.Store(time.Now().UnixMilli())
	q.busy.Store(true)
	q.pinged.Store(false)
}

// waiting notes that the reader listens.
func (q *silence) waiting() {
	if q.busy.Load() {
		q.sinceMs.Store(time.Now().UnixMilli())
		q.busy.Store(false)
	}
}

// look says whether it is time to ping the peer, or to give it up.
func (q *silence) look(nowMs int64, interval time.Duration) (ping, over bool) {
	if q.busy.Load() {
		return false, false
	}
	silent := nowMs - q.sinceMs.Load()
	switch {
	case silent >= 2*interval.Milliseconds():
		return false, true
	case silent >= interval.Milliseconds():
		return !q.pinged.Swap(true), false
	}
	return false, false
}
