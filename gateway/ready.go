package gateway

import (
	"cmp"
	"errors"

	"github.com/mqgate/mqgate/gateway/admin"
)

// readyCheck is one condition for clients to be sent here. Problem returns nil if
// it holds; it answers from memory, or with one question to the NATS that stores: load
// balancers ask every second or two.
type readyCheck struct {
	name    string
	problem func() error
}

// ownChecks are those that every node has; a clustered one appends its own.
func (g *Gateway) ownChecks() []readyCheck {
	return []readyCheck{
		{"serving", func() error {
			if !g.serving.Load() {
				return errors.New("starting")
			}
			return nil
		}},
		{admin.DrainingCheck, func() error {
			if g.draining() {
				return errors.New("draining, clients are being sent away")
			}
			return nil
		}},
		{"disk", func() error {
			if g.diskLow() {
				return errors.New("the disk is nearly full, or the store is at its limit")
			}
			return nil
		}},
		{"store", func() error { return g.node.Healthy() }},
	}
}

// ready returns the state of all checks.
func (g *Gateway) ready() []admin.Check {
	out := make([]admin.Check, len(g.checks))
	for i, c := range g.checks {
		out[i].Name = c.name
		if err := c.problem(); err != nil {
			out[i].Problem = err.Error()
		}
	}
	return out
}

// diskLow reports whether this node has no room for more.
func (g *Gateway) diskLow() bool {
	if g.store != nil {
		return g.store.DiskLow()
	}
	return g.node.DiskLow()
}

// self is what this node says of itself.
func (g *Gateway) self() admin.Node {
	checks := g.ready()
	used, limit := g.node.Usage()
	return admin.Node{
		Name: g.cfg.NodeName, Address: cmp.Or(g.cfg.Cluster.Advertise, g.cfg.Cluster.Listen), Version: g.version, Started: g.started, Reachable: true, Ready: admin.AllHold(checks), Checks: checks,
		Connections: g.connections(), StoreUsed: used, StoreLimit: limit,
	}
}
