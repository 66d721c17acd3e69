package jetstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// encodeID writes a mailbox's identity in front of its record.
func encodeID(id router.MailboxID) []byte {
	dst := []byte{byte(id.Kind)}
	for _, s := range [...]string{id.Vhost, id.Name} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

var errRecord = errors.New("stored record is damaged")

// decodeID reads the identity and returns the record behind it.
func decodeID(b []byte) (router.MailboxID, []byte, error) {
	if len(b) == 0 {
		return router.MailboxID{}, nil, errRecord
	}
	id := router.MailboxID{Kind: router.MailboxKind(b[0])}
	b = b[1:]
	for _, s := range [...]*string{&id.Vhost, &id.Name} {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return router.MailboxID{}, nil, errRecord
		}
		*s = string(b[size : size+int(n)])
		b = b[size+int(n):]
	}
	return id, b, nil
}

// Mailboxes lists the mailboxes that have a record.
func (s *Store) Mailboxes(ctx context.Context) ([]router.StoredMailbox, error) {
	var out []router.StoredMailbox
	err := s.records.each(ctx, "r.*", func(e router.Entry) error {
		id, rec, err := decodeID(e.Envelope)
		if err != nil {
			return err
		}
		out = append(out, router.StoredMailbox{ID: id, Record: rec})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, s.noteEmpty(ctx, out)
}

// noteEmpty notes which inboxes hold nothing. Most of many thousands do: to ask the server about each would take a start
// minutes. It notes nothing where another server may have appends under way, and opens the streams that the inboxes share.
func (s *Store) noteEmpty(ctx context.Context, boxes []router.StoredMailbox) error {
	states := map[*stream]jetstream.StreamState{}
	for i := range boxes {
		if boxes[i].ID.Kind != router.KindInbox {
			continue
		}
		log, err := s.openLog(ctx, boxes[i].ID)
		if err != nil {
			return err
		}
		if s.node.shared() {
			continue
		}
		state, known := states[log.stream]
		if !known {
			all := log.subject[:len(log.subject)-len(log.hash)] + "*"
			if state, err = s.streamState(ctx, log.stream.name, jetstream.WithSubjectFilter(all)); err != nil {
				return err
			}
			states[log.stream] = state
		}
		if state.Subjects[log.subject] == 0 {
			boxes[i].Empty = &router.Bounds{First: state.FirstSeq, Last: state.LastSeq}
		}
	}
	return nil
}

// Bindings lists the bindings.
func (s *Store) Bindings(ctx context.Context) ([][]byte, error) {
	var out [][]byte
	err := s.bindings.each(ctx, "b.*", func(e router.Entry) error {
		out = append(out, e.Envelope)
		return nil
	})
	return out, err
}

// PutBinding stores or removes a binding and waits for the store.
func (s *Store) PutBinding(ctx context.Context, key string, value []byte) error {
	subject := "b." + hashName(key)
	if len(value) == 0 {
		if err := s.bindings.purge(ctx, subject, 0); err != nil || s.bindings.syncer == nil {
			return err
		}
		return s.bindings.syncer.syncTree()
	}
	answer := make(chan error, 1)
	s.bindings.publish(subject, nil, value, func(_ router.Stored, err error, _ *outbox.Batch) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return unavailable(context.Cause(ctx))
	}
}

// Transactions lists the transactions that were not ended.
func (s *Store) Transactions(ctx context.Context) ([]router.StoredTransaction, error) {
	entries, err := s.transactions.all(ctx, transactionSubject)
	if err != nil {
		return nil, err
	}
	var out []router.StoredTransaction
	for i, e := range entries {
		switch {
		case len(e.Envelope) > 0:
			out = append(out, router.StoredTransaction{Seq: e.Seq, Body: e.Envelope})
		case i < len(entries)-1: // a barrier of an earlier store
			s.EndTransaction(e.Seq)
		}
	}
	return out, nil
}

// BeginTransaction stores a transaction.
func (s *Store) BeginTransaction(body []byte, done router.Done) {
	if err := s.accepts(body); err != nil {
		s.answer(done, err)
		return
	}
	s.transactions.publish(transactionSubject, nil, body, done)
}

// What JetStream answers when the message that is to be deleted is not there.
const codeNotDeleted = 10057 // "message delete failed", also 10037

const endAgainAfter = time.Second

// EndTransaction forgets a transaction. It does not wait, but asks until the server has done it: a record that stayed would be
// applied again by a later start, when the messages that it put into mailboxes may be settled and trimmed.
func (s *Store) EndTransaction(seq uint64) {
	body := fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq)
	err := s.pub.publish("$JS.API.STREAM.MSG.DELETE."+transactionsStream, nil, body, func(_ router.Stored, err error, _ *outbox.Batch) {
		s.ended(seq, err)
	})
	s.ended(seq, err)
}

// ended ends a transaction again if that has failed.
func (s *Store) ended(seq uint64, err error) {
	if !mayEndLater(err) || s.life.Err() != nil {
		return
	}
	s.opt.Log.Warn("cannot forget a finished transaction, will retry", "transaction", seq, "error", err)
	s.group.Go(func() {
		if pause(s.life, endAgainAfter) {
			s.EndTransaction(seq)
		}
	})
}

// mayEndLater reports whether an end was not taken, and not because the record is gone.
func mayEndLater(err error) bool {
	var refused *refusal
	gone := errors.As(err, &refused) && (refused.code == codeNoMessage || refused.code == codeNotDeleted)
	return err != nil && !gone
}

// each calls f for the stored messages of a subject, which are all of the
// stream, in order.
func (st *stream) each(ctx context.Context, subject string, f func(router.Entry) error) error {
	entries, err := st.all(ctx, subject)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if len(e.Envelope) == 0 {
			continue // a barrier
		}
		if err := f(e); err != nil {
			return fmt.Errorf("stream %s, sequence %d: %w", st.name, e.Seq, err)
		}
	}
	return nil
}

// all reads a whole stream. What the server cannot read it leaves out, so the
// number is compared; while others write it may differ for a moment. Damage here
// cannot be accepted: when the server is to replace a value that it cannot read,
// it never answers again (2.15.2, firstSeqForSubj).
func (st *stream) all(ctx context.Context, subject string) ([]router.Entry, error) {
	var entries []router.Entry
	var state jetstream.StreamState
	for began := time.Now(); ; {
		var err error
		if state, err = st.state(ctx); err != nil {
			return nil, err
		}
		if entries, err = st.read(ctx, subject); err != nil {
			return nil, err
		}
		if st.whole(entries, state) {
			return entries, nil
		}
		if time.Since(began) > wholePatience || !pause(ctx, readAgain) {
			break
		}
	}
	return nil, fmt.Errorf("%w: %d of %d entries of stream %s cannot be read; restore a backup, or move the directory %s away to start without any of them",
		router.ErrDamaged, max(state.Msgs, uint64(len(entries)))-uint64(len(entries)), state.Msgs, st.name, st.store.node.streamDir(st.name))
}

// wholePatience is how long a stream may look as if something were missing.
const wholePatience = 3 * time.Second

// whole reports whether all entries were read. Of several replicas one may lag that was asked for a part: it shows values that were
// replaced, which makes them too many, or not the last one, which is a barrier of this store or came later.
func (st *stream) whole(entries []router.Entry, state jetstream.StreamState) bool {
	if st.lane == nil {
		return uint64(len(entries)) >= state.Msgs
	}
	return uint64(len(entries)) == state.Msgs && len(entries) > 0 && entries[len(entries)-1].Seq >= st.lane.confirmed()
}

// readAllBatch is how many messages are asked for at a time where all are read. For each answer the server counts what is
// left, which takes as long as there are subjects.
const readAllBatch = 1 << 14

func (st *stream) read(ctx context.Context, subject string) ([]router.Entry, error) {
	var out []router.Entry
	for from := uint64(1); ; {
		entries, err := st.store.reader.read(ctx, st.name, directGet{Seq: from, Batch: readAllBatch, Subject: subject})
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", st.name, err)
		}
		if len(entries) == 0 {
			return out, nil
		}
		out = append(out, entries...)
		from = entries[len(entries)-1].Seq + 1
	}
}
