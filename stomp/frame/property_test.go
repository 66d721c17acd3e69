package frame

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// anyFrame draws a frame that the version can express, and its content-length where the body needs one.
func anyFrame(t *rapid.T, v Version) sent {
	c := Command(rapid.IntRange(int(CONNECT), int(ERROR)).Draw(t, "command"))
	s := sent{command: c}
	bytesOf := func(label string) string {
		return string(rapid.SliceOfN(rapid.SampledFrom([]byte("ab \t:\\\n\rcnr\xc3\xa9\xff")), 0, 20).Draw(t, label))
	}
	seen := map[string]bool{}
	for range rapid.IntRange(0, 20).Draw(t, "headers") {
		name := expressible("n"+bytesOf("name"), c.escaping(v), true)
		if value := expressible(bytesOf("value"), c.escaping(v), false); !seen[name] {
			s.headers = append(s.headers, Header{name, value})
			seen[name] = true
		}
	}
	if c.HasBody() {
		s.body = string(rapid.SliceOfN(rapid.SampledFrom([]byte("ab\x00\n\\:")), 0, 40).Draw(t, "body"))
		if NeedsContentLength([]byte(s.body)) || rapid.Bool().Draw(t, "counted") {
			s.headers = append(s.headers, Header{"content-length", strconv.Itoa(len(s.body))})
		}
	}
	return s
}

// expressible takes away what a version replaces or trims.
func expressible(s string, v Version, name bool) string {
	switch {
	case v == V10 && name:
		return strings.Trim(strings.NewReplacer("\n", "", "\r", "", ":", "").Replace(s), " \t")
	case v == V10:
		return strings.Trim(strings.NewReplacer("\n", "", "\r", "").Replace(s), " \t")
	case v == V11:
		return strings.ReplaceAll(s, "\r", "")
	}
	return s
}

// For every version, a stream of frames that is encoded and cut at random decodes to the same frames.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Version(rapid.IntRange(0, 2).Draw(t, "version"))
		frames := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) sent { return anyFrame(t, v) }), 1, 5).Draw(t, "frames")
		side := rapid.SampledFrom([]Side{ServerSide, ClientSide}).Draw(t, "side")
		var want []sent
		var wire []byte
		for _, f := range frames {
			if f.command.FromClient() == (side == ServerSide) {
				want = append(want, f)
				wire = AppendFrame(wire, v, f.command, []byte(f.body), f.headers...)
			}
		}
		d := serverDecoder(&pieces{rest: wire, size: rapid.IntRange(1, 60).Draw(t, "size")}, v)
		d.SetSide(side)
		d.SetStrict(true)
		for i, w := range want {
			f, err := d.Next()
			if err != nil {
				t.Fatalf("frame %d: %v in %q", i, err, wire)
			}
			if got := copyOf(f); !got.equal(w) {
				t.Fatalf("frame %d is\n %v, want\n %v", i, got, w)
			}
			if again := f.Append(nil, v); string(again) != string(AppendFrame(nil, v, w.command, []byte(w.body), w.headers...)) {
				t.Fatalf("frame %d is encoded again as %q", i, again)
			}
			if rapid.Bool().Draw(t, "ask") {
				d.Buffered()
			}
			if rapid.Bool().Draw(t, "release") {
				d.ReleaseIfEmpty()
			}
		}
		if _, err := d.Next(); err == nil {
			t.Fatal("more frames than were sent")
		}
	})
}
