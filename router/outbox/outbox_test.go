package outbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a Conn that keeps what is written and can be stopped.
type wire struct {
	mu     sync.Mutex
	got    bytes.Buffer
	writes int
	err    error
	gate   chan struct{} // if not nil, each write takes one token
}

func (w *wire) Write(b []byte) (int, error) {
	if w.gate != nil {
		<-w.gate
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.writes++
	return w.got.Write(b)
}

func (w *wire) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.String()
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes
}

// listener is an Owner that counts.
type listener struct {
	written atomic.Uint64
	drained atomic.Int64
	failed  atomic.Int64
	cause   atomic.Pointer[error]
}

func (l *listener) Written(n uint64) { l.written.Store(n) }
func (l *listener) Drained()         { l.drained.Add(1) }
func (l *listener) Failed(err error) { l.cause.Store(&err); l.failed.Add(1) }

var wide = Options{MaxBytes: 1 << 20, Reserve: 1 << 10}

func put(o *Outbox, w *Batch, s string) bool {
	buf, ok := o.Begin(len(s))
	if ok {
		buf = append(buf, s...)
	}
	o.End(w, buf)
	return ok
}

func putControl(o *Outbox, s string) bool {
	buf, ok := o.BeginControl(len(s))
	if ok {
		buf = append(buf, s...)
	}
	o.End(nil, buf)
	return ok
}

func TestABatchIsOneWrite(t *testing.T) {
	c, l := &wire{}, &listener{}
	o := New(c, l, wide)
	var w Batch
	want := ""
	for i := range 100 {
		put(o, &w, fmt.Sprintf("%d,", i))
		want += fmt.Sprintf("%d,", i)
	}
	if n := c.count(); n != 0 {
		t.Fatalf("%d writes before the batch ended", n)
	}
	w.Flush()
	o.Close()
	if got := c.text(); got != want {
		t.Errorf("wrote %q", got)
	}
	if c.count() != 1 {
		t.Errorf("%d writes for one batch", c.count())
	}
	if l.written.Load() != uint64(len(want)) || l.failed.Load() != 0 {
		t.Errorf("written %d of %d, failed %d", l.written.Load(), len(want), l.failed.Load())
	}
}

func TestWhatGathersDuringAWriteIsTheNextWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &wire{gate: make(chan struct{})}
		o := New(c, &listener{}, wide)
		put(o, nil, "first")
		synctest.Wait()
		for range 50 {
			put(o, nil, "x")
		}
		synctest.Wait()
		c.gate <- struct{}{}
		c.gate <- struct{}{}
		o.Close()
		if c.count() != 2 {
			t.Errorf("%d writes, want 2", c.count())
		}
	})
}

func TestMuchPendingStartsBeforeTheBatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &wire{}
		o := New(c, &listener{}, wide)
		var w Batch
		put(o, &w, string(make([]byte, wakeBytes)))
		synctest.Wait()
		if c.count() == 0 {
			t.Error("a full buffer waits for the batch's end")
		}
		w.Flush()
		o.Close()
	})
}

// TestManyPeersStartBeforeTheBatchEnds: what is for very many leaves while it is still handed to others, and to all at the end.
func TestManyPeersStartBeforeTheBatchEnds(t *testing.T) {
	var w Batch
	wires := make([]*wire, manyBoxes+3)
	boxes := make([]*Outbox, len(wires))
	for i := range wires {
		wires[i] = &wire{}
		boxes[i] = New(wires[i], &listener{}, Options{MaxBytes: 1000})
		put(boxes[i], &w, "a")
		w.StartMany()
	}
	for i, o := range boxes[:manyBoxes] {
		o.Wait()
		if wires[i].text() != "a" {
			t.Fatalf("%d of %d waits for the end of the batch", i, len(boxes))
		}
	}
	for i, o := range boxes[manyBoxes:] {
		if o.Wait(); wires[manyBoxes+i].text() != "" {
			t.Fatal("few do not wait for the end of the batch")
		}
	}
	w.Flush()
	for i, o := range boxes {
		if o.Close(); wires[i].text() != "a" {
			t.Fatalf("%d got %q", i, wires[i].text())
		}
	}
	(*Batch)(nil).StartMany()
}

func TestSharedBytesKeepTheirPlaceAndAreNotCopied(t *testing.T) {
	c := &recorder{}
	o := New(c, &listener{}, wide)
	large := bytes.Repeat([]byte("L"), shareBytes)
	small := []byte("small")
	var w Batch
	for i, shared := range [][]byte{small, large, nil, large, small} {
		buf, ok := o.Begin(16 + len(shared))
		if !ok {
			t.Fatal("refused")
		}
		o.EndShared(&w, append(buf, byte('0'+i)), shared)
	}
	w.Flush()
	o.Close()
	want := "0small1" + string(large) + "23" + string(large) + "4small"
	if c.all.String() != want {
		t.Error("the order of the bytes changed")
	}
	if c.same(large) != 2 || c.same(small) != 0 {
		t.Errorf("%d large by reference, %d small", c.same(large), c.same(small))
	}
}

// recorder notes which slices it was given.
type recorder struct {
	all   bytes.Buffer
	first []*byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.first = append(r.first, &b[0])
	return r.all.Write(b)
}

func (r *recorder) same(b []byte) int {
	n := 0
	for _, p := range r.first {
		if p == &b[0] {
			n++
		}
	}
	return n
}

func TestRefusedThenDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := &wire{gate: make(chan struct{})}, &listener{}
		o := New(c, l, Options{MaxBytes: 100, Reserve: 20})
		if !put(o, nil, string(make([]byte, 500))) {
			t.Fatal("a frame over the limit is refused by an empty outbox: it could never be sent")
		}
		synctest.Wait()
		if put(o, nil, "x") {
			t.Fatal("accepted above the limit")
		}
		if got := o.Backlog(); got != 500 {
			t.Errorf("backlog %d", got)
		}
		if l.drained.Load() != 0 {
			t.Error("drained while full")
		}
		c.gate <- struct{}{}
		synctest.Wait()
		if l.drained.Load() != 1 || o.Backlog() != 0 {
			t.Errorf("drained %d times, backlog %d", l.drained.Load(), o.Backlog())
		}
		if !put(o, nil, "again") {
			t.Error("refused after it drained")
		}
		c.gate <- struct{}{}
		o.Close()
		if l.drained.Load() != 1 {
			t.Errorf("drained %d times for one refusal", l.drained.Load())
		}
	})
}

func TestBacklogNeverPassesTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &wire{gate: make(chan struct{})}
		o := New(c, &listener{}, Options{MaxBytes: 100, Reserve: 50})
		for range 30 {
			put(o, nil, "0123456789")
		}
		if got := o.Backlog(); got != 100 {
			t.Errorf("messages take %d of 100", got)
		}
		for range 5 {
			if !putControl(o, "0123456789") {
				t.Error("a control frame is refused within the reserve")
			}
		}
		if got := o.Backlog(); got != 150 {
			t.Errorf("with control frames %d of 150", got)
		}
		close(c.gate)
		o.Close()
	})
}

func TestControlFramesOverTheReserveGiveTheClientUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := &wire{gate: make(chan struct{})}, &listener{}
		o := New(c, l, Options{MaxBytes: 10, Reserve: 10})
		put(o, nil, "0123456789")
		putControl(o, "0123456789")
		if putControl(o, "x") {
			t.Fatal("accepted above the reserve")
		}
		if putControl(o, "x") || put(o, nil, "x") {
			t.Error("accepted after that")
		}
		close(c.gate)
		o.Wait()
		synctest.Wait()
		if l.failed.Load() != 1 || !errors.Is(*l.cause.Load(), ErrSlow) {
			t.Errorf("failed %d times with %v", l.failed.Load(), l.cause.Load())
		}
		o.Close()
	})
}

// A worker reads nothing while it works, be it for hours: what waits for it waits, and comes in order.
func TestAPeerMayTakeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		l := &listener{}
		o := New(here, l, Options{MaxBytes: 1 << 20, Reserve: 100})
		put(o, nil, "first,")
		time.Sleep(3 * time.Hour)
		if !put(o, nil, "second") {
			t.Fatal("refused")
		}
		time.Sleep(3 * time.Hour)
		if n := l.failed.Load(); n != 0 {
			t.Fatalf("failed %d times with %v", n, *l.cause.Load())
		}
		got := make([]byte, len("first,second"))
		if _, err := io.ReadFull(there, got); err != nil || string(got) != "first,second" {
			t.Errorf("%q, %v", got, err)
		}
		o.Close()
		here.Close()
	})
}

func TestAFailedWriteIsReportedOnce(t *testing.T) {
	broken := errors.New("broken pipe")
	c, l := &wire{err: broken}, &listener{}
	o := New(c, l, wide)
	put(o, nil, "x")
	o.Wait()
	put(o, nil, "y")
	o.Close()
	if l.failed.Load() != 1 || *l.cause.Load() != broken || l.written.Load() != 0 {
		t.Errorf("failed %d times with %v, written %d", l.failed.Load(), l.cause.Load(), l.written.Load())
	}
	if o.Backlog() != 0 {
		t.Errorf("keeps %d bytes that nobody will write", o.Backlog())
	}
}

func TestCloseFlushesAndAbortDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, abort := range []bool{false, true} {
			c, l := &wire{gate: make(chan struct{})}, &listener{}
			o := New(c, l, wide)
			put(o, nil, "first,")
			synctest.Wait()
			var w Batch
			put(o, &w, "second") // its batch never ends
			if abort {
				o.Abort(ErrClosed)
			}
			close(c.gate)
			o.Close()
			want := "first,second"
			if abort {
				want = "first,"
			}
			if got := c.text(); got != want {
				t.Errorf("abort %v: wrote %q, want %q", abort, got, want)
			}
			if got := l.written.Load(); got != uint64(len(want)) {
				t.Errorf("abort %v: %d bytes reported, %d were written", abort, got, len(want))
			}
			if put(o, nil, "late") {
				t.Error("accepted after the end")
			}
			if l.failed.Load() != 0 {
				t.Error("an end that was asked for is reported as a failure")
			}
			w.Flush()
			o.Wait()
		}
	})
}

func TestLongFramesGoInChunks(t *testing.T) {
	c := &wire{}
	o := New(c, &listener{}, Options{MaxBytes: 4 << 20})
	put(o, nil, string(make([]byte, 2*chunkBytes+1)))
	o.Close()
	if c.count() != 3 || len(c.text()) != 2*chunkBytes+1 {
		t.Errorf("%d writes, %d bytes", c.count(), len(c.text()))
	}
}

// TestHammer has many writers on one outbox: each one's numbers leave in order.
func TestHammer(t *testing.T) {
	c, l := &wire{}, &listener{}
	o := New(c, l, Options{MaxBytes: 4 << 10, Reserve: 1 << 20})
	shared := bytes.Repeat([]byte{0xff}, shareBytes)
	const writers, each = 8, 2000
	var group sync.WaitGroup
	for id := range byte(writers) {
		group.Go(func() {
			var w Batch
			for i := uint32(0); i < each; {
				buf, ok := o.Begin(8)
				if ok {
					buf = append(buf, id)
					buf = binary.BigEndian.AppendUint32(buf, i)
					i++
				}
				if ok && i%500 == 0 {
					o.EndShared(&w, append(buf, 1), shared)
				} else if ok {
					o.End(&w, append(buf, 0))
				} else {
					o.End(&w, buf)
				}
				if !ok || i%7 == 0 {
					w.Flush()
				}
			}
			w.Flush()
		})
	}
	group.Wait()
	o.Close()
	var next [writers]uint32
	for b := c.got.Bytes(); len(b) > 0; {
		id, n := b[0], binary.BigEndian.Uint32(b[1:])
		if n != next[id] {
			t.Fatalf("writer %d: %d, want %d", id, n, next[id])
		}
		next[id]++
		if b[5] == 1 {
			b = b[len(shared):]
		}
		b = b[6:]
	}
	for id, n := range next {
		if n != each {
			t.Errorf("writer %d: %d of %d", id, n, each)
		}
	}
	if got := l.written.Load(); got != uint64(c.got.Len()) {
		t.Errorf("written %d, reported %d", c.got.Len(), got)
	}
}

func TestSteadyAppendsDoNotAllocate(t *testing.T) {
	o := New(&wire{gate: make(chan struct{})}, &listener{}, Options{MaxBytes: 1 << 30})
	var w Batch
	frame := make([]byte, 64)
	n := testing.AllocsPerRun(1000, func() {
		buf, _ := o.Begin(len(frame))
		o.End(&w, append(buf, frame...)[:len(buf)+64])
		o.mu.Lock() // the writer's part: take what is pending, write, give it back
		o.pend.tail.b, o.pend.n = o.pend.tail.b[:0], 0
		o.mu.Unlock()
	})
	if n != 0 {
		t.Errorf("%v allocations for each append", n)
	}
	o.Abort(ErrClosed)
	w.Flush()
}

func BenchmarkAppendAndWrite(b *testing.B) {
	c := discard{}
	o := New(c, &listener{}, wide)
	var w Batch
	frame := make([]byte, 256)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		buf, ok := o.Begin(len(frame))
		if ok {
			buf = append(buf, frame...)
		}
		o.End(&w, buf)
		if !ok || i%32 == 0 {
			w.Flush()
		}
	}
	w.Flush()
	o.Close()
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
