package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// ledger is the record of one publisher's deliveries: one for each subscriber of a topic, one for all consumers of a queue.
type ledger struct {
	mu   sync.Mutex
	seen arrivals
}

// subscriber checks and counts what one connection receives.
type subscriber struct {
	run     *run
	index   int
	link    connection
	ledgers []*ledger // by publisher
	highest []uint64  // by publisher: one above the highest number that came here first-hand

	received atomic.Int64 // first deliveries of messages of this run
	tally    tally        // the reader's; read after it has ended
	latency  *times       // shared with others; nil where it is not taken
}

// tally counts deliveries that are not plain first ones.
type tally struct {
	redelivered int64 // marked so by the broker, whether seen before or not
	duplicates  int64 // seen before and not marked
	outOfOrder  int64 // not marked, and behind a later one of its sender on the same connection
	foreign     int64 // of another run
	altered     int64 // not a message that was sent here: no stamp, wrong size, filler or destination, or a number not reached
}

func (t *tally) add(o tally) {
	t.redelivered += o.redelivered
	t.duplicates += o.duplicates
	t.outOfOrder += o.outOfOrder
	t.foreign += o.foreign
	t.altered += o.altered
}

func (s *subscriber) message(body []byte, redelivered bool, arrivedNS int64) {
	m, ok := readStamp(body)
	switch {
	case !ok:
		s.tally.altered++
		return
	case m.run != s.run.id:
		s.tally.foreign++
		return
	// The bound on number is also what keeps a ledger's memory to an eighth of a byte for each message really sent.
	case int(m.sender) >= len(s.ledgers) || s.ledgers[m.sender] == nil ||
		m.number >= s.run.publishers[m.sender].issued.Load() || !sameFiller(body, s.run.reference):
		s.tally.altered++
		return
	}
	if redelivered {
		s.tally.redelivered++
	}
	l := s.ledgers[m.sender]
	l.mu.Lock()
	first := l.seen.add(m.number)
	l.mu.Unlock()
	if !first {
		if !redelivered {
			s.tally.duplicates++
		}
		return
	}
	if s.latency != nil && s.run.measuring.Load() {
		s.latency.record(arrivedNS - m.sentNS)
	}
	s.checkOrder(m, redelivered)
	s.received.Add(1)
	if c := s.run.publishers[m.sender].credit; c != nil {
		c.arrive(1)
	}
}

// checkOrder holds for what this connection gets first-hand. A marked message may come behind later ones: it went to a
// consumer that vanished before.
func (s *subscriber) checkOrder(m stamp, redelivered bool) {
	switch high := &s.highest[m.sender]; {
	case m.number >= *high:
		*high = m.number + 1
	case !redelivered:
		s.tally.outOfOrder++
	}
}

func (s *subscriber) confirmed(id uint64, _ int64) {
	s.failed(fmt.Errorf("a confirmation of message %d on a connection that sent none", id))
}

func (s *subscriber) refused(_ uint64, reason error) { s.failed(reason) }
func (s *subscriber) caughtUp()                      {}
func (s *subscriber) failed(err error) {
	s.run.complaints.add(fmt.Errorf("subscriber %d: %w", s.index, err))
}
