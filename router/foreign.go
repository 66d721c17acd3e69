package router

import "github.com/mqgate/mqgate/router/outbox"

// foreign enters what an earlier leader stored late. It may have been confirmed to its publisher, and may be a copy of what
// the publisher sends again.
func (b *Mailbox) foreign(e Entry, w *outbox.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
	case b.opening:
		b.early = append(b.early, e)
	default:
		b.enterForeign(e)
		b.dispatch(w)
	}
}

// opened enters what came while the account was restored; what it has counted already it knows.
func (b *Mailbox) opened() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opening = false
	for _, e := range b.early {
		b.enterForeign(e)
	}
	b.early = nil
}

func (b *Mailbox) enterForeign(e Entry) {
	m, err := ParseEnvelope(e.Envelope)
	if err != nil {
		b.router.Stats.Damaged.Add(1)
		b.router.log.Error("a stored message is damaged", "mailbox", b.id.Name, "sequence", e.Seq, "error", err)
		return
	}
	b.enter(m, e.Seq)
}

// foreign enters what an earlier leader stored late in a topic's history.
func (h *history) foreign(e Entry, w *outbox.Batch) {
	m, err := ParseEnvelope(e.Envelope)
	if err != nil {
		h.router.Stats.Damaged.Add(1)
		return
	}
	h.mu.Lock()
	known := e.Seq <= h.last
	h.mu.Unlock()
	if !known {
		h.stored(m, e.Seq, w)
	}
}
