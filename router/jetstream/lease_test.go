package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router/jetstream"
)

// contenders watch that one of them leads at a time.
type contenders struct {
	t       *testing.T
	mu      sync.Mutex
	leading map[string]*jetstream.Term
	causes  map[string]error
	overlap error
}

// contender is one node's candidate.
type contender struct {
	all  *contenders
	name string

	mu       sync.Mutex
	willing  bool
	leader   string
	majority bool
}

func (c *contender) Eligible() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.willing
}

func (c *contender) setWilling(v bool) {
	c.mu.Lock()
	c.willing = v
	c.mu.Unlock()
}

func (c *contender) Follow(node, _ string, majority bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader, c.majority = node, majority
}

func (c *contender) knows() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader, c.majority
}

func (c *contender) Lead(ctx context.Context, t *jetstream.Term) error {
	a := c.all
	a.mu.Lock()
	for other, term := range a.leading {
		if term.Valid() {
			a.overlap = fmt.Errorf("%s leads while the term of %s holds", c.name, other)
		}
	}
	a.leading[c.name] = t
	a.mu.Unlock()
	t.Announce()
	<-ctx.Done()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.leading, c.name)
	a.causes[c.name] = context.Cause(ctx)
	return nil
}

func (a *contenders) who() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, t := range a.leading {
		if t.Valid() {
			return name
		}
	}
	return ""
}

// One node leads at a time: the next when the first gives up, or is gone; one without a majority stops by itself.
func TestLeaseHasOneHolder(t *testing.T) {
	c := newCluster(t, nil)
	c.startAll()
	all := &contenders{t: t, leading: map[string]*jetstream.Term{}, causes: map[string]error{}}
	var group sync.WaitGroup
	who, ends := map[string]*contender{}, map[string]context.CancelFunc{}
	for _, n := range []int{0, 1, 2} {
		name := c.opts[n].NodeName
		x := &contender{all: all, name: name, willing: true}
		ctx, end := context.WithCancel(context.Background())
		who[name], ends[name] = x, end
		group.Go(func() {
			if err := c.nodes[n].Campaign(ctx, x); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		for _, end := range ends {
			end()
		}
		group.Wait()
		if all.overlap != nil {
			t.Error(all.overlap)
		}
	})
	// agreed waits until the nodes that are left follow one that leads, other than a former one.
	agreed := func(not string, among ...string) string {
		t.Helper()
		var leader string
		within(t, time.Minute, func() error {
			if leader = all.who(); leader == "" || leader == not {
				return fmt.Errorf("nobody leads but %q", leader)
			}
			for _, name := range among {
				if got, majority := who[name].knows(); got != leader || !majority {
					return fmt.Errorf("%s follows %q (majority %v), not %q", name, got, majority, leader)
				}
			}
			return nil
		})
		return leader
	}
	first := agreed("", "n1", "n2", "n3")
	who[first].setWilling(false)
	second := agreed(first, "n1", "n2", "n3")
	if err := all.causes[first]; !errors.Is(err, jetstream.ErrStepDown) {
		t.Errorf("the first ended with %v", err)
	}
	who[first].setWilling(true)

	// The holder's process vanishes: its server with it, without a word.
	lost := int(second[1] - '1')
	c.stop(lost)
	var left []string
	for name := range who {
		if name != second {
			left = append(left, name)
		}
	}
	third := agreed(second, left...)
	within(t, 30*time.Second, func() error {
		all.mu.Lock()
		defer all.mu.Unlock()
		if err := all.causes[second]; !errors.Is(err, jetstream.ErrLeaseLost) {
			return fmt.Errorf("the second ended with %v", err)
		}
		return nil
	})

	// Without a majority nobody leads, and the one that is left knows it.
	alone := left[0]
	if alone == third {
		alone = left[1]
	}
	c.stop(int(third[1] - '1'))
	within(t, 30*time.Second, func() error {
		if leader, majority := who[alone].knows(); leader != "" || majority {
			return fmt.Errorf("%s follows %q, majority %v", alone, leader, majority)
		}
		return nil
	})
	if leader := all.who(); leader == alone {
		t.Errorf("%s leads alone", alone)
	}
	ends[second]()
	ends[third]()
}

// within polls until f returns nil.
func within(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
