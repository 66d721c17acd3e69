package jetstream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// raftStream is a replicated stream as a lane meets it: its leader proposes what it is sent and answers once that is
// committed. When the leader goes, some of what it proposed is committed by the next one, without an answer, and the rest
// is lost; what was on the way may come to the next one. Messages that somebody was told of are trimmed.
type raftStream struct {
	rng *rand.Rand

	values bool // it keeps the last of each subject

	mu        sync.Mutex
	committed []proposal // the first has sequence 1
	trimmed   map[uint64]bool
	log       []proposal // of the leader
	ids       map[string]uint64
	leads     bool
	term      int
	arrives   time.Time // when the last one that was sent arrives
	shows     uint64    // until it is ready, a leader shows no more than this
	ready     time.Time
	answers   []func(w *outbox.Batch)
	answering bool
}

type proposal struct {
	subject  string
	data     []byte
	id       string
	answered func(router.Stored, error, *outbox.Batch) // nil: others
	whole    int                                       // on the last of those that are stored together, how many
}

func newRaftStream(rng *rand.Rand, values bool) *raftStream {
	return &raftStream{rng: rng, values: values, trimmed: map[uint64]bool{}, ids: map[string]uint64{}, leads: true}
}

func (r *raftStream) soon() time.Duration { return time.Duration(r.rng.IntN(5000)) * time.Microsecond }

func (r *raftStream) send(subject string, h nats.Header, data [][]byte, answered func(router.Stored, error, *outbox.Batch)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.leads && r.rng.IntN(2) == 0 {
		return nil // nobody hears it
	}
	at := time.Now().Add(r.soon())
	if at.Before(r.arrives) {
		at = r.arrives.Add(time.Nanosecond)
	}
	r.arrives = at
	term := r.term
	time.AfterFunc(time.Until(at), func() { r.arrive(term, subject, h, data, answered) })
	return nil
}

func (r *raftStream) arrive(term int, subject string, h nats.Header, data [][]byte, answered func(router.Stored, error, *outbox.Batch)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.leads || term != r.term && r.rng.IntN(3) > 0 {
		return
	}
	id, after := h.Get("Nats-Msg-Id"), h.Get("Nats-Expected-Last-Sequence")
	inProcess := slices.ContainsFunc(r.log, func(p proposal) bool { return id != "" && p.id == id })
	switch {
	case r.ids[id] > 0:
		r.answer(answered, router.Stored{Seq: r.ids[id], Duplicate: true}, nil)
		return
	case inProcess:
		r.answer(answered, router.Stored{}, &refusal{code: codeInProcess})
		return
	case after != fmt.Sprint(len(r.committed)+len(r.log)):
		r.answer(answered, router.Stored{}, &refusal{code: codeWrongLast})
		return
	}
	for i, d := range data {
		p := proposal{subject: subject, data: d}
		if i == len(data)-1 {
			p.id, p.answered, p.whole = id, answered, len(data)
		}
		r.log = append(r.log, p)
	}
	r.commitLater()
}

// commitLater has the leader commit what it has proposed so far.
func (r *raftStream) commitLater() {
	term := r.term
	time.AfterFunc(r.soon(), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if term == r.term {
			r.commit(len(r.log), true)
		}
	})
}

func (r *raftStream) commit(n int, answers bool) {
	for _, p := range r.log[:n] {
		for i, before := range r.committed {
			if r.values && before.subject == p.subject {
				r.trimmed[uint64(i+1)] = true
			}
		}
		r.committed = append(r.committed, p)
		if p.id != "" {
			r.ids[p.id] = uint64(len(r.committed))
		}
		if p.answered != nil && answers {
			r.answer(p.answered, router.Stored{Seq: uint64(len(r.committed))}, nil)
		}
	}
	r.log = r.log[n:]
}

// answer gives an answer, in order, unless the leader is gone by then.
func (r *raftStream) answer(answered func(router.Stored, error, *outbox.Batch), s router.Stored, err error) {
	lost := r.rng.IntN(50) == 0 && r.rng.IntN(3) == 0
	if lost {
		return
	}
	term := r.term
	r.answers = append(r.answers, func(w *outbox.Batch) {
		r.mu.Lock()
		gone := term != r.term
		r.mu.Unlock()
		if !gone {
			answered(s, err, w)
		}
	})
	if !r.answering {
		r.answering = true
		time.AfterFunc(time.Millisecond, r.giveAnswers)
	}
}

func (r *raftStream) giveAnswers() {
	var w outbox.Batch
	for {
		r.mu.Lock()
		if len(r.answers) == 0 {
			r.answering = false
			r.mu.Unlock()
			return
		}
		next := r.answers[0]
		r.answers = r.answers[1:]
		r.mu.Unlock()
		next(&w)
	}
}

// change takes the leader away, and makes another after a while. What was stored together stays together.
func (r *raftStream) change(after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term++
	r.leads = false
	n := r.rng.IntN(len(r.log) + 1)
	for n > 0 && n < len(r.log) && r.log[n-1].whole == 0 {
		n--
	}
	r.log = r.log[:n]
	time.AfterFunc(after, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.leads = true
		r.commit(len(r.log), false)
		r.shows, r.ready = uint64(max(0, len(r.committed)-r.rng.IntN(30))), time.Now().Add(time.Duration(r.rng.IntN(100))*time.Millisecond)
	})
}

// intrude stores what another writer had under way.
func (r *raftStream) intrude(subject, data string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leads {
		r.log = append(r.log, proposal{subject: subject, data: []byte(data), whole: 1})
		r.commitLater()
	}
}

func (r *raftStream) trim(upto uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for seq := uint64(1); seq <= upto; seq++ {
		r.trimmed[seq] = true
	}
}

func (r *raftStream) end(ctx context.Context) (uint64, string, error) {
	if err := r.ask(ctx); err != nil {
		return 0, "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.applied(), fmt.Sprint("leader ", r.term), nil
}

// applied is what the leader shows: for a moment after its election not all that it took over.
func (r *raftStream) applied() uint64 {
	if time.Now().Before(r.ready) {
		return r.shows
	}
	return uint64(len(r.committed))
}

func (r *raftStream) message(ctx context.Context, seq uint64) (string, []byte, bool, error) {
	if err := r.ask(ctx); err != nil {
		return "", nil, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq > r.applied() || r.trimmed[seq] {
		return "", nil, false, nil
	}
	p := r.committed[seq-1]
	return p.subject, p.data, true, nil
}

// ask returns when the leader answers.
func (r *raftStream) ask(ctx context.Context) error {
	r.mu.Lock()
	leads, wait := r.leads, r.soon()
	r.mu.Unlock()
	if !leads {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(wait)
	return nil
}

// told is what the lane's user heard, in order.
type told struct {
	mu   sync.Mutex
	seqs []uint64
	own  []string // of those that were confirmed
	done int
	errs int
}

func (h *told) last() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seqs) == 0 {
		return 0
	}
	return h.seqs[len(h.seqs)-1]
}

// TestLaneOverChangesOfTheLeader drives a lane over a stream whose leader goes again and again, while another writer's last
// messages come in between and what was told is trimmed: what is confirmed is stored, once, in order, and everything that
// is stored is told of.
func TestLaneOverChangesOfTheLeader(t *testing.T) {
	for _, values := range []bool{false, true} {
		for seed := range uint64(200) {
			synctest.Test(t, func(t *testing.T) { driveLane(t, rand.New(rand.NewPCG(seed, 1)), seed, values) })
			if t.Failed() {
				return
			}
		}
	}
}

func driveLane(t *testing.T, rng *rand.Rand, seed uint64, values bool) {
	var group sync.WaitGroup
	life, end := context.WithCancel(t.Context())
	r := newRaftStream(rand.New(rand.NewPCG(seed, 2)), values)
	heard := &told{}
	l := newLane(r, 0, laneOptions{name: "Q", values: values, life: life, group: &group, log: slog.New(slog.DiscardHandler), found: func(f foreign, _ *outbox.Batch) {
		heard.mu.Lock()
		defer heard.mu.Unlock()
		if f.subject != "" {
			heard.seqs = append(heard.seqs, f.seq)
		}
	}})
	l.opened = time.Now().Add(time.Hour) // others may intrude all the time
	group.Go(func() {
		for pause(life, lookEvery) {
			l.look(time.Now())
		}
	})
	const messages = 150
	for n := range messages {
		switch rng.IntN(30) {
		case 0:
			r.change(time.Duration(rng.IntN(3000)) * time.Millisecond)
		case 1, 2:
			if l.atRest() {
				r.intrude(subjectOf(n, values), fmt.Sprint("other ", n))
			}
		case 3, 4, 5:
			time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
		case 6, 7:
			if !values {
				r.trim(heard.last())
			}
		default:
			time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
		}
		data := [][]byte{fmt.Append(nil, "message ", n)}
		if !values && rng.IntN(20) == 0 {
			data = [][]byte{fmt.Append(nil, "begin ", n), fmt.Append(nil, "message ", n)}
		}
		var h nats.Header
		if len(data) == 1 && rng.IntN(2) == 0 {
			h = nats.Header{"Nats-Msg-Id": []string{fmt.Sprint("id ", n)}}
		}
		l.append(subjectOf(n, values), h, data, func(s router.Stored, err error, _ *outbox.Batch) {
			heard.mu.Lock()
			defer heard.mu.Unlock()
			if heard.done++; err != nil {
				heard.errs++
				return
			}
			heard.own = append(heard.own, string(data[len(data)-1]))
			if s.Duplicate {
				return // it was told of as another's
			}
			for i := range data {
				heard.seqs = append(heard.seqs, s.Seq-uint64(len(data)-1-i))
			}
			if got := r.at(s.Seq); !values && !bytes.Equal(got, data[len(data)-1]) {
				t.Errorf("seed %d: message %d was confirmed at %d, where %q is stored", seed, n, s.Seq, got)
			}
		})
	}
	time.Sleep(3 * laneDeadline)
	r.intrude("q", "the last") // what nobody was told of is found behind it
	time.Sleep(time.Second)
	l.mu.Lock()
	l.mend()
	l.mu.Unlock()
	time.Sleep(time.Second)
	end()
	group.Wait()
	if values {
		r.checkValues(t, heard, seed)
	} else {
		r.check(t, heard, messages, seed)
	}
}

// subjectOf spreads values over a few subjects.
func subjectOf(n int, values bool) string {
	if values {
		return fmt.Sprint("v.", n%3)
	}
	return "q"
}

// checkValues: a value that was confirmed is stored, or a later one of its subject is.
func (r *raftStream) checkValues(t *testing.T, heard *told, seed uint64) {
	t.Helper()
	stored := map[string]int{} // by subject, the highest of ours
	for _, p := range r.committed {
		var n int
		if _, err := fmt.Sscanf(string(p.data), "message %d", &n); err != nil {
			continue
		}
		if before := stored[p.subject]; n < before {
			t.Errorf("seed %d: value %d of %s was replaced by value %d", seed, before, p.subject, n)
		}
		stored[p.subject] = n
	}
	for _, m := range heard.own {
		var n int
		if _, err := fmt.Sscanf(m, "message %d", &n); err != nil || stored[subjectOf(n, true)] < n {
			t.Errorf("seed %d: %q was confirmed, and the last that is stored is %d", seed, m, stored[subjectOf(n, true)])
		}
	}
}

// atRest reports whether nothing is under way.
func (l *lane) atRest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) == 0
}

func (r *raftStream) at(seq uint64) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq == 0 || seq > uint64(len(r.committed)) {
		return nil
	}
	return r.committed[seq-1].data
}

func (r *raftStream) check(t *testing.T, heard *told, messages int, seed uint64) {
	t.Helper()
	if heard.done != messages {
		t.Errorf("seed %d: %d of %d were answered", seed, heard.done, messages)
	}
	at := map[string]int{}
	for i, p := range r.committed {
		if before, twice := at[string(p.data)]; twice {
			t.Errorf("seed %d: %q is stored twice, at %d and %d", seed, p.data, before, i+1)
		}
		at[string(p.data)] = i + 1
	}
	last := 0
	for _, m := range heard.own {
		switch seq, there := at[m]; {
		case !there:
			t.Errorf("seed %d: %q was confirmed and is not stored", seed, m)
		case seq < last:
			t.Errorf("seed %d: %q is stored at %d, before what was confirmed before it at %d", seed, m, seq, last)
		default:
			last = seq
		}
	}
	if !slices.IsSorted(heard.seqs) {
		t.Errorf("seed %d: told of in the order %v", seed, heard.seqs)
	}
	if all := slices.Compact(slices.Clone(heard.seqs)); len(all) != len(heard.seqs) || len(all) != len(r.committed) {
		t.Errorf("seed %d: %d are stored, %d were told of, %d of them once", seed, len(r.committed), len(heard.seqs), len(all))
	}
}
