package router

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// book drives a ledger as a Mailbox does, beside the simplest account of the
// same facts: which sequences are stored, settled, and were ever handed out.
type book struct {
	t      *rapid.T
	ledger *ledger
	shared bool // an inbox: other mailboxes use sequences of the same log

	entries    []Entry // what the store holds
	top        uint64  // highest sequence used in the store
	settled    map[uint64]bool
	counts     map[uint64]int // deliveries that a clean restart keeps
	delivered  map[uint64]bool
	before     map[uint64]bool // delivered, as it was before the delivery that holds it now
	mayMark    uint64          // up to here a mark without a delivery is allowed: a crash happened
	subs       []*Subscription
	now        int64
	handed     uint64
	floor      uint64
	saved      record
	savedState map[uint64]bool
}

const bookAhead = 4 // stands for reserveAhead

func newBook(t *rapid.T) *book {
	b := &book{t: t, shared: rapid.Bool().Draw(t, "shared"), settled: map[uint64]bool{}, counts: map[uint64]int{}, delivered: map[uint64]bool{}, before: map[uint64]bool{}, now: 1000}
	b.restart(record{Upto: 1})
	b.save()
	return b
}

// restart opens the ledger from a record, as Mailbox.restore does.
func (b *book) restart(r record) {
	var err error
	if r, err = decodeRecord(r.encode(nil)); err != nil {
		b.t.Fatal(err)
	}
	last := b.top
	if !b.shared && len(b.entries) > 0 {
		last = b.entries[len(b.entries)-1].Seq
	}
	stored := 0
	for _, e := range b.entries {
		if e.Seq > r.Floor {
			stored++
		}
	}
	b.ledger = &ledger{}
	b.ledger.restore(r, stored, last)
	b.handed = 0
	b.floor = 0
	b.subs = []*Subscription{{}, {}}
}

func (b *book) save() {
	r := b.ledger.snapshot()
	next := r.Floor
	if d := b.ledger.peek(); d != nil {
		next = max(next, d.Seq)
	}
	r.Reserved = max(b.handed, next) + bookAhead
	got, err := decodeRecord(r.encode(nil))
	if err != nil {
		b.t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(r) {
		b.t.Fatalf("record %+v came back as %+v", r, got)
	}
	b.saved, b.savedState = r, maps.Clone(b.settled)
}

func (b *book) unsettled() []uint64 {
	var out []uint64
	for _, e := range b.entries {
		if !b.settled[e.Seq] {
			out = append(out, e.Seq)
		}
	}
	return out
}

func (b *book) inState(states ...state) []*Delivery {
	var out []*Delivery
	for d := b.ledger.head; d != nil; d = d.next {
		if slices.Contains(states, d.state) {
			out = append(out, d)
		}
	}
	return out
}

func (b *book) pick(from []*Delivery) *Delivery {
	if len(from) == 0 {
		b.t.Skip("nothing in that state")
	}
	return rapid.SampledFrom(from).Draw(b.t, "delivery")
}

func (b *book) settle(d *Delivery) {
	b.ledger.settle(d)
	b.settled[d.Seq] = true
}

// actions are what rapid draws from.
func (b *book) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":       func(*rapid.T) { b.check() },
		"append": func(t *rapid.T) { b.append(rapid.Bool().Draw(t, "room")) },
		"load":   func(t *rapid.T) { b.load(rapid.IntRange(1, 4).Draw(t, "n")) },
		"give":   func(*rapid.T) { b.give() },
		"ack":    func(*rapid.T) { b.settle(b.pick(b.inState(stateHeld))) },
		"nack": func(t *rapid.T) {
			due := rapid.SampledFrom([]int64{0, b.now + 3}).Draw(t, "due")
			b.ledger.giveBack(b.pick(b.inState(stateHeld)), due)
		},
		"undeliver": func(*rapid.T) {
			d := b.pick(b.inState(stateHeld))
			b.ledger.undeliver(d)
			b.counts[d.Seq]--
			b.delivered[d.Seq] = b.before[d.Seq]
		},
		"mature": func(*rapid.T) { b.now++; b.ledger.mature(b.now) },
		"detach": func(t *rapid.T) {
			s := rapid.SampledFrom(b.subs).Draw(t, "sub")
			for s.held.head != nil {
				b.ledger.giveBack(s.held.head, 0)
			}
		},
		"expire loaded": func(*rapid.T) {
			d := b.pick(b.inState(stateReady, stateDelayed))
			b.ledger.withdraw(d)
			b.settle(d)
		},
		"expire unloaded": func(t *rapid.T) { b.settleAhead(rapid.Uint64Range(1, b.top+1).Draw(t, "seq")) },
		"move": func(*rapid.T) {
			d := b.pick(b.inState(stateReady))
			b.ledger.withdraw(d)
			d.state = stateMoving
		},
		"moved":  func(*rapid.T) { b.settle(b.pick(b.inState(stateMoving))) },
		"purge":  func(*rapid.T) { b.purge() },
		"unload": func(t *rapid.T) { b.ledger.unload(rapid.IntRange(0, 3).Draw(t, "n")) },
		"save":   func(*rapid.T) { b.save() },
		"trim": func(*rapid.T) {
			b.entries = slices.DeleteFunc(b.entries, func(e Entry) bool { return e.Seq <= b.saved.Floor })
		},
		"crash": func(*rapid.T) { b.crash() },
		"clean": func(*rapid.T) { b.cleanStop() },
	}
}

func (b *book) append(room bool) {
	b.top++
	if b.shared {
		b.top += rapid.Uint64Range(0, 9).Draw(b.t, "others")
	}
	m := &Message{Body: fmt.Append(nil, b.top)}
	b.entries = append(b.entries, Entry{Seq: b.top, Envelope: m.Body})
	if !b.ledger.stored(b.top, m, room) {
		b.t.Fatalf("%d was known", b.top)
	}
}

func (b *book) load(n int) {
	if b.ledger.live() {
		b.t.Skip("all is loaded")
	}
	from, some := b.ledger.wanted(), false
	for _, e := range b.entries {
		if e.Seq >= from && n > 0 {
			b.ledger.load(e.Seq, &Message{Body: e.Envelope})
			n, some = n-1, true
		}
	}
	if !some || b.ledger.live() {
		if lost := b.ledger.loadedAll(); lost != 0 {
			b.t.Fatalf("%d more were counted than are there", lost)
		}
	}
}

// give hands out the next message, which must be the lowest that is ready.
func (b *book) give() {
	d := b.ledger.peek()
	want := uint64(0)
	if ready := b.inState(stateReady); len(ready) > 0 {
		want = ready[0].Seq
	}
	if d == nil {
		if want != 0 {
			b.t.Fatalf("nothing to give, but %d is ready", want)
		}
		b.t.Skip("nothing is ready")
	}
	if d.Seq != want {
		b.t.Fatalf("gives %d, but %d is ready", d.Seq, want)
	}
	if string(d.Message.Body) != fmt.Sprint(d.Seq) {
		b.t.Fatalf("%d has the body %s", d.Seq, d.Message.Body)
	}
	if d.Seq > b.saved.Reserved {
		b.save()
	}
	if d.Seq > b.saved.Reserved {
		b.t.Fatalf("a save does not allow to deliver %d: %+v", d.Seq, b.saved)
	}
	if b.settled[d.Seq] {
		b.t.Fatalf("%d was settled", d.Seq)
	}
	if b.delivered[d.Seq] && !d.marked {
		b.t.Fatalf("%d comes again without a mark", d.Seq)
	}
	if !b.delivered[d.Seq] && d.marked && d.Seq > b.mayMark {
		b.t.Fatalf("%d is marked, but was never delivered", d.Seq)
	}
	if b.ledger.take() != d {
		b.t.Fatal("take gives another than peek")
	}
	b.ledger.hold(d, rapid.SampledFrom(b.subs).Draw(b.t, "sub"))
	b.counts[d.Seq]++
	if d.Count != b.counts[d.Seq] {
		b.t.Fatalf("%d has the count %d, want %d", d.Seq, d.Count, b.counts[d.Seq])
	}
	b.before[d.Seq], b.delivered[d.Seq] = b.delivered[d.Seq], true
	b.handed = max(b.handed, d.Seq)
}

func (b *book) settleAhead(seq uint64) {
	stored := slices.ContainsFunc(b.entries, func(e Entry) bool { return e.Seq == seq })
	if !stored {
		b.t.Skip("not stored") // the mailbox has read it before
	}
	want := seq >= b.ledger.next && !b.settled[seq]
	if got := b.ledger.settleAhead(seq); got != want {
		b.t.Fatalf("settling %d, which is not loaded: %v, want %v", seq, got, want)
	}
	if want {
		b.settled[seq] = true
	}
}

func (b *book) purge() {
	before := len(b.unsettled())
	n := b.ledger.purge()
	kept := map[uint64]bool{}
	for _, d := range b.inState(stateHeld, stateMoving) {
		kept[d.Seq] = true
	}
	for _, e := range b.entries {
		if !kept[e.Seq] {
			b.settled[e.Seq] = true
		}
	}
	if after := len(b.unsettled()); n != before-after {
		b.t.Fatalf("purged %d, want %d", n, before-after)
	}
}

func (b *book) crash() {
	b.restart(b.saved)
	b.settled = b.savedState
	// Counts of the record may be behind; marks may not.
	b.counts = map[uint64]int{}
	for seq, n := range b.ledger.recovered {
		b.counts[seq] = n
	}
	b.mayMark = max(b.mayMark, b.saved.Reserved)
	b.save() // as an open mailbox does before it delivers
}

func (b *book) cleanStop() {
	r := b.ledger.snapshot()
	r.Reserved, r.Clean = b.handed, true
	b.restart(r)
	for _, seq := range b.unsettled() {
		if b.counts[seq] != b.ledger.recovered[seq] && b.ledger.next <= seq {
			b.t.Fatalf("%d was delivered %d times, the record says %d", seq, b.counts[seq], b.ledger.recovered[seq])
		}
	}
	b.save()
}

// check compares the ledger's account with the book's.
func (b *book) check() {
	l := b.ledger
	unsettled := b.unsettled()
	if l.count != len(unsettled) {
		b.t.Fatalf("counts %d unsettled, want %d: %v", l.count, len(unsettled), unsettled)
	}
	var loaded, below []uint64
	bytes, held := 0, 0
	for d := l.head; d != nil; d = d.next {
		loaded = append(loaded, d.Seq)
		bytes += d.Message.Size()
		if d.state == stateHeld {
			held++
		}
	}
	for _, seq := range unsettled {
		if seq < l.next {
			below = append(below, seq)
		}
	}
	if !slices.Equal(loaded, below) {
		b.t.Fatalf("has %v loaded, but below %d these are unsettled: %v", loaded, l.next, below)
	}
	if l.loaded != len(loaded) || l.bytes != bytes || l.held != held {
		b.t.Fatalf("loaded %d, bytes %d, held %d; want %d, %d, %d", l.loaded, l.bytes, l.held, len(loaded), bytes, held)
	}
	if ready := len(b.inState(stateReady)); l.ready() != ready || len(l.delayed) != len(b.inState(stateDelayed)) {
		b.t.Fatalf("%d ready and %d delayed, want %d and %d", l.ready(), len(l.delayed), ready, len(b.inState(stateDelayed)))
	}
	if n := b.subs[0].held.n + b.subs[1].held.n; n != held {
		b.t.Fatalf("the holders' lists have %d, want %d", n, held)
	}
	f := l.floor()
	if len(unsettled) > 0 && f >= unsettled[0] {
		b.t.Fatalf("the floor is %d, but %d is unsettled", f, unsettled[0])
	}
	if f < b.floor {
		b.t.Fatalf("the floor fell from %d to %d", b.floor, f)
	}
	b.floor = f
}

// drain delivers and settles all that is left: nothing may be lost.
func (b *book) drain() {
	for _, d := range b.inState(stateHeld) {
		b.ledger.giveBack(d, 0)
	}
	for _, d := range b.inState(stateMoving) {
		b.settle(d)
	}
	b.now += 1000
	b.ledger.mature(b.now)
	for len(b.unsettled()) > 0 {
		if b.ledger.peek() == nil {
			if b.ledger.live() {
				b.t.Fatalf("lost: %v", b.unsettled())
			}
			b.load(3)
			continue
		}
		b.give()
		b.settle(b.inState(stateHeld)[0])
	}
	b.check()
}

func TestLedgerAgainstTheNaiveBook(t *testing.T) {
	for range 20 { // the rare orders matter
		rapid.Check(t, func(t *rapid.T) {
			b := newBook(t)
			t.Repeat(b.actions())
			b.drain()
		})
	}
}

func TestUnansweredAppendIsFoundByReading(t *testing.T) {
	for _, gaps := range []uint64{1, 7} {
		l := &ledger{}
		l.restore(record{Upto: 1}, 0, 0)
		l.stored(gaps, &Message{}, true)
		l.unsure = true // 2*gaps was stored, but nobody said so
		l.stored(3*gaps, &Message{}, true)
		if l.live() || l.wanted() > 2*gaps {
			t.Fatalf("would read from %d, live %v", l.wanted(), l.live())
		}
		l.load(2*gaps, &Message{})
		l.load(3*gaps, &Message{})
		l.loadedAll()
		if l.count != 3 || l.ready() != 3 {
			t.Errorf("count %d, ready %d", l.count, l.ready())
		}
	}
}

func TestDamagedRecordsAreErrors(t *testing.T) {
	r := record{Floor: 7, Upto: 20, Open: []uint64{9, 12}, Gaps: []int{1, 2}, Gone: 3, Skip: []uint64{30, 31},
		Counts: map[uint64]int{9: 2}, Reserved: 99, Suspect: 3, Last: 44, Bytes: 1234, Expiring: true, Clean: true}
	whole := r.encode(nil)
	got, err := decodeRecord(whole)
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range whole {
		if _, err := decodeRecord(whole[:n]); err == nil {
			t.Errorf("a record of %d of %d bytes is accepted", n, len(whole))
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := record{Floor: 7, Upto: 20, Open: []uint64{9, 12}, Gaps: []int{1, 2}, Skip: []uint64{30}, Counts: map[uint64]int{9: 2}}
	f.Add(r.encode(nil))
	f.Add([]byte{recordVersion, 0})
	f.Add([]byte{recordVersion, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode(nil))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
