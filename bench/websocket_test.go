package bench

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]target{
		"127.0.0.1:1883":        {address: "127.0.0.1:1883"},
		"[::1]:1883":            {address: "[::1]:1883"},
		"ws://a:80":             {address: "a:80", websocket: true},
		"ws://a:80/":            {address: "a:80", path: "/", websocket: true},
		"wss://a:443/ws/x?y=%2": {},
		"wss://a:443/ws?y=1":    {address: "a:443", path: "/ws?y=1", websocket: true, secure: true},
	} {
		got, err := parseTarget(text)
		if want == (target{}) {
			want, err = got, nil // the URL library decides
		}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"localhost", "http://a:80/", "ws://a/ws", "ws://:80", "ws://u:p@a:80/", "ws://a:80/#x", "ws://a b:80"} {
		if got, err := parseTarget(text); err == nil {
			t.Errorf("%q passed as %+v", text, got)
		}
	}
}

// script is a socket that reads what is given, in pieces, and keeps what is written.
type script struct {
	net.Conn
	in      []byte
	piece   func() int
	written bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.in[:min(len(s.in), s.piece())])
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return s.written.Write(p) }

// serverFrame is what a broker sends.
func serverFrame(op byte, final bool, payload []byte) []byte {
	first := op
	if final {
		first |= wsFinal
	}
	b := []byte{first}
	switch n := len(payload); {
	case n <= wsMost8:
		b = append(b, byte(n))
	case n < 1<<16:
		b = append(b, 126, byte(n>>8), byte(n))
	default:
		b = append(b, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(b, payload...)
}

// However a broker fragments messages, mixes in pings, and the network cuts the stream, the reader sees the payloads, with
// or without their ends.
func TestUnwrapper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		delimited := rapid.Bool().Draw(t, "delimited")
		var in, want []byte
		pings := 0
		for range rapid.IntRange(0, 12).Draw(t, "messages") {
			fragments := rapid.IntRange(1, 3).Draw(t, "fragments")
			for i := range fragments {
				op := byte(wsContinuation)
				if i == 0 {
					op = wsText
				}
				size := rapid.OneOf(rapid.IntRange(0, 200), rapid.SampledFrom([]int{125, 126, 127, 1 << 16})).Draw(t, "size")
				payload := bytes.Repeat([]byte{byte('a' + len(want)%26)}, size)
				in = append(in, serverFrame(op, i == fragments-1, payload)...)
				want = append(want, payload...)
				if rapid.IntRange(0, 4).Draw(t, "ping") == 0 {
					in = append(in, serverFrame(wsPing, true, []byte("p"))...)
					pings++
				}
			}
			if delimited {
				want = append(want, '\n')
			}
		}
		s := &script{in: in, piece: func() int { return rapid.IntRange(1, 500).Draw(t, "piece") }}
		early := rapid.IntRange(0, len(in)).Draw(t, "early")
		u := &unwrapper{Conn: s, early: in[:early], delimited: delimited}
		s.in = in[early:]
		var got []byte
		for buf := make([]byte, rapid.IntRange(2, 600).Draw(t, "buffer")); ; {
			n, err := u.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("read %d, %v", n, err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, want %d", len(got), len(want))
		}
		if n := s.written.Len(); n != pings*7 { // head, mask and a byte
			t.Fatalf("%d bytes of pongs for %d pings", n, pings)
		}
	})
}

func TestUnwrapperRefuses(t *testing.T) {
	for name, in := range map[string][]byte{
		"masked WebSocket frame":          {wsFinal | wsText, wsMasked},
		"oversized WebSocket control":     {wsFinal | wsPing, 126, 0, 126},
		"unknown kind 11":                 {wsFinal | 0xb, 0},
		"closed the WebSocket: 1009 too ": serverFrame(wsClose, true, []byte("\x03\xf1too ")),
	} {
		u := &unwrapper{Conn: &script{in: in, piece: func() int { return 100 }}}
		buf := make([]byte, 50)
		if _, err := u.Read(buf); err == nil || !strings.Contains(err.Error()+" ", name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := u.Read(buf); err == nil {
			t.Errorf("%s: it went on", name)
		}
	}
}

// What the wrapper makes of units is one masked message each, and nothing where nothing was appended.
func TestWrapper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWrapper(rapid.Bool().Draw(t, "text"))
		var out, want []byte
		messages := 0
		for range rapid.IntRange(0, 8).Draw(t, "units") {
			unit := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "unit")
			if rapid.IntRange(0, 9).Draw(t, "large") == 0 {
				unit = bytes.Repeat([]byte("x"), 1<<16)
			}
			out = w.seal(append(w.open(out), unit...))
			want = append(want, unit...)
			if len(unit) > 0 {
				messages++
			}
		}
		var got []byte
		for len(out) > 0 {
			if out[0] != wsFinal|w.op || out[1]&wsMasked == 0 {
				t.Fatalf("a frame begins with % x", out[:2])
			}
			size, head := int(out[1]&0x7f), 2
			switch size {
			case 126:
				size, head = int(out[2])<<8|int(out[3]), 4
			case 127:
				size, head = int(out[6])<<24|int(out[7])<<16|int(out[8])<<8|int(out[9]), 10
			}
			mask, payload := out[head:head+4], out[head+4:head+4+size]
			for i := range payload {
				got = append(got, payload[i]^mask[i%4])
			}
			out = out[head+4+size:]
			messages--
		}
		if messages != 0 || !bytes.Equal(got, want) {
			t.Fatalf("%d messages missing, %d bytes instead of %d", messages, len(got), len(want))
		}
	})
}

func FuzzUnwrapper(f *testing.F) {
	f.Add(serverFrame(wsText, true, []byte(`{"event":"message"}`)), true)
	f.Add(append(serverFrame(wsBinary, false, []byte("ab")), serverFrame(wsContinuation, true, nil)...), false)
	f.Add([]byte{wsFinal | wsBinary, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, false)
	f.Fuzz(func(t *testing.T, in []byte, delimited bool) {
		u := &unwrapper{Conn: &script{in: in, piece: func() int { return 7 }}, delimited: delimited}
		total := 0
		for buf := make([]byte, 16); ; {
			n, err := u.Read(buf)
			if total += n; err != nil {
				break
			}
		}
		if total > len(in) {
			t.Errorf("%d bytes came out of %d", total, len(in))
		}
	})
}

// A whole unit of the wire is one message; many leave in one write.
func TestWireWritesManyMessagesAtOnce(t *testing.T) {
	s := &script{}
	w := &wire{conn: s, clock: clock{time.Now()}, wrapper: newWrapper(false)}
	for range 3 {
		if err := w.write(false, func(b []byte) []byte { return append(b, "abc"...) }); err != nil {
			t.Fatal(err)
		}
	}
	if s.written.Len() != 0 {
		t.Error("written before anyone asked")
	}
	if err := w.write(true, func(b []byte) []byte { return b }); err != nil {
		t.Fatal(err)
	}
	if s.written.Len() != 3*(2+wsMaskBytes+3) {
		t.Errorf("%d bytes", s.written.Len())
	}
}

// Who is not timed waits before it reads on, unless the read before left something.
func TestWireWaitsWhenItHasReadEverything(t *testing.T) {
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	lulls := 0
	w := &wire{conn: here, clock: clock{time.Now()}, lull: func() { lulls++ }}
	go func() {
		for _, s := range []string{"a lot, and more", "x", "y"} {
			there.Write([]byte(s))
		}
	}()
	for i, want := range []int{0, 0, 0, 1} { // the first text takes two reads, of which neither says that it was all
		if _, err := w.Read(make([]byte, 8)); err != nil || lulls != want {
			t.Fatalf("read %d: %v, waited %d times, want %d", i, err, lulls, want)
		}
	}
}
