package router

import (
	"context"
	"math"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// room reports whether one more message may be loaded. What a client has from an earlier leader is looked for beyond the window: that
// one's may have begun further on, and nothing else would ever make room.
func (b *Mailbox) room() bool {
	switch {
	case len(b.subs) == 0:
		return false
	case len(b.adopting) > 0:
		return true
	}
	return b.ledger.loaded < windowEntries && (b.ledger.bytes < windowBytes || b.ledger.ready() == 0)
}

// sated reports whether enough is loaded for a while. Who chooses looks for its messages as far as the window goes.
func (b *Mailbox) sated() bool {
	if b.selective > 0 || b.groups != nil || len(b.adopting) > 0 {
		return false
	}
	ready := b.ledger.ready()
	return ready > windowEntries/4 || (ready > 0 && b.ledger.bytes > windowBytes/4)
}

// refill starts a reader if consumers may soon want what is not loaded.
func (b *Mailbox) refill() {
	if b.reading || b.closed || b.ledger.live() || len(b.subs) == 0 {
		return
	}
	if b.sated() || !b.room() {
		return
	}
	b.reading = b.router.goFunc(b.read)
}

// read loads from the store until the window is full or nothing more is stored.
func (b *Mailbox) read(ctx context.Context) {
	var w outbox.Batch
	defer w.Flush()
	for {
		b.mu.Lock()
		if b.closed || b.ledger.live() || !b.room() || ctx.Err() != nil {
			b.reading = false
			b.mu.Unlock()
			return
		}
		from, last := b.ledger.wanted(), b.ledger.last
		n := 512
		if left := windowEntries - b.ledger.loaded; left > 0 {
			n = min(n, left)
		}
		b.mu.Unlock()
		entries, err := b.log.Read(ctx, from, n, windowBytes/4)
		if err != nil {
			b.readFailed(ctx, err)
			return
		}
		more := b.loaded(from, last, entries, &w)
		w.Flush()
		if !more {
			return
		}
	}
}

// readFailed has the mailbox tended again a little later.
func (b *Mailbox) readFailed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		b.router.log.Warn("cannot read stored messages, will retry", "mailbox", b.id.Name, "error", err)
	}
	b.mu.Lock()
	b.reading = false
	b.alarm(time.Now().UnixMilli() + retryMs)
	b.mu.Unlock()
}

// loaded enters what was read from a sequence on, when last was the highest
// that was known. It reports whether the reader goes on.
func (b *Mailbox) loaded(from, last uint64, entries []Entry, w *outbox.Batch) bool {
	messages := make([]*Message, len(entries))
	for i, e := range entries {
		m, err := ParseEnvelope(e.Envelope)
		if err != nil {
			b.router.Stats.Damaged.Add(1)
			b.router.log.Error("a stored message is damaged; it goes to the dead-letter queue as it is",
				"mailbox", b.id.Name, "sequence", e.Seq, "error", err)
			m = &Message{To: b.address, Body: e.Envelope, Priority: DefaultPriority, ExpiresUnixMs: damagedMark}
		}
		messages[i] = m
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if from != b.ledger.wanted() {
		return true // a purge or an unload came between: what was read does not follow
	}
	if len(entries) == 0 {
		if last != b.ledger.last {
			return true
		}
		if b.mayYetCome(time.Now().UnixMilli()) {
			b.reading = false
			return false
		}
		b.loadedAll() // nothing is stored from here on
		b.passAdoptions()
		return true
	}
	b.missedMs = 0
	for i, e := range entries {
		b.noticeGap(from, e.Seq)
		from = e.Seq + 1
		if b.ledger.unknown(e.Seq) {
			// Its append has not been answered yet; that will enter it.
			b.dispatch(w)
			return true
		}
		if !b.ledger.load(e.Seq, messages[i]) || b.adopt(b.ledger.tail) {
			continue
		}
		if messages[i].ExpiresUnixMs == damagedMark {
			d := b.ledger.tail
			d.box = b
			b.ledger.withdraw(d)
			b.dispose(d, ReasonDamaged, "", w)
		}
	}
	b.passAdoptions()
	if b.ledger.live() {
		b.loadedAll()
	}
	b.dispatch(w)
	return true
}

const (
	// missedForMs is how long a new leader looks for messages that its store has
	// counted and does not find, and missedLookMs how often: just elected, a server may
	// not find what it has.
	missedForMs  = 5000
	missedLookMs = 200
)

// mayYetCome reports whether messages that are counted and were not found shall be
// looked for again, and sees to it.
func (b *Mailbox) mayYetCome(nowMs int64) bool {
	if !b.router.opt.Gather || b.ledger.count <= b.ledger.loaded {
		return false
	}
	if b.missedMs == 0 {
		b.missedMs = nowMs
	}
	if nowMs >= b.missedMs+missedForMs {
		b.missedMs = 0
		return false
	}
	b.alarm(nowMs + missedLookMs)
	return true
}

// noticeGap reports the messages of a queue that should be between two that were
// read, and are not: a queue's log has every sequence. The server leaves out what
// it finds damaged.
func (b *Mailbox) noticeGap(from, to uint64) {
	if b.id.Kind != KindQueueBox {
		return
	}
	lost := 0
	for seq := from; seq < to && !b.ledger.unknown(seq); seq++ {
		if b.ledger.unsettledAhead(seq) {
			lost++
		}
	}
	if lost > 0 {
		b.router.Stats.Damaged.Add(uint64(lost))
		b.router.log.Error("stored messages cannot be read back", "mailbox", b.id.Name, "count", lost, "from", from, "to", to-1)
		b.ledger.count = max(b.ledger.count-lost, b.ledger.loaded)
	}
}

// damagedMark stands in ExpiresUnixMs of what could not be parsed.
const damagedMark = math.MinInt64

// loadedAll corrects the account where the store holds less than it said: with
// entries removed by hand or lost. It is reported; nothing else can be done.
func (b *Mailbox) loadedAll() {
	b.ledger.unsure = false
	if lost := b.ledger.loadedAll(); lost > 0 {
		b.router.Stats.Damaged.Add(uint64(lost))
		b.router.log.Error("stored messages are missing", "mailbox", b.id.Name, "count", lost)
	}
}
