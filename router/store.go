package router

import (
	"context"

	"github.com/mqgate/mqgate/router/outbox"
)

// Store is the durable side of a router. Package router/jetstream implements it;
// MemoryStore does for tests.
type Store interface {
	// Mailboxes lists the logs that exist, with their last saved records.
	Mailboxes(ctx context.Context) ([]StoredMailbox, error)
	// OpenLog returns the log of a mailbox, and creates it if it does not exist.
	OpenLog(ctx context.Context, id MailboxID) (Log, error)
	// Bindings lists the stored bindings.
	Bindings(ctx context.Context) ([][]byte, error)
	// PutBinding stores a binding under a key; an empty value removes it.
	PutBinding(ctx context.Context, key string, value []byte) error
	// Transactions lists the transactions that were begun and not finished.
	Transactions(ctx context.Context) ([]StoredTransaction, error)
	// BeginTransaction stores a transaction before any of it is applied.
	BeginTransaction(body []byte, done Done)
	// EndTransaction forgets a transaction that has been applied.
	EndTransaction(seq uint64)
}

// MailboxID is the identity of a mailbox in a store.
type MailboxID struct {
	Kind  MailboxKind
	Vhost string
	Name  string // the queue's name, or what identifies the durable subscriber
}

// MailboxKind tells queues from inboxes.
type MailboxKind uint8

const (
	// KindQueueBox is a queue: competing consumers.
	KindQueueBox MailboxKind = iota + 1
	// KindInbox is the mailbox of one durable subscriber.
	KindInbox
	// KindHistory is what a topic keeps for later followers: nothing is settled.
	KindHistory
)

// StoredMailbox is a log that exists, as a start finds it.
type StoredMailbox struct {
	ID     MailboxID
	Record []byte // nil if none was saved
	// Empty, if not nil, is what Bounds would say of a log that holds nothing, and that only this router appends to.
	Empty *Bounds
}

// StoredTransaction is one that was begun and not finished.
type StoredTransaction struct {
	Seq  uint64
	Body []byte
}

// Stored is the store's answer to an append.
type Stored struct {
	Seq       uint64
	Duplicate bool // the dedup id was known: Seq is that of the first copy
}

// Done hears once how an append ended. It is called on a goroutine of the
// store and must not block. Wakes of connections may be added to w, which the
// store flushes when its batch ends.
type Done func(s Stored, err error, w *outbox.Batch)

// Entry is one stored message.
type Entry struct {
	Seq      uint64
	Envelope []byte
}

// Bounds is what a log holds.
type Bounds struct {
	First uint64 // lowest stored sequence
	Last  uint64 // highest sequence ever used, 0 if none; below First: nothing is stored
	Count int    // messages above the floor
	Holes int    // messages in between that the store lost, where it can tell
	Bytes uint64 // what those above the floor take, about, where the store can tell; else 0
}

// Hearer is a Log in which another may have stored something after it was opened: the leader of a cluster before this one,
// whose last appends arrived late.
type Hearer interface {
	// Hear has f called for that, in the order of the sequences and before the answer to any append behind it.
	Hear(f func(e Entry, w *outbox.Batch))
}

// TransactionHearer is a Store in which a transaction may be found after it was opened: an earlier leader had it under way, or it was
// given up, and is there after all.
type TransactionHearer interface {
	// HearTransactions has f called for that. It must not block.
	HearTransactions(f func(t StoredTransaction))
}

// Log is the durable sequence of one mailbox.
type Log interface {
	// Append stores an envelope; dedupID may be empty. Appends are stored, and done
	// is called, in the order of the calls. It never blocks; the store bounds what
	// is under way and answers class Unavailable beyond that.
	Append(envelope []byte, dedupID string, done Done)
	// AppendAll stores all envelopes or none; done gets the sequence of the last.
	AppendAll(envelopes [][]byte, done Done)
	// Read returns entries from a sequence on, ascending, at most maxEntries and
	// about maxBytes, at least one if there is one. Nothing means that nothing is
	// stored from there on: what is stored and cannot be read is an error, unless
	// what follows it can be read. A queue's sequences have no gaps, so its mailbox
	// sees what was left out.
	Read(ctx context.Context, from uint64, maxEntries, maxBytes int) ([]Entry, error)
	// Bounds returns what the log holds above a sequence up to which all is settled.
	Bounds(ctx context.Context, floor uint64) (Bounds, error)
	// Trim forgets everything up to a sequence.
	Trim(ctx context.Context, upto uint64) error
	// SaveRecord replaces the mailbox's record.
	SaveRecord(rec []byte, done Done)
	// Remove deletes the log and its record.
	Remove(ctx context.Context) error
}
