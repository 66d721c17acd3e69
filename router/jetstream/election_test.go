package jetstream

import (
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
