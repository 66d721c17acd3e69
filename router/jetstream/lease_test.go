package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

// lockedLog keeps what is logged.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// lines returns those that have a part in them.
func (l *lockedLog) lines(part string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(strings.Split(l.text.String(), "\n"), func(line string) bool { return !strings.Contains(line, part) })
}

// failingLeader is a candidate that cannot lead.
type failingLeader struct {
	*contender
	mu    sync.Mutex
	why   error
	tries []time.Time // of one why
}

func (f *failingLeader) Lead(ctx context.Context, t *jetstream.Term) error {
	f.mu.Lock()
	f.tries = append(f.tries, time.Now())
	why := f.why
	f.mu.Unlock()
	if why != nil {
		return why
	}
	return f.contender.Lead(ctx, t)
}

func (f *failingLeader) fail(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why, f.tries = why, nil
}

func (f *failingLeader) tried() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tries)
}

// A node that cannot lead, for its store is damaged, tries again ever more seldom, and says so once until something
// changes.
func TestANodeThatCannotLeadBacksOff(t *testing.T) {
	addr := freeAddrs(t, 1)[0]
	nats := natsServer(t, addr, t.TempDir())
	defer func() { nats.Shutdown(); nats.WaitForShutdown() }()
	o := external(t, addr)
	var out lockedLog
	o.Log = slog.New(slog.NewTextHandler(&out, nil))
	n, err := jetstream.StartNode(o)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	all := &contenders{t: t, leading: map[string]*jetstream.Term{}, causes: map[string]error{}}
	who := &failingLeader{contender: &contender{all: all, name: "g1", willing: true}, why: errors.New("the store is damaged")}
	ctx, end := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := n.Campaign(ctx, who); err != nil {
			t.Error(err)
		}
	})
	defer group.Wait()
	defer end()
	await := func(tries int) []time.Time {
		t.Helper()
		within(t, time.Minute, func() error {
			if got := len(who.tried()); got < tries {
				return fmt.Errorf("it tried %d times, not %d", got, tries)
			}
			return nil
		})
		return who.tried()
	}
	said := func(want ...string) {
		t.Helper()
		within(t, time.Minute, func() error {
			got := out.lines("could not lead")
			for i, text := range want {
				if len(got) != len(want) || !strings.Contains(got[i], text) {
					return fmt.Errorf("it said %q, want %q", got, want)
				}
			}
			return nil
		})
	}
	// The pauses before the second and third try are 400 and 800 ms, and a part more.
	tries := await(3)
	for i, least := range []time.Duration{400, 800} {
		if got := tries[i+1].Sub(tries[i]); got < least*time.Millisecond {
			t.Errorf("try %d came %v after the one before", i+2, got)
		}
	}
	said("is damaged")
	who.fail(errors.New("a block is missing"))
	await(1)
	said("is damaged", "is missing")
	who.fail(nil)
	within(t, time.Minute, func() error {
		if leader, _ := who.knows(); leader != "g1" {
			return fmt.Errorf("%q leads", leader)
		}
		return nil
	})
	who.setWilling(false) // it leads no more
	within(t, time.Minute, func() error {
		if leader, _ := who.knows(); leader != "" {
			return fmt.Errorf("%q leads", leader)
		}
		return nil
	})
	who.fail(errors.New("a block is missing"))
	who.setWilling(true)
	said("is damaged", "is missing", "is missing") // it led in between: that is news
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
