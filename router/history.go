package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// A history keeps the last messages of one topic, whoever is subscribed: Follow
// reads it from any point and then goes on with what is published, without a gap
// and without a duplicate. Each message has a sequence that only grows within the
// history's epoch, so that a follower that lost its connection continues behind
// the last one it saw, also after a restart of the node.
//
// Publishing to a topic with history is confirmed once the history has stored the
// message. Followers get it then; other subscribers get it at once, as always.
// A history belongs to the node that its messages are published on.

const (
	// maxHistories bounds how many topics keep a history.
	maxHistories = 10_000
	// maxHistoryMessages bounds what one topic keeps, whatever the options say: its
	// index is in memory, 32 bytes a message.
	maxHistoryMessages = 100_000
	// historyCacheBytes and historiesCacheBytes bound the messages that are kept in
	// memory, for one topic and all together; older ones are read from the store.
	historyCacheBytes   = 256 << 10
	historiesCacheBytes = 64 << 20
	// followBatch is how many messages are read from the store at once.
	followBatch = 256
)

// DropHistoryOverrun counts messages that left a history before a slow follower took them.
const DropHistoryOverrun = "history_overrun"

// keptMessage is an entry of a history's index.
type keptMessage struct {
	seq    uint64
	timeMs int64
	m      *Message // nil: it is in the store only
}

type history struct {
	router  *Router
	address Address
	log     Log
	keep    int
	age     time.Duration
	epoch   uint64

	mu        sync.Mutex
	index     []keptMessage // ascending
	cached    int           // entries of index from this one on have m
	bytes     int           // of those
	last      uint64
	followers []*Following
	gone      uint64 // highest sequence that may have been forgotten
	trimmed   uint64
	trimming  bool
}

// histories are those of a router.
type histories struct {
	router  *Router
	changed atomic.Uint64 // followers came or went
	bytes   atomic.Int64  // cached by all

	mu      sync.Mutex
	open    map[Address]*openHistory
	records map[MailboxID][]byte // of those that the start found and nobody has opened
}

type openHistory struct {
	ready chan struct{}
	h     *history
	err   error
}

func newHistories(r *Router) *histories {
	return &histories{router: r, open: map[Address]*openHistory{}, records: map[MailboxID][]byte{}}
}

// of returns the history of a topic, nil if it keeps none.
func (hs *histories) of(ctx context.Context, a Address) (*history, error) {
	if hs.router.opt.History == nil || a.kind != KindTopic || a.Reserved() {
		return nil, nil
	}
	keep, age := hs.router.opt.History(a)
	if keep <= 0 {
		return nil, nil
	}
	hs.mu.Lock()
	o := hs.open[a]
	if o != nil {
		hs.mu.Unlock()
		select {
		case <-o.ready:
			return o.h, o.err
		case <-ctx.Done():
			return nil, &Error{Op: "open", Class: Unavailable, Text: "the topic's history did not open in time", Err: context.Cause(ctx)}
		}
	}
	if len(hs.open) >= maxHistories {
		hs.mu.Unlock()
		return nil, &Error{Op: "open", Class: Full, Text: fmt.Sprintf("%d topics keep a history already, which is the limit", maxHistories)}
	}
	o = &openHistory{ready: make(chan struct{})}
	hs.open[a] = o
	id := historyID(a)
	rec := hs.records[id]
	hs.mu.Unlock()
	o.h, o.err = hs.make(ctx, a, rec, min(keep, maxHistoryMessages), age)
	hs.mu.Lock()
	if o.err != nil {
		delete(hs.open, a)
	} else {
		delete(hs.records, id)
	}
	hs.mu.Unlock()
	close(o.ready)
	return o.h, o.err
}

func historyID(a Address) MailboxID { return MailboxID{KindHistory, a.vhost, a.name} }

// found notes a history that exists in the store.
func (hs *histories) found(s StoredMailbox) { hs.records[s.ID] = s.Record }

const historyRecordVersion = 1

// make opens the log and reads the index.
func (hs *histories) make(ctx context.Context, a Address, rec []byte, keep int, age time.Duration) (*history, error) {
	log, err := hs.router.store.OpenLog(ctx, historyID(a))
	if err != nil {
		return nil, storeError("open", err)
	}
	h := &history{router: hs.router, address: a, log: log, keep: keep, age: age}
	if err := h.restoreEpoch(ctx, rec); err != nil {
		return nil, storeError("open", err)
	}
	if err := h.restore(ctx); err != nil {
		return nil, storeError("open", err)
	}
	if x, ok := log.(Hearer); ok {
		x.Hear(h.foreign)
	}
	return h, nil
}

// restoreEpoch reads the epoch of the record, or stores a new one.
func (h *history) restoreEpoch(ctx context.Context, rec []byte) error {
	if len(rec) == 9 && rec[0] == historyRecordVersion {
		h.epoch = binary.LittleEndian.Uint64(rec[1:])
		return nil
	}
	if len(rec) != 0 {
		return fmt.Errorf("history of %s: %w", h.address, ErrEnvelope)
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return fmt.Errorf("make an epoch: %w", err)
	}
	// JavaScript reads it as a number: 53 bits are exact. Never 0, which means none.
	h.epoch = binary.LittleEndian.Uint64(b[:])>>11 | 1
	saved := make(chan error, 1)
	out := binary.LittleEndian.AppendUint64([]byte{historyRecordVersion}, h.epoch)
	h.log.SaveRecord(out, func(_ Stored, err error, _ *outbox.Batch) { saved <- err })
	select {
	case err := <-saved:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *history) restore(ctx context.Context) error {
	b, err := h.log.Bounds(ctx, 0)
	if err != nil {
		return err
	}
	h.last = b.Last
	for from := uint64(1); ; {
		entries, err := h.log.Read(ctx, from, followBatch, windowBytes)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			from = e.Seq + 1
			h.last = max(h.last, e.Seq)
			m, err := ParseEnvelope(e.Envelope)
			if err != nil {
				h.router.Stats.Damaged.Add(1)
				continue
			}
			h.index = append(h.index, keptMessage{seq: e.Seq, timeMs: m.TimestampMs})
		}
		h.prune(time.Now().UnixMilli())
	}
	switch {
	case len(h.index) > 0 && (h.age > 0 || len(h.index) >= h.keep):
		// Where a shared log's sequences have gaps, too much counts as forgotten.
		h.gone = max(h.gone, h.index[0].seq-1)
	case len(h.index) == 0 && h.age > 0:
		h.gone = h.last
	}
	h.cached = len(h.index)
	return nil
}

// append stores m; done hears when it is stored.
func (h *history) append(m *Message, envelope []byte, done Done) {
	if envelope == nil {
		envelope = m.AppendEnvelope(nil)
	}
	h.log.Append(envelope, m.DedupID, func(s Stored, err error, w *outbox.Batch) {
		if err == nil && !s.Duplicate {
			h.stored(m, s.Seq, w)
		}
		done(s, err, w)
	})
}

// stored enters a message that the log confirmed, and hands it to the followers.
// The log answers in order.
func (h *history) stored(m *Message, seq uint64, w *outbox.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = max(h.last, seq)
	h.index = append(h.index, keptMessage{seq: seq, timeMs: m.TimestampMs, m: m})
	h.bytes += m.Size()
	h.router.histories.bytes.Add(int64(m.Size()))
	h.uncache()
	for _, f := range h.followers {
		h.pump(f, w)
	}
	h.prune(time.Now().UnixMilli())
}

// uncache leaves the oldest cached messages to the store while the limits are exceeded.
func (h *history) uncache() {
	total := &h.router.histories.bytes
	for h.cached < len(h.index)-1 && (h.bytes > historyCacheBytes || total.Load() > historiesCacheBytes) {
		h.dropCached(h.cached)
		h.cached++
	}
}

func (h *history) dropCached(i int) {
	if m := h.index[i].m; m != nil {
		h.bytes -= m.Size()
		h.router.histories.bytes.Add(-int64(m.Size()))
		h.index[i].m = nil
	}
}

// prune forgets what is beyond the retention, and has the store forget it.
func (h *history) prune(nowMs int64) {
	n := max(len(h.index)-h.keep, 0)
	if h.age > 0 {
		for n < len(h.index) && h.index[n].timeMs < nowMs-h.age.Milliseconds() {
			n++
		}
	}
	if n == 0 {
		return
	}
	for i := range n {
		h.dropCached(i)
	}
	upto := h.index[n-1].seq
	h.gone = max(h.gone, upto)
	h.index = h.index[n:]
	if cap(h.index) > 2*len(h.index)+64 {
		h.index = slices.Clone(h.index)
	}
	h.cached = max(h.cached-n, 0)
	h.trim(upto)
}

// trim has the store forget everything up to a sequence; what comes meanwhile
// waits for the next trim.
func (h *history) trim(upto uint64) {
	if h.trimming || upto < h.trimmed+uint64(max(h.keep/8, 1)) {
		return
	}
	h.trimming = h.router.goFunc(func(ctx context.Context) {
		err := h.log.Trim(ctx, upto)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.trimming = false
		if err == nil {
			h.trimmed = upto
		}
	})
}
