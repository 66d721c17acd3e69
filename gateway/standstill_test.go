package gateway

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A process that was stopped for some seconds has missed what was stored: it had contact with the leader, and must ask again.
func TestANodeThatStoodStillHasMissedSomething(t *testing.T) {
	for _, tt := range []struct {
		alive time.Time
		met   bool
	}{
		{time.Time{}, true}, // it has just begun to look
		{time.Now(), true},
		{time.Now().Add(-time.Minute), false},
	} {
		var log lockedBuffer
		m := &member{g: &Gateway{log: slog.New(slog.NewTextHandler(&log, nil))}, met: true, alive: tt.alive}
		m.noticeStandstill()
		m.noticeStandstill() // once is enough
		if n := strings.Count(log.String(), "stood still"); m.met != tt.met || (n == 1) == tt.met {
			t.Errorf("last seen %v: met %v, log %q", tt.alive, m.met, log.String())
		}
	}
}

// A node that was away is ready once it has what it missed, also for the first who asks then.
func TestReadyForTheFirstWhoAsks(t *testing.T) {
	g := open(t, load(t, "nats.url=nats://"+natsAlone(t).Addr().String()))
	run(t, g)
	awaitReady(t, g, "")
	m := g.member
	m.mu.Lock()
	m.met, m.whole = false, time.Time{}
	m.mu.Unlock()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		m.mu.Lock()
		met := m.met
		m.mu.Unlock()
		if met {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody asks, and the node does not look")
		}
	}
	for _, c := range g.ready() {
		if c.Problem != "" {
			t.Errorf("%s: %s", c.Name, c.Problem)
		}
	}
}
