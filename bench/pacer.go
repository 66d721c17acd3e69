package bench

import "time"

// pacer says when each message of one publisher is due: at equal intervals from a start, whatever happened to those before.
//
// A message that is late because sending blocked counts from when it was due, so that a broker which stops taking messages
// shows in the latency instead of thinning out the load. One that is late because this process overslept counts from when it
// was sent: that delay is not the broker's.
type pacer struct {
	startNS    int64
	intervalNS float64
	wokeNS     int64 // when the last sleep ended
	timer      *time.Timer
}

// newPacer spreads the publishers of a run evenly over one interval.
func newPacer(ratePerSecond float64, index, publishers int, nowNS int64) *pacer {
	interval := float64(publishers) / ratePerSecond * 1e9
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &pacer{startNS: nowNS + int64(interval*float64(index)/float64(publishers)), intervalNS: interval, wokeNS: nowNS, timer: t}
}

// due returns how long to sleep before message n, or, with no sleep, the time its latency counts from (0: when it is sent).
func (p *pacer) due(n uint64, nowNS int64) (wait time.Duration, fromNS int64) {
	at := p.startNS + int64(float64(n)*p.intervalNS)
	switch {
	case at > nowNS:
		return time.Duration(at - nowNS), 0
	case at > p.wokeNS: // it came due while we were awake and busy sending
		return 0, at
	}
	return 0, 0
}
