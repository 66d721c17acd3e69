package jetstream

import "testing"

// TestOnlyADiskThatStoresIsLow: a node that keeps nothing needs no room.
func TestOnlyADiskThatStoresIsLow(t *testing.T) {
	for name, x := range map[string]struct {
		opt Options
		low bool
	}{
		"alone":                {Options{}, true},
		"one of several":       {Options{Cluster: &ClusterOptions{}}, true},
		"it keeps no replicas": {Options{Cluster: &ClusterOptions{NoStorage: true}}, false},
		"a NATS elsewhere":     {Options{External: &ExternalOptions{}}, false},
	} {
		x.opt.Dir, x.opt.MinFreeBytes = t.TempDir(), 1<<62
		if low := (&Node{opt: x.opt}).DiskLow(); low != x.low {
			t.Errorf("%s: low is %t", name, low)
		}
	}
}
