package router

import (
	"context"
	"sort"
	"sync"

	"github.com/mqgate/mqgate/router/outbox"
)

// MemoryStore is a Store that forgets everything when the process ends; for
// tests, and the model that the durable one is tested against.
type MemoryStore struct {
	mu       sync.Mutex
	logs     map[MailboxID]*memoryLog
	bindings map[string][]byte
	txs      map[uint64][]byte
	txSeq    uint64
	values   memoryValues
}

var _ Store = (*MemoryStore)(nil)

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{logs: map[MailboxID]*memoryLog{}, bindings: map[string][]byte{}, txs: map[uint64][]byte{}}
}

// Mailboxes lists the logs.
func (s *MemoryStore) Mailboxes(context.Context) ([]StoredMailbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []StoredMailbox
	for id, l := range s.logs {
		l.mu.Lock()
		out = append(out, StoredMailbox{ID: id, Record: l.record})
		l.mu.Unlock()
	}
	return out, nil
}

// OpenLog returns the log of a mailbox.
func (s *MemoryStore) OpenLog(_ context.Context, id MailboxID) (Log, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[id]
	if l == nil {
		l = newMemoryLog()
		l.removed = func() {
			s.mu.Lock()
			delete(s.logs, id)
			s.mu.Unlock()
		}
		s.logs[id] = l
	}
	return l, nil
}

// Bindings lists the bindings.
func (s *MemoryStore) Bindings(context.Context) ([][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][]byte
	for _, v := range s.bindings {
		out = append(out, v)
	}
	return out, nil
}

// PutBinding stores or removes a binding.
func (s *MemoryStore) PutBinding(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(value) == 0 {
		delete(s.bindings, key)
	} else {
		s.bindings[key] = value
	}
	return nil
}

// Transactions lists the unfinished transactions.
func (s *MemoryStore) Transactions(context.Context) ([]StoredTransaction, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []StoredTransaction
	for seq, b := range s.txs {
		out = append(out, StoredTransaction{Seq: seq, Body: b})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Seq < out[j].Seq })
	return out, nil
}

// BeginTransaction stores a transaction.
func (s *MemoryStore) BeginTransaction(body []byte, done Done) {
	s.mu.Lock()
	s.txSeq++
	seq := s.txSeq
	s.txs[seq] = body
	s.mu.Unlock()
	answer(done, Stored{Seq: seq}, nil)
}

// EndTransaction forgets one.
func (s *MemoryStore) EndTransaction(seq uint64) {
	s.mu.Lock()
	delete(s.txs, seq)
	s.mu.Unlock()
}

// answer calls done on another goroutine, as a real store does: the caller may
// hold locks that done takes. It ends with done.
func answer(done Done, s Stored, err error) {
	go func() {
		var w outbox.Batch
		done(s, err, &w)
		w.Flush()
	}()
}

// memoryLog is a Log in memory: temporary queues live on it.
type memoryLog struct {
	removed func()

	mu      sync.Mutex
	entries []Entry
	last    uint64
	record  []byte
	dedup   map[string]uint64
	ids     fifo[string] // of dedup, oldest first
	answers fifo[*memoryAnswer]
	running bool
}

type memoryAnswer struct {
	done Done
	s    Stored
}

var _ Log = (*memoryLog)(nil)

func newMemoryLog() *memoryLog { return &memoryLog{removed: func() {}} }

// Append stores an envelope.
func (l *memoryLog) Append(envelope []byte, dedupID string, done Done) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq, ok := l.dedup[dedupID]; ok {
		l.answer(done, Stored{Seq: seq, Duplicate: true})
		return
	}
	l.last++
	l.entries = append(l.entries, Entry{Seq: l.last, Envelope: envelope})
	if dedupID != "" {
		l.know(dedupID)
	}
	l.answer(done, Stored{Seq: l.last})
}

// memoryDedup is how many dedup ids a log remembers.
const memoryDedup = 4096

func (l *memoryLog) know(dedupID string) {
	if l.dedup == nil {
		l.dedup = map[string]uint64{}
	}
	if l.ids.len() == memoryDedup {
		delete(l.dedup, l.ids.pop())
	}
	l.ids.push(dedupID)
	l.dedup[dedupID] = l.last
}

// AppendAll stores all envelopes.
func (l *memoryLog) AppendAll(envelopes [][]byte, done Done) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range envelopes {
		l.last++
		l.entries = append(l.entries, Entry{Seq: l.last, Envelope: e})
	}
	l.answer(done, Stored{Seq: l.last})
}

// answer queues an answer; one goroutine, which ends when none is left, gives
// them in order.
func (l *memoryLog) answer(done Done, s Stored) {
	l.answers.push(&memoryAnswer{done, s})
	if !l.running {
		l.running = true
		go l.giveAnswers()
	}
}

func (l *memoryLog) giveAnswers() {
	var w outbox.Batch
	for {
		l.mu.Lock()
		if l.answers.n == 0 {
			l.running = false
			l.mu.Unlock()
			w.Flush()
			return
		}
		a := l.answers.pop()
		l.mu.Unlock()
		a.done(a.s, nil, &w)
	}
}

// Read returns entries from a sequence on.
func (l *memoryLog) Read(_ context.Context, from uint64, maxEntries, maxBytes int) ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].Seq >= from })
	var out []Entry
	for n := 0; i < len(l.entries) && len(out) < maxEntries && (n == 0 || n < maxBytes); i++ {
		out = append(out, l.entries[i])
		n += len(l.entries[i].Envelope)
	}
	return out, nil
}

// Bounds returns what is stored.
func (l *memoryLog) Bounds(_ context.Context, floor uint64) (Bounds, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := Bounds{First: l.last + 1, Last: l.last}
	for _, e := range l.entries {
		b.First = min(b.First, e.Seq)
		if e.Seq > floor {
			b.Count++
			b.Bytes += uint64(len(e.Envelope))
		}
	}
	return b, nil
}

// Trim forgets everything up to a sequence.
func (l *memoryLog) Trim(_ context.Context, upto uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].Seq > upto })
	l.entries = append([]Entry(nil), l.entries[i:]...)
	return nil
}

// SaveRecord replaces the record.
func (l *memoryLog) SaveRecord(rec []byte, done Done) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record = rec
	l.answer(done, Stored{})
}

// Remove forgets the log.
func (l *memoryLog) Remove(context.Context) error {
	l.removed()
	return nil
}
