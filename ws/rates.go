package ws

import (
	"sync"

	"golang.org/x/time/rate"
)

// rates are the limits of those who come over HTTP: by user, or by address.
type rates struct {
	mu  sync.Mutex
	all map[string]*rate.Limiter
}

const (
	// maxRates bounds how many are remembered; beyond it newcomers share one.
	maxRates = 10_000
	// failuresPerSecond and failuresBurst bound the logins that fail from one address.
	failuresPerSecond, failuresBurst = 1, 20
)

// limiter returns that of a new connection.
func (s *Server) limiter() *rate.Limiter {
	n := s.opt.RequestsPerSecond
	return rate.NewLimiter(rate.Limit(n), 2*n)
}

// of returns the limiter of a key.
func (r *rates) of(key string, perSecond rate.Limit, burst int) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]*rate.Limiter{}
	}
	l := r.all[key]
	if l == nil {
		if len(r.all) >= maxRates {
			key = "" // a flood of names must not make everyone's limit its own
			if l = r.all[key]; l != nil {
				return l
			}
		}
		l = rate.NewLimiter(perSecond, burst)
		r.all[key] = l
	}
	return l
}

// prune forgets those that have used nothing lately; on the clock's goroutine.
func (r *rates) prune() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, l := range r.all {
		if l.Tokens() >= float64(l.Burst()) {
			delete(r.all, key)
		}
	}
}
