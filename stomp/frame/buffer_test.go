package frame

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func TestIdleDecoderIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Decoder{}); size > 1200 {
		t.Errorf("a decoder takes %d bytes", size)
	}
}

// stop is a reader that gives what is in it, then fails as a deadline does and can be filled again.
type stop struct{ strings.Builder }

func (s *stop) Read(b []byte) (int, error) {
	if s.Len() == 0 {
		return 0, errStopped
	}
	n := copy(b, s.String())
	rest := s.String()[n:]
	s.Reset()
	s.WriteString(rest)
	return n, nil
}

var errStopped = fmt.Errorf("nothing there")

// exchange sends a frame with a body of n bytes and reads until nothing is left.
func exchange(t *testing.T, d *Decoder, r *stop, n int) {
	t.Helper()
	r.WriteString("SEND\n\n" + filled(n) + "\x00\n")
	f, err := d.Next()
	if err != nil || len(f.Body) != n {
		t.Fatalf("body of %d: %v", n, err)
	}
	if _, err = d.Next(); err != errStopped {
		t.Fatalf("error %v", err)
	}
}

func TestBufferFollowsTheTraffic(t *testing.T) {
	r := &stop{}
	d := serverDecoder(r, V12)
	small := func() bool { return d.in.block == nil }

	exchange(t, d, r, 100)
	if !small() {
		t.Error("a small frame took a block")
	}
	exchange(t, d, r, 5000)
	if len(d.in.bytes) != blockBytes {
		t.Errorf("%d bytes after a frame of 5000", len(d.in.bytes))
	}
	exchange(t, d, r, 3<<20)
	if len(d.in.bytes) > blockBytes {
		t.Errorf("%d bytes are kept after a large frame", len(d.in.bytes))
	}
	exchange(t, d, r, 100)
	if !small() {
		t.Error("the block is kept while little arrives")
	}
	exchange(t, d, r, 5000)
	if !d.ReleaseIfEmpty() || !small() {
		t.Error("ReleaseIfEmpty keeps the block")
	}
	exchange(t, d, r, 5000)
}

// A peer that always has the next frame under way never empties the buffer; it must shrink all the same.
func TestLargeBufferShrinksUnderTraffic(t *testing.T) {
	r := &stop{}
	d := serverDecoder(r, V12)
	r.WriteString("SEND\n\n" + filled(1<<20))
	for range 1 << 10 {
		r.WriteString("\x00SEND\n\n" + filled(4<<10)) // ends the frame before and begins the next
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Next(); err != errStopped {
			t.Fatal(err)
		}
	}
	if got := len(d.in.bytes); got > 4*blockBytes {
		t.Errorf("%d bytes are kept for frames of 4 KiB", got)
	}
}

func TestReleaseKeepsWhatIsBuffered(t *testing.T) {
	r := &stop{}
	r.WriteString("ACK\nid:1\n\n\x00ACK\nid:2\n\n\x00ACK\nid:")
	d := serverDecoder(r, V12)
	for want := '1'; want <= '2'; want++ {
		if d.ReleaseIfEmpty() != (want == '1') {
			t.Errorf("before %c: released", want)
		}
		f, err := d.Next()
		if err != nil || f.Value("id") != string(want) {
			t.Fatalf("frame %c: %v", want, err)
		}
	}
	if _, err := d.Next(); err != errStopped || d.ReleaseIfEmpty() {
		t.Error("released within a frame")
	}
	r.WriteString("3\n\n\x00\n\x00\r\n")
	f, err := d.Next()
	if err != nil || f.Value("id") != "3" {
		t.Fatalf("frame 3: %v", err)
	}
	if !d.ReleaseIfEmpty() {
		t.Error("heart-beats keep the block")
	}
}

func TestResetGivesTheBlockBack(t *testing.T) {
	d := serverDecoder(strings.NewReader("SEND\n\n"+filled(100_000)), V12)
	if _, err := d.Next(); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if d.Reset(nil); d.in.block != nil || d.in.reader != nil {
		t.Error("Reset keeps a block or the reader")
	}
}

func TestRoomForManyHeadersIsNotKept(t *testing.T) {
	wire := "SEND\n" + differentHeaders(900) + "\n\x00SEND\n\n\x00SEND\n\n\x00"
	d := serverDecoder(strings.NewReader(wire), V12)
	if got, err := readAll(d); err != io.EOF || len(got) != 3 {
		t.Fatal(err)
	}
	if got := cap(d.frame.spans); got > spansRetained {
		t.Errorf("room for %d headers is kept", got)
	}
}

func TestBlockClasses(t *testing.T) {
	for n, want := range map[int]int{1: 0, blockBytes: 0, blockBytes + 1: 1, 2 * blockBytes: 1, largestPooledBytes: blockClasses - 1,
		largestPooledBytes + 1: blockClasses} {
		if got := blockClass(n); got != want {
			t.Errorf("%d bytes are class %d, want %d", n, got, want)
		}
		if b := takeBlock(n); len(b.bytes) < n {
			t.Errorf("%d bytes wanted, %d got", n, len(b.bytes))
		} else {
			b.giveBack()
		}
	}
}

// watched gives a few bytes a read and counts how often the decoder's buffer moved below it.
type watched struct {
	rest  []byte
	size  int
	begun bool
	after *byte // where the next byte goes if nothing moves; nil when the buffer is full and has to move
	moves int
}

func (w *watched) Read(b []byte) (int, error) {
	if w.begun && &b[0] != w.after {
		w.moves++
	}
	w.begun = true
	n := copy(b[:min(len(b), w.size)], w.rest)
	w.rest = w.rest[n:]
	if w.after = nil; n < len(b) {
		w.after = &b[n]
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// What arrived must be neither searched nor copied again with each tiny read, or a peer buys quadratic work: half a
// terabyte for a body of 4 MiB.
func TestTinyReadsAreLinear(t *testing.T) {
	for _, tt := range []struct {
		start       string
		size, piece int
	}{
		{"SEND\n\n", 4 << 20, 16},
		{"SEND\ncontent-length:4194304\n\n", 4 << 20, 16},
		{"SEND\n\n", largestPooledBytes + 4<<20, 4096},
	} {
		r := &watched{rest: []byte(tt.start + filled(tt.size) + "\x00"), size: tt.piece}
		d := serverDecoder(r, V12)
		limits := DefaultLimits()
		limits.Body = 2 * largestPooledBytes
		d.SetLimits(limits)
		f, err := d.Next()
		if err != nil || len(f.Body) != tt.size {
			t.Fatal(err)
		}
		if r.moves > 14 {
			t.Errorf("the buffer moved %d times", r.moves)
		}
	}
	for _, unfinished := range []string{"SEN", "SEND\na:b\nlong:" + filled(300), "SEND\na:b\n\n" + filled(300)} {
		r := &stop{}
		r.WriteString(unfinished)
		d := serverDecoder(r, V12)
		if _, err := d.Next(); err != errStopped {
			t.Fatal(err)
		}
		if d.scanned != len(unfinished) {
			t.Errorf("scanned %d of %d bytes", d.scanned, len(unfinished))
		}
	}
}

// Frames of every size, cut everywhere, keep their content while the buffer moves below them.
func TestSizesAroundTheBuffers(t *testing.T) {
	var wire strings.Builder
	var want []sent
	for _, edge := range []int{idleBytes, blockBytes, 2 * blockBytes, 4 * blockBytes} {
		for n := edge - 40; n < edge+10; n += 7 {
			body := strings.Repeat(string(rune('a'+n%26)), n)
			wire.WriteString(fmt.Sprintf("SEND\nx\\cy:%d\nn:\\c\n\n%s\x00\n", n, body))
			want = append(want, sent{SEND, h("x:y", fmt.Sprint(n), "n", ":"), body})
		}
	}
	for _, size := range []int{1 << 20, 16 << 10, 1000, 511, 512, 513, 13} {
		got, err := readAll(serverDecoder(&pieces{rest: []byte(wire.String()), size: size}, V12))
		if err != io.EOF {
			t.Fatalf("pieces of %d: %v", size, err)
		}
		compare(t, fmt.Sprintf("pieces of %d", size), got, want)
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for _, tt := range []struct{ name, wire string }{
		{"6 headers", benchFrame()},
		{"20 headers", "SEND\n" + differentHeaders(20) + "\nhello\x00\nACK\nid:1\n\n\x00\n"},
		{"escapes", "ACK\nid:ID\\cvm-1\\c2\n\n\x00\n"},
		{"100 KiB", "SEND\n\n" + filled(100<<10) + "\x00\n"},
	} {
		d := serverDecoder(&endless{pattern: []byte(tt.wire)}, V12)
		next := func() {
			f, err := d.Next()
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range f.All() {
				runtime.KeepAlive(name)
				runtime.KeepAlive(value)
			}
			f.Get("none")
		}
		for range 100 {
			next()
		}
		// A garbage collection may empty the pools now and then; under the race detector they drop at random.
		if got := testing.AllocsPerRun(1000, next); got > 0 && !raceEnabled {
			t.Errorf("%s: %v allocations for a frame", tt.name, got)
		}
	}
}
