package bench

import (
	"sync"
	"sync/atomic"
)

// window bounds the messages a publisher has sent and not had confirmed. Each outstanding message holds a slot; its id names
// the slot and how often that was used, so that every id of a connection is different and a confirmation that comes twice,
// or was never asked for, is noticed.
//
// Publisher and reader exchange slots in batches: the reader hands back all that one read confirmed, the publisher takes all
// of them at once, which makes its next messages one write. Nothing is ever held back to fill a larger batch: a broker whose
// TCP waits for our acknowledgement would stall for 40 ms if we did.
type window struct {
	size        uint64
	slots       []slot
	most        int64 // unconfirmed messages that the broker allows; the publisher's
	outstanding atomic.Int64

	free []uint32 // the publisher's: slots it may use now

	settled      []uint32  // the reader's: answered since the last handBack
	confirmTimes histogram // the reader's

	mu   sync.Mutex
	back []uint32      // handed back, not yet taken
	wake chan struct{} // one token: back was filled
}

type slot struct {
	last   uint64        // the id it was last used for; the publisher's
	id     atomic.Uint64 // the id it is outstanding for; 0 when it is not
	sentNS atomic.Int64
}

func newWindow(size int) *window {
	w := &window{size: uint64(size), most: int64(size), slots: make([]slot, size), wake: make(chan struct{}, 1)}
	for i := range w.slots {
		w.slots[i].last = uint64(i)
		w.free = append(w.free, uint32(i))
	}
	return w
}

// limit makes the window smaller, before its first use: a broker may allow less than was asked for.
func (w *window) limit(most int) { w.most = min(w.most, int64(most)) }

// room reports whether reserve may be called; when not, wake tells when to ask again.
func (w *window) room() bool {
	if w.outstanding.Load() >= w.most {
		return false
	}
	if len(w.free) > 0 {
		return true
	}
	w.mu.Lock()
	w.free, w.back = w.back, w.free[:0]
	w.mu.Unlock()
	return len(w.free) > 0
}

// reserve takes a slot for a message sent at sentNS; room must have said yes.
func (w *window) reserve(sentNS int64) uint64 {
	top := len(w.free) - 1
	s := &w.slots[w.free[top]]
	w.free = w.free[:top]
	s.last += w.size
	s.sentNS.Store(sentNS)
	s.id.Store(s.last)
	w.outstanding.Add(1)
	return s.last
}

// settle ends the wait for id and says when that was sent; false if nothing was outstanding under it.
func (w *window) settle(id uint64) (sentNS int64, ok bool) {
	i := id % w.size
	s := &w.slots[i]
	sentNS = s.sentNS.Load()
	if id == 0 || !s.id.CompareAndSwap(id, 0) {
		return 0, false
	}
	w.settled = append(w.settled, uint32(i))
	return sentNS, true
}

// handBack gives the publisher what was settled since the last call.
func (w *window) handBack() {
	if len(w.settled) == 0 {
		return
	}
	w.mu.Lock()
	w.back = append(w.back, w.settled...)
	w.mu.Unlock()
	w.outstanding.Add(-int64(len(w.settled)))
	w.settled = w.settled[:0]
	signal(w.wake)
}

// signal leaves a token unless one is waiting already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
