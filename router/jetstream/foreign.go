package jetstream

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// foreign is a message of a replicated stream that this store did not append: what
// an earlier leader had under way when it was cut off, and what was stored only
// after this store was opened. It may have been confirmed to its publisher, so it
// must reach its mailbox.
type foreign struct {
	seq     uint64
	subject string
	data    []byte
}

// maxForeign bounds what is looked at in one go.
const maxForeign = 100_000

// others returns what the stream holds above what the lane knows, up to its end,
// without what is the lane's own.
func (l *lane) others(ctx context.Context, end uint64, own map[uint64]bool) ([]foreign, error) {
	l.mu.Lock()
	base := l.base
	l.mu.Unlock()
	if end > base+maxForeign {
		l.opt.log.Error("another writes to a stream of this cluster's leader", "stream", l.opt.name, "messages", end-base)
		base = end - maxForeign
	}
	var found []foreign
	for seq := base + 1; seq <= end; seq++ {
		if !own[seq] {
			found = append(found, foreign{seq: seq})
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range found {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 2*laneSilence)
			defer cancel()
			f := &found[i] // one that is not there any more has no subject
			var err error
			f.subject, f.data, _, err = l.stream.message(ctx, f.seq)
			return err
		})
	}
	return found, g.Wait()
}

// found hands a message to the log that it belongs to.
func (s *Store) found(f foreign, w *outbox.Batch) {
	if f.subject == "" {
		return
	}
	s.mu.Lock()
	hear := s.hearers[f.subject]
	s.mu.Unlock()
	if hear == nil {
		return // a record or value: what this node has is newer. Or a mailbox that will read it when it opens
	}
	s.opt.Log.Warn("a message that an earlier leader had under way is there", "subject", f.subject, "sequence", f.seq)
	hear(router.Entry{Seq: f.seq, Envelope: f.data}, w)
}

// Hear has f called for what another writer stored in the log since it was opened.
func (l *mailboxLog) Hear(f func(e router.Entry, w *outbox.Batch)) { l.store.hear(l.subject, f) }

// HearTransactions has f called for a transaction that was stored since the store was opened, and not confirmed by it.
func (s *Store) HearTransactions(f func(router.StoredTransaction)) {
	s.hear(transactionSubject, func(e router.Entry, _ *outbox.Batch) {
		if len(e.Envelope) > 0 { // else a barrier
			f(router.StoredTransaction{Seq: e.Seq, Body: e.Envelope})
		}
	})
}

func (s *Store) hear(subject string, f func(router.Entry, *outbox.Batch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hearers == nil {
		s.hearers = map[string]func(router.Entry, *outbox.Batch){}
	}
	s.hearers[subject] = f
}

func (l *mailboxLog) hearNothing() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	delete(l.store.hearers, l.subject)
}

const (
	// strangersSoon and strangersLater is how often idle streams are looked at for what
	// an earlier leader had under way: most of it comes soon after this one opened them.
	strangersSoon, strangersLater = 500 * time.Millisecond, 5 * time.Second
	strangersAre                  = 20 * time.Second
)

// watchStrangers looks for what came to streams that nobody appends to.
func (s *Store) watchStrangers() {
	began := time.Now()
	for {
		every := strangersLater
		if time.Since(began) < strangersAre {
			every = strangersSoon
		}
		if !pause(s.life, every) {
			return
		}
		s.local.forget()
		for _, l := range s.lanes() {
			l.lookIdle(s)
		}
	}
}

// lookIdle mends a lane that has nothing to do and whose stream is longer than it
// knows. A replica that lags shows nothing yet; the next look will.
func (l *lane) lookIdle(s *Store) {
	if s.node.server == nil {
		return // an external NATS: the next append tells
	}
	have, ok := s.local.state(s.node.server, l.opt.name)
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok && len(l.queue) == 0 && have.LastSeq > l.base {
		l.mend()
	}
}
