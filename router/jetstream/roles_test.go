package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

// Of five nodes two keep nothing: they are in contact with all others, carry live
// messages and never open the store, and the other three stand the loss of one.
func TestClusterNodesWithoutStorage(t *testing.T) {
	c := newClusterOf(t, 5, func(i int, o *jetstream.Options) { o.Cluster.NoStorage = i >= 3 })
	c.startAll()
	s := c.open(0)
	want := numbered("message ", 100)
	appendN(t, openLog(t, s, crashQueue), want...)
	for i := range c.nodes {
		_, err := os.Stat(filepath.Join(c.opts[i].Dir, "jetstream"))
		if has := err == nil; has != (i < 3) {
			t.Errorf("node %d has stored something: %v", i, has)
		}
	}
	var carriers []*jetstream.Carrier
	for _, n := range c.nodes[3:] {
		k, err := n.Carrier()
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		carriers = append(carriers, k)
	}
	f, _, err := router.ParseFilter("", "/topic/a")
	if err != nil {
		t.Fatal(err)
	}
	var came atomic.Uint64
	if _, _, err := carriers[1].Interest(f, func(*router.Message, *outbox.Batch) { came.Add(1) }); err != nil {
		t.Fatal(err)
	}
	topic, _ := f.Address()
	eventually(t, func() error {
		carriers[0].Carry(&router.Message{To: topic, Body: []byte("live")})
		if came.Load() == 0 {
			return fmt.Errorf("nothing came")
		}
		return nil
	})
	s.Close()
	c.stop(0)
	s = c.open(1)
	defer s.Close()
	if got := bodies(readAll(t, openLog(t, s, crashQueue), 1, 100)); !slices.Equal(got, want) {
		t.Errorf("%d messages after the loss of a node, want %d", len(got), len(want))
	}
}

// Five copies stand the loss of two nodes.
func TestClusterOfFiveCopies(t *testing.T) {
	c := newClusterOf(t, 5, func(_ int, o *jetstream.Options) { o.Cluster.Replicas = 5 })
	c.startAll()
	s := c.open(0)
	want := numbered("message ", 100)
	appendN(t, openLog(t, s, crashQueue), want...)
	s.Close()
	c.stop(0)
	c.stop(1)
	s = c.open(2)
	defer s.Close()
	l := openLog(t, s, crashQueue)
	appendN(t, l, "with two nodes gone")
	if got := bodies(readAll(t, l, 1, 100)); !slices.Equal(got, append(want, "with two nodes gone")) {
		t.Errorf("%d messages after the loss of two nodes, want %d", len(got), len(want)+1)
	}
}

// A cluster that is lost altogether is restored from a backup: into the empty directory
// of one node, and with nothing on the others.
func TestClusterIsRestored(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	want := numbered("message ", 300)
	for _, id := range []router.MailboxID{crashQueue, crashInbox} {
		l := openLog(t, s, id)
		appendN(t, l, want...)
		save(t, l, "record of "+id.Name)
	}
	put(t, s, router.ValueRetained, "topic", "value")
	var backup bytes.Buffer
	if _, err := s.WriteBackup(context.Background(), &backup); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for i := range c.nodes {
		c.stop(i)
		c.opts[i].Dir = t.TempDir()
	}
	alone := c.opts[1]
	alone.Cluster = nil
	if _, err := jetstream.Restore(context.Background(), alone, bytes.NewReader(backup.Bytes())); err != nil {
		t.Fatal(err)
	}
	c.startAll()
	c.open(1).Close()
	c.stop(1) // the others have it all now
	s = c.open(2)
	defer s.Close()
	for _, id := range []router.MailboxID{crashQueue, crashInbox} {
		if got := bodies(readAll(t, openLog(t, s, id), 1, 100)); !slices.Equal(got, want) {
			t.Errorf("%v: %d messages, want %d", id, len(got), len(want))
		}
	}
	boxes, err := s.Mailboxes(context.Background())
	if err != nil || len(boxes) != 2 || !strings.HasPrefix(string(boxes[0].Record), "record of ") {
		t.Errorf("mailboxes %v, %v", boxes, err)
	}
	if got := values(t, s, router.ValueRetained); got != "map[topic:value]" {
		t.Errorf("retained %s", got)
	}
}
