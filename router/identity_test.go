package router

import (
	"context"
	"slices"
	"sync"
	"testing"
)

// writers remembers who published.
type writers struct {
	AllowAll
	mu  sync.Mutex
	all []*Principal
}

func (w *writers) Authorize(p *Principal, a Action, _ Address) error {
	if a == ActionWrite {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all = append(w.all, p)
	}
	return nil
}

// Whom a token has let in on an edge is no administrator at the leader, though the name is one's: neither with what the client
// publishes, nor with its will.
func TestClusterTokenStaysAToken(t *testing.T) {
	seen := &writers{}
	c := startCluster(t, 1, func(o *Options) { o.Authorize = seen })
	p := NewTokenPrincipal("anyone", "dev", nil)
	s, err := c.edges[0].Connect(SessionOptions{Principal: p, Kick: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	mustPublish(t, s, "/queue/q", "1")
	if err := s.PublishWill(context.Background(), &Will{Message: &Message{To: dest(t, "/queue/q"), Body: []byte("gone")}}); err != nil {
		t.Fatal(err)
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	atLeader := slices.DeleteFunc(seen.all, func(q *Principal) bool { return q == p })
	if len(atLeader) < 2 {
		t.Errorf("the leader asked %d times whether it may", len(atLeader))
	}
	for _, q := range atLeader {
		if q.Identity() != p.Identity() || q.Admin() {
			t.Errorf("%+v is %+v at the leader, admin %v", p.Identity(), q.Identity(), q.Admin())
		}
	}
}
