// Package outbox is the bounded, coalescing writer of one connection.
//
// Whoever has bytes for a client appends them and goes on: appending never
// blocks. A few goroutines that all outboxes share, which live only while something
// is pending, write whatever has gathered in one call; a peer that does not take all
// of it at once gets one of its own for that. A reader that feeds many outboxes
// collects their wakes in a Batch and wakes each once for all that it read.
//
// It guarantees that bytes leave in the order in which they were appended, that
// at most MaxBytes wait (and Reserve more for control frames). A peer may take as
// long as it likes to read them: a worker reads nothing while it works. It never
// drops bytes it has accepted while the connection lives, never closes one, and
// never reads.
package outbox

import (
	"errors"
	"io"
	"net"
	"sync"
)

const (
	// wakeBytes pending make a writer start at once instead of at the batch's end.
	wakeBytes = 64 << 10
	// shareBytes is the size from which Shared bytes are referenced, not copied.
	shareBytes = 16 << 10
	// chunkBytes bounds one write, of which a WebSocket makes a frame.
	chunkBytes = 256 << 10
	// firstBytes is what a buffer has at first: thousands of connections may have a
	// message each waiting, and a busy one grows its own.
	firstBytes = 1 << 10
	// keepBytes is the largest buffer that goes back to the pool.
	keepBytes = 256 << 10
)

// ErrClosed is the cause of an append to a closed outbox.
var ErrClosed = errors.New("connection is closing")

// ErrSlow is the cause that Failed gets when control frames overran the reserve:
// the peer sends requests and does not read the answers.
var ErrSlow = errors.New("client does not read: outbound buffer is full")

// Owner hears what happens to the bytes. The methods are called without locks
// held, from the writer goroutine (Failed also from an appender), and must not block.
type Owner interface {
	// Written reports how many bytes have been handed to the kernel in total.
	Written(total uint64)
	// Drained reports that there is room again after an append was refused.
	Drained()
	// Failed reports that nothing more will be written, once.
	Failed(cause error)
}

// Options of an Outbox.
type Options struct {
	MaxBytes int // what may wait, for messages
	Reserve  int // and above that for control frames
}

// Outbox is the writer of one connection. Create it with New.
type Outbox struct {
	conn  io.Writer
	try   TryWriter // nil: every write has a goroutine
	owner Owner
	opt   Options

	mu       sync.Mutex
	pend     pending
	total    uint64 // appended since the start
	inflight int    // bytes that the writer holds
	running  bool   // a writer goroutine lives
	queued   bool   // a Batch will wake it
	refused  bool   // an append was refused since the last Drained
	closed   bool   // no further appends
	failed   error
	idle     sync.Cond // signalled when the writer ends
}

// New returns an outbox that writes to conn.
func New(conn io.Writer, owner Owner, opt Options) *Outbox {
	o := &Outbox{conn: conn, try: Try(conn), owner: owner, opt: opt}
	o.idle.L = &o.mu
	return o
}

// pending is what waits: full segments and the one that is being filled.
type pending struct {
	segs net.Buffers
	tail *buffer
	n    int
}

type buffer struct{ b []byte }

var pool = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, firstBytes)} }}

func (p *pending) grab() []byte {
	if p.tail == nil {
		p.tail = pool.Get().(*buffer)
	}
	return p.tail.b
}

// share appends bytes by reference behind what is already there.
func (p *pending) share(b []byte) {
	if p.tail != nil && len(p.tail.b) > 0 {
		p.segs = append(p.segs, p.tail.b)
		p.tail = nil // the segment keeps the bytes; the buffer is not reused
	}
	p.segs = append(p.segs, b)
	p.n += len(b)
}

// Begin locks the outbox and returns the buffer to append one frame to; End must
// follow in any case. ok is false if the frame of about size bytes has no room:
// then End must be given the buffer unchanged.
func (o *Outbox) Begin(size int) (buf []byte, ok bool) {
	o.mu.Lock()
	buf = o.pend.grab()
	switch {
	case o.closed:
		return buf, false
	case o.backlog() > 0 && o.backlog()+size > o.opt.MaxBytes:
		o.refused = true
		return buf, false
	}
	return buf, true
}

// BeginControl is Begin for frames that answer the peer: they may use the
// reserve. If even that is full the connection is given up with ErrSlow.
func (o *Outbox) BeginControl(size int) (buf []byte, ok bool) {
	o.mu.Lock()
	buf = o.pend.grab()
	if !o.closed && o.backlog()+size > o.opt.MaxBytes+o.opt.Reserve {
		o.closed = true
		o.failed = ErrSlow
		go o.owner.Failed(ErrSlow) // not under the lock; ends by itself
	}
	return buf, !o.closed
}

// End takes the buffer back with what was appended, unlocks, and has the writer
// woken: by w at the end of its batch, or at once if w is nil or much is
// pending. It returns the number of bytes appended since the start.
func (o *Outbox) End(w *Batch, buf []byte) uint64 { return o.EndShared(w, buf, nil) }

// EndShared is End with bytes that follow buf and are shared with others: they
// must not change. Small ones are copied.
func (o *Outbox) EndShared(w *Batch, buf, shared []byte) uint64 {
	added := len(buf) - len(o.pend.tail.b)
	if len(shared) > 0 && len(shared) < shareBytes {
		buf = append(buf, shared...)
		added += len(shared)
		shared = nil
	}
	o.pend.tail.b = buf
	o.pend.n += added
	if shared != nil {
		o.pend.share(shared)
		added += len(shared)
	}
	o.total += uint64(added)
	total := o.total
	if added == 0 {
		o.dropEmptyTail()
	} else {
		o.wake(w)
	}
	o.mu.Unlock()
	return total
}

// dropEmptyTail gives an unused buffer back so that idle connections hold none.
func (o *Outbox) dropEmptyTail() {
	if o.pend.tail != nil && len(o.pend.tail.b) == 0 {
		pool.Put(o.pend.tail)
		o.pend.tail = nil
	}
}

// wake is called with the lock held and bytes pending.
func (o *Outbox) wake(w *Batch) {
	if o.running || o.failed != nil {
		return
	}
	if w != nil && o.pend.n < wakeBytes {
		if !o.queued {
			o.queued = true
			w.add(o)
		}
		return
	}
	o.start()
}

// start has what is pending written; with the lock held. It ends when nothing is
// pending.
func (o *Outbox) start() {
	o.running = true
	if o.try != nil {
		writers.add(o)
	} else {
		go o.write()
	}
}

func (o *Outbox) backlog() int { return o.pend.n + o.inflight }

// Backlog returns how many bytes wait.
func (o *Outbox) Backlog() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.backlog()
}

// flush is the Batch's wake.
func (o *Outbox) flush() {
	o.mu.Lock()
	o.queued = false
	if !o.running && o.failed == nil && o.pend.n > 0 {
		o.start()
	}
	o.mu.Unlock()
}

// write writes until nothing is pending.
func (o *Outbox) write() {
	for {
		p, done, more := o.take()
		if !more {
			return
		}
		o.wrote(done, o.writeAll(p))
	}
}

// take returns what is pending, and the number of bytes that will have been
// written with it.
func (o *Outbox) take() (p pending, done uint64, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.goesOn() {
		return p, 0, false
	}
	p = o.pend
	o.pend = pending{}
	o.inflight = p.n
	return p, o.total, true
}

// more reports whether anything is pending; if not, nobody writes any more.
func (o *Outbox) more() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.goesOn()
}

// goesOn is more with the lock held.
func (o *Outbox) goesOn() bool {
	if o.pend.n > 0 && o.failed == nil {
		return true
	}
	o.pend = pending{}
	o.running = false
	o.idle.Broadcast()
	return false
}

// wrote tells the owner how a write ended.
func (o *Outbox) wrote(done uint64, err error) {
	o.mu.Lock()
	o.inflight = 0
	drained := o.refused && o.pend.n <= o.opt.MaxBytes/2
	if drained {
		o.refused = false
	}
	first := o.failed == nil // else whoever set it knows
	if err != nil && first {
		o.failed, o.closed = err, true
	}
	o.mu.Unlock()
	switch {
	case err == nil:
		o.owner.Written(done) // also if Abort came during the write: the peer may have read it
		if drained && first {
			o.owner.Drained()
		}
	case first:
		o.owner.Failed(err)
	}
}

func (o *Outbox) writeAll(p pending) error {
	var err error
	for _, s := range p.segs {
		if err = o.writeChunks(s); err != nil {
			break
		}
	}
	if p.tail != nil && err == nil {
		err = o.writeChunks(p.tail.b)
	}
	p.recycle()
	return err
}

// recycle gives the buffer back.
func (p *pending) recycle() {
	if p.tail != nil && cap(p.tail.b) <= keepBytes {
		p.tail.b = p.tail.b[:0]
		pool.Put(p.tail)
	}
}

func (o *Outbox) writeChunks(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), chunkBytes)
		if _, err := o.conn.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Close refuses further appends and waits until what is pending is written or
// has failed. The caller bounds that: it closes the connection.
func (o *Outbox) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if !o.running && o.failed == nil && o.pend.n > 0 {
		o.start()
	}
	for o.running {
		o.idle.Wait()
	}
	o.dropEmptyTail()
}

// Abort refuses further appends and drops what is pending. The caller closes the
// connection, which ends a write that is under way.
func (o *Outbox) Abort(cause error) {
	o.mu.Lock()
	o.closed = true
	if o.failed == nil {
		o.failed = cause
	}
	o.pend = pending{}
	o.mu.Unlock()
}

// Wait returns when no writer runs.
func (o *Outbox) Wait() {
	o.mu.Lock()
	for o.running {
		o.idle.Wait()
	}
	o.mu.Unlock()
}

// Batch collects the outboxes that one reader fed, to wake each once. It belongs
// to one goroutine, which must call Flush before it blocks on anything.
type Batch struct {
	boxes  []*Outbox
	brakes []Brake
}

// Brake is a subscriber that must not lose what it gets, and falls behind.
type Brake interface {
	// Hold has done called when the subscriber has caught up, or turns out to be too
	// slow to wait for: soon in either case. False means that it is so already.
	Hold(done func(*Batch)) bool
}

// Slow asks whoever feeds the batch to confirm what was published last only when
// a subscriber has caught up.
func (b *Batch) Slow(k Brake) {
	if b != nil {
		b.brakes = append(b.brakes, k)
	}
}

// Brakes returns, and forgets, who has called Slow; it is valid until the next call of Slow.
func (b *Batch) Brakes() []Brake {
	if b == nil {
		return nil
	}
	k := b.brakes
	b.brakes = b.brakes[:0]
	return k
}

func (b *Batch) add(o *Outbox) { b.boxes = append(b.boxes, o) }

// FlushHere is Flush for a reader that is about to wait: what it has for one or two
// peers it writes itself, as far as they take it at once. That wakes no other
// thread, which costs more than the write.
func (b *Batch) FlushHere() {
	if len(b.boxes) > fewBoxes {
		b.Flush()
		return
	}
	b.brakes = b.brakes[:0]
	for i, o := range b.boxes {
		b.boxes[i] = nil
		o.mu.Lock()
		o.queued = false
		start := !o.running && o.failed == nil && o.pend.n > 0
		if start && o.try == nil {
			o.start()
			start = false
		}
		o.running = o.running || start
		o.mu.Unlock()
		if start {
			o.attempt()
		}
	}
	b.boxes = b.boxes[:0]
}

// fewBoxes is how many a reader writes to itself.
const fewBoxes = 2

// Flush wakes the writers of what was appended since the last Flush.
func (b *Batch) Flush() {
	if b == nil {
		return
	}
	b.brakes = b.brakes[:0]
	b.start()
}

func (b *Batch) start() {
	for i, o := range b.boxes {
		o.flush()
		b.boxes[i] = nil
	}
	b.boxes = b.boxes[:0]
}

// manyBoxes is from how many on their writers need not wait for the end of the batch.
const manyBoxes = 256

// StartMany wakes the writers if they are many already: what is for thousands leaves while the rest of them get it. The caller
// holds no lock of an outbox.
func (b *Batch) StartMany() {
	if b != nil && len(b.boxes) >= manyBoxes {
		b.start()
	}
}
