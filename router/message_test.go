package router

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func drawMessage(t *rapid.T) *Message {
	text := rapid.StringN(0, 20, 40)
	m := &Message{
		To:            rapid.SampledFrom([]Address{{vhost: "/", name: "q", kind: KindQueue}, {vhost: "tenant", name: "a/b", kind: KindTopic}, {}}).Draw(t, "to"),
		ID:            MessageID{Session: SessionID{Boot: rapid.Uint64().Draw(t, "boot"), N: rapid.Uint64().Draw(t, "session")}, N: rapid.Uint64().Draw(t, "n")},
		Body:          rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
		ContentType:   text.Draw(t, "type"),
		ReplyTo:       text.Draw(t, "reply"),
		CorrelationID: text.Draw(t, "correlation"),
		DedupID:       text.Draw(t, "dedup"),
		ExpiresUnixMs: rapid.Int64().Draw(t, "expires"),
		TimestampMs:   rapid.Int64().Draw(t, "time"),
		Priority:      rapid.Byte().Draw(t, "priority"),
		Flags:         Flags(rapid.Byte().Draw(t, "flags")),
	}
	m.Origin = m.ID.Session
	for range rapid.IntRange(0, 4).Draw(t, "headers") {
		m.Headers = append(m.Headers, Header{text.Draw(t, "name"), text.Draw(t, "value")})
	}
	return m
}

func sameMessage(a, b *Message) bool {
	x, y := a.With(func(*Message) {}), b.With(func(*Message) {})
	if !bytes.Equal(x.Body, y.Body) || len(x.Headers) != len(y.Headers) {
		return false
	}
	x.Body, y.Body = nil, nil
	if len(x.Headers) == 0 {
		x.Headers, y.Headers = nil, nil
	}
	return reflect.DeepEqual(x, y)
}

func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage(t)
		prefix := []byte("before")
		whole := m.AppendEnvelope(prefix)
		if !bytes.HasPrefix(whole, prefix) {
			t.Fatal("the prefix changed")
		}
		got, err := ParseEnvelope(whole[len(prefix):])
		if err != nil || !sameMessage(got, m) {
			t.Fatalf("%+v came back as %+v, %v", m, got, err)
		}
	})
}

func TestEveryFlippedBitAndEveryCutIsDetected(t *testing.T) {
	m := &Message{To: Address{vhost: "/", name: "q", kind: KindQueue}, Body: []byte("hello"), ContentType: "text/plain",
		Headers: []Header{{"a", "b"}}, ExpiresUnixMs: -1, TimestampMs: 1 << 40, Priority: 4}
	e := m.AppendEnvelope(nil)
	for i := range len(e) * 8 {
		b := bytes.Clone(e)
		b[i/8] ^= 1 << (i % 8)
		if _, err := ParseEnvelope(b); !errors.Is(err, ErrEnvelope) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
	}
	for n := range e {
		if _, err := ParseEnvelope(e[:n]); !errors.Is(err, ErrEnvelope) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

// TestEnvelopeLengthsAreBounded has a good checksum over lengths that lie.
func TestEnvelopeLengthsAreBounded(t *testing.T) {
	head := []byte{envelopeVersion, 1, 0, 4}
	huge := binary.AppendUvarint(nil, 1<<62)
	fields := append(bytes.Clone(head), 0, 0)
	fields = append(fields, make([]byte, 8+4+4)...)
	for name, body := range map[string][]byte{
		"name":    append(bytes.Clone(head), huge...),
		"headers": append(fields, huge...),
		"varint":  append(bytes.Clone(head), bytes.Repeat([]byte{0xff}, 11)...),
	} {
		b := binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		if m, err := ParseEnvelope(b); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func FuzzParseEnvelope(f *testing.F) {
	m := &Message{To: Address{vhost: "/", name: "q", kind: KindQueue}, Body: []byte("hello"), Headers: []Header{{"a", "b"}}}
	whole := m.AppendEnvelope(nil)
	f.Add(whole[:len(whole)-4])
	f.Add([]byte{envelopeVersion})
	f.Add((&Message{}).AppendEnvelope(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseEnvelope(b); err != nil && !errors.Is(err, ErrEnvelope) {
			t.Fatal(err)
		}
		// With a right checksum the fields themselves are reached.
		sealed := binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, castagnoli))
		m, err := ParseEnvelope(sealed)
		if err != nil {
			return
		}
		again, err := ParseEnvelope(m.AppendEnvelope(nil))
		if err != nil || !sameMessage(again, m) {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func TestEncodedBuildsOncePerVariant(t *testing.T) {
	m := &Message{}
	built := 0
	for range 3 {
		for variant := range uint32(3) {
			key := EncodingKey('s', variant)
			wire := m.Encoded(key, func(*Message) []byte { built++; return []byte{byte(variant)} })
			if len(wire) != 1 || wire[0] != byte(variant) {
				t.Fatalf("variant %d is %v", variant, wire)
			}
		}
	}
	if built != 3 {
		t.Errorf("built %d times for 3 variants", built)
	}
	if EncodingKey('s', 1) == EncodingKey('m', 1) {
		t.Error("two front-ends share a key")
	}
}

func BenchmarkAppendEnvelope(b *testing.B) {
	m := &Message{To: Address{vhost: "/", name: "orders", kind: KindQueue}, Body: make([]byte, 256), ContentType: "application/json",
		Headers: []Header{{"x-tenant", "7"}, {"x-trace", "0123456789"}}, TimestampMs: 1 << 40}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = m.AppendEnvelope(buf[:0])
	}
}

func BenchmarkParseEnvelope(b *testing.B) {
	m := &Message{To: Address{vhost: "/", name: "orders", kind: KindQueue}, Body: make([]byte, 256), ContentType: "application/json",
		Headers: []Header{{"x-tenant", "7"}, {"x-trace", "0123456789"}}, TimestampMs: 1 << 40}
	e := m.AppendEnvelope(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEnvelope(e); err != nil {
			b.Fatal(err)
		}
	}
}

// TestStoredFormsAreStable: what one version stored the next must read.
func TestStoredFormsAreStable(t *testing.T) {
	m := &Message{To: Address{vhost: "/", name: "q", kind: KindQueue}, ID: MessageID{Session: SessionID{Boot: 0x0102, N: 3}, N: 300},
		Body: []byte("body"), ContentType: "t", ReplyTo: "r", CorrelationID: "c", DedupID: "d", Headers: []Header{{"k", "v"}},
		ExpiresUnixMs: 1, TimestampMs: -1, Priority: 9, Flags: FlagPersistent | FlagText}
	r := record{Floor: 7, Upto: 20, Open: []uint64{9, 12}, Gaps: []int{1, 2}, Gone: 3, Skip: []uint64{30, 31},
		Counts: map[uint64]int{9: 2}, Reserved: 99, Suspect: 5, Last: 44, Bytes: 200, Expiring: true}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"envelope": {m.AppendEnvelope(nil), "01010509012f0171020100000000000003ac020201017401720163016401016b0176626f64794529e5ac"},
		"record":   {r.encode(nil), "0101071463052cc801020203010203021701010902"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is %s, want %s", name, got, c.want)
		}
	}
}
