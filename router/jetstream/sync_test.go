package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// disk is a stream's directory without a server, and notes which blocks are
// flushed.
type disk struct {
	t       *testing.T
	s       *syncer
	flushed []string
}

func newDisk(t *testing.T, blocks ...int) *disk {
	d := &disk{t: t, s: &syncer{store: &Store{}, dir: t.TempDir()}}
	d.s.flush = d.note
	if err := os.Mkdir(d.s.blocks(), 0o700); err != nil {
		t.Fatal(err)
	}
	d.write(blocks...)
	t.Cleanup(d.s.close)
	return d
}

// note stands for fdatasync. A file that is no longer the block of its name gets
// a mark: to flush it helps nobody.
func (d *disk) note(f *os.File) error {
	name := strings.TrimSuffix(filepath.Base(f.Name()), ".blk")
	have, err := f.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(f.Name()); err != nil || !os.SameFile(have, there) {
		name += " that was"
	}
	d.flushed = append(d.flushed, name)
	return nil
}

func (d *disk) write(blocks ...int) {
	for _, i := range blocks {
		if err := os.WriteFile(d.s.block(i), []byte("x"), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) remove(i int) {
	if err := os.Remove(d.s.block(i)); err != nil {
		d.t.Fatal(err)
	}
}

// replace is what the server does to a block that it compacts.
func (d *disk) replace(i int) {
	if err := os.WriteFile(d.s.block(i)+".tmp", []byte("y"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(d.s.block(i)+".tmp", d.s.block(i)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) expect(step string, want ...string) {
	d.t.Helper()
	if err := d.s.sync(); err != nil {
		d.t.Fatalf("%s: %v", step, err)
	}
	if !slices.Equal(d.flushed, want) {
		d.t.Errorf("%s: flushed %v, want %v", step, d.flushed, want)
	}
	d.flushed = nil
}

func TestSyncerFollowsTheBlocks(t *testing.T) {
	d := newDisk(t, 1)
	d.expect("first", "1")
	d.expect("again", "1")
	d.write(2)
	d.expect("one rotation", "1", "2")
	d.write(3, 4, 5)
	d.expect("several rotations", "2", "3", "4", "5")
	d.write(6, 7, 8)
	d.remove(5)
	d.expect("the known one was trimmed away", "6", "7", "8")
	d.replace(8)
	d.expect("the known one was compacted", "8")
	d.replace(8)
	d.write(9)
	d.expect("compacted, then rotated", "8", "9")
	d.write(11)
	// The directory's time has the resolution of the file system's clock.
	now := time.Now().Add(time.Minute)
	if err := os.Chtimes(d.s.blocks(), now, now); err != nil {
		t.Fatal(err)
	}
	d.expect("a block between was removed", "9", "11")
	if err := os.WriteFile(filepath.Join(d.s.blocks(), "index.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.expect("other files", "11")
}

func TestSyncerRotationDuringAFlush(t *testing.T) {
	d := newDisk(t, 1)
	flush := d.s.flush
	d.s.flush = func(f *os.File) error {
		if len(d.flushed) == 0 {
			d.write(2, 3)
		}
		return flush(f)
	}
	d.expect("blocks begun while the first was flushed", "1", "1", "2", "3")
}

func TestSyncerReportsWhatItCannotFlush(t *testing.T) {
	d := newDisk(t, 1, 2)
	broken := errors.New("input/output error")
	d.s.flush = func(*os.File) error { return broken }
	if err := d.s.sync(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	d.remove(1)
	d.remove(2)
	if err := d.s.sync(); !errors.Is(err, errNoBlocks) {
		t.Errorf("without blocks: %v", err)
	}
	if err := d.s.verify(); err == nil || !strings.Contains(err.Error(), "storage.sync must be a duration") {
		t.Errorf("verify: %v", err)
	}
}

func openInternal(t testing.TB, change func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: t.TempDir(), NodeName: "test", SyncAlways: true, MaxBytes: 8 << 30, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&o)
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestEveryBlockIsFlushedBeforeItsAppendsAreAnswered fills several blocks of a
// real stream.
func TestEveryBlockIsFlushedBeforeItsAppendsAreAnswered(t *testing.T) {
	s := openInternal(t, nil)
	defer s.Close()
	log, err := s.OpenLog(context.Background(), router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "big"})
	if err != nil {
		t.Fatal(err)
	}
	sy := log.(*mailboxLog).stream.syncer
	var mu sync.Mutex
	flushed := map[string]int64{} // size of each block when it was flushed last
	sy.flush = func(f *os.File) error {
		i, err := f.Stat()
		if err != nil {
			return err
		}
		mu.Lock()
		flushed[f.Name()] = i.Size()
		mu.Unlock()
		return datasync(f)
	}
	type ended struct {
		seq uint64
		err error
	}
	const n = 40
	done := make(chan ended, n)
	body := make([]byte, 1<<20)
	for range n {
		log.Append(body, "", func(st router.Stored, err error, _ *outbox.Batch) { done <- ended{st.Seq, err} })
	}
	for range n {
		e := <-done
		if e.err != nil {
			t.Fatal(e.err)
		}
		if e.seq == n/2 {
			if err := log.Trim(context.Background(), n/2-5); err != nil {
				t.Fatal(err)
			}
		}
	}
	numbers, err := sy.numbers()
	if err != nil || numbers[len(numbers)-1] < 3 {
		t.Fatalf("blocks %v, %v: the test needs several", numbers, err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, i := range numbers[1:] { // trimming may have rewritten the first
		info, err := os.Stat(sy.block(i))
		if err != nil {
			t.Fatal(err)
		}
		// The trim's own marks, of a few bytes, may come after; a message may not.
		if info.Size()-flushed[sy.block(i)] >= int64(len(body)) {
			t.Errorf("block %d has %d bytes, %d of them are flushed", i, info.Size(), flushed[sy.block(i)])
		}
	}
}

func TestADeletedStreamsSyncerClosesItsFile(t *testing.T) {
	s := openInternal(t, nil)
	defer s.Close()
	ctx := context.Background()
	for range 5 {
		log, err := s.OpenLog(ctx, router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"})
		if err != nil {
			t.Fatal(err)
		}
		sy := log.(*mailboxLog).stream.syncer
		blocked, goOn := make(chan struct{}), make(chan struct{})
		sy.flush = func(*os.File) error { close(blocked); <-goOn; return nil }
		done := make(chan error, 1)
		log.Append([]byte("x"), "", func(_ router.Stored, err error, _ *outbox.Batch) { done <- err })
		<-blocked
		if err := log.Remove(ctx); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		<-done
		for {
			sy.mu.Lock()
			running, file := sy.running, sy.file
			sy.mu.Unlock()
			if !running {
				if file != nil {
					t.Fatal("the file of a deleted stream stays open")
				}
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestAFailedFlushIsNotConfirmed(t *testing.T) {
	s := openInternal(t, nil)
	defer s.Close()
	log, err := s.OpenLog(context.Background(), router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"})
	if err != nil {
		t.Fatal(err)
	}
	log.(*mailboxLog).stream.syncer.flush = func(*os.File) error { return errors.New("input/output error") }
	done := make(chan error, 1)
	log.Append([]byte("x"), "", func(_ router.Stored, err error, _ *outbox.Batch) { done <- err })
	if err := <-done; router.ClassOf(err) != router.Unavailable {
		t.Errorf("answered %v", err)
	}
}

func TestAnAppendWithoutAStreamIsNotConfirmed(t *testing.T) {
	s := openInternal(t, nil)
	defer s.Close()
	ctx := context.Background()
	log, err := s.OpenLog(ctx, router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.js.DeleteStream(ctx, log.(*mailboxLog).stream.name); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 3)
	hear := func(_ router.Stored, err error, _ *outbox.Batch) { done <- err }
	log.Append([]byte("x"), "", hear)
	log.Append([]byte("x"), "id", hear)
	log.AppendAll([][]byte{[]byte("x"), []byte("y")}, hear)
	for range 3 {
		if err := <-done; router.ClassOf(err) != router.Unavailable {
			t.Errorf("an append to a stream that is gone is answered %v", err)
		}
	}
}

func TestCloseAnswersEveryAppendOnce(t *testing.T) {
	for round := range 5 {
		s := openInternal(t, func(o *Options) { o.SyncAlways = round%2 == 0 })
		log, err := s.OpenLog(context.Background(), router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"})
		if err != nil {
			t.Fatal(err)
		}
		const writers, each = 4, 500
		var answers [writers * each]int
		var mu sync.Mutex
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for i := range each {
					n := w*each + i
					log.Append([]byte("x"), "", func(router.Stored, error, *outbox.Batch) {
						mu.Lock()
						answers[n]++
						mu.Unlock()
					})
				}
			})
		}
		for { // some are stored, some under way, some still to come
			mu.Lock()
			some := slices.Contains(answers[:], 1)
			mu.Unlock()
			if some {
				break
			}
		}
		s.conn.Close() // as Close begins
		group.Wait()
		s.Close()
		s.group.Wait()
		for i, n := range answers {
			if n != 1 {
				t.Fatalf("round %d: append %d was answered %d times", round, i, n)
			}
		}
	}
}

func TestAPublishThatFailsAfterItWasGivenUpIsAnsweredOnce(t *testing.T) {
	s, p, stop := openPublisher(t, false)
	defer stop()
	if _, err := s.reads.SubscribeSync("silent"); err != nil {
		t.Fatal(err)
	}
	if err := s.reads.Flush(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	for range 2 { // both get slots
		if err := p.publish("silent", nil, nil, func(router.Stored, error, *outbox.Batch) { answers++ }); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.unsent(0, errClosed); router.ClassOf(err) != router.Unavailable {
		t.Errorf("a publish that never left: %v", err)
	}
	var w outbox.Batch
	p.giveUp(time.Now().Add(time.Hour).UnixMilli(), errClosed, &w)
	if answers != 1 {
		t.Fatalf("%d answers", answers)
	}
	if err := p.unsent(1, errClosed); err != nil {
		t.Errorf("one that was answered is answered again: %v", err)
	}
	if len(p.free) != 2 {
		t.Errorf("%d slots are free", len(p.free))
	}
}

// Two servers that both take themselves for a stream's leader both answer.
func TestSecondAnswersAreNotTakenForOthers(t *testing.T) {
	s, p, stop := openPublisher(t, true)
	defer stop()
	for seq := range uint64(2) { // of two leaders
		if _, err := s.reads.Subscribe("both", func(m *nats.Msg) {
			if string(m.Data) != "later" {
				_ = m.Respond(fmt.Appendf(nil, `{"stream":"s","seq":%d}`, 1+seq)) // the test ends the connection
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.reads.Flush(); err != nil {
		t.Fatal(err)
	}
	answers := make(chan uint64, 8)
	hear := func(st router.Stored, _ error, _ *outbox.Batch) { answers <- st.Seq }
	if err := p.publish("both", nil, []byte("now"), hear); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got > 2 {
		t.Errorf("got %d", got)
	}
	for range 3 {
		if err := p.publish("both", nil, []byte("later"), hear); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case seq := <-answers:
		t.Errorf("a publish that nobody answered heard of %d", seq)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestLateAnswersAreNotTakenForOthers(t *testing.T) {
	s, p, stop := openPublisher(t, false)
	defer stop()
	silent, err := s.reads.SubscribeSync("silent")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.reads.Flush(); err != nil {
		t.Fatal(err)
	}
	answers := make(chan string, 4)
	hear := func(name string) func(router.Stored, error, *outbox.Batch) {
		return func(st router.Stored, err error, _ *outbox.Batch) {
			answers <- fmt.Sprintf("%s %d %v", name, st.Seq, err == nil)
		}
	}
	if err := p.publish("silent", nil, nil, hear("first")); err != nil {
		t.Fatal(err)
	}
	request, err := silent.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var w outbox.Batch
	p.giveUp(time.Now().Add(time.Hour).UnixMilli(), errNoAnswer, &w)
	if got := <-answers; got != "first 0 false" {
		t.Fatal(got)
	}
	if err := p.publish("silent", nil, nil, hear("second")); err != nil {
		t.Fatal(err)
	}
	second, err := silent.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*nats.Msg{request, request, second} {
		if err := m.Respond(fmt.Appendf(nil, `{"stream":"s","seq":%d}`, 7)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-answers; got != "second 7 true" {
		t.Error(got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[int32]bool{}
	for _, i := range p.free {
		if seen[i] {
			t.Errorf("slot %d is free twice", i)
		}
		seen[i] = true
	}
	if len(answers) != 0 {
		t.Error("an answer was given twice")
	}
}
