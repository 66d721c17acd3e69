package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"sync/atomic"
)

// Header is one user header.
type Header struct{ Name, Value string }

// DefaultPriority is the priority of a message that names none (JMS: 4).
const DefaultPriority = 4

// Message is immutable once published and is shared by pointer between all who
// receive it.
type Message struct {
	To            Address
	ID            MessageID
	Body          []byte
	ContentType   string
	ReplyTo       string // a destination in the style its sender wrote, or any text
	CorrelationID string
	Headers       []Header // user headers, in order, first of a name wins
	DedupID       string   // a publisher's retries carry the same one
	ExpiresUnixMs int64    // 0: never
	TimestampMs   int64    // when it was published, or what the publisher said
	Origin        SessionID
	Priority      uint8 // 0 to 9
	Flags         Flags

	encodings atomic.Pointer[encoding]
}

// Flags are a message's yes-or-no properties.
type Flags uint8

const (
	// FlagPersistent: the publisher asked for persistence (told back to STOMP clients).
	FlagPersistent Flags = 1 << iota
	// FlagRetain: the topic keeps it for later subscribers.
	FlagRetain
	// FlagText: it came without a length, as JMS text messages do over STOMP.
	FlagText
	// FlagUTF8: the publisher says the body is UTF-8 (MQTT 5 payload format).
	FlagUTF8
	// FlagExactlyOnce: the publisher used MQTT QoS 2; persistent as well.
	FlagExactlyOnce
	// FlagTimed: TimestampMs is what the publisher said (told on to MQTT clients).
	FlagTimed
	// FlagKept: a copy of a retained message that was stored in an inbox since its subscription began.
	FlagKept
)

// Has reports whether all of f are set.
func (m *Message) Has(f Flags) bool { return m.Flags&f == f }

// Header returns the first user header of a name.
func (m *Message) Header(name string) (string, bool) {
	for i := range m.Headers {
		if m.Headers[i].Name == name {
			return m.Headers[i].Value, true
		}
	}
	return "", false
}

// Expired reports whether the message is past its expiry at nowMs (Unix ms).
func (m *Message) Expired(nowMs int64) bool {
	return m.ExpiresUnixMs != 0 && m.ExpiresUnixMs <= nowMs
}

// Size is what the message counts against byte limits.
func (m *Message) Size() int {
	n := len(m.Body) + len(m.To.name) + len(m.ContentType) + len(m.ReplyTo) + len(m.CorrelationID) + 64
	for i := range m.Headers {
		n += len(m.Headers[i].Name) + len(m.Headers[i].Value)
	}
	return n
}

// MessageID is unique over all nodes and restarts: the publisher's session and a
// number within it.
type MessageID struct {
	Session SessionID
	N       uint64
}

// SessionID is unique over all nodes and restarts.
type SessionID struct {
	Boot uint64 // random for each start of a node
	N    uint64
}

// AppendText appends the text form: letters, digits and '-' only, so no protocol
// has to escape it.
func (id MessageID) AppendText(dst []byte) []byte {
	dst = id.Session.AppendText(dst)
	dst = append(dst, '-')
	return strconv.AppendUint(dst, id.N, 36)
}

// String returns the text form.
func (id MessageID) String() string { return string(id.AppendText(nil)) }

// AppendText appends the text form of the session.
func (s SessionID) AppendText(dst []byte) []byte {
	dst = strconv.AppendUint(dst, s.Boot, 36)
	dst = append(dst, '-')
	return strconv.AppendUint(dst, s.N, 36)
}

// String returns the text form.
func (s SessionID) String() string { return string(s.AppendText(nil)) }

// encoding is one wire form of a message; the list has as many entries as there
// are protocol variants among the receivers, which is few.
type encoding struct {
	key  uint32
	wire []byte
	next *encoding
}

// Encoded returns the wire form stored under key, made by build the first time,
// so that a fan-out encodes once for each variant. Keys are given out by
// EncodingKey. Two callers at once may both build; one result is kept.
func (m *Message) Encoded(key uint32, build func(*Message) []byte) []byte {
	head := m.encodings.Load()
	for e := head; e != nil; e = e.next {
		if e.key == key {
			return e.wire
		}
	}
	e := &encoding{key: key, wire: build(m), next: head}
	if !m.encodings.CompareAndSwap(head, e) {
		return e.wire // another variant won the race: this one is used once
	}
	return e.wire
}

// EncodingKey makes a key for Encoded that no other front-end uses: proto is the
// front-end's letter, variant its own number below 2^24.
func EncodingKey(proto byte, variant uint32) uint32 { return uint32(proto)<<24 | variant&0xffffff }

// With returns a copy that may still be changed before it is published. The body
// is shared.
func (m *Message) With(change func(*Message)) *Message {
	c := &Message{
		To: m.To, ID: m.ID, Body: m.Body, ContentType: m.ContentType, ReplyTo: m.ReplyTo,
		CorrelationID: m.CorrelationID, Headers: m.Headers[:len(m.Headers):len(m.Headers)], DedupID: m.DedupID,
		ExpiresUnixMs: m.ExpiresUnixMs, TimestampMs: m.TimestampMs, Origin: m.Origin,
		Priority: m.Priority, Flags: m.Flags,
	}
	change(c)
	return c
}

// The stored form of a message: a version byte, the fields, the body, and a
// CRC-32C over all before it. Strings are a uvarint length and the bytes.
const envelopeVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendEnvelope appends the stored form.
func (m *Message) AppendEnvelope(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, envelopeVersion, byte(m.To.kind), byte(m.Flags), m.Priority)
	dst = appendString(dst, m.To.vhost)
	dst = appendString(dst, m.To.name)
	dst = binary.LittleEndian.AppendUint64(dst, m.ID.Session.Boot)
	dst = binary.AppendUvarint(dst, m.ID.Session.N)
	dst = binary.AppendUvarint(dst, m.ID.N)
	dst = binary.AppendVarint(dst, m.ExpiresUnixMs)
	dst = binary.AppendVarint(dst, m.TimestampMs)
	dst = appendString(dst, m.ContentType)
	dst = appendString(dst, m.ReplyTo)
	dst = appendString(dst, m.CorrelationID)
	dst = appendString(dst, m.DedupID)
	dst = binary.AppendUvarint(dst, uint64(len(m.Headers)))
	for i := range m.Headers {
		dst = appendString(dst, m.Headers[i].Name)
		dst = appendString(dst, m.Headers[i].Value)
	}
	dst = append(dst, m.Body...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// ErrEnvelope is what a stored message that cannot be read back wraps.
var ErrEnvelope = errors.New("stored message is damaged")

// ParseEnvelope reads the stored form. The message keeps b: it must not change
// afterwards.
func ParseEnvelope(b []byte) (*Message, error) {
	if len(b) < 8 || b[0] != envelopeVersion {
		return nil, fmt.Errorf("%w: %d bytes, not an envelope of version %d", ErrEnvelope, len(b), envelopeVersion)
	}
	sum := binary.LittleEndian.Uint32(b[len(b)-4:])
	b = b[:len(b)-4]
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, fmt.Errorf("%w: checksum differs", ErrEnvelope)
	}
	r := envelopeReader{b: b[4:]}
	m := &Message{Flags: Flags(b[2]), Priority: b[3]}
	m.To = Address{kind: Kind(b[1]), vhost: r.text(), name: r.text()}
	m.ID.Session.Boot = r.fixed64()
	m.ID.Session.N = r.uvarint()
	m.ID.N = r.uvarint()
	m.Origin = m.ID.Session
	m.ExpiresUnixMs = r.varint()
	m.TimestampMs = r.varint()
	m.ContentType = r.text()
	m.ReplyTo = r.text()
	m.CorrelationID = r.text()
	m.DedupID = r.text()
	m.Headers = r.headers()
	if r.bad {
		return nil, fmt.Errorf("%w: it ends early", ErrEnvelope)
	}
	m.Body = r.b
	return m, nil
}

// envelopeReader reads fields until one does not fit; then bad stays true.
type envelopeReader struct {
	b   []byte
	bad bool
}

func (r *envelopeReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *envelopeReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *envelopeReader) fixed64() uint64 {
	if len(r.b) < 8 {
		r.bad, r.b = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *envelopeReader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *envelopeReader) headers() []Header {
	n := r.uvarint()
	// Each header takes at least two bytes.
	if n > uint64(len(r.b)/2) {
		r.bad, r.b = true, nil
		return nil
	}
	if n == 0 {
		return nil
	}
	hs := make([]Header, n)
	for i := range hs {
		hs[i] = Header{Name: r.text(), Value: r.text()}
	}
	return hs
}
