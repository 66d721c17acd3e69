package main

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mqgate/mqgate/gateway/admin"
)

// ClusterCmd has the operator's verbs on all nodes.
type ClusterCmd struct {
	Status ClusterStatusCmd `cmd:"" help:"Show the nodes: which leads, which are ready, and how far replicas are behind. Exit code 3 if no leader is known, a node is not ready, a replica is behind or missing, or the store cannot be looked at."`
}

// ClusterStatusCmd shows the nodes.
type ClusterStatusCmd struct{ endpoint }

// notReadyError has its own exit code, for scripts.
type notReadyError struct{ what []string }

func (e notReadyError) Error() string { return "not ready: " + strings.Join(e.what, ", ") }
func (notReadyError) ExitCode() int   { return 3 }

// Run prints one line for each node, and what is wrong below.
func (c *ClusterStatusCmd) Run(p *process) error {
	var s admin.Cluster
	raw, err := c.call(p, "GET", "/api/v1/cluster", url.Values{}, &s)
	if err != nil {
		return err
	}
	if err := c.print(p, raw, func(w io.Writer) { printCluster(w, s) }); err != nil {
		return err
	}
	return unreadiness(s)
}

// unreadiness returns why the loss of a node may be more than the cluster stands now; nil if it is not.
func unreadiness(s admin.Cluster) error {
	var bad notReadyError
	if s.Leader == "" {
		bad.what = append(bad.what, "no leader")
	}
	for _, n := range s.Nodes {
		if !n.Ready {
			bad.what = append(bad.what, n.Name)
		}
	}
	if s.StreamsProblem != "" {
		bad.what = append(bad.what, "the store")
	}
	unwell := 0
	for _, st := range s.Streams {
		if !wellKept(st) {
			unwell++
		}
	}
	if unwell > 0 {
		bad.what = append(bad.what, fmt.Sprintf("replicas of %d streams", unwell))
	}
	if len(bad.what) > 0 {
		return bad
	}
	return nil
}

func printCluster(w io.Writer, s admin.Cluster) {
	switch {
	case s.Name == "":
		fmt.Fprintln(w, "a single node")
	case s.Leader == "":
		fmt.Fprintf(w, "cluster %s: no leader is known\n", s.Name)
	default:
		fmt.Fprintf(w, "cluster %s: leader %s, lease renewed %s ago\n", s.Name, s.Leader, s.LeaseAge.Round(time.Millisecond))
	}
	fmt.Fprintln(w, "NODE\tROLE\tREADY\tVERSION\tUP\tSTOMP\tMQTT\tWS\tSTORE\tADDRESS")
	for _, n := range s.Nodes {
		role, ready, up := "edge", "yes", "-"
		if n.Leader {
			role = "leader"
		}
		switch {
		case !n.Reachable:
			ready = "unreachable"
		case !n.Ready:
			ready = "no"
		}
		if !n.Started.IsZero() {
			up = time.Since(n.Started).Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", n.Name, role, ready, orDash(n.Version), up,
			n.Connections["stomp"], n.Connections["mqtt"], n.Connections["ws"], mebibytes(n.StoreUsed), orDash(n.Address))
	}
	for _, n := range s.Nodes {
		for _, check := range n.Checks {
			if check.Problem != "" {
				fmt.Fprintf(w, "%s: %s: %s\n", n.Name, check.Name, check.Problem)
			}
		}
	}
	printStreams(w, s)
}

// printStreams prints which nodes' copies are not complete, a line for each node: there may be thousands of streams.
func printStreams(w io.Writer, s admin.Cluster) {
	if s.StreamsProblem != "" {
		fmt.Fprintf(w, "the store cannot be looked at now: %s\n", s.StreamsProblem)
		return
	}
	leaderless, short := 0, 0
	nodes := map[string]*copies{}
	for _, st := range s.Streams {
		if st.Leader == "" {
			leaderless++
		}
		if st.Missing > 0 {
			short++
		}
		for _, r := range st.Replicas {
			if nodes[r.Node] == nil {
				nodes[r.Node] = &copies{}
			}
			nodes[r.Node].count(r)
		}
	}
	if leaderless > 0 {
		fmt.Fprintf(w, "%d of %d streams have no leader now\n", leaderless, len(s.Streams))
	}
	if short > 0 {
		fmt.Fprintf(w, "%d of %d streams have fewer replicas than they should\n", short, len(s.Streams))
	}
	current := leaderless+short == 0
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		if c := nodes[name]; c.offline+c.behind > 0 {
			current = false
			fmt.Fprintf(w, "%s: %s\n", name, c)
		}
	}
	if len(s.Streams) > 0 && current {
		fmt.Fprintf(w, "%d streams, all replicas current\n", len(s.Streams))
	}
}

// wellKept reports whether all replicas of a stream are there and current.
func wellKept(s admin.Stream) bool {
	return s.Leader != "" && s.Missing == 0 && !slices.ContainsFunc(s.Replicas, func(r admin.Replica) bool { return r.Offline || !r.Current })
}

// copies is how the replicas of one node are.
type copies struct {
	all, offline, behind int
	lag                  uint64 // of the one that is behind most
}

func (c *copies) count(r admin.Replica) {
	c.all++
	switch {
	case r.Offline:
		c.offline++
	case !r.Current:
		c.behind++
		c.lag = max(c.lag, r.Lag)
	}
}

// String tells what is not current.
func (c *copies) String() string {
	var parts []string
	if c.offline > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d replicas are offline", c.offline, c.all))
	}
	if c.behind > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d replicas are not current, at most %d operations behind", c.behind, c.all, c.lag))
	}
	return strings.Join(parts, "; ")
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
