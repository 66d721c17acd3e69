package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/mqgate/mqgate/gateway/admin"
	"github.com/mqgate/mqgate/router/jetstream"
)

// peers is what a node knows of the cluster that it belongs to.
type peers struct {
	name   string // of the cluster
	status *jetstream.Status
	// leader returns which node leads, "" while none is known, and how long ago it
	// renewed its lease.
	leader func() (node string, renewed time.Duration)
}

// externalName is that of the cluster of gateways that share an external NATS, which have none of their own.
const externalName = "on NATS"

// joinPeers has the node tell the others how it is; what was started ends with Close.
func (g *Gateway) joinPeers(n *jetstream.Node, leader func() (string, time.Duration)) error {
	status, err := n.Status(func() []byte {
		text, err := json.Marshal(g.self())
		if err != nil {
			g.log.Error("cannot say how this node is", "error", err)
		}
		return text
	})
	if err != nil {
		return err
	}
	g.undo = append(g.undo, status.Close)
	if err := status.Also(systemQuestion, g.systemAnswer); err != nil {
		return err
	}
	g.peers = &peers{name: cmp.Or(g.cfg.Cluster.Name, externalName), status: status, leader: leader}
	return nil
}

// cluster is the state of all nodes: of a single one, its own.
func (g *Gateway) cluster(ctx context.Context) (admin.Cluster, error) {
	if g.peers == nil {
		n := g.self()
		n.Leader = true
		return admin.Cluster{Node: n.Name, Leader: n.Name, Nodes: []admin.Node{n}}, nil
	}
	out := admin.Cluster{Name: g.peers.name, Node: g.cfg.NodeName}
	out.Leader, out.LeaseAge = g.peers.leader()
	answers, err := g.peers.status.Ask(ctx)
	if err != nil { // an external NATS is away
		out.Nodes, out.StreamsProblem = []admin.Node{g.self()}, err.Error()
		return out, nil
	}
	if len(answers) == 0 { // it has just gone
		out.Nodes = []admin.Node{g.self()}
	}
	for _, a := range answers {
		var n admin.Node
		if err := json.Unmarshal(a, &n); err != nil {
			g.log.Warn("a node's answer cannot be read", "error", err)
			continue
		}
		out.Nodes = append(out.Nodes, n)
	}
	if streams, err := g.peers.status.Streams(ctx); err == nil {
		out.Streams = streamViews(streams)
	} else { // while the nodes elect, and without a majority
		out.StreamsProblem = err.Error()
	}
	if !g.node.External() { // else others than these nodes have the replicas
		out.Nodes = append(out.Nodes, silentNodes(out)...)
	}
	for i := range out.Nodes {
		out.Nodes[i].Leader = out.Nodes[i].Name == out.Leader
	}
	slices.SortFunc(out.Nodes, func(a, b admin.Node) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func streamViews(streams []jetstream.StreamStatus) []admin.Stream {
	out := make([]admin.Stream, len(streams))
	for i, s := range streams {
		out[i] = admin.Stream{Name: s.Name, Leader: s.Leader, Missing: s.Missing}
		for _, r := range s.Replicas {
			out[i].Replicas = append(out[i].Replicas, admin.Replica{Node: r.Node, Current: r.Current, Offline: r.Offline, Lag: r.Lag})
		}
	}
	return out
}

// silentNodes are those that keep replicas or lead, and did not answer.
func silentNodes(c admin.Cluster) (silent []admin.Node) {
	known := map[string]bool{}
	for _, n := range c.Nodes {
		known[n.Name] = true
	}
	note := func(name string) {
		if name != "" && !known[name] {
			known[name] = true
			silent = append(silent, admin.Node{Name: name})
		}
	}
	note(c.Leader)
	for _, s := range c.Streams {
		note(s.Leader)
		for _, r := range s.Replicas {
			note(r.Node)
		}
	}
	return silent
}
