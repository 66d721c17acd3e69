package door

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Only those whose machine acknowledges nothing are ended, after a minute. Who acknowledges and does not read is not.
func TestThoseWhoVanishedAreEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gone, slow, idle, late = "gone", "slow", "idle", "late"
		begun := time.Now()
		var mu sync.Mutex
		ended := map[string]time.Duration{}
		g := Guests[string]{Seats: NewSeats(10, 0), Socket: func(string) net.Conn { return nil }}
		g.Vanished = func(c string) {
			mu.Lock()
			defer mu.Unlock()
			ended[c] = time.Since(begun)
			g.Leave(c)
		}
		g.owing = func(c string) (bool, time.Duration) {
			age := time.Since(begun)
			switch c {
			case gone:
				return true, age
			case slow:
				return true, age % (40 * time.Second) // each probe of its window is answered
			case late:
				return age > 5*time.Minute, age // it was silent before anything was sent to it
			}
			return false, age
		}
		for _, c := range []string{gone, slow, idle, late} {
			if _, err := g.Admit(func() string { return c }); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute)
		mu.Lock()
		if d := ended[gone]; len(ended) != 1 || d < vanishedAfter || d > vanishedAfter+2*lookEvery {
			t.Errorf("ended: %v", ended)
		}
		mu.Unlock()
		time.Sleep(2 * time.Minute)
		mu.Lock()
		if d := ended[late] - 5*time.Minute; len(ended) != 2 || d < vanishedAfter || d > vanishedAfter+2*lookEvery {
			t.Errorf("ended: %v", ended)
		}
		mu.Unlock()
		g.Leave(slow)
		g.Leave(idle)
		if g.looking != nil {
			t.Error("it is still looked for nobody")
		}
	})
}
