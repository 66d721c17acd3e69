package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// lane appends to one replicated stream. When the stream's leader changes, some
// of what is under way is stored and some is not, some answers are lost, and the
// rest is refused: the lane finds out which, and sends the rest again, so that
// what is stored is in the order of the calls and nothing is stored twice.
//
// It can tell because it is the stream's only writer: each append names the
// sequence that it must follow, so it is stored at a sequence known before or not
// at all. After trouble the lane asks the leader for the stream's end, compares
// what is stored with what it sent, and goes on from there.
type lane struct {
	stream laneStream
	opt    laneOptions

	mu      sync.Mutex
	queue   []*appending // not answered, oldest first; the first sent ones are under way
	sent    int
	waits   int    // answers that the attempt still waits for
	last    uint64 // sequence of the last one sent, if all goes well
	base    uint64 // up to here it is known whose each sequence is
	shown   uint64 // the highest end that a leader showed
	attempt int    // answers to earlier ones mean nothing
	window  int    // how many may be under way
	broken  bool   // what follows cannot be stored in this attempt
	heard   time.Time
	mending bool
	idle    int // attempts in a row in which nothing was stored
	closed  bool
	// steady: since the lane last had nothing to do, or mended, an append was stored where it was expected. Until then, and while
	// another writer may still have something under way, one goes alone: if that other one's came first, what follows
	// would be stored before it.
	steady bool
	opened time.Time

	outcomes []outcome // to be told, in order
	telling  bool
}

// laneStream is the stream of a lane, as the server has it.
type laneStream interface {
	// send has data stored, together or not at all, where the header says. Answered is not called before send returns.
	send(subject string, h nats.Header, data [][]byte, answered func(router.Stored, error, *outbox.Batch)) error
	// end asks the stream's leader for the last sequence, and who it is.
	end(ctx context.Context) (last uint64, leader string, err error)
	// message asks the leader for one message, which may not be there.
	message(ctx context.Context, seq uint64) (subject string, data []byte, there bool, err error)
}

type laneOptions struct {
	name   string
	values bool // the stream keeps the last of each subject
	life   context.Context
	group  *sync.WaitGroup
	log    *slog.Logger
	found  func(foreign, *outbox.Batch) // hears what others stored
}

// appending is one append, or several that are stored together.
type appending struct {
	subject  string
	header   nats.Header // nil unless it has a dedup id
	data     [][]byte
	done     router.Done
	deadline time.Time

	seqs    []uint64 // that its attempts would have given it
	want    uint64   // that this attempt would
	settled bool
	stored  router.Stored
	err     error
}

type outcome struct {
	done   router.Done
	stored router.Stored
	err    error
}

const (
	// laneWindow is how many appends to a stream may be under way, laneFirst how
	// many after trouble; each answer then allows one more.
	laneWindow, laneFirst = 1024, 16
	// laneSilence is when answers are taken for lost. It is less than an election.
	laneSilence = time.Second
	// laneDrain is how long the answers behind a refused one are waited for.
	laneDrain = 200 * time.Millisecond
	// laneDeadline is when an append is given up, without knowing whether it is
	// stored. It is longer than an election takes.
	laneDeadline = 15 * time.Second
	// laneBacklog bounds the appends that wait for one stream.
	laneBacklog = publishBacklog
)

func newLane(st laneStream, last uint64, opt laneOptions) *lane {
	return &lane{stream: st, opt: opt, last: last, base: last, window: laneWindow, heard: time.Now(), opened: time.Now()}
}

// append queues data, several of which are stored together or not at all.
func (l *lane) append(subject string, h nats.Header, data [][]byte, done router.Done) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		l.refuse(done, errClosed)
		return
	case len(l.queue) >= laneBacklog:
		l.refuse(done, errBusy)
		return
	}
	l.queue = append(l.queue, &appending{subject: subject, header: h, data: data, done: done, deadline: time.Now().Add(laneDeadline)})
	l.send()
}

// refuse answers on another goroutine: the caller may hold locks that done takes.
func (l *lane) refuse(done router.Done, cause error) {
	l.opt.group.Go(func() {
		var w outbox.Batch
		done(router.Stored{}, unavailable(cause), &w)
		w.Flush()
	})
}

// send sends what the window allows, with the lock held.
func (l *lane) send() {
	if l.mending || l.broken || l.closed {
		return
	}
	for l.sent < len(l.queue) && l.sent < l.window {
		a := l.queue[l.sent]
		whole := len(a.data) > 1
		if whole && l.sent > 0 || l.sent > 0 && len(l.queue[l.sent-1].data) > 1 {
			return // a batch goes alone
		}
		if l.waits > 0 && !l.steady && time.Since(l.opened) < strangersAre {
			return
		}
		if l.sent == 0 {
			l.heard = time.Now()
		}
		l.sent++
		if a.settled {
			continue
		}
		after := l.last
		l.last += uint64(len(a.data))
		a.expect(l.last)
		l.waits++
		if err := l.start(a, after); err != nil {
			l.waits--
			l.broken = true // the look at the clock mends it
			return
		}
	}
}

// start sends one append, which must follow a sequence.
func (l *lane) start(a *appending, after uint64) error {
	attempt := l.attempt
	h := nats.Header{"Nats-Expected-Last-Sequence": []string{strconv.FormatUint(after, 10)}}
	for k, v := range a.header {
		h[k] = v
	}
	return l.stream.send(a.subject, h, a.data, func(s router.Stored, err error, w *outbox.Batch) { l.answered(a, attempt, s, err, w) })
}

// answered takes the answer to one append.
func (l *lane) answered(a *appending, attempt int, s router.Stored, err error, w *outbox.Batch) {
	l.mu.Lock()
	defer l.tell(w)
	defer l.mu.Unlock()
	if attempt != l.attempt || a.settled {
		return
	}
	l.heard = time.Now()
	l.waits--
	switch {
	case err == nil && !s.Duplicate && s.Seq != a.want:
		l.broken = true // it is not where it was to be: what is stored must be looked at
	case err == nil && s.Duplicate && s.Seq > l.base:
		// The first copy came by another hand, perhaps with more: that is to be found
		// before anything is told of what followed it. Asked again, the answer is the same.
		l.broken = true
	case err == nil:
		a.settled, a.stored = true, s
		l.idle = 0
		// A duplicate takes no sequence: what was sent after it cannot follow.
		l.broken = l.broken || s.Duplicate
		l.steady = !l.broken
	case again(err):
		l.broken = true
	default:
		a.settled, a.err = true, err
		l.broken = true
	}
	if l.window < laneWindow && !l.broken {
		l.window++
	}
	l.pop()
	if l.broken && l.waits == 0 {
		l.mend()
		return
	}
	l.send()
}

// pop takes the settled ones from the front, with the lock held.
func (l *lane) pop() {
	for len(l.queue) > 0 && l.queue[0].settled {
		l.popFirst()
	}
	l.steady = l.steady && len(l.queue) > 0
}

func (l *lane) popFirst() {
	a := l.queue[0]
	if a.err == nil && !a.stored.Duplicate {
		l.base = max(l.base, a.stored.Seq) // all before are answered: none of them is there
	}
	l.outcomes = append(l.outcomes, outcome{a.done, a.stored, a.err})
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.sent = max(l.sent-1, 0)
}

// tell reports outcomes in their order, whoever found them.
func (l *lane) tell(w *outbox.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.telling {
		return
	}
	l.telling = true
	for len(l.outcomes) > 0 {
		batch := l.outcomes
		l.outcomes = nil
		l.mu.Unlock()
		for _, o := range batch {
			o.done(o.stored, o.err, w)
		}
		l.mu.Lock()
	}
	l.telling = false
}

// look begins to mend a lane whose answers do not come.
func (l *lane) look(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	silent := now.Sub(l.heard)
	if l.broken && silent > laneDrain || l.sent > 0 && silent > laneSilence {
		l.mend()
	}
}

// mend ends the attempt and begins to find out what is stored, with the lock held.
func (l *lane) mend() {
	if l.mending || l.closed {
		return
	}
	l.mending, l.broken, l.steady = true, false, false
	l.attempt++
	l.idle++
	l.waits = 0
	l.opt.group.Go(l.recover)
}

// recover asks the stream's leader what it has until it answers, and has the rest
// sent again.
func (l *lane) recover() {
	var w outbox.Batch
	ctx := l.opt.life
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle > 1 {
		pause(ctx, min(time.Duration(idle)*10*time.Millisecond, laneDrain))
	}
	for ctx.Err() == nil && l.expire(&w) {
		end, others, err := l.lookThrough(ctx)
		if err == nil {
			l.resume(end, others, &w)
			return
		}
		l.opt.log.Debug("looking for what is stored", "stream", l.opt.name, "error", err)
		pause(ctx, formingPoll)
	}
	w.Flush()
}

// lookThrough settles what the stream holds, and returns its end and what others stored. One that was just elected answers before it
// has applied all that it took over, so the leader must be the same all the time.
func (l *lane) lookThrough(ctx context.Context) (uint64, []foreign, error) {
	end, leader, err := l.askEnd(ctx)
	if err != nil {
		return 0, nil, err
	}
	seen, err := l.compare(ctx, end)
	if err != nil {
		return 0, nil, err
	}
	others, err := l.others(ctx, end, l.ownOf(seen))
	if err != nil {
		return 0, nil, err
	}
	if _, now, err := l.askEnd(ctx); err != nil || now != leader {
		return 0, nil, fmt.Errorf("%w while it was asked", errors.Join(errNewLeader, err))
	}
	l.settleSeen(seen)
	return end, others, nil
}

var errNewLeader = errors.New("the stream's leader changed")

// askEnd asks for the end of the stream; without a leader nobody answers, and one that knows less than was confirmed is not ready.
func (l *lane) askEnd(ctx context.Context) (uint64, string, error) {
	ctx, cancel := context.WithTimeout(ctx, laneSilence)
	defer cancel()
	end, leader, err := l.stream.end(ctx)
	if err == nil {
		err = l.reaches(end)
	}
	return end, leader, err
}

// reaches returns an error if a stream's end, as a leader or a replica has it, is before what is known to be there: confirmed, or
// shown by another. What is shown is committed, and does not go away.
func (l *lane) reaches(end uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := max(l.base, l.shown); end < known {
		return fmt.Errorf("%w: it holds messages up to %d, and %d is known to be there", errLags, end, known)
	}
	l.shown = end
	return nil
}

// confirmed returns up to which sequence the lane knows what is stored; at first the stream's end when it was opened.
func (l *lane) confirmed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base
}

// expire gives up what has waited too long, and reports whether something is
// left to be mended.
func (l *lane) expire(w *outbox.Batch) bool {
	l.mu.Lock()
	now := time.Now()
	for _, a := range l.queue {
		if !a.settled && now.After(a.deadline) {
			a.settled, a.err = true, unavailable(errNoAnswer)
		}
	}
	l.pop()
	left := !l.closed
	l.mu.Unlock()
	l.tell(w)
	w.Flush()
	return left
}

// resume goes on behind a sequence. What others stored is told in its place among
// the lane's own.
func (l *lane) resume(end uint64, others []foreign, w *outbox.Batch) {
	l.mu.Lock()
	for len(others) > 0 {
		if len(l.queue) > 0 && l.queue[0].settled && l.queue[0].err == nil && l.queue[0].stored.Seq < others[0].seq {
			l.popFirst()
			continue
		}
		f := others[0]
		others = others[1:]
		l.outcomes = append(l.outcomes, outcome{done: func(_ router.Stored, _ error, w *outbox.Batch) { l.opt.found(f, w) }})
	}
	l.pop()
	l.base = max(l.base, end)
	l.last, l.sent, l.window = end, 0, laneFirst
	l.mending = false
	l.send()
	l.mu.Unlock()
	l.tell(w)
	w.Flush()
}

// compare finds those under way that the stream holds.
func (l *lane) compare(ctx context.Context, end uint64) ([]*sighting, error) {
	l.mu.Lock()
	var looks []*sighting
	for _, a := range l.queue {
		// What the lane knows to be another's may be trimmed by now, which looks the same as what was never stored.
		for _, seq := range a.seqs {
			if !a.settled && seq > l.base && seq <= end {
				looks = append(looks, &sighting{of: a, seq: seq})
			}
		}
	}
	l.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for _, s := range looks {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 2*laneSilence)
			defer cancel()
			return l.see(ctx, s)
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(looks, func(s *sighting) bool { return !s.there }), err
}

// ownOf returns the sequences that are the lane's own, of those that are not told yet and of those just seen.
func (l *lane) ownOf(seen []*sighting) map[uint64]bool {
	own := map[uint64]bool{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.queue {
		if a.settled && a.err == nil && !a.stored.Duplicate {
			a.occupies(a.stored.Seq, own)
		}
	}
	for _, s := range seen {
		s.of.occupies(s.seq, own)
	}
	return own
}

// settleSeen notes that appends are stored where they were seen.
func (l *lane) settleSeen(seen []*sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range seen {
		if !s.of.settled {
			s.of.settled, s.of.stored = true, router.Stored{Seq: s.seq}
			l.idle = 0
		}
	}
	l.skipReplaced()
}

// skipReplaced settles the values that a later append of the lane replaced, or would have: of each subject only the last one counts,
// and an earlier one must not be stored behind it. With the lock held.
func (l *lane) skipReplaced() {
	if !l.opt.values {
		return
	}
	stored := map[string]uint64{}
	for _, a := range slices.Backward(l.queue) {
		seq := stored[a.subject]
		switch {
		case a.settled && a.err == nil && seq == 0:
			stored[a.subject] = a.stored.Seq
		case !a.settled && seq > 0:
			a.settled, a.stored = true, router.Stored{Seq: seq, Duplicate: true}
		}
	}
}

// occupies enters the sequences that an append has if its last is one.
func (a *appending) occupies(last uint64, own map[uint64]bool) {
	for i := range uint64(len(a.data)) {
		own[last-i] = true
	}
}

// expect notes the sequence that an attempt would give. The copies of earlier
// attempts may still arrive, and be stored where they were expected.
func (a *appending) expect(seq uint64) {
	a.want = seq
	if !slices.Contains(a.seqs, seq) {
		a.seqs = append(a.seqs, seq)
	}
}

// sighting is whether an append is stored at one sequence.
type sighting struct {
	of    *appending
	seq   uint64
	there bool
}

// see asks the stream's leader what it has at a sequence. A message that nobody was told of is not trimmed, so one that is not
// there never was. A value may have been replaced: by one that the lane sent later, or it is sent again.
func (l *lane) see(ctx context.Context, s *sighting) error {
	subject, data, there, err := l.stream.message(ctx, s.seq)
	a := s.of
	s.there = there && subject == a.subject && bytes.Equal(data, a.data[len(a.data)-1])
	return err
}

// close fails what is not answered.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.attempt++
	for _, a := range l.queue {
		if !a.settled {
			a.settled, a.err = true, unavailable(errClosed)
		}
	}
	l.pop()
	l.mu.Unlock()
	var w outbox.Batch
	l.tell(&w)
	w.Flush()
}

// What JetStream answers to an append that may be sent again.
const (
	codeWrongLast     = 10071
	codeWrongLastHere = 10164
	codeInProcess     = 10158 // the same dedup id is under way
)

// again reports whether an append was refused for what may pass.
func again(err error) bool {
	var r *refusal
	if errors.As(err, &r) {
		switch r.code {
		case codeWrongLast, codeWrongLastHere, codeInProcess, codeClusterNotAvailable, codeClusterNotLeader, codeClusterNotAssigned:
			return true
		}
		return false
	}
	return !errors.Is(err, errClosed)
}

// watchLanes looks for answers that do not come.
func (s *Store) watchLanes() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			for _, l := range s.lanes() {
				l.look(now)
			}
		case <-s.life.Done():
			return
		}
	}
}

func (s *Store) lanes() []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*lane
	for _, st := range s.streams {
		if st.lane != nil {
			all = append(all, st.lane)
		}
	}
	return all
}
