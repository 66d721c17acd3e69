package admin

import (
	"net/http"
	"time"

	"github.com/mqgate/mqgate/router"
)

// Cluster is the state of all nodes as one of them sees it.
type Cluster struct {
	Name string `json:"name,omitempty"` // empty: a single node
	Node string `json:"node"`           // the one that answers
	// Leader is the node that keeps what is stored; empty while none is known.
	Leader string `json:"leader,omitempty"`
	// LeaseAge is how long ago the leader renewed its lease, as far as is known here.
	LeaseAge time.Duration `json:"lease_age_ns,omitempty"`
	Nodes    []Node        `json:"nodes"`
	Streams  []Stream      `json:"streams,omitempty"`
	// StreamsProblem is why the streams are not known now; empty if they are.
	StreamsProblem string `json:"streams_problem,omitempty"`
}

// Node is one node.
type Node struct {
	Name    string    `json:"name"`
	Version string    `json:"version,omitempty"`
	Address string    `json:"address,omitempty"` // of its routes
	Started time.Time `json:"started,omitzero"`
	// Reachable tells whether it answered; what is below is empty if not.
	Reachable   bool           `json:"reachable"`
	Leader      bool           `json:"leader"`
	Ready       bool           `json:"ready"`
	Checks      []Check        `json:"checks,omitempty"`
	Connections map[string]int `json:"connections,omitempty"`
	StoreUsed   uint64         `json:"store_used_bytes,omitempty"`
	StoreLimit  uint64         `json:"store_limit_bytes,omitempty"`
}

// Stream is one replicated part of the store.
type Stream struct {
	Name     string    `json:"name"`
	Leader   string    `json:"leader,omitempty"` // empty: it has none now
	Replicas []Replica `json:"replicas,omitempty"`
	Missing  int       `json:"missing,omitempty"` // replicas that are not there yet, since too few nodes have room
}

// Replica is a copy of a stream on a node that does not lead it.
type Replica struct {
	Node    string `json:"node"`
	Current bool   `json:"current"` // has all that the leader has
	Offline bool   `json:"offline,omitempty"`
	Lag     uint64 `json:"lag,omitempty"` // operations behind
}

func (h *handler) cluster(r *http.Request, _ *router.Principal) (any, error) {
	return h.Cluster(r.Context())
}

// DrainState says how a drain goes: what is configured, and who is connected.
type DrainState struct {
	Grace       time.Duration  `json:"grace_ns"`
	Spread      time.Duration  `json:"spread_ns"`
	Timeout     time.Duration  `json:"timeout_ns"`
	Connections map[string]int `json:"connections"`
}

func (h *handler) drain(_ *http.Request, p *router.Principal) (any, error) {
	h.Log.Info("admin", "verb", "drain", "user", p.Name())
	return h.Drain(), nil
}
