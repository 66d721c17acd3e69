package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// contract runs f against every store that a router may stand on.
func contract(t *testing.T, f func(t *testing.T, s router.Store)) {
	t.Run("memory", func(t *testing.T) { f(t, router.NewMemoryStore()) })
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprintf("jetstream/always=%v", always), func(t *testing.T) {
			s := openStore(t, t.TempDir(), always)
			defer s.Close()
			f(t, s)
		})
	}
}

// each runs f for a queue's log and for an inbox's, which shares its stream with
// other inboxes that are written to between.
func each(t *testing.T, s router.Store, f func(t *testing.T, l router.Log)) {
	for _, kind := range []router.MailboxKind{router.KindQueueBox, router.KindInbox} {
		t.Run(map[router.MailboxKind]string{router.KindQueueBox: "queue", router.KindInbox: "inbox"}[kind], func(t *testing.T) {
			for i := range 8 {
				other := openLog(t, s, router.MailboxID{Kind: kind, Vhost: "/", Name: fmt.Sprint("other", i)})
				if _, err := appendOne(t, other, "other", ""); err != nil {
					t.Fatal(err)
				}
			}
			f(t, openLog(t, s, router.MailboxID{Kind: kind, Vhost: "/", Name: "the one: * > é\n"}))
		})
	}
}

func openLog(t testing.TB, s router.Store, id router.MailboxID) router.Log {
	t.Helper()
	l, err := s.OpenLog(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

type answer struct {
	s   router.Stored
	err error
}

func hear(t testing.TB, answers <-chan answer) answer {
	t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(40 * time.Second):
		t.Fatal("the store did not answer")
		return answer{}
	}
}

func into(answers chan<- answer) router.Done {
	return func(s router.Stored, err error, _ *outbox.Batch) { answers <- answer{s, err} }
}

func appendOne(t testing.TB, l router.Log, body, dedup string) (router.Stored, error) {
	t.Helper()
	answers := make(chan answer, 1)
	l.Append([]byte(body), dedup, into(answers))
	a := hear(t, answers)
	return a.s, a.err
}

func mustAppend(t testing.TB, l router.Log, body string) uint64 {
	t.Helper()
	s, err := appendOne(t, l, body, "")
	if err != nil {
		t.Fatal(err)
	}
	return s.Seq
}

func appendAll(t testing.TB, l router.Log, bodies ...string) router.Stored {
	t.Helper()
	answers := make(chan answer, 1)
	var envelopes [][]byte
	for _, b := range bodies {
		envelopes = append(envelopes, []byte(b))
	}
	l.AppendAll(envelopes, into(answers))
	a := hear(t, answers)
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.s
}

func save(t testing.TB, l router.Log, rec string) {
	t.Helper()
	answers := make(chan answer, 1)
	l.SaveRecord([]byte(rec), into(answers))
	if a := hear(t, answers); a.err != nil {
		t.Fatal(a.err)
	}
}

// readAll reads in small steps and checks their limits.
func readAll(t testing.TB, l router.Log, from uint64, n int) []router.Entry {
	t.Helper()
	var out []router.Entry
	for {
		entries, err := l.Read(context.Background(), from, n, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) > n {
			t.Fatalf("%d entries, asked for %d", len(entries), n)
		}
		if len(entries) == 0 {
			return out
		}
		for _, e := range entries {
			if e.Seq < from {
				t.Fatalf("sequence %d after %d", e.Seq, from)
			}
			from = e.Seq + 1
		}
		out = append(out, entries...)
	}
}

func bodies(entries []router.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, string(e.Envelope))
	}
	return out
}

func bounds(t testing.TB, l router.Log, floor uint64) router.Bounds {
	t.Helper()
	b, err := l.Bounds(context.Background(), floor)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAppendsKeepTheirOrder(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		each(t, s, func(t *testing.T, l router.Log) {
			const n = 1000
			answers := make(chan answer, n)
			type numbered struct {
				i int
				a answer
			}
			order := make(chan numbered, n)
			for i := range n {
				l.Append(fmt.Append(nil, i), "", func(s router.Stored, err error, _ *outbox.Batch) {
					order <- numbered{i, answer{s, err}}
					answers <- answer{s, err}
				})
			}
			last := uint64(0)
			for i := range n {
				hear(t, answers)
				got := <-order
				if got.a.err != nil || got.i != i || got.a.s.Seq <= last || got.a.s.Duplicate {
					t.Fatalf("answer %d is %d: %+v, %v, after sequence %d", i, got.i, got.a.s, got.a.err, last)
				}
				last = got.a.s.Seq
			}
			entries := readAll(t, l, 1, 100)
			if len(entries) != n {
				t.Fatalf("%d entries, want %d", len(entries), n)
			}
			for i, e := range entries {
				if string(e.Envelope) != fmt.Sprint(i) {
					t.Fatalf("entry %d is %s", i, e.Envelope)
				}
			}
		})
	})
}

func TestSequencesAreAnsweredInOrderBesideBatches(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		each(t, s, func(t *testing.T, l router.Log) {
			const n = 300
			answers := make(chan answer, n)
			for i := range n {
				if i%10 == 0 {
					l.AppendAll([][]byte{[]byte("b1"), []byte("b2"), []byte("b3")}, into(answers))
				} else {
					l.Append([]byte("x"), "", into(answers))
				}
			}
			last := uint64(0)
			for range n {
				a := hear(t, answers)
				if a.err != nil || a.s.Seq <= last {
					t.Fatalf("%+v, %v after %d", a.s, a.err, last)
				}
				last = a.s.Seq
			}
			got := bodies(readAll(t, l, 1, 100))
			if len(got) != n-n/10+3*n/10 {
				t.Fatalf("%d entries", len(got))
			}
			for i := 0; i < len(got); i++ {
				if got[i] != "b1" {
					continue
				}
				if !slices.Equal(got[i:i+3], []string{"b1", "b2", "b3"}) {
					t.Fatalf("a batch is torn: %v", got[i:i+3])
				}
				i += 2
			}
		})
	})
}

func TestDedup(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		each(t, s, func(t *testing.T, l router.Log) {
			first, err := appendOne(t, l, "1", "id\r\nNats-Evil: 1")
			if err != nil || first.Duplicate {
				t.Fatal(first, err)
			}
			again, err := appendOne(t, l, "1 again", "id\r\nNats-Evil: 1")
			if err != nil || !again.Duplicate || again.Seq != first.Seq {
				t.Fatalf("%+v, %v", again, err)
			}
			other, err := appendOne(t, l, "2", "other")
			if err != nil || other.Duplicate || other.Seq <= first.Seq {
				t.Fatalf("%+v, %v", other, err)
			}
			if got := bodies(readAll(t, l, 1, 10)); !slices.Equal(got, []string{"1", "2"}) {
				t.Errorf("stored %v", got)
			}
		})
		a := openLog(t, s, router.MailboxID{Kind: router.KindInbox, Vhost: "/", Name: "a"})
		b := openLog(t, s, router.MailboxID{Kind: router.KindInbox, Vhost: "/", Name: "b"})
		for _, l := range []router.Log{a, b} {
			if st, err := appendOne(t, l, "x", "same id"); err != nil || st.Duplicate {
				t.Errorf("the id of another mailbox is taken for a duplicate: %+v, %v", st, err)
			}
		}
	})
}

func TestBatchesAreWhole(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		each(t, s, func(t *testing.T, l router.Log) {
			for _, n := range []int{1, 2, 3, 1000} {
				var want []string
				for i := range n {
					want = append(want, fmt.Sprint(n, " ", i))
				}
				last := appendAll(t, l, want...)
				got, err := l.Read(context.Background(), last.Seq-uint64(n)+1, n+1, 1<<20)
				if err != nil || len(got) != n || got[n-1].Seq != last.Seq || !slices.Equal(bodies(got), want) {
					t.Fatalf("batch of %d: %d entries, the last %+v, %v", n, len(got), last, err)
				}
			}
		})
	})
}

func TestReadLimits(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		each(t, s, func(t *testing.T, l router.Log) {
			var seqs []uint64
			for i := range 10 {
				seqs = append(seqs, mustAppend(t, l, fmt.Sprint(i)+string(bytes.Repeat([]byte("x"), 1000))))
			}
			for _, c := range []struct {
				from          uint64
				n, size, want int
			}{
				{seqs[0], 10, 1 << 20, 10}, {seqs[0], 3, 1 << 20, 3}, {seqs[4] + 1, 10, 1 << 20, 5},
				{seqs[9], 10, 1 << 20, 1}, {seqs[9] + 1, 10, 1 << 20, 0}, {0, 1, 1, 1},
			} {
				got, err := l.Read(context.Background(), c.from, c.n, c.size)
				if err != nil || len(got) != c.want {
					t.Errorf("read from %d, %d entries, %d bytes: %d, %v", c.from, c.n, c.size, len(got), err)
				}
			}
			got, err := l.Read(context.Background(), seqs[0], 10, 3500)
			if err != nil || len(got) < 3 || len(got) > 5 {
				t.Errorf("about 3500 bytes are %d entries of 1001, %v", len(got), err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, isMemory := s.(*router.MemoryStore); !isMemory {
				if _, err := l.Read(ctx, 1, 1, 1); router.ClassOf(err) != router.Unavailable {
					t.Errorf("a read that was given up: %v", err)
				}
			}
		})
	})
}

func TestBoundsAndTrim(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		each(t, s, func(t *testing.T, l router.Log) {
			if b := bounds(t, l, 0); b.Count != 0 {
				t.Fatalf("a new log: %+v", b)
			}
			var seqs []uint64
			for i := range 10 {
				seqs = append(seqs, mustAppend(t, l, fmt.Sprint(i)))
			}
			if b := bounds(t, l, 0); b.Count != 10 || b.Last < seqs[9] || b.First > seqs[0] || b.Holes != 0 {
				t.Errorf("10 stored: %+v, sequences %v", b, seqs)
			}
			if b := bounds(t, l, seqs[3]); b.Count != 6 {
				t.Errorf("above the fourth: %+v", b)
			}
			if err := l.Trim(context.Background(), seqs[5]); err != nil {
				t.Fatal(err)
			}
			if got := bodies(readAll(t, l, 1, 10)); !slices.Equal(got, []string{"6", "7", "8", "9"}) {
				t.Errorf("after the trim: %v", got)
			}
			if b := bounds(t, l, seqs[5]); b.Count != 4 {
				t.Errorf("after the trim: %+v", b)
			}
			if err := l.Trim(context.Background(), 0); err != nil {
				t.Fatal(err)
			}
			if err := l.Trim(context.Background(), seqs[9]); err != nil {
				t.Fatal(err)
			}
			if b := bounds(t, l, seqs[9]); b.Count != 0 || b.Last < seqs[9] {
				t.Errorf("all trimmed: %+v; the highest sequence must stay known", b)
			}
			if seq := mustAppend(t, l, "next"); seq <= seqs[9] {
				t.Errorf("sequence %d again", seq)
			}
		})
	})
}

func TestRecords(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		ids := []router.MailboxID{
			{Kind: router.KindQueueBox, Vhost: "/", Name: "a"}, {Kind: router.KindInbox, Vhost: "/", Name: "a"},
			{Kind: router.KindQueueBox, Vhost: "tenant", Name: "a"}, {Kind: router.KindQueueBox, Vhost: "/", Name: "with \x00 and *.>"},
		}
		for i, id := range ids {
			l := openLog(t, s, id)
			save(t, l, "old")
			save(t, l, fmt.Sprint("record ", i))
		}
		stored, err := s.Mailboxes(context.Background())
		if err != nil || len(stored) != len(ids) {
			t.Fatalf("%d mailboxes, %v", len(stored), err)
		}
		for _, m := range stored {
			if i := slices.Index(ids, m.ID); i < 0 || string(m.Record) != fmt.Sprint("record ", i) {
				t.Errorf("%+v has the record %q", m.ID, m.Record)
			}
		}
	})
}

func TestSavedRecordsWinInTheOrderOfTheCalls(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		l := openLog(t, s, router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "a"})
		answers := make(chan answer, 200)
		for i := range 200 {
			l.SaveRecord(fmt.Append(nil, i), into(answers))
		}
		for range 200 {
			if a := hear(t, answers); a.err != nil {
				t.Fatal(a.err)
			}
		}
		stored, err := s.Mailboxes(context.Background())
		if err != nil || len(stored) != 1 || string(stored[0].Record) != "199" {
			t.Fatalf("%+v, %v", stored, err)
		}
	})
}

func TestBindingsAreKept(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		ctx := context.Background()
		put := func(key, value string) {
			if err := s.PutBinding(ctx, key, []byte(value)); err != nil {
				t.Fatal(err)
			}
		}
		put("one\x00*", "1")
		put("two", "2")
		put("three", "3")
		put("two", "two")
		put("three", "")
		put("never was", "")
		values, err := s.Bindings(ctx)
		var got []string
		for _, v := range values {
			got = append(got, string(v))
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, []string{"1", "two"}) {
			t.Errorf("bindings %v, %v", got, err)
		}
	})
}

func TestTransactionsAreKeptUntilTheyEnd(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		answers := make(chan answer, 3)
		for i := range 3 {
			s.BeginTransaction(fmt.Append(nil, i), into(answers))
		}
		var seqs []uint64
		for range 3 {
			a := hear(t, answers)
			if a.err != nil {
				t.Fatal(a.err)
			}
			seqs = append(seqs, a.s.Seq)
		}
		slices.Sort(seqs)
		list := func() (out []uint64) {
			txs, err := s.Transactions(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range txs {
				out = append(out, x.Seq)
			}
			return out
		}
		if got := list(); !slices.Equal(got, seqs) {
			t.Fatalf("begun %v, listed %v", seqs, got)
		}
		s.EndTransaction(seqs[1])
		eventually(t, func() error {
			if got := list(); !slices.Equal(got, []uint64{seqs[0], seqs[2]}) {
				return fmt.Errorf("after an end: %v", got)
			}
			return nil
		})
	})
}

func TestARemovedLogStartsAgainEmpty(t *testing.T) {
	contract(t, func(t *testing.T, s router.Store) {
		for _, kind := range []router.MailboxKind{router.KindQueueBox, router.KindInbox} {
			id := router.MailboxID{Kind: kind, Vhost: "/", Name: "again"}
			for round := range 3 {
				l := openLog(t, s, id)
				if got := readAll(t, l, 1, 10); len(got) != 0 {
					t.Fatalf("round %d: it holds %v", round, bodies(got))
				}
				mustAppend(t, l, "x")
				appendAll(t, l, "y", "z")
				save(t, l, "record")
				if err := l.Remove(context.Background()); err != nil {
					t.Fatal(err)
				}
				if stored, err := s.Mailboxes(context.Background()); err != nil || len(stored) != 0 {
					t.Fatalf("round %d: listed %+v, %v", round, stored, err)
				}
			}
		}
	})
}

// eventually polls until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

var _ router.Store = (*jetstream.Store)(nil)
