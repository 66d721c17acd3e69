package mqtt

import (
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
)

// TestCounts holds Counts against the counters: one that operators cannot see is of no use.
func TestCounts(t *testing.T) {
	var s Stats
	v := reflect.ValueOf(&s).Elem()
	var want []uint64
	elsewhere := map[string]bool{"BytesReceived": true, "BytesSent": true} // $SYS tells of them
	for i := range v.NumField() {
		if elsewhere[v.Type().Field(i).Name] {
			continue
		}
		n := uint64(i + 1)
		v.Field(i).Addr().Interface().(*atomic.Uint64).Store(n)
		want = append(want, n)
	}
	if got := slices.Sorted(maps.Values(s.Counts())); !slices.Equal(got, want) {
		t.Errorf("counts %v of counters %v", s.Counts(), want)
	}
}
