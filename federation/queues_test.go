package federation

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
)

// What is sent to a queue that is forwarded reaches the other site's, however often
// the link breaks meanwhile: all of it, in order, and twice only with a mark.
func TestQueuesAreStoredAndForwarded(t *testing.T) {
	queue := filters(t, "/queue/orders")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: queue})
	w := newWire(t, berlin.link.Addr().String())
	w.set(false)
	oslo := newSite(t, "oslo", "", []string{w.listener.Addr().String()}, Remote{Site: "berlin", Queues: queue})
	there := berlin.subscribe("/queue/orders")
	const n = 600
	for i := range n {
		oslo.publish("/queue/orders", fmt.Sprint(i))
		if i%100 == 50 {
			w.set(true)
		} else if i%100 == 99 {
			w.set(false)
		}
	}
	if got := len(there.all()); got == n {
		t.Log("the link was faster than its cuts")
	}
	w.set(true)
	eventually(t, func() error {
		if got := there.all(); len(got) < n {
			return fmt.Errorf("%d of %d", len(got), n)
		}
		return nil
	})
	seen := map[string]bool{}
	next := 0
	for _, b := range there.all() {
		if seen[b] {
			if !there.again[b] {
				t.Errorf("%s came twice without a mark", b)
			}
			continue
		}
		seen[b] = true
		if b != fmt.Sprint(next) {
			t.Fatalf("%s where %d was to come", b, next)
		}
		next++
	}
	if len(seen) != n {
		t.Errorf("%d of %d arrived", len(seen), n)
	}
}

// Two sites that forward the same queue to each other refuse, and keep theirs.
func TestQueuesDoNotGoRound(t *testing.T) {
	queue := filters(t, "/queue/orders")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: queue, Queues: queue})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Receive: queue, Queues: queue})
	oslo.publish("/queue/orders", "x")
	eventually(t, func() error {
		if berlin.bridge.Stats.Refused.Load() == 0 {
			return fmt.Errorf("not refused; %d links", oslo.link.Links())
		}
		return nil
	})
	if oslo.bridge.Stats.Forwarded.Load() != 0 {
		t.Error("it went round")
	}
}

// Three sites forward a queue in a ring, berlin to oslo to rome to berlin, and nobody consumes it: a message stays at the last
// site before that from which it came, once, however often that one is asked to take it.
func TestQueuesDoNotGoRoundARing(t *testing.T) {
	queue := filters(t, "/queue/orders")
	from := func(takes, sends string) []Remote {
		return []Remote{{Site: takes, Receive: queue}, {Site: sends, Queues: queue}}
	}
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, from("rome", "oslo")...)
	hub := []string{berlin.link.Addr().String()}
	oslo, rome := newSite(t, "oslo", "", hub, from("berlin", "rome")...), newSite(t, "rome", "", hub, from("oslo", "berlin")...)
	ring := []*site{berlin, oslo, rome}
	const each = 20
	for i := range each {
		for _, s := range ring {
			s.publish("/queue/orders", fmt.Sprintf("%s %d", s.name, i))
		}
	}
	refused := map[*site]uint64{}
	settled := func(more uint64) { // each has refused the last of its own, and that again
		t.Helper()
		eventually(t, func() error {
			for _, s := range ring {
				if n := s.bridge.Stats.Counts(); n["forwarded"] < 2*each || n["refused"] < refused[s]+more {
					return fmt.Errorf("%s: %v", s.name, n)
				}
			}
			return nil
		})
		for _, s := range ring {
			refused[s] = s.bridge.Stats.Refused.Load()
		}
	}
	settled(each)
	settled(2 * each)
	for i, s := range ring {
		if n := s.bridge.Stats.Counts(); n["forwarded"] != 2*each || n["stored"] != 2*each {
			t.Errorf("%s: %v, want %d forwarded and stored", s.name, n, 2*each)
		}
		first := ring[(i+1)%len(ring)] // would be next
		count := map[string]int{}
		for _, b := range s.waiting("/queue/orders") {
			count[b]++
		}
		for i := range each {
			if b := fmt.Sprintf("%s %d", first.name, i); count[b] != 1 {
				t.Errorf("%q waits at %s %d times", b, s.name, count[b])
			}
		}
		if len(count) != each {
			t.Errorf("%d messages wait at %s, want the %d of %s: %v", len(count), s.name, each, first.name, count)
		}
	}
}

// waiting are the messages of a queue that are not settled.
func (s *site) waiting(queue string) (bodies []string) {
	s.t.Helper()
	a, _, err := router.ParseDestination("", queue)
	if err != nil {
		s.t.Fatal(err)
	}
	look, err := s.session.Browse(a, nil)
	for more := true; more && err == nil; {
		var page []router.PeekedMessage
		page, more, err = look.Next(context.Background(), 100)
		for _, p := range page {
			bodies = append(bodies, string(p.Message.Body))
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return bodies
}

// mute is a store that does not answer appends.
type mute struct {
	*router.MemoryStore
	asked chan struct{}
}

func (m *mute) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	l, err := m.MemoryStore.OpenLog(ctx, id)
	return muteLog{l, m.asked}, err
}

type muteLog struct {
	router.Log
	asked chan struct{}
}

func (l muteLog) Append([]byte, string, router.Done) {
	select {
	case l.asked <- struct{}{}:
	default:
	}
}

// A leader that gives up, or has lost the majority, does not wait for its store to answer other sites.
func TestCloseDoesNotWaitForTheStore(t *testing.T) {
	queues := filters(t, "/queue/jobs")
	store := &mute{router.NewMemoryStore(), make(chan struct{}, 1)}
	berlin := newSiteOn(t, store, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: queues})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Queues: queues})
	oslo.publish("/queue/jobs", "x")
	<-store.asked
	closed := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { berlin.bridge.Close(); close(closed) })
	select {
	case <-closed:
		group.Wait()
	case <-time.After(10 * time.Second):
		t.Fatal("it waits")
	}
}
