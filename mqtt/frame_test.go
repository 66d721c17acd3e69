package mqtt

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// meter is a reader that counts its calls.
type meter struct {
	io.Reader
	reads int
}

func (m *meter) Read(b []byte) (int, error) {
	m.reads++
	return m.Reader.Read(b)
}

// A client that sends much is read in large pieces, although its packets never end where a read does; one that sends little
// holds no large buffer.
func TestABusyConnectionIsReadInLargePieces(t *testing.T) {
	packet := append([]byte{typePublish << 4, 0x8c, 0x02}, make([]byte, 268)...)
	const packets = 1000
	m := &meter{Reader: bytes.NewReader(bytes.Repeat(packet, packets))}
	f := framer{source: m, limit: 1 << 16}
	n := 0
	for ; ; n++ {
		if _, _, err := f.next(); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
	}
	if n != packets || m.reads > 2+packets*len(packet)*5/4/largeBytes {
		t.Errorf("%d packets in %d reads", n, m.reads)
	}
	f.release()
	f.source = bytes.NewReader(packet)
	if _, _, err := f.next(); err != nil || f.pooled != nil {
		t.Errorf("a lone packet takes a large buffer: %v", err)
	}
}
