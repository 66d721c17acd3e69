package jetstream

import (
	"errors"
	"testing"
	"time"
)

// What the server set, before any test could start a node.
var serverTiming = []time.Duration{hbInterval, minElectionTimeout, maxElectionTimeout, lostQuorumInterval, lostQuorumCheck}

// A linkname to a variable that does not exist makes a new one, which is zero.
func TestElectionTiming(t *testing.T) {
	want := []time.Duration{time.Second, 4 * time.Second, 9 * time.Second, 10 * time.Second, 10 * time.Second}
	for i, d := range serverTiming {
		if d != want[i] {
			t.Errorf("variable %d of the server is %v, want %v: look at its raft.go again", i, d, want[i])
		}
	}
}

// However often a node could not lead, it tries again in some seconds: the others may be gone by then.
func TestPausesOfANodeThatCannotLeadEnd(t *testing.T) {
	var f failing
	for i := range 100 {
		before := time.Now()
		f.again(errors.New("damaged"))
		least := min(firstPause<<min(i, 5), longestPause)
		if f.until.Before(before.Add(least)) || f.until.After(time.Now().Add(longestPause*5/4)) {
			t.Fatalf("after failure %d it waits for %v", i+1, f.until.Sub(before))
		}
	}
}
