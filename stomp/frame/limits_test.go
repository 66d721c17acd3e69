package frame

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

func TestLimitsAreTheLargestAccepted(t *testing.T) {
	small := Limits{Command: 4, HeaderLine: 10, HeaderBytes: 40, Headers: 3, Body: 5}
	tests := []struct {
		name, wire string
		limit      int // 0: accepted
		text       string
	}{
		{"command", "SEND\r\n\n\x00", 0, ""},
		{"command longer", "ABORT\n\n\x00", 4, "command line longer than 4 bytes"},
		{"command longer, no end", "ABORTS", 4, "command line longer than 4 bytes"},
		{"header line", "SEND\nabcde:6789\r\n\n\x00", 0, ""},
		{"header line longer", "SEND\nabcde:67890\n\n\x00", 10, "header line longer than 10 bytes"},
		{"header line longer, no end", "SEND\nabcde:678901", 10, "header line longer than 10 bytes"},
		{"head", "SEND\nabcde:6789\nbcdef:6789\nc:12345678\n\r\n\x00", 0, ""},
		{"head longer", "SEND\r\nabcde:6789\nbcdef:6789\nc:12345678\n\r\n\x00", 40, "command and headers longer than 40 bytes"},
		{"headers", "SEND\na:\nb:\nc:\n\n\x00", 0, ""},
		{"more headers", "SEND\na:\nb:\nc:\nd:\n\n\x00", 3, "more than 3 headers"},
		{"repeated headers count", "SEND\na:\na:\na:\na:\n\n\x00", 3, "more than 3 headers"},
		{"body", "SEND\n\n12345\x00", 0, ""},
		{"body longer", "SEND\n\n123456\x00", 5, "body longer than 5 bytes"},
		{"body longer, no end", "SEND\n\n123456", 5, "body longer than 5 bytes"},
		{"body on an ACK", "ACK\n\n123456", 5, "body longer than 5 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.limit == 0 {
				d := serverDecoder(strings.NewReader(tt.wire), V12)
				d.SetLimits(small)
				if got, err := readAll(d); err != io.EOF || len(got) != 1 {
					t.Errorf("refused: %v", err)
				}
				return
			}
			e := refusal(t, tt.wire, func(d *Decoder) { d.SetLimits(small) })
			if e.Kind != KindLimit || e.Limit != tt.limit || e.Text != tt.text {
				t.Errorf("error %+v", e)
			}
		})
	}
}

func TestContentLengthOverTheLimitIsRefusedBeforeTheBody(t *testing.T) {
	d := serverDecoder(strings.NewReader("SEND\nreceipt:9\ncontent-length:6\n\n"), V12)
	d.SetLimits(Limits{Command: 4, HeaderLine: 20, HeaderBytes: 80, Headers: 3, Body: 5})
	_, err := d.Next()
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindLimit || e.Limit != 5 || e.Receipt != "9" || e.Command != SEND {
		t.Errorf("error %+v", err)
	}
}

func TestUnfinishedHeadIsRefused(t *testing.T) {
	limits := Limits{Command: 4, HeaderLine: 1000, HeaderBytes: 40, Headers: 3}
	e := refusal(t, "SEND\na:b\nc:"+filled(35), func(d *Decoder) { d.SetLimits(limits) })
	if e.Kind != KindLimit || e.Limit != 40 {
		t.Errorf("error %+v", e)
	}
}

// The receipt is looked up when the body turns out too long, after the buffer has moved and its old place was reused.
func TestReceiptOfAFrameThatMoved(t *testing.T) {
	wire := "SEND\n\n" + filled(10_000) + "\x00SEND\nreceipt:77\n\n" + filled(15_000)
	d := serverDecoder(&pieces{rest: []byte(wire), size: 100}, V12)
	limits := DefaultLimits()
	limits.Body = 12_000
	d.SetLimits(limits)
	if _, err := d.Next(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Next()
	var e *Error
	if !errors.As(err, &e) || e.Receipt != "77" || e.Command != SEND {
		t.Errorf("error %+v", err)
	}
}

func TestStrangersHaveNoBody(t *testing.T) {
	d := NewDecoder(strings.NewReader("SEND\ncontent-length:1\n\na\x00"), ServerSide)
	if _, err := d.Next(); err == nil || err.Error() != "stomp: SEND may not have a body here" {
		t.Errorf("error %v", err)
	}
	long := "CONNECT\npasscode:" + filled(8<<10-len("CONNECT\npasscode:\n\n")) + "\n\n\x00"
	d = NewDecoder(strings.NewReader(long), ServerSide)
	if _, err := d.Next(); err != nil {
		t.Errorf("a CONNECT of 8 KiB is refused: %v", err)
	}
	d = NewDecoder(strings.NewReader(long[:len(long)-3]+"x\n\n\x00"), ServerSide)
	if _, err := d.Next(); err == nil {
		t.Error("a CONNECT of more than 8 KiB is accepted")
	}
}

func TestSillyLimits(t *testing.T) {
	got := Limits{Command: -1, HeaderLine: maxLimit + 1, Body: math.MaxInt}.clamped()
	if want := (Limits{HeaderLine: maxLimit, Body: maxLimit}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Each attacker sends for ever, and must be cut off after a bounded number of bytes with bounded memory.
func TestAbuse(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name           string
		start, pattern string
		body           int // limit
		kind           Kind
		mostBytes      int // read before the refusal
	}{
		{"endless command", "", "A", mib, KindLimit, 1 << 10},
		{"endless header", "SEND\na:", "x", mib, KindLimit, 48 << 10},
		{"5 MB header in a good frame", "SEND\na:" + filled(5e6) + "\n\n", "\x00", mib, KindLimit, 48 << 10},
		{"endless short headers", "SEND\n", "a:b\n", mib, KindLimit, 48 << 10},
		{"endless headers, all different", "SEND\n", differentHeaders(200_000), mib, KindLimit, 48 << 10},
		{"endless long headers", "SEND\n", "a:" + filled(9<<10) + "\n", mib, KindLimit, 192 << 10},
		{"4 GiB announced", "SEND\ncontent-length:4294967295\n\n", "x", mib, KindLimit, 1 << 10},
		{"1 TiB announced", "SEND\ncontent-length:1099511627776\n\n", "x", mib, KindLimit, 1 << 10},
		{"endless body", "SEND\n\n", "x", mib, KindLimit, 3 * mib},
		{"endless body of an ACK", "ACK\n\n", "x", mib, KindLimit, 3 * mib},
		{"no NUL behind the body", "SEND\ncontent-length:1048576\n\n", "x", mib, KindContentLength, 3 * mib},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &endless{start: []byte(tt.start), pattern: []byte(tt.pattern)}
			d := serverDecoder(r, V12)
			limits := DefaultLimits()
			limits.Body = tt.body
			d.SetLimits(limits)
			_, err := d.Next()
			var e *Error
			if !errors.As(err, &e) || e.Kind != tt.kind {
				t.Fatalf("error %v, want kind %v", err, tt.kind)
			}
			if r.taken > tt.mostBytes {
				t.Errorf("read %d bytes, want at most %d", r.taken, tt.mostBytes)
			}
			if held, most := len(d.in.bytes), max(blockBytes, 2*r.taken); held > most {
				t.Errorf("holds %d bytes after %d arrived", held, r.taken)
			}
			if cap(d.frame.spans) > 2*limits.Headers {
				t.Errorf("room for %d headers", cap(d.frame.spans))
			}
		})
	}
}

func differentHeaders(n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "h%d:\n", i)
	}
	return s.String()
}

func TestAnAnnouncedBodyTakesNoMemory(t *testing.T) {
	const announced = 512 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	wire := fmt.Sprintf("SEND\ncontent-length:%d\n\nx", announced)
	d := serverDecoder(strings.NewReader(wire), V12)
	limits := DefaultLimits()
	limits.Body = announced
	d.SetLimits(limits)
	if _, err := d.Next(); err != io.ErrUnexpectedEOF {
		t.Fatalf("error %v", err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("allocated %d bytes for a body that never came", grown)
	}
}

func TestManyHeadersStayDistinct(t *testing.T) {
	for _, n := range []int{pairwiseMost - 1, pairwiseMost, pairwiseMost + 1, 1000} {
		headers := differentHeaders(n)
		half := headers[:strings.Index(headers, fmt.Sprintf("h%d:", n/2))]
		limits := DefaultLimits()
		limits.Headers = 2 * n
		d := serverDecoder(strings.NewReader("SEND\n"+headers+half+"\n\x00"), V12)
		d.SetLimits(limits)
		f, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Len() != n {
			t.Errorf("%d headers, want %d", f.Len(), n)
		}
		for i := range f.Len() {
			if name, _ := f.Header(i); string(name) != fmt.Sprintf("h%d", i) {
				t.Fatalf("header %d of %d is %q", i, n, name)
			}
		}
	}
}
