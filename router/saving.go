package router

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

const (
	// saveEveryMs is how long a settlement may wait to be saved. After a crash,
	// what was settled in that time is delivered again, marked.
	saveEveryMs = 100
	// markEveryMs is how long the record may not know what was stored since. Damage
	// that takes no more than that from the end of what is stored is not told from a
	// crash.
	markEveryMs = 1000
	// trimEveryMs, trimEvery and trimBytes bound how long settled messages stay stored. A trim rewrites a file and frees others,
	// and what is stored meanwhile waits: it must be seldom enough for the 99th percentile not to know of it. By time only what was
	// settled trimEveryMs ago is trimmed: the store knows a message that is sent again, since nobody had an answer to it, by the
	// one that it has. Servers that were started meanwhile know of no others.
	trimEveryMs = 15_000
	trimEvery   = 20_000
	trimBytes   = 16 << 20
)

// touch has the record saved soon.
func (b *Mailbox) touch() {
	if !b.dirty {
		b.dirty = true
		b.alarm(b.savedMs + saveEveryMs)
	}
}

// mark has the record saved some time, also if nobody consumes: a start compares what
// is stored with it. Of the inboxes it is now and then one whose record is saved: there
// may be many, and they share their sequences, so its mark tells of others as well.
func (b *Mailbox) mark() {
	if b.stale {
		return
	}
	at := b.savedMs
	if b.id.Kind == KindInbox {
		at = time.Now().UnixMilli()
		last := b.marked.Load()
		if at < last+markEveryMs || !b.marked.CompareAndSwap(last, at) {
			return
		}
	}
	b.stale = true
	b.alarm(at + markEveryMs)
}

// inboxMarks are when inboxes were marked last. Each inbox has one of them, in turn.
type inboxMarks struct {
	next atomic.Uint32
	ms   [64]atomic.Int64
}

func (m *inboxMarks) one() *atomic.Int64 { return &m.ms[m.next.Add(1)%uint32(len(m.ms))] }

// saveDue saves the record if it is time; with the lock held.
func (b *Mailbox) saveDue(nowMs int64, w *outbox.Batch) {
	every := int64(saveEveryMs)
	switch {
	case b.saving || !b.dirty && !b.stale:
		return
	case !b.dirty:
		every = markEveryMs
	}
	if nowMs >= b.savedMs+every {
		b.save(w)
	} else {
		b.alarm(b.savedMs + every)
	}
}

// save writes the record; with the lock held. One write is under way at a time,
// and the next covers all that came meanwhile.
func (b *Mailbox) save(w *outbox.Batch) {
	if b.saving || b.closed {
		b.dirty = true
		return
	}
	b.saving, b.dirty, b.stale = true, false, false
	r := b.record(false)
	waiters := b.waiters
	b.waiters = nil
	b.log.SaveRecord(r.encode(nil), func(s Stored, err error, w *outbox.Batch) {
		b.recorded(&r, err, w)
		for _, done := range waiters {
			done(s, err, w)
		}
	})
}

func (b *Mailbox) record(clean bool) record {
	r := b.ledger.snapshot()
	r.Bytes, r.Expiring, r.Clean = b.bytes, b.expiring, clean
	r.Reserved = b.handed
	if !clean {
		next := b.ledger.floor()
		if d := b.ledger.peek(); d != nil {
			next = max(next, d.Seq) // an inbox shares its sequences: it may be far away
		}
		r.Reserved = max(b.handed, next) + reserveAhead
	}
	return r
}

// flush has done called when the settlements so far are stored; inTime: when that is due anyway.
func (b *Mailbox) flush(inTime bool, w *outbox.Batch, done Done) {
	b.mu.Lock()
	waits := !b.closed && (b.dirty || b.saving)
	switch {
	case waits && inTime:
		b.waiters = append(b.waiters, done)
		b.touch()
	case waits:
		b.confirm(w, done)
	}
	b.mu.Unlock()
	if !waits {
		done(Stored{}, nil, w)
	}
}

// recorded notes what the store now knows.
func (b *Mailbox) recorded(r *record, err error, w *outbox.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saving = false
	b.savedMs = time.Now().UnixMilli()
	if err != nil {
		b.dirty = true
		b.alarm(b.savedMs + retryMs)
		return
	}
	b.reserved = max(b.reserved, r.Reserved)
	b.saved = r.Floor
	if b.dirty && len(b.waiters) > 0 {
		b.save(w)
	} else if b.dirty || b.saved > b.trimmed {
		b.alarm(b.savedMs + saveEveryMs)
	} else if b.stale {
		b.alarm(b.savedMs + markEveryMs)
	}
	if b.muchSettled(b.saved) && !b.trimming {
		b.alarm(b.savedMs)
	}
	b.dispatch(w)
}

// muchSettled reports whether what is settled up to a sequence should not wait to be trimmed.
func (b *Mailbox) muchSettled(upto uint64) bool {
	return upto >= b.trimmed+trimEvery || b.settledBytes >= trimBytes
}

// trim has the store forget what is settled, up to the saved floor, so that a
// restart never misses a message that its record still counts.
func (b *Mailbox) trim(nowMs int64) {
	if b.trimming || b.saved <= b.trimmed {
		return
	}
	upto := b.saved
	if !b.muchSettled(upto) {
		if due := b.trimmedMs + trimEveryMs; nowMs < due {
			b.alarm(due)
			return
		}
		upto, b.aged = b.aged, upto
		if upto <= b.trimmed {
			b.trimmedMs = nowMs
			b.alarm(nowMs + trimEveryMs)
			return
		}
	}
	b.settledBytes = 0
	b.trimming = b.router.goFunc(func(ctx context.Context) {
		err := b.log.Trim(ctx, upto)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.trimming = false
		b.trimmedMs = time.Now().UnixMilli()
		if err != nil {
			b.alarm(b.trimmedMs + retryMs)
			return
		}
		b.trimmed = upto
		if b.saved > b.trimmed {
			b.alarm(b.trimmedMs + trimEveryMs)
		}
	})
}
