package jetstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// The server's own blocks are found good, every flipped byte in them is found, and a torn end is
// none. This fails if a version of the server writes them otherwise.
func TestVerifyBlock(t *testing.T) {
	s := openInternal(t, nil)
	l, err := s.OpenLog(context.Background(), router.MailboxID{Kind: router.KindQueueBox, Vhost: "/", Name: "q"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		answered := make(chan error, 1)
		dedup := ""
		if i%2 == 0 {
			dedup = fmt.Sprint(i) // has headers
		}
		l.Append(fmt.Append(nil, "body ", i), dedup, func(_ router.Stored, err error, _ *outbox.Batch) { answered <- err })
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
	}
	name := l.(*mailboxLog).stream.name
	dir := s.node.streamDir(name)
	s.Close()
	if err := verifyStream(dir, name); err != nil {
		t.Fatalf("a sound stream: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "msgs", "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) {
		b[i] ^= 0x40
		if verifyBlock(b, name, 1, false) == nil {
			t.Errorf("byte %d is changed, and nothing is found", i)
		}
		b[i] ^= 0x40
	}
	whole := 0
	for cut := range len(b) {
		if err := verifyBlock(b[:cut], name, 1, true); err == nil {
			whole++ // it ends with a record
		} else if !errors.Is(err, errTorn) {
			t.Errorf("torn at %d: %v", cut, err)
		}
	}
	if whole != 20 {
		t.Errorf("at %d places the block ends with a record, not at those behind each but the last, and at its begin", whole)
	}
	b[len(b)-20] ^= 0x40 // in the last record
	if err := verifyBlock(b, name, 1, true); !errors.Is(err, errTorn) {
		t.Errorf("the last record is changed: %v", err)
	}
	b[len(b)-20] ^= 0x40
	b[len(b)/2] ^= 0x40 // in a body in the middle, of the last block
	if verifyBlock(b, name, 1, true) == nil {
		t.Error("damage in the middle of the last block is not found")
	}
}
