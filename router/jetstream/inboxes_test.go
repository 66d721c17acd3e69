package jetstream_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/mqgate/mqgate/router"
)

// TestAStartIsToldWhichInboxesAreEmpty with the bounds that each would be asked for.
func TestAStartIsToldWhichInboxesAreEmpty(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, false)
	for i := range 12 { // in several of the streams that inboxes share
		box := openLog(t, s, router.MailboxID{Kind: router.KindInbox, Vhost: "/", Name: fmt.Sprint(i)})
		seq := uint64(0)
		if i%3 > 0 {
			st, err := appendOne(t, box, "m", "")
			if err != nil {
				t.Fatal(err)
			}
			seq = st.Seq
		}
		if i%3 == 2 { // settled
			if err := box.Trim(context.Background(), seq); err != nil {
				t.Fatal(err)
			}
		}
		answers := make(chan answer, 1)
		box.SaveRecord([]byte("r"), into(answers))
		if a := hear(t, answers); a.err != nil {
			t.Fatal(a.err)
		}
	}
	s.Close()
	s = openStore(t, dir, false)
	defer s.Close()
	stored, err := s.Mailboxes(context.Background())
	if err != nil || len(stored) != 12 {
		t.Fatalf("mailboxes %+v, %v", stored, err)
	}
	for _, m := range stored {
		b := bounds(t, openLog(t, s, m.ID), 0)
		if (m.Empty != nil) != (b.Count == 0) || m.Empty != nil && *m.Empty != b {
			t.Errorf("inbox %s: told %+v, is %+v", m.ID.Name, m.Empty, b)
		}
	}
}
