package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// record is the persisted form of a ledger: what a restart needs to know beyond
// the messages themselves.
type record struct {
	Floor    uint64         // all up to here is settled
	Upto     uint64         // between Floor and Upto exactly Open is unsettled
	Open     []uint64       // ascending
	Gaps     []int          // for each of Open: the settled but stored ones between the one before (or Floor) and it
	Gone     int            // the settled but stored ones between the last of Open (or Floor) and Upto
	Skip     []uint64       // settled besides, ascending
	Counts   map[uint64]int // deliveries of unsettled messages
	Reserved uint64         // nothing above was delivered
	Suspect  uint64         // up to here a message may have been delivered before an earlier crash
	Last     uint64         // highest sequence known to be stored
	Bytes    uint64         // of all unsettled messages, about
	Expiring bool           // some message had an expiry
	Clean    bool           // written by an orderly stop: Reserved is exact
}

// snapshot returns the ledger's record; the caller adds Reserved, Bytes,
// Expiring and Clean.
func (l *ledger) snapshot() record {
	r := record{Floor: l.floor(), Last: l.last, Suspect: l.suspect, Counts: map[uint64]int{}}
	recovering := l.next < l.keepTo // not all that the last record named is loaded yet
	r.Upto = max(min(l.top+1, l.next), r.Floor+1)
	end := l.passed // how many are stored below Upto
	if recovering {
		r.Upto, end = l.keepTo, l.keepEnd
	}
	before := l.passed // how many are stored below the place that the loops have come to
	if l.head != nil {
		before = l.head.nth
	}
	open := func(seq uint64, nth int) {
		r.Open, r.Gaps = append(r.Open, seq), append(r.Gaps, nth-before)
		before = nth + 1
	}
	for d := l.head; d != nil; d = d.next {
		switch {
		case d.Seq < r.Upto:
			open(d.Seq, d.nth)
		case end > d.nth:
			end = d.nth
		}
		if d.Count > 0 {
			r.Counts[d.Seq] = d.Count
		}
	}
	if recovering {
		for _, k := range l.keep {
			if k.seq >= l.next {
				open(k.seq, k.nth)
			}
		}
	}
	r.Gone = end - before
	maps.Copy(r.Counts, l.recovered)
	r.Skip = slices.Sorted(maps.Keys(l.skip))
	return r
}

// settledStored returns how many of the messages that are stored above the floor
// the record says are settled.
func (r *record) settledStored() int {
	n := r.Gone + len(r.Skip)
	for _, g := range r.Gaps {
		n += g
	}
	return n
}

// restore sets an empty ledger to a record. Stored is how many messages the store
// holds above the record's floor, storeLast its highest sequence.
func (l *ledger) restore(r record, stored int, storeLast uint64) {
	l.last = max(storeLast, r.Floor)
	l.top = r.Upto - 1
	l.suspect = min(r.Suspect, l.last)
	if !r.Clean { // else the counts are exact
		l.suspect = min(max(r.Suspect, r.Reserved), l.last)
	}
	if stored == 0 || len(r.Open) == 0 && r.Upto > l.last {
		l.next = l.last + 1 // nothing to load: what comes is loaded as it comes
		return
	}
	l.next = r.Floor + 1
	l.count = max(stored-r.settledStored(), 0)
	l.recovered = r.Counts
	l.keepTo = r.Upto
	for i, seq := range r.Open {
		l.keepEnd += r.Gaps[i]
		l.keep = append(l.keep, kept{seq, l.keepEnd})
		l.keepEnd++
	}
	l.keepEnd += r.Gone
	for _, seq := range r.Skip {
		if seq >= l.next && seq <= l.last {
			if l.skip == nil {
				l.skip = map[uint64]struct{}{}
			}
			l.skip[seq] = struct{}{}
		}
	}
}

const recordVersion = 1

var errRecord = errors.New("mailbox record is damaged")

// encode appends the record's stored form.
func (r *record) encode(dst []byte) []byte {
	var flags byte
	if r.Expiring {
		flags |= 1
	}
	if r.Clean {
		flags |= 2
	}
	dst = append(dst, recordVersion, flags)
	for _, v := range [...]uint64{r.Floor, r.Upto, r.Reserved, r.Suspect, r.Last, r.Bytes} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = appendSeqs(dst, r.Floor, r.Open)
	for _, g := range r.Gaps {
		dst = binary.AppendUvarint(dst, uint64(g))
	}
	dst = binary.AppendUvarint(dst, uint64(r.Gone))
	dst = appendSeqs(dst, r.Floor, r.Skip)
	dst = binary.AppendUvarint(dst, uint64(len(r.Counts)))
	for seq, n := range r.Counts {
		dst = binary.AppendUvarint(dst, seq)
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

// appendSeqs writes ascending sequences as differences.
func appendSeqs(dst []byte, base uint64, seqs []uint64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(seqs)))
	for _, s := range seqs {
		dst = binary.AppendUvarint(dst, s-base)
		base = s
	}
	return dst
}

// decodeRecord reads the stored form.
func decodeRecord(b []byte) (record, error) {
	if len(b) < 2 || b[0] != recordVersion {
		return record{}, fmt.Errorf("%w: %d bytes, not version %d", errRecord, len(b), recordVersion)
	}
	r := record{Expiring: b[1]&1 != 0, Clean: b[1]&2 != 0}
	e := envelopeReader{b: b[2:]}
	for _, p := range [...]*uint64{&r.Floor, &r.Upto, &r.Reserved, &r.Suspect, &r.Last, &r.Bytes} {
		*p = e.uvarint()
	}
	r.Open = e.seqs(r.Floor)
	for range r.Open {
		r.Gaps = append(r.Gaps, e.count())
	}
	r.Gone = e.count()
	r.Skip = e.seqs(r.Floor)
	n := e.length()
	r.Counts = make(map[uint64]int, n)
	for range n {
		seq := e.uvarint()
		r.Counts[seq] = int(e.uvarint())
	}
	if e.bad {
		return record{}, fmt.Errorf("%w: it ends early", errRecord)
	}
	return r, nil
}

// seqs reads what appendSeqs wrote.
func (r *envelopeReader) seqs(base uint64) []uint64 {
	var out []uint64
	for range r.length() {
		base += r.uvarint()
		out = append(out, base)
	}
	return out
}

// count reads a number of messages.
func (r *envelopeReader) count() int { return int(r.uvarint() & (1<<48 - 1)) }

// length reads a number of items, each of which takes at least a byte.
func (r *envelopeReader) length() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}
