package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

// status asks a node for the cluster's streams.
func (c *cluster) status(i int) func() ([]jetstream.StreamStatus, error) {
	c.t.Helper()
	st, err := c.nodes[i].Status(func() []byte { return nil })
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(st.Close)
	return func() ([]jetstream.StreamStatus, error) { return st.Streams(context.Background()) }
}

// replicated returns nil once every stream has so many copies, all of them current.
func replicated(copies int, streams func() ([]jetstream.StreamStatus, error)) error {
	all, err := streams()
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Missing > 0 || len(s.Replicas) != copies-1 {
			return fmt.Errorf("%s has %d replicas and misses %d", s.Name, len(s.Replicas)+1, s.Missing)
		}
		for _, r := range s.Replicas {
			if !r.Current {
				return fmt.Errorf("%s on %s is behind", s.Name, r.Node)
			}
		}
	}
	return nil
}

// While the store of one node has stopped for want of room, queues are made on the others, and get their third copy when it is back.
func TestQueuesAreMadeWhileAStoreHasStopped(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	defer s.Close()
	streams := c.status(0)
	c.awaitCurrent(2)
	if err := c.nodes[2].RunOut(); err != nil {
		t.Fatal(err)
	}
	// The others learn within ten seconds that it takes no copies.
	short := false
	for i := 0; !short; i++ {
		if i == 100 {
			t.Fatal("the others still count on the node")
		}
		id := router.MailboxID{Kind: crashQueue.Kind, Name: fmt.Sprint("made ", i)}
		appendN(t, openLog(t, s, id), "x")
		all, err := streams()
		if err != nil {
			t.Fatal(err)
		}
		short = slices.ContainsFunc(all, func(s jetstream.StreamStatus) bool { return s.Missing == 1 })
		time.Sleep(200 * time.Millisecond) // not for order: each makes a stream
	}
	c.stop(2)
	c.start(2)
	within(t, time.Minute, func() error { return replicated(3, streams) })
	c.awaitCurrent(2)
}

// A node that cannot begin its copy of a new queue has the server delete the queue again, some moments after it was made: what was
// confirmed until then would be gone.
func TestANewQueueStaysThoughANodeHasNoRoom(t *testing.T) {
	const device = "/dev/full" // no space left on device
	if _, err := os.Stat(device); err != nil {
		t.Skip(err)
	}
	c := newCluster(t, nil)
	c.startAll()
	s := c.open(0)
	defer s.Close()
	c.awaitCurrent(2)
	c.nodes[0].HearCramped(c.opts[2].NodeName)
	var made errgroup.Group
	ids := make([]router.MailboxID, 10)
	want := numbered("message ", 20)
	for i := range ids {
		ids[i] = router.MailboxID{Kind: crashQueue.Kind, Vhost: "/", Name: fmt.Sprint("queue ", i)}
		dir := filepath.Join(c.opts[2].Dir, "jetstream", "$G", "streams", jetstream.QueueStream(ids[i]))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(device, filepath.Join(dir, "meta.inf.tmp")); err != nil { // where the copy begins; it goes away with the failure
			t.Fatal(err)
		}
		made.Go(func() error {
			l, err := s.OpenLog(context.Background(), ids[i])
			if err != nil {
				return err
			}
			return appended(l, want...)
		})
	}
	if err := made.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if got := bodies(readAll(t, openLog(t, s, id), 1, 100)); !slices.Equal(got, want) {
			t.Errorf("%s: %d messages, want %d", id.Name, len(got), len(want))
		}
	}
}

// appended appends bodies and returns once all are confirmed.
func appended(l router.Log, bodies ...string) error {
	answers := make(chan answer, len(bodies))
	for _, b := range bodies {
		l.Append([]byte(b), "", into(answers))
	}
	for range bodies {
		select {
		case a := <-answers:
			if a.err != nil {
				return a.err
			}
		case <-time.After(time.Minute):
			return errors.New("an append has no answer: its queue is gone")
		}
	}
	return nil
}
