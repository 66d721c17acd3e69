package router

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// expiryHeap holds the messages of a mailbox that will expire, 16 bytes each,
// loaded or not, by time.
type expiryHeap []expiryAt

type expiryAt struct {
	ms  int64
	seq uint64
}

func (h expiryHeap) Len() int      { return len(h) }
func (h expiryHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h expiryHeap) Less(i, j int) bool {
	return h[i].ms < h[j].ms || h[i].ms == h[j].ms && h[i].seq < h[j].seq
}

// Push is for container/heap.
func (h *expiryHeap) Push(x any) { *h = append(*h, x.(expiryAt)) }

// Pop is for container/heap.
func (h *expiryHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// expiry returns when m expires in Unix ms, 0 if never.
func expiry(m *Message) int64 { return max(m.ExpiresUnixMs, 0) }

// watchExpiry has a message looked at when it expires; with the lock held.
func (b *Mailbox) watchExpiry(atMs int64, seq uint64) {
	if !b.expiring {
		b.expiring = true
		b.touch()
	}
	if len(b.expiries) >= 1024+2*b.ledger.count {
		b.forgetExpiries()
	}
	heap.Push(&b.expiries, expiryAt{atMs, seq})
	b.alarm(b.expiries[0].ms)
}

// forgetExpiries drops what has been settled: most messages are, long before
// they would expire.
func (b *Mailbox) forgetExpiries() {
	loaded := make(map[uint64]struct{}, b.ledger.loaded)
	for d := b.ledger.head; d != nil; d = d.next {
		loaded[d.Seq] = struct{}{}
	}
	b.expiries = slices.DeleteFunc(b.expiries, func(e expiryAt) bool {
		_, ok := loaded[e.seq]
		// One above last is about to be entered.
		return !ok && e.seq <= b.ledger.last && !b.ledger.unsettledAhead(e.seq)
	})
	b.expiries = slices.Clip(b.expiries)
	heap.Init(&b.expiries)
}

// expireDue disposes of what has expired and nobody holds; with the lock held.
// What a consumer holds is left to it.
func (b *Mailbox) expireDue(nowMs int64, w *outbox.Batch) {
	running := len(b.past) > 0
	for len(b.expiries) > 0 && b.expiries[0].ms <= nowMs {
		seq := heap.Pop(&b.expiries).(expiryAt).seq
		if seq >= b.ledger.next {
			b.past = append(b.past, seq)
			continue
		}
		if d := b.ledger.find(seq); d != nil && (d.state == stateReady || d.state == stateDelayed) {
			d.box = b
			b.expireLoaded(d, w)
		}
	}
	if len(b.expiries) > 0 {
		b.alarm(b.expiries[0].ms)
	}
	if len(b.past) > 0 && !running {
		b.router.goFunc(b.expireUnloaded)
	}
}

// expireLoaded takes an entry out of the ready or delayed ones and disposes of it.
func (b *Mailbox) expireLoaded(d *Delivery, w *outbox.Batch) {
	b.ledger.withdraw(d)
	b.dispose(d, ReasonExpired, "", w)
}

// expireUnloaded reads the expired messages that are not in memory, in order, and
// disposes of them. One that was loaded meanwhile is found expired when it is
// delivered.
func (b *Mailbox) expireUnloaded(ctx context.Context) {
	places := b.router.morgue.places
	for {
		seq, more := b.nextPast()
		if !more {
			return
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if moving, err := b.expireOne(ctx, seq); err != nil {
			<-places
			b.expireLater()
			return
		} else if !moving {
			<-places
		}
		b.mu.Lock()
		b.past = b.past[1:]
		b.mu.Unlock()
	}
}

func (b *Mailbox) nextPast() (seq uint64, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.past) == 0 {
		b.past = nil
		return 0, false
	}
	return b.past[0], true
}

// expireLater has what is left looked at again, after a pause.
func (b *Mailbox) expireLater() {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := time.Now().UnixMilli() + retryMs
	for _, seq := range b.past {
		heap.Push(&b.expiries, expiryAt{at, seq})
	}
	b.past = nil
	b.alarm(at)
}

// expireOne disposes of an expired message that is not in memory, and reports
// whether it is on its way elsewhere.
func (b *Mailbox) expireOne(ctx context.Context, seq uint64) (moving bool, err error) {
	entries, err := b.log.Read(ctx, seq, 1, 0)
	if err != nil || len(entries) == 0 || entries[0].Seq != seq {
		return false, err
	}
	m, err := ParseEnvelope(entries[0].Envelope)
	if err != nil {
		return false, nil // loading will report it
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.expireAhead(&Delivery{Message: m, Seq: seq, box: b}), nil
}

// expireAhead is expireOne for a message that was read; with the lock held.
func (b *Mailbox) expireAhead(d *Delivery) (moving bool) {
	if !b.ledger.unsettledAhead(d.Seq) {
		return false // settled, or loaded, meanwhile
	}
	l := deadLetter{box: b, d: d, target: b.policy.DeadLetter, reason: ReasonExpired}
	switch {
	case b.id.keepsSchedules():
		l.reason = reasonDue
	case b.policy.DropExpired || l.target == "":
		b.ledger.settleAhead(d.Seq)
		b.router.Stats.Drop(DropExpired, 1)
		b.release(d.Message.Size())
		b.touch()
		return false
	}
	d.ahead = true
	b.router.morgue.put(l)
	return true
}

// scanExpiries finds the expiries of what a restart found stored.
func (b *Mailbox) scanExpiries(ctx context.Context) {
	b.mu.Lock()
	from, last := b.ledger.floor()+1, b.ledger.last
	b.mu.Unlock()
	for from <= last && ctx.Err() == nil {
		entries, err := b.log.Read(ctx, from, 512, windowBytes)
		if err != nil {
			b.router.log.Warn("cannot look for expired messages, will retry", "mailbox", b.id.Name, "error", err)
			select {
			case <-time.After(retryMs * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if len(entries) == 0 {
			return
		}
		b.mu.Lock()
		for _, e := range entries {
			if m, err := ParseEnvelope(e.Envelope); err == nil && e.Seq <= last && b.deadline(m) != 0 {
				b.watchExpiry(b.deadline(m), e.Seq)
			}
			from = e.Seq + 1
		}
		b.mu.Unlock()
	}
}
