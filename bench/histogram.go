package bench

import (
	"math"
	"math/bits"
	"sync"
)

const (
	// stepBits makes 128 steps in each power of two: a bucket is under 0.8 % of its value wide.
	stepBits = 7
	steps    = 1 << stepBits
	// topBits bounds the table: 2^42 ns is 73 minutes, and anything slower is counted in the last bucket (max stays exact).
	topBits = 42
	buckets = (topBits - stepBits + 1) << stepBits
)

// histogram counts durations in nanoseconds in log-linear buckets. It has one writer; merge when the writer has ended.
type histogram struct {
	count  uint64
	maxNS  int64
	counts [buckets]uint64
}

// bucketOf maps a value to its bucket: exact below 128 ns, then 128 equal steps for each power of two.
func bucketOf(v uint64) int {
	if v < steps {
		return int(v)
	}
	shift := bits.Len64(v) - stepBits - 1
	return min(shift<<stepBits+int(v>>shift), buckets-1)
}

// bucketMiddle is the value reported for everything in bucket i.
func bucketMiddle(i int) int64 {
	if i < 2*steps {
		return int64(i)
	}
	shift := i>>stepBits - 1
	low := int64(i-shift<<stepBits) << shift
	return low + int64(1)<<shift/2
}

// record counts one duration. A negative one (the two ends of it were read in the wrong order) counts as zero.
func (h *histogram) record(ns int64) {
	ns = max(ns, 0)
	h.count++
	h.maxNS = max(h.maxNS, ns)
	h.counts[bucketOf(uint64(ns))]++
}

func (h *histogram) merge(o *histogram) {
	h.count += o.count
	h.maxNS = max(h.maxNS, o.maxNS)
	for i, n := range o.counts {
		h.counts[i] += n
	}
}

// quantileUS is the value, in microseconds, that a share q (0 to 1) of all records does not exceed; 0 without records.
func (h *histogram) quantileUS(q float64) float64 {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(h.count))), 1)
	seen := uint64(0)
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return float64(min(bucketMiddle(i), h.maxNS)) / 1e3
		}
	}
	return h.maxUS()
}

// times is a histogram of several writers: one of its own for each of thousands of subscribers would not fit the
// processor's cache, and cost more than all else that is done with a message.
type times struct {
	mu sync.Mutex
	h  histogram
}

func (t *times) record(ns int64) {
	t.mu.Lock()
	t.h.record(ns)
	t.mu.Unlock()
}

func (h *histogram) maxUS() float64 { return float64(h.maxNS) / 1e3 }
