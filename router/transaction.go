package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// Commit publishes messages and settles deliveries as one. The publishes are
// atomic over a crash: either every stored copy will be in its mailbox, or none.
// Copies for one mailbox appear in it together; those for several appear one
// after the other. The deliveries are settled after the publishes are stored, so
// a crash in between redelivers them, marked. Live subscribers get the messages
// once they are stored.
//
// Done hears the end, when the settlements are stored too, in any case but that
// of an error returned here.
func (s *Session) Commit(ctx context.Context, ms []*Message, settle []*Delivery, w *outbox.Batch, done Done) error {
	if e := s.router.edge; e != nil {
		return e.commit(s, ms, settle, done)
	}
	t, err := s.prepare(ctx, ms)
	if err != nil {
		s.router.Stats.Refused.Add(1)
		return err
	}
	finish := func(st Stored, err error, w *outbox.Batch) {
		if err != nil {
			done(st, err, w)
			return
		}
		t.publishLive(s, w)
		settleAll(settle, w, func(_ Stored, err error, w *outbox.Batch) { done(st, err, w) })
	}
	switch boxes := t.mailboxes(); {
	case len(t.copies) == 0:
		finish(Stored{}, nil, w)
		return nil
	case len(boxes) == 1:
		return t.copies[0].box.appendAll(t.messages(), finish)
	default:
		return s.router.commitMany(t, boxes, finish)
	}
}

// commit is a transaction that is resolved to mailboxes.
type commit struct {
	published int // messages
	copies    []copyOf
	live      []liveOf
}

type copyOf struct {
	box *Mailbox
	m   *Message
}

type liveOf struct {
	route *route
	m     *Message
}

// prepare authorises and resolves all before anything is stored.
func (s *Session) prepare(ctx context.Context, ms []*Message) (*commit, error) {
	if limit := s.router.opt.MaxTransactionMessages; limit > 0 && len(ms) > limit {
		return nil, &Error{Op: "commit", Class: TooLarge, Text: fmt.Sprintf("the transaction has %d messages; at most %d are allowed (limits.transaction_messages)", len(ms), limit)}
	}
	t, size := &commit{published: len(ms)}, 0
	for _, m := range ms {
		if err := s.mayPublish(m); err != nil {
			return nil, err
		}
		r, err := s.router.resolve(ctx, m.To, 0)
		if err != nil {
			return nil, err
		}
		s.stamp(m)
		size += m.Size() * max(len(r.boxes), 1) // each copy is in the transaction's record
		if limit := s.router.opt.MaxTransactionBytes; limit > 0 && size > limit {
			return nil, &Error{Op: "commit", Class: TooLarge, Text: fmt.Sprintf("the transaction's copies have more than the allowed %d bytes (limits.transaction_bytes)", limit)}
		}
		for i, box := range r.boxes {
			if b := r.bindings[i]; b == nil || b.takes(m, box, s) {
				t.copies = append(t.copies, copyOf{box, box.withExpiry(m)})
			}
		}
		if m.To.kind == KindTopic {
			t.live = append(t.live, liveOf{r, m})
		}
	}
	return t, nil
}

func (b *Mailbox) withExpiry(m *Message) *Message {
	if b.policy.Expiry <= 0 || m.ExpiresUnixMs != 0 {
		return m
	}
	return m.With(func(c *Message) { c.ExpiresUnixMs = time.Now().Add(b.policy.Expiry).UnixMilli() })
}

// mailboxes groups the copies, in order of first use.
func (t *commit) mailboxes() []*Mailbox {
	var out []*Mailbox
	seen := map[*Mailbox]bool{}
	for _, c := range t.copies {
		if !seen[c.box] {
			seen[c.box] = true
			out = append(out, c.box)
		}
	}
	return out
}

func (t *commit) messages() []*Message {
	out := make([]*Message, len(t.copies))
	for i, c := range t.copies {
		out[i] = c.m
	}
	return out
}

func (t *commit) publishLive(s *Session, w *outbox.Batch) {
	for _, l := range t.live {
		s.deliverLive(l.route, l.m, w)
		if h := l.route.history; h != nil {
			h.append(l.m, nil, ignoreDone) // the commit is confirmed: followers hear a moment later
		}
	}
	s.router.Stats.Published.Add(uint64(t.published))
}

// settleAll settles what is still held; what is not was redelivered to another,
// which the client cannot undo. Done hears when that is stored.
func settleAll(settle []*Delivery, w *outbox.Batch, done Done) {
	c := &copies{done: done}
	c.left.Store(int32(len(settle)) + 1) // one is ours: it cannot end before all are begun
	for _, d := range settle {
		err := d.Ack(w, c.stored)
		if err == nil {
			continue
		}
		if ClassOf(err) == NotFound {
			err = nil
		}
		c.stored(Stored{}, err, w)
	}
	c.stored(Stored{}, nil, w)
}

// commitMany stores one record of the whole transaction, then applies it. Each
// copy carries an id made of the record's sequence, so a redo after a crash can
// tell what is stored already.
func (r *Router) commitMany(t *commit, boxes []*Mailbox, done Done) error {
	for _, b := range boxes {
		if err := b.admitCopies(t); err != nil {
			return err
		}
	}
	r.store.BeginTransaction(encodeTransaction(t), func(s Stored, err error, w *outbox.Batch) {
		if err != nil {
			done(s, err, w)
			return
		}
		r.apply(s.Seq, t, done)
	})
	return nil
}

// admitCopies checks the mailbox's limits for its share of the transaction.
func (b *Mailbox) admitCopies(t *commit) error {
	n, size := 0, 0
	for _, c := range t.copies {
		if c.box == b {
			n++
			size += c.m.Size()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.full(n, size)
}

// apply stores the copies of a transaction whose record is stored. From here on
// it will be applied, now or at the next start, so a client must not be told that
// it failed: a copy that the store refuses is tried again until it is stored.
func (r *Router) apply(seq uint64, t *commit, done Done) {
	c := &copies{done: func(s Stored, err error, w *outbox.Batch) {
		if err == nil {
			r.store.EndTransaction(seq)
		}
		done(s, err, w)
	}}
	c.left.Store(int32(len(t.copies)))
	for i, cp := range t.copies {
		m := cp.m.With(func(m *Message) { m.DedupID = transactionID(seq, i) })
		r.applyCopy(copyOf{cp.box, m}, c.stored)
	}
}

// applyCopy stores one copy, however often that takes. Only a stop ends it before.
func (r *Router) applyCopy(c copyOf, done Done) {
	c.box.appendAdmitted(c.m, func(s Stored, err error, w *outbox.Batch) {
		if err == nil {
			done(s, nil, w)
			return
		}
		again := func(ctx context.Context) {
			select {
			case <-time.After(retryMs * time.Millisecond):
				r.applyCopy(c, done)
			case <-ctx.Done():
				done(Stored{}, errStopping("commit"), nil)
			}
		}
		r.log.Warn("cannot store a message of a transaction, will retry", "mailbox", c.box.id.Name, "error", err)
		if !r.goFunc(again) {
			done(Stored{}, errStopping("commit"), w)
		}
	})
}

// appendAdmitted appends what the limits allowed before. In a mailbox that was
// deleted meanwhile there is nothing to do.
func (b *Mailbox) appendAdmitted(m *Message, done Done) {
	b.mu.Lock()
	if b.closed && !b.router.stopping() {
		b.mu.Unlock()
		done(Stored{}, nil, nil)
		return
	}
	b.waiting++
	b.inflight += m.Size()
	b.mu.Unlock()
	b.log.Append(m.AppendEnvelope(nil), m.DedupID, func(s Stored, err error, w *outbox.Batch) {
		b.appended(m, s, err, w)
		done(s, err, w)
	})
}

const transactionPrefix = "tx\x00"

func transactionID(seq uint64, i int) string {
	return transactionPrefix + strconv.FormatUint(seq, 10) + "\x00" + strconv.Itoa(i)
}

// redo finishes the transactions that were stored but may not be applied.
func (r *Router) redo(ctx context.Context) error {
	pending, err := r.store.Transactions(ctx)
	if err != nil {
		return fmt.Errorf("list transactions: %w", err)
	}
	for _, p := range pending {
		if err := r.redoOne(ctx, p); err != nil {
			return fmt.Errorf("redo transaction %d: %w", p.Seq, err)
		}
	}
	return nil
}

// redoLate applies a transaction that is in the store although it was not confirmed. Its client was told that the outcome is not known,
// or nothing; applied by a later start, perhaps days after, it would be of no use to anybody.
func (r *Router) redoLate(p StoredTransaction) {
	r.goFunc(func(ctx context.Context) { // the next start does it where this one stops
		for {
			err := r.redoOne(ctx, p)
			if err == nil || ctx.Err() != nil {
				return
			}
			r.log.Warn("cannot apply a transaction that was found late", "transaction", p.Seq, "error", err)
			if errors.Is(err, errTransaction) {
				return
			}
			select {
			case <-time.After(retryMs * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	})
}

// redoOne applies what is not applied yet of a transaction. One after the other: what was found late may be among those that a start lists.
func (r *Router) redoOne(ctx context.Context, p StoredTransaction) error {
	r.redoing.Lock()
	defer r.redoing.Unlock()
	records, err := decodeTransaction(p.Body)
	if err != nil {
		return err
	}
	after := map[MailboxID]uint64{}
	for _, rec := range records {
		if at, ok := after[rec.box]; !ok || rec.after < at {
			after[rec.box] = rec.after
		}
	}
	known := map[string]bool{}
	for id, at := range after {
		if err := r.collectTransaction(ctx, id, at, known); err != nil {
			return err
		}
	}
	t := &commit{}
	missing := 0
	for i, rec := range records {
		box, err := r.open(ctx, rec.box)
		if err != nil {
			return err
		}
		if known[transactionID(p.Seq, i)] {
			continue
		}
		missing++
		m := rec.m.With(func(m *Message) { m.DedupID = transactionID(p.Seq, i) })
		t.copies = append(t.copies, copyOf{box, m})
	}
	r.log.Info("finishing a transaction that a stop interrupted", "transaction", p.Seq, "messages", len(records), "missing", missing)
	ended := make(chan error, 1)
	c := &copies{done: func(_ Stored, err error, _ *outbox.Batch) { ended <- err }}
	c.left.Store(int32(missing) + 1)
	for _, cp := range t.copies {
		cp.box.appendAdmitted(cp.m, c.stored)
	}
	c.stored(Stored{}, nil, nil)
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		r.store.EndTransaction(p.Seq)
	}
	return err
}

// collectTransaction notes which transaction ids the mailbox holds from where
// the transaction began on.
func (r *Router) collectTransaction(ctx context.Context, id MailboxID, after uint64, known map[string]bool) error {
	box, err := r.open(ctx, id)
	if err != nil {
		return err
	}
	for from := after + 1; ; {
		entries, err := box.log.Read(ctx, from, 512, windowBytes)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			from = e.Seq + 1
			if m, err := ParseEnvelope(e.Envelope); err == nil && strings.HasPrefix(m.DedupID, transactionPrefix) {
				known[m.DedupID] = true
			}
		}
	}
}

// transactionCopy is one message of a stored transaction.
type transactionCopy struct {
	box   MailboxID
	after uint64 // the mailbox's last sequence when the transaction was stored
	m     *Message
}

// encodeTransaction is the body of the transaction's record.
func encodeTransaction(t *commit) []byte {
	dst := binary.AppendUvarint(nil, uint64(len(t.copies)))
	for _, c := range t.copies {
		dst = append(dst, byte(c.box.id.Kind))
		dst = appendString(dst, c.box.id.Vhost)
		dst = appendString(dst, c.box.id.Name)
		dst = binary.AppendUvarint(dst, c.box.lastStored())
		dst = appendString(dst, string(c.m.AppendEnvelope(nil)))
	}
	return dst
}

var errTransaction = errors.New("stored transaction is damaged")

func decodeTransaction(b []byte) ([]transactionCopy, error) {
	r := envelopeReader{b: b}
	var out []transactionCopy
	for range r.length() {
		var c transactionCopy
		if len(r.b) == 0 {
			return nil, errTransaction
		}
		c.box.Kind = MailboxKind(r.b[0])
		r.b = r.b[1:]
		c.box.Vhost, c.box.Name = r.text(), r.text()
		c.after = r.uvarint()
		m, err := ParseEnvelope([]byte(r.text()))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errTransaction, err)
		}
		c.m = m
		out = append(out, c)
	}
	if r.bad {
		return nil, errTransaction
	}
	return out, nil
}
