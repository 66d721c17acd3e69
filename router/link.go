package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Transport carries bytes between the routers of a cluster. What one sender sends to one address arrives in order, each at
// most once. Package router/jetstream implements it over core NATS.
type Transport interface {
	// Send queues bytes for an address. The transport keeps b. It may block for a moment, never on the receiver.
	Send(to string, b []byte) error
	// Listen has receive called, one at a time and in order, with what is sent to an address, until stop is called. The
	// receiver may keep the bytes.
	Listen(address string, receive func(b []byte)) (stop func(), err error)
}

const (
	// linkChunk is about how many bytes of frames travel as one.
	linkChunk = 256 << 10
	// linkPending bounds what waits to be sent: above it the link ends, and with it what the peer holds.
	linkPending = 512 << 20
	// linkHeader is the link's id and the chunk's number.
	linkHeader = 16
	// beatEvery is the pause between the signs of life of both ends.
	beatEvery = 250 * time.Millisecond
	// edgePatience is for how long an edge goes on without an answer to its signs of life; leaderPatience is when the leader
	// gives to others what an edge held. The difference makes sure that an edge which was cut off has stopped by then.
	edgePatience   = 1500 * time.Millisecond
	leaderPatience = 3 * time.Second
	// helloPatience is for the first answer: the other nodes' servers may not know yet where the leader listens.
	helloPatience = 600 * time.Millisecond
)

var (
	errLinkGap     = errors.New("something was lost on the way between two nodes")
	errLinkSilent  = errors.New("the other node is silent")
	errLinkOverrun = errors.New("the other node does not take what is sent to it")
	errLinkEnded   = errors.New("the other node ended the link")
	errLinkAgain   = errors.New("the other node began another link")
	errLeaseLost   = errors.New("this node does not lead the cluster any more")
)

// link is one end of the conversation between an edge and the leader: frames in order, or the end of the link. A frame is
// its length (4 bytes), an op and what belongs to it.
type link struct {
	id        uint64
	to        string
	transport Transport
	// valid is asked before anything leaves: a leader that lost its lease says nothing more. Nil: always.
	valid func() bool
	run   func(func(context.Context)) bool // Router.goFunc

	mu      sync.Mutex
	chunks  [][]byte // the last one is being filled
	pending int
	writing bool
	sent    uint64
	cause   error // set when it has ended
	ended   chan struct{}

	turn chan struct{} // has room for one that writes: some write here and now

	got     uint64 // the receiver's
	heardMs atomic.Int64
}

func newLink(id uint64, to string, t Transport, run func(func(context.Context)) bool) *link {
	l := &link{id: id, to: to, transport: t, run: run, ended: make(chan struct{}), turn: make(chan struct{}, 1)}
	l.heardMs.Store(time.Now().UnixMilli())
	return l
}

// begin locks the link and returns where the body of a frame is to be appended; end must follow.
func (l *link) begin(o op) []byte {
	l.mu.Lock()
	n := len(l.chunks)
	if n == 0 || len(l.chunks[n-1]) >= linkChunk {
		l.chunks = append(l.chunks, make([]byte, linkHeader, 4<<10))
		l.pending += linkHeader
		n++
	}
	b := l.chunks[n-1]
	start := len(b)
	l.pending -= start
	b = append(b, 0, 0, 0, 0, byte(o))
	binary.LittleEndian.PutUint64(b, uint64(start)) // where end finds the frame; write puts the link's id there
	return b
}

// end completes the frame and has it sent.
func (l *link) end(b []byte) {
	start := binary.LittleEndian.Uint64(b[:8])
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-int(start)-4))
	if l.cause != nil {
		l.chunks, l.pending = nil, 0
		l.mu.Unlock()
		return
	}
	l.chunks[len(l.chunks)-1] = b
	l.pending += len(b)
	overrun := l.pending > linkPending
	wake := !l.writing && l.run(l.write)
	l.writing = l.writing || wake
	l.mu.Unlock()
	if overrun {
		l.close(errLinkOverrun)
	}
}

// write sends until nothing waits, and what waited is sent.
func (l *link) write(context.Context) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	for {
		l.mu.Lock()
		if len(l.chunks) == 0 || l.cause != nil {
			l.writing = false
			l.mu.Unlock()
			return
		}
		b := l.chunks[0]
		l.chunks = l.chunks[1:]
		l.pending -= len(b)
		l.sent++
		binary.LittleEndian.PutUint64(b, l.id)
		binary.LittleEndian.PutUint64(b[8:], l.sent)
		l.mu.Unlock()
		if l.valid != nil && !l.valid() {
			l.close(errLeaseLost)
		} else if err := l.transport.Send(l.to, b); err != nil {
			l.close(fmt.Errorf("send to another node: %w", err))
		}
	}
}

// close ends the link; the first cause stays.
func (l *link) close(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = cause
		l.chunks, l.pending = nil, 0
		close(l.ended)
	}
}

func (l *link) closed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// linkOf returns whose a chunk is.
func linkOf(chunk []byte) (id uint64, ok bool) {
	if len(chunk) < linkHeader {
		return 0, false
	}
	return binary.LittleEndian.Uint64(chunk), true
}

// receive hands the frames of a chunk to f. It is an error if a chunk before it is missing.
func (l *link) receive(chunk []byte, f func(o op, body []byte)) error {
	seq := binary.LittleEndian.Uint64(chunk[8:])
	if seq != l.got+1 {
		return fmt.Errorf("%w: %d came after %d", errLinkGap, seq, l.got)
	}
	l.got = seq
	l.heardMs.Store(time.Now().UnixMilli())
	for b := chunk[linkHeader:]; len(b) > 0; {
		if len(b) < 5 {
			return errFrame
		}
		n := int(binary.LittleEndian.Uint32(b))
		if n < 1 || n > len(b)-4 {
			return errFrame
		}
		f(op(b[4]), b[5:4+n:4+n])
		b = b[4+n:]
	}
	return nil
}

// silent reports whether nothing was heard for so long.
func (l *link) silent(patience time.Duration) bool {
	return time.Now().UnixMilli()-l.heardMs.Load() > patience.Milliseconds()
}
