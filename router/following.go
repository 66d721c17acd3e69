package router

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// HistoryReceiver is a front-end's end of a Following. Its methods are called
// one at a time, from any goroutine, must not block, and must not call back into
// the router.
type HistoryReceiver interface {
	// Kept takes the next message. False means that the buffer is full: it comes
	// again after Resume.
	Kept(m *Message, seq uint64, w *outbox.Batch) bool
	// Missed reports that messages before seq left the history before the receiver
	// could take them. A receiver that is full may ignore it.
	Missed(before uint64, w *outbox.Batch)
}

// HistoryStart says from where a Following begins; the zero value is "from now".
type HistoryStart struct {
	// Last begins with the newest so many messages.
	Last int
	// Since, if not zero, begins with the first message stored at or after it.
	Since time.Time
	// AfterSeq, if Epoch is not zero, begins behind that sequence of that epoch.
	AfterSeq, Epoch uint64
}

// HistoryPosition is where a Following began.
type HistoryPosition struct {
	Epoch uint64 // of the history; sequences of another epoch mean nothing
	First uint64 // lowest kept sequence, 0 if nothing is kept
	Last  uint64 // highest sequence used, which the next one exceeds
	// Complete reports that nothing is missing behind AfterSeq. It may be false though
	// nothing is, after a restart; never the other way.
	Complete bool
}

// Following is a session's reading of a topic's history and of what follows.
type Following struct {
	session  *Session
	receiver HistoryReceiver
	h        *history
	remote   *remoteFollowing // on an edge: the leader has the rest

	// Under the history's lock.
	next    uint64 // sequence from which on it has not been given anything
	started bool
	paused  bool // the receiver was full
	reading bool // a goroutine reads from the store for it
	closed  bool
}

// Follow begins to read a topic's history; Start begins the deliveries. A topic
// without history is an Error of class NotFound.
func (s *Session) Follow(ctx context.Context, topic Address, from HistoryStart, rc HistoryReceiver) (*Following, HistoryPosition, error) {
	if err := s.router.auth.Authorize(s.Principal, ActionRead, topic); err != nil {
		return nil, HistoryPosition{}, err
	}
	if s.remote != nil {
		return s.follow(ctx, topic, from, rc)
	}
	h, err := s.router.histories.of(ctx, topic)
	if err != nil {
		return nil, HistoryPosition{}, err
	}
	if h == nil {
		return nil, HistoryPosition{}, &Error{Op: "subscribe", Class: NotFound, Text: topic.String() + " keeps no history: the operator names the topics that do; subscribe without history"}
	}
	f := &Following{session: s, receiver: rc, h: h}
	h.mu.Lock()
	h.prune(time.Now().UnixMilli())
	p := h.begin(f, from)
	h.followers = append(h.followers[:len(h.followers):len(h.followers)], f)
	h.mu.Unlock()
	if !s.rememberFollowing(f) {
		h.leave(f)
		return nil, HistoryPosition{}, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	s.router.histories.changed.Add(1)
	return f, p, nil
}

// begin sets where f starts; with the lock held.
func (h *history) begin(f *Following, from HistoryStart) HistoryPosition {
	p := HistoryPosition{Epoch: h.epoch, Last: h.last, Complete: true}
	f.next = h.last + 1
	if from.Epoch != 0 {
		known := from.Epoch == h.epoch && from.AfterSeq <= h.last
		p.Complete = known && from.AfterSeq >= h.gone
		f.next = h.gone + 1
		if known {
			f.next = max(f.next, from.AfterSeq+1)
		}
	}
	if len(h.index) == 0 {
		return p
	}
	p.First = h.index[0].seq
	switch {
	case from.Epoch != 0:
	case !from.Since.IsZero():
		i, _ := slices.BinarySearchFunc(h.index, from.Since.UnixMilli(), func(k keptMessage, ms int64) int {
			if k.timeMs < ms {
				return -1
			}
			return 1
		})
		if i < len(h.index) {
			f.next = h.index[i].seq
		}
	case from.Last > 0:
		f.next = h.index[max(len(h.index)-from.Last, 0)].seq
	}
	return p
}

// Start lets deliveries begin.
func (f *Following) Start(w *outbox.Batch) { f.resume(w, true) }

// Resume lets deliveries go on after the receiver had no room.
func (f *Following) Resume(w *outbox.Batch) { f.resume(w, false) }

func (f *Following) resume(w *outbox.Batch, start bool) {
	if f.remote != nil {
		f.remote.resume(w)
		return
	}
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	f.started = f.started || start
	f.paused = false
	f.h.pump(f, w)
}

// Close ends it.
func (f *Following) Close() {
	if f.session.forgetFollowing(f) {
		f.leave()
	}
}

func (f *Following) leave() {
	if f.remote != nil {
		f.remote.close()
		return
	}
	f.h.leave(f)
}

func (h *history) leave(f *Following) {
	h.mu.Lock()
	f.closed = true
	h.followers, _ = without(h.followers, f)
	h.mu.Unlock()
	h.router.histories.changed.Add(1)
}

// pump gives f what it has not got, from memory; what is in the store only is
// read by a goroutine. With the lock held.
func (h *history) pump(f *Following, w *outbox.Batch) {
	if !f.started || f.paused || f.closed || f.reading {
		return
	}
	h.overrun(f, w)
	for i := h.position(f.next); i < len(h.index); i++ {
		k := &h.index[i]
		if k.m == nil {
			f.reading = h.router.goFunc(func(ctx context.Context) { h.readFor(ctx, f) })
			return
		}
		if !h.offer(f, k.m, k.seq, w) {
			return
		}
	}
}

// position returns the index of the first entry from a sequence on.
func (h *history) position(seq uint64) int {
	i, _ := slices.BinarySearchFunc(h.index, seq, func(k keptMessage, s uint64) int {
		switch {
		case k.seq < s:
			return -1
		case k.seq > s:
			return 1
		}
		return 0
	})
	return i
}

// offer gives f one message; false means that it has no room.
func (h *history) offer(f *Following, m *Message, seq uint64, w *outbox.Batch) bool {
	if !m.Expired(time.Now().UnixMilli()) {
		if !f.receiver.Kept(m, seq, w) {
			f.paused = true
			return false
		}
		h.router.Stats.Delivered.Add(1)
	}
	f.next = seq + 1
	return true
}

// readFor gives f what is in the store only, then has it go on from memory.
func (h *history) readFor(ctx context.Context, f *Following) {
	var w outbox.Batch
	defer w.Flush()
	for {
		h.mu.Lock()
		from := f.next
		h.mu.Unlock()
		entries, err := h.log.Read(ctx, from, followBatch, windowBytes/4)
		if err != nil {
			h.readFailed(ctx, f, err)
			return
		}
		if h.handOut(f, entries, &w) {
			return
		}
		w.Flush()
	}
}

// handOut gives f what was read. It reports whether reading is over.
func (h *history) handOut(f *Following, entries []Entry, w *outbox.Batch) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.overrun(f, w)
	for _, e := range entries {
		i := h.position(e.Seq)
		if e.Seq < f.next || i == len(h.index) || h.index[i].seq != e.Seq {
			continue // pruned, damaged, or not confirmed yet: then stored gives it
		}
		m := h.index[i].m
		if m == nil {
			var err error
			if m, err = ParseEnvelope(e.Envelope); err != nil {
				f.next = e.Seq + 1 // counted when the index was read
				continue
			}
		}
		if f.closed || !h.offer(f, m, e.Seq, w) {
			f.reading = false
			return true
		}
	}
	i := h.position(f.next)
	if len(entries) > 0 && i < len(h.index) && h.index[i].m == nil {
		return f.closed
	}
	if len(entries) == 0 && i < len(h.index) && h.index[i].m == nil {
		f.next = h.index[i].seq + 1 // the store does not have it any more
		f.receiver.Missed(f.next, w)
	}
	f.reading = false
	h.pump(f, w)
	return true
}

// overrun moves f to the oldest kept message if what it had next is gone.
func (h *history) overrun(f *Following, w *outbox.Batch) {
	if h.gone >= f.next {
		f.next = h.gone + 1
		h.router.Stats.Drop(DropHistoryOverrun, 1)
		f.receiver.Missed(f.next, w)
	}
}

func (h *history) readFailed(ctx context.Context, f *Following, err error) {
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		h.router.log.Warn("cannot read a topic's history, will retry", "topic", h.address.String(), "error", err)
		select {
		case <-time.After(retryMs * time.Millisecond):
		case <-ctx.Done():
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f.reading = false
	if ctx.Err() == nil && !f.closed {
		h.pump(f, nil)
	}
}

// follow is Follow on an edge.
func (s *Session) follow(ctx context.Context, topic Address, from HistoryStart, rc HistoryReceiver) (*Following, HistoryPosition, error) {
	f, p, err := s.remote.follow(ctx, topic, from, rc)
	if err != nil {
		return nil, p, err
	}
	if !s.rememberFollowing(f) {
		f.remote.close()
		return nil, HistoryPosition{}, &Error{Op: "subscribe", Class: Conflict, Text: "the connection is closing"}
	}
	return f, p, nil
}

func (s *Session) rememberFollowing(f *Following) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.follows == nil {
		s.follows = map[*Following]struct{}{}
	}
	s.follows[f] = struct{}{}
	return true
}

func (s *Session) forgetFollowing(f *Following) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.follows[f]
	delete(s.follows, f)
	return ok
}
