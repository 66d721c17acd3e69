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
