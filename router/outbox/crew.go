package outbox

import (
	"runtime"
	"sync"
)

// TryWriter is a connection that can write without waiting for its peer. One
// goroutine uses it at a time.
type TryWriter interface {
	// TryWrite writes of b what the peer takes now. If that is not all, rest writes
	// what is left, and blocks until it has or fails; it must be called, and b must
	// not change before.
	TryWrite(b []byte) (rest func() error, err error)
}

// crew writes for many outboxes with a few goroutines, which live while there is
// something to write: a message for thousands of connections would else need as
// many stacks at a time. They never wait for a peer; one that does not take all at
// once gets a goroutine of its own.
type crew struct {
	mu      sync.Mutex
	queue   []*Outbox
	next    int // in queue
	workers int
}

var writers crew

// crewSize is how many cores can write at a time.
var crewSize = runtime.GOMAXPROCS(0)

// tryBytes is the most that is written without a goroutine of its own.
const tryBytes = 2 * wakeBytes

func (c *crew) add(o *Outbox) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, o)
	if c.workers < crewSize {
		c.workers++
		go c.work() // ends when the queue is empty
	}
}

func (c *crew) work() {
	for {
		c.mu.Lock()
		if c.next == len(c.queue) {
			c.workers--
			c.queue, c.next = c.queue[:0], 0
			if cap(c.queue) > keepQueue {
				c.queue = nil
			}
			c.mu.Unlock()
			return
		}
		o := c.queue[c.next]
		c.queue[c.next] = nil
		c.next++
		c.mu.Unlock()
		o.attempt()
	}
}

// keepQueue is the largest queue that stays allocated.
const keepQueue = 1 << 10

// attempt writes what is pending once, and comes back to the end of the queue if
// more has come meanwhile: no connection keeps the crew from the others.
func (o *Outbox) attempt() {
	p, done, more := o.take()
	switch {
	case !more:
		return
	case p.tail == nil || len(p.segs) > 0 || p.n > tryBytes:
		much := p // a variable of its own: p is not for the heap, which each of a million writes would pay
		go o.goOn(done, func() error { return o.writeAll(much) })
		return
	}
	rest, err := o.try.TryWrite(p.tail.b)
	if rest != nil {
		begun := p
		go o.goOn(done, func() error { defer begun.recycle(); return rest() })
		return
	}
	p.recycle()
	o.wrote(done, err)
	if o.more() {
		writers.add(o)
	}
}

// goOn ends a write that may have to wait for the peer, and then writes what has
// come meanwhile. It ends when nothing is pending.
func (o *Outbox) goOn(done uint64, write func() error) {
	o.wrote(done, write())
	o.write()
}
