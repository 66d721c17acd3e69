package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is what both sides of one kind of load saw. An id is sender:number.
type ledger struct {
	name string
	// exact: no message may come twice, marked or not (QoS 2).
	exact bool
	// ordered: first deliveries of a sender come in the order of its sends.
	ordered bool

	mu        sync.Mutex
	sends     int
	confirmed map[string]time.Time // when
	resent    map[string]bool      // by a sender that cannot have it deduplicated (QoS 1)
	came      map[string]int
	unmarked  map[string]int
	marked    int
	first     map[string]time.Time // when it came first, of those that must not come twice
	repeats   []string             // and how it came again
	last      map[string]int       // of each sender, the number that came last for the first time
	disorder  []string
	beside    map[string]bool // on its way when one before it, or it, was refused for want of room
	late      int             // of those, what came behind a later one
	sessions  int             // durable sessions that a client did not find again
	refused   map[string]int
	pulse     pulse
}

func newLedger(name string, exact, ordered bool) *ledger {
	return &ledger{name: name, exact: exact, ordered: ordered, confirmed: map[string]time.Time{}, resent: map[string]bool{},
		came: map[string]int{}, unmarked: map[string]int{}, last: map[string]int{}, refused: map[string]int{}, beside: map[string]bool{}, first: map[string]time.Time{}}
}

func (l *ledger) sent() { l.mu.Lock(); l.sends++; l.mu.Unlock() }

func (l *ledger) again(id string) { l.mu.Lock(); l.resent[id] = true; l.mu.Unlock() }

func (l *ledger) confirm(id string) {
	l.mu.Lock()
	l.confirmed[id] = time.Now()
	l.mu.Unlock()
	l.pulse.beat()
	everything.beat()
}

// refuse notes an error that the gateway answered with, and what was not confirmed then. Where there was no room for a message,
// those behind it may have found some: when it is sent again, it comes behind them.
func (l *ledger) refuse(text string, open ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[text]++
	if strings.Contains(text, "nearly full") || strings.Contains(text, "store is full") {
		for _, id := range open {
			l.beside[id] = true
		}
	}
}

// refusals are the errors that were noted, but for those that say that the node goes.
func (l *ledger) refusals() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var text strings.Builder
	for what, n := range l.refused {
		if !strings.Contains(what, "shutting down") {
			fmt.Fprintf(&text, " %d times %s", n, what)
		}
	}
	return text.String()
}

func (l *ledger) lostSession() { l.mu.Lock(); l.sessions++; l.mu.Unlock() }

func (l *ledger) got(id string, marked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came[id]++
	if marked {
		l.marked++
	} else {
		l.unmarked[id]++
	}
	sender, number, err := parseID(id)
	if err != nil {
		l.disorder = append(l.disorder, err.Error())
		return
	}
	if l.exact && l.came[id] == 1 {
		l.first[id] = time.Now()
	}
	if l.came[id] > 1 {
		if l.exact {
			l.repeats = append(l.repeats, fmt.Sprintf("%s at %s, marked %v, and before at %s", id, clock(time.Now()), marked, clock(l.first[id])))
		}
		return
	}
	if before := l.last[sender]; l.ordered && number < before && l.beside[id] {
		l.late++
	} else if l.ordered && number < before {
		l.disorder = append(l.disorder, fmt.Sprintf("%s, confirmed at %s, after %s:%d at %s", id, clock(l.confirmed[id]), sender, before, clock(time.Now())))
	}
	l.last[sender] = max(l.last[sender], number)
}

func makeID(sender string, number int) string { return fmt.Sprintf("%s:%d", sender, number) }

func parseID(id string) (sender string, number int, err error) {
	sender, rest, ok := strings.Cut(id, ":")
	if !ok {
		return "", 0, fmt.Errorf("a message %q came that nobody sent", id)
	}
	_, err = fmt.Sscanf(rest, "%d", &number)
	return sender, number, err
}

func (l *ledger) counts() (confirmed, came int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.confirmed), len(l.came)
}

// missing are confirmed messages that did not come.
func (l *ledger) missing() (ids []string) { return l.missingOf(l.confirmations()) }

// confirmations are those until now.
func (l *ledger) confirmations() map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.confirmed)
}

// missingOf are those of some messages that did not come.
func (l *ledger) missingOf(some map[string]time.Time) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range some {
		if l.came[id] == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// judge prints the ledger and fails the test if anything was lost, came twice
// without a mark, or out of order. What a sender of QoS 1 sent again is another message
// to the gateway, so that a copy has no mark is no failure; such are counted apart.
func (l *ledger) judge(t *testing.T) {
	t.Helper()
	lost := l.missing()
	l.mu.Lock()
	defer l.mu.Unlock()
	twice, unmarked, resent := l.duplicates()
	t.Logf("ledger %-14s sends %d, confirmed %d, came %d, lost %d, twice %d (of which unmarked %d; QoS 1 sent again, unmarked: %d), marked deliveries %d, out of order %d (and %d behind a refusal), sessions lost %d, longest gap %s",
		l.name+":", l.sends, len(l.confirmed), len(l.came), len(lost), twice, unmarked, resent, l.marked, len(l.disorder), l.late, l.sessions, l.pulse.longest().Round(time.Millisecond))
	for _, r := range l.repeats[:min(len(l.repeats), 20)] {
		t.Logf("ledger %-14s twice: %s", l.name+":", r)
	}
	for text, n := range l.refused {
		t.Logf("ledger %-14s refused %d times: %s", l.name+":", n, text)
	}
	if len(lost) > 0 || unmarked > 0 || len(l.disorder) > 0 || l.sessions > 0 || l.exact && twice > 0 {
		t.Errorf("%s: %d lost %s, %d unmarked duplicates, %d duplicates in all, %d out of order %s, %d sessions lost", l.name,
			len(lost), first(lost), unmarked, twice, len(l.disorder), first(l.disorder), l.sessions)
	}
	if len(l.confirmed) == 0 {
		t.Errorf("%s: nothing was confirmed: the test proves nothing", l.name)
	}
}

// duplicates counts the messages that came twice, those of them that came twice without a mark though they were sent once, and
// those that did so and were sent again by a sender that cannot have it deduplicated; with the lock held.
func (l *ledger) duplicates() (twice, unmarked, resent int) {
	for id, n := range l.came {
		if n > 1 {
			twice++
		}
		switch {
		case l.unmarked[id] <= 1:
		case l.resent[id]:
			resent++
		default:
			unmarked++
		}
	}
	return twice, unmarked, resent
}

// lostWhen says when confirmed messages that did not come were confirmed.
func (l *ledger) lostWhen() string {
	ids := l.missing()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(ids, func(a, b string) int { return l.confirmed[a].Compare(l.confirmed[b]) })
	var text strings.Builder
	for _, id := range ids[:min(len(ids), 40)] {
		fmt.Fprintf(&text, " %s at %s", id, clock(l.confirmed[id]))
	}
	return text.String()
}

func clock(at time.Time) string { return at.UTC().Format("15:04:05.000") }

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return "(such as " + s[0] + ")"
}

// everything beats with each confirmation of any kind of load.
var everything pulse

// pulse measures the longest time without a beat.
type pulse struct {
	mu    sync.Mutex
	last  time.Time
	worst time.Duration // since the last reset
	ever  time.Duration
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(time.Now())
}

func (p *pulse) note(now time.Time) {
	if !p.last.IsZero() {
		p.worst = max(p.worst, now.Sub(p.last))
		p.ever = max(p.ever, p.worst)
	}
	p.last = now
}

// reset returns the longest gap since the last reset, one that is still open included.
func (p *pulse) reset() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	worst := p.worst
	if !p.last.IsZero() {
		worst = max(worst, time.Since(p.last))
	}
	p.ever = max(p.ever, worst)
	p.worst = 0
	return worst
}

func (p *pulse) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ever
}

// TestLedgerTellsDuplicatesApart: a copy without a mark is a failure unless its sender sent it again.
func TestLedgerTellsDuplicatesApart(t *testing.T) {
	l := newLedger("x", false, true)
	for _, id := range []string{"s:0", "s:0", "s:1", "s:1", "s:2"} {
		l.got(id, false)
	}
	l.got("s:2", true)
	l.again("s:1")
	if twice, unmarked, resent := l.duplicates(); twice != 3 || unmarked != 1 || resent != 1 {
		t.Errorf("%d came twice, %d without a mark, %d sent again", twice, unmarked, resent)
	}
}
