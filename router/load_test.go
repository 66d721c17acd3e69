package router

import (
	"fmt"
	"testing"
)

// TestNewLeaderLooksAgain: what is counted and cannot be read from a server that was just elected is not given up, but read when
// it is there; what never comes is.
func TestNewLeaderLooksAgain(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	for i := range 3 {
		mustPublish(t, s, "/queue/q", fmt.Sprint(i))
	}
	b := h.mailboxes()[0]
	log := b.log.(*memoryLog)
	log.mu.Lock()
	entries := log.entries
	log.entries = nil
	log.mu.Unlock()
	h.Router.opt.Gather = true // as a cluster's leader

	_, in := consume(t, s, "/queue/q", 9)
	eventually(t, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.missedMs == 0 || b.reading {
			return fmt.Errorf("nothing is missed; counted %d, loaded %d", b.ledger.count, b.ledger.loaded)
		}
		return nil
	})
	mustPublish(t, h.session(), "/queue/other", "x") // others go on
	log.mu.Lock()
	log.entries = append(entries, log.entries...)
	log.mu.Unlock()
	in.wait(t, "0", "1", "2")
	if n := h.Router.Stats.Damaged.Load(); n != 0 {
		t.Errorf("%d count as damaged", n)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger.count++
	b.missedMs = 0
	if !b.mayYetCome(1000) || !b.mayYetCome(1000+missedForMs-1) || b.mayYetCome(1000+missedForMs) || b.missedMs != 0 {
		t.Error("what is missed is not given up when it should be")
	}
	b.ledger.count--
	if b.mayYetCome(1) {
		t.Error("nothing is missed")
	}
	h.Router.opt.Gather = false
	b.ledger.count++
	if b.mayYetCome(1) {
		t.Error("a gateway alone waits for nothing")
	}
	b.ledger.count--
}
