package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/mqgate/mqgate/router/outbox"
)

// remoteFollowing is the edge's end of a Following.
type remoteFollowing struct {
	rs *remoteSession
	id uint64
	f  *Following

	call   followCall // under the edge's lock, as is opened
	opened bool
	epoch  uint64

	mu      sync.Mutex
	waiting []keptMessage
	last    atomic.Uint64 // sequence that came last; read without the lock, which is held while the receiver is given something
	ready   bool
	closed  bool
	taken   int // since the leader was told
}

// followWindow is how many messages of a history are on their way to an edge at most.
const followWindow = 512

func (rs *remoteSession) follow(ctx context.Context, topic Address, from HistoryStart, rc HistoryReceiver) (*Following, HistoryPosition, error) {
	e := rs.edge
	f := &Following{session: rs.session, receiver: rc}
	e.mu.Lock()
	rs.lastID++
	x := &remoteFollowing{rs: rs, id: rs.lastID, f: f}
	f.remote = x
	rs.follows[x.id] = x
	e.mu.Unlock()
	c := followCall{ID: x.id, Topic: wireOf(FilterOf(topic)), Last: from.Last, AfterSeq: from.AfterSeq, Epoch: from.Epoch}
	if !from.Since.IsZero() {
		c.SinceMs = from.Since.UnixMilli()
	}
	var p HistoryPosition
	var bad error
	_, err := e.doNoting(ctx, rs, appendJSON([]byte{byte(methodFollow)}, c), func(r envelopeReader) {
		bad = json.Unmarshal(r.b, &p)
		x.call, x.epoch, x.opened = c, p.Epoch, bad == nil
	})
	if err = errors.Join(err, bad); err != nil {
		x.close()
		return nil, p, err
	}
	if from == (HistoryStart{}) { // else what was there before may come yet, or has begun to: the messages tell
		x.last.CompareAndSwap(0, p.Last)
	}
	return f, p, nil
}

func (x *remoteFollowing) forget() {
	e := x.rs.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(x.rs.follows, x.id)
}

func (rs *remoteSession) history(kind event, r envelopeReader) {
	id := r.uvarint()
	rs.edge.mu.Lock()
	x := rs.follows[id]
	rs.edge.mu.Unlock()
	if x == nil {
		return
	}
	seq := r.uvarint()
	if kind == eventMissed {
		x.f.receiver.Missed(seq, &rs.edge.wakes)
		return
	}
	m, err := ParseEnvelope(r.rest())
	if err != nil {
		return
	}
	x.mu.Lock()
	x.last.Store(seq)
	x.waiting = append(x.waiting, keptMessage{seq: seq, m: m})
	n := x.pump(&rs.edge.wakes)
	x.mu.Unlock()
	x.tell(n)
}

func (x *remoteFollowing) resume(w *outbox.Batch) {
	x.mu.Lock()
	x.ready = true
	n := x.pump(w)
	x.mu.Unlock()
	x.tell(n)
}

// tell has the leader send as many more.
func (x *remoteFollowing) tell(n int) {
	if n > 0 {
		x.rs.edge.note(x.rs, methodTaken, func(b []byte) []byte { return binary.AppendUvarint(binary.AppendUvarint(b, x.id), uint64(n)) })
	}
}

// pump gives the receiver what waits, and returns how much taken the leader is to be told; with the lock held.
func (x *remoteFollowing) pump(w *outbox.Batch) (taken int) {
	for x.ready && !x.closed && len(x.waiting) > 0 {
		if !x.f.receiver.Kept(x.waiting[0].m, x.waiting[0].seq, w) {
			x.ready = false
			break
		}
		x.waiting[0].m = nil
		x.waiting = x.waiting[1:]
		x.taken++
	}
	if x.taken >= followWindow/4 || x.taken > 0 && len(x.waiting) == 0 {
		taken, x.taken = x.taken, 0
	}
	return taken
}

func (x *remoteFollowing) close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.rs.edge.note(x.rs, methodUnfollow, func(b []byte) []byte { return binary.AppendUvarint(b, x.id) })
	x.forget()
}
