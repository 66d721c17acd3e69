package federation

import "sync"

// recentIDs is how many live messages of other sites are remembered: those of the moments by which one way between sites is
// longer than another.
const recentIDs = 1 << 14

// recent are the messages that came last. Where sites are linked all with all, each comes over every one of them.
type recent struct {
	mu   sync.Mutex
	ids  map[string]struct{}
	ring []string // oldest at next, once it is full
	next int
}

// has reports whether a message came before, and remembers it.
func (r *recent) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.ids[id]; ok {
		return true
	}
	if r.ids == nil {
		r.ids = map[string]struct{}{}
	}
	if len(r.ring) < recentIDs {
		r.ring = append(r.ring, id)
	} else {
		delete(r.ids, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % recentIDs
	}
	r.ids[id] = struct{}{}
	return false
}
