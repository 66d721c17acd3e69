package bench

import "math/bits"

// arrivals is the set of one sender's message numbers that have come, 0 upwards. While they come in order it is one
// counter; what runs ahead of a gap is kept as bits. Its memory is bounded by the caller, who adds only numbers that were
// really sent (an eighth of a byte for each message after the first missing one).
type arrivals struct {
	next  uint64   // all numbers below have come
	base  uint64   // number of bit 0 of ahead[0]; a multiple of 64, at most next
	ahead []uint64 // numbers from base on; empty while nothing is ahead of next
	far   int      // bits of ahead at or above next
}

// add notes a number and reports whether it is the first time.
func (a *arrivals) add(n uint64) bool {
	switch {
	case n < a.next:
		return false
	case a.far == 0 && n == a.next:
		a.next++
		return true
	case a.far == 0: // the first to run ahead: start the bits at the gap
		a.base, a.ahead = a.next&^63, a.ahead[:0]
	}
	word, bit := int((n-a.base)/64), uint64(1)<<(n%64)
	for word >= len(a.ahead) {
		a.ahead = append(a.ahead, 0)
	}
	if a.ahead[word]&bit != 0 {
		return false
	}
	a.ahead[word] |= bit
	a.far++
	if n == a.next {
		a.advance()
	}
	return true
}

// advance moves next over the run of set bits that begins at it, and forgets whole words once half of them are behind.
func (a *arrivals) advance() {
	for {
		word := int((a.next - a.base) / 64)
		if word == len(a.ahead) {
			break
		}
		run := bits.TrailingZeros64(^(a.ahead[word] >> (a.next % 64)))
		a.next += uint64(run)
		a.far -= run
		if run == 0 || a.next%64 != 0 {
			break
		}
	}
	if behind := int((a.next - a.base) / 64); behind > len(a.ahead)/2 {
		a.ahead = a.ahead[:copy(a.ahead, a.ahead[behind:])]
		a.base += uint64(behind) * 64
	}
}

// count is how many different numbers have come.
func (a *arrivals) count() uint64 { return a.next + uint64(a.far) }
