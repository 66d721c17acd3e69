package router

import (
	"cmp"
	"container/heap"
	"slices"
)

// ledger is the account of one mailbox: which of its stored messages are
// settled, held by a consumer, delayed, ready, or not yet loaded. It is pure
// state, without locks, time or storage; Mailbox drives it.
//
// Sequences at or below the floor are settled. Those from next on are not loaded
// (but for the ones in skip, they are all unsettled). Between the two, exactly
// the entries of the list are unsettled.
type ledger struct {
	head, tail *Delivery // unsettled and loaded, by sequence
	loaded     int
	bytes      int // of the loaded messages
	next       uint64
	last       uint64              // highest sequence known to be stored
	count      int                 // all unsettled: loaded or not
	skip       map[uint64]struct{} // settled out of order at or above next

	fresh    fifo[*Delivery] // ready, never delivered since it was loaded
	returned deliveryHeap    // ready again, lowest sequence first
	delayed  delayHeap
	held     int
	returns  uint64 // how often an entry became ready again

	top       uint64         // highest settled sequence
	recovered map[uint64]int // delivery counts read from the last record, by sequence
	suspect   uint64         // up to here a message may have been delivered before a crash
	keep      []kept         // after recovery: the unsettled ones below keepTo, ascending
	keepTo    uint64
	keepEnd   int  // how many are stored below keepTo
	passed    int  // how many are stored below next, counted from the last recovery's floor
	unsure    bool // an append had no answer: what it stored, if anything, must be read
}

// kept is an unsettled message of the last record that is not loaded yet.
type kept struct {
	seq uint64
	nth int // how many are stored between the record's floor and it
}

type state uint8

const (
	stateReady state = iota
	stateHeld
	stateDelayed
	stateMoving // on its way into another mailbox
	stateSettled
)

// Delivery is one message of a mailbox in a consumer's hands. A front-end keeps
// it until the client settles it.
type Delivery struct {
	Message *Message
	Seq     uint64
	Count   int // deliveries so far, this one included

	box    *Mailbox
	sub    *Subscription       // who holds it
	remote *remoteSubscription // on an edge: the leader has the rest
	over   uint32              // whether it was told how this ended
	link   uint64              // by which it came
	state  state
	marked bool // delivered before, or it may have been
	ahead  bool // disposed of without having been loaded
	nth    int  // how many are stored before it, counted as ledger.passed
	due    int64
	cause  string // why it was given back last

	prev, next         *Delivery // unsettled, by sequence
	heldPrev, heldNext *Delivery // of one holder, in order of delivery
}

// Redelivered reports whether the message was, or may have been, delivered before.
func (d *Delivery) Redelivered() bool { return d.marked }

// floor returns the sequence up to which everything is settled.
func (l *ledger) floor() uint64 {
	if l.next == 0 {
		return 0
	}
	if l.head != nil {
		return l.head.Seq - 1
	}
	return l.next - 1
}

// ready returns how many loaded entries could be delivered now.
func (l *ledger) ready() int { return l.fresh.len() + len(l.returned) }

// live reports whether everything stored is loaded.
func (l *ledger) live() bool { return l.next > l.last }

// stored notes that seq is in the store. It returns false if seq was known. If
// the ledger is live and has room, m is loaded at once.
func (l *ledger) stored(seq uint64, m *Message, room bool) bool {
	if seq <= l.last {
		return false
	}
	live := l.live()
	l.last = seq
	l.count++
	if live && room && !l.unsure {
		l.load(seq, m)
	}
	return true
}

// unknown reports whether seq has not been heard of yet.
func (l *ledger) unknown(seq uint64) bool { return seq > l.last }

// load takes the message that follows in the store. Sequences in between do not
// exist. It reports false if seq is settled already.
func (l *ledger) load(seq uint64, m *Message) bool {
	if seq < l.next {
		return false
	}
	l.next = seq + 1
	unsettled := l.pass(seq)
	n, counted := l.recovered[seq]
	delete(l.recovered, seq)
	if _, ok := l.skip[seq]; ok {
		delete(l.skip, seq)
		unsettled = false
	}
	if !unsettled {
		l.top = max(l.top, seq)
		return false
	}
	d := &Delivery{Message: m, Seq: seq, marked: seq <= l.suspect || counted, Count: n, nth: l.passed - 1}
	if l.tail == nil {
		l.head = d
	} else {
		l.tail.next, d.prev = d, l.tail
	}
	l.tail = d
	l.loaded++
	l.bytes += m.Size()
	l.fresh.push(d)
	return true
}

// pass counts seq and reports whether the last record leaves it unsettled. What
// lies between two of the record's unsettled ones may not have been read: the
// record tells how many those are.
func (l *ledger) pass(seq uint64) bool {
	l.passed++
	if l.keepTo == 0 {
		return true
	}
	if seq >= l.keepTo {
		l.passed = l.keepEnd + 1
		l.keep, l.keepTo = nil, 0
		return true
	}
	k := l.kept(seq)
	if k != nil {
		l.passed = k.nth + 1
	}
	return k != nil
}

// kept drops the smaller ones and returns the entry of seq if the record named
// it as unsettled.
func (l *ledger) kept(seq uint64) *kept {
	for len(l.keep) > 0 && l.keep[0].seq < seq {
		l.keep = l.keep[1:]
	}
	if len(l.keep) > 0 && l.keep[0].seq == seq {
		return &l.keep[0]
	}
	return nil
}

// gone reports whether the last record says that seq, which is not loaded, is
// settled.
func (l *ledger) gone(seq uint64) bool {
	if seq >= l.keepTo {
		return false
	}
	_, found := slices.BinarySearchFunc(l.keep, seq, func(k kept, s uint64) int { return cmp.Compare(k.seq, s) })
	return !found
}

// wanted returns the sequence from which to load.
func (l *ledger) wanted() uint64 {
	if l.next < l.keepTo {
		l.kept(l.next)
		if len(l.keep) > 0 {
			return l.keep[0].seq
		}
		return l.keepTo
	}
	return l.next
}

// loadedAll notes that nothing is stored from next to last that is not loaded.
// It returns how many more were counted than there are.
func (l *ledger) loadedAll() int {
	lost := l.count - l.loaded
	if l.keepTo != 0 {
		l.passed = l.keepEnd
	}
	l.next = max(l.next, l.last+1)
	l.count = l.loaded
	l.keep, l.keepTo, l.skip, l.recovered = nil, 0, nil, nil
	return lost
}

// take removes the next ready entry, lowest sequence first [MQTT-4.6.0-5].
func (l *ledger) take() *Delivery {
	d := l.peek()
	if d == nil {
		return nil
	}
	if len(l.returned) > 0 && l.returned[0] == d {
		heap.Pop(&l.returned)
	} else {
		l.fresh.pop()
	}
	return d
}

// peek returns what take would.
func (l *ledger) peek() *Delivery {
	switch {
	case l.fresh.n == 0 && len(l.returned) == 0:
		return nil
	case l.fresh.n == 0 || len(l.returned) > 0 && l.returned[0].Seq < l.fresh.first().Seq:
		return l.returned[0]
	}
	return l.fresh.first()
}

// hold gives a taken entry to a consumer.
func (l *ledger) hold(d *Delivery, s *Subscription) {
	d.state, d.sub = stateHeld, s
	d.Count++
	l.held++
	s.held.push(d)
}

// release takes an entry from its holder.
func (l *ledger) release(d *Delivery) {
	d.sub.held.remove(d)
	d.sub = nil
	l.held--
}

// giveBack makes a held entry ready again, marked; at due (Unix ms) if not 0.
func (l *ledger) giveBack(d *Delivery, due int64) {
	l.release(d)
	d = l.renew(d)
	d.marked = true
	if due != 0 {
		d.state, d.due = stateDelayed, due
		heap.Push(&l.delayed, d)
		return
	}
	d.state = stateReady
	l.comeBack(d)
}

// undeliver puts back an entry that was taken, and held if it has a holder, but
// never reached a client: it counts as not delivered.
func (l *ledger) undeliver(d *Delivery) {
	if d.sub != nil {
		l.release(d)
		d = l.renew(d)
		d.Count--
	}
	d.state = stateReady
	l.comeBack(d)
}

// renew puts a copy in the place of an entry that somebody held: with what that
// one still has in hands it must not settle the message for the next holder.
func (l *ledger) renew(d *Delivery) *Delivery {
	c := *d
	if c.prev != nil {
		c.prev.next = &c
	} else {
		l.head = &c
	}
	if c.next != nil {
		c.next.prev = &c
	} else {
		l.tail = &c
	}
	d.prev, d.next, d.state = nil, nil, stateSettled
	return &c
}

// comeBack makes an entry ready again.
func (l *ledger) comeBack(d *Delivery) {
	l.returns++
	heap.Push(&l.returned, d)
}

// mature moves the delayed entries that are due to ready and returns when the
// next one is, 0 if none.
func (l *ledger) mature(nowMs int64) int64 {
	for len(l.delayed) > 0 {
		d := l.delayed[0]
		if d.due > nowMs {
			return d.due
		}
		heap.Pop(&l.delayed)
		d.state, d.due = stateReady, 0
		l.comeBack(d)
	}
	return 0
}

// withdraw takes an entry that is ready or delayed out of the heaps and rings,
// for one that is not the next: it walks them.
func (l *ledger) withdraw(d *Delivery) {
	for i, x := range l.returned {
		if x == d {
			heap.Remove(&l.returned, i)
			return
		}
	}
	for i, x := range l.delayed {
		if x == d {
			heap.Remove(&l.delayed, i)
			return
		}
	}
	l.fresh.remove(d)
}

// settle removes an entry for good; one that is ready or delayed must have been
// taken or withdrawn before.
func (l *ledger) settle(d *Delivery) {
	if d.sub != nil {
		l.release(d)
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		l.head = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		l.tail = d.prev
	}
	d.prev, d.next = nil, nil
	d.state = stateSettled
	l.loaded--
	l.bytes -= d.Message.Size()
	l.count--
	l.top = max(l.top, d.Seq)
}

// settleAhead settles a stored message that is not loaded.
func (l *ledger) settleAhead(seq uint64) bool {
	if !l.unsettledAhead(seq) {
		return false
	}
	if l.skip == nil {
		l.skip = map[uint64]struct{}{}
	}
	l.skip[seq] = struct{}{}
	l.count--
	// Messages expire about in order: where no consumer loads them, the floor
	// follows all the same.
	for l.next <= l.last {
		if _, ok := l.skip[l.next]; !ok {
			break
		}
		l.load(l.next, nil)
	}
	return true
}

// unsettledAhead reports whether seq, which is not loaded, is unsettled.
func (l *ledger) unsettledAhead(seq uint64) bool {
	_, skipped := l.skip[seq]
	return seq >= l.next && seq <= l.last && !skipped && !l.gone(seq)
}

// find returns the loaded entry of a sequence. It walks the list.
func (l *ledger) find(seq uint64) *Delivery {
	for d := l.head; d != nil && d.Seq <= seq; d = d.next {
		if d.Seq == seq {
			return d
		}
	}
	return nil
}

// purge settles all that no consumer holds, loaded or not, and returns how many.
func (l *ledger) purge() int {
	before := l.count
	l.passed += l.unread()
	l.fresh.reset()
	l.returned, l.delayed = nil, nil
	for d := l.head; d != nil; {
		next := d.next
		if d.state != stateHeld && d.state != stateMoving {
			l.settle(d)
		}
		d = next
	}
	l.next = max(l.next, l.last+1)
	l.top = max(l.top, l.last)
	l.skip, l.keep, l.keepTo, l.recovered = nil, nil, 0, nil
	l.count = l.loaded
	return before - l.count
}

// unread returns how many stored messages, settled ones included, are not loaded
// and lie above those that are.
func (l *ledger) unread() int {
	n := l.count - l.loaded + len(l.skip)
	if l.next < l.keepTo {
		l.kept(l.next)
		n += l.keepEnd - l.passed - len(l.keep)
	}
	return n
}

// unload drops the ready end of the list so that at most n entries are loaded:
// they are read again when a consumer wants them. What is settled above an entry
// keeps it loaded, since next may not pass below that.
func (l *ledger) unload(n int) {
	for l.loaded > n {
		d := l.tail
		if d.state != stateReady || d.marked || l.fresh.n == 0 || d != l.fresh.latest() || d.Seq <= l.top {
			return
		}
		l.fresh.dropLatest()
		l.tail = d.prev
		if l.tail != nil {
			l.tail.next = nil
		} else {
			l.head = nil
		}
		d.prev = nil
		l.passed = d.nth
		l.loaded--
		l.bytes -= d.Message.Size()
		// What lies between d and the entry before it is settled or not there.
		l.next = d.Seq
	}
}

// deliveryHeap is ordered by sequence.
type deliveryHeap []*Delivery

func (h deliveryHeap) Len() int { return len(h) }

func (h deliveryHeap) Less(i, j int) bool { return h[i].Seq < h[j].Seq }

func (h deliveryHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *deliveryHeap) Push(x any) { *h = append(*h, x.(*Delivery)) }

// Pop is for container/heap.
func (h *deliveryHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return d
}

// delayHeap is ordered by due time, then sequence.
type delayHeap []*Delivery

func (h delayHeap) Len() int { return len(h) }

func (h delayHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].Seq < h[j].Seq
}

func (h delayHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *delayHeap) Push(x any) { *h = append(*h, x.(*Delivery)) }

// Pop is for container/heap.
func (h *delayHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return d
}

// heldList is what one subscription holds, in order of delivery.
type heldList struct {
	head, tail *Delivery
	n          int
}

func (h *heldList) push(d *Delivery) {
	if h.tail == nil {
		h.head = d
	} else {
		h.tail.heldNext, d.heldPrev = d, h.tail
	}
	h.tail = d
	h.n++
}

func (h *heldList) remove(d *Delivery) {
	if d.heldPrev != nil {
		d.heldPrev.heldNext = d.heldNext
	} else {
		h.head = d.heldNext
	}
	if d.heldNext != nil {
		d.heldNext.heldPrev = d.heldPrev
	} else {
		h.tail = d.heldPrev
	}
	d.heldPrev, d.heldNext = nil, nil
	h.n--
}
