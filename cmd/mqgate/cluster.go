package main

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mqgate/mqgate/gateway/admin"
)

// ClusterCmd has the operator's verbs on all nodes.
type ClusterCmd struct {
	Status ClusterStatusCmd `cmd:"" help:"Show the nodes: which leads, which are ready, and how far replicas are behind. Exit code 3 if no leader is known, a node is not ready or a replica is behind."`
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
	behind := 0
	for _, st := range s.Streams {
		if printBehind(io.Discard, st) > 0 {
			behind++
		}
	}
	if behind > 0 {
		bad.what = append(bad.what, fmt.Sprintf("replicas of %d streams", behind))
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
	behind := 0
	for _, st := range s.Streams {
		behind += printBehind(w, st)
	}
	if len(s.Streams) > 0 && behind == 0 {
		fmt.Fprintf(w, "%d streams, all replicas current\n", len(s.Streams))
	}
}

// printBehind prints what is wrong with a stream's replicas, and returns how many lines that took.
func printBehind(w io.Writer, s admin.Stream) (lines int) {
	if s.Leader == "" {
		fmt.Fprintf(w, "stream %s: no leader\n", s.Name)
		lines++
	}
	if s.Missing > 0 {
		fmt.Fprintf(w, "stream %s: %d of its replicas are not there yet\n", s.Name, s.Missing)
		lines++
	}
	replicas := slices.SortedFunc(slices.Values(s.Replicas), func(a, b admin.Replica) int { return strings.Compare(a.Node, b.Node) })
	for _, r := range replicas {
		switch {
		case r.Offline:
			fmt.Fprintf(w, "stream %s: replica on %s is offline\n", s.Name, r.Node)
		case !r.Current && r.Lag == 0:
			fmt.Fprintf(w, "stream %s: replica on %s is not current\n", s.Name, r.Node)
		case !r.Current:
			fmt.Fprintf(w, "stream %s: replica on %s is %d operations behind\n", s.Name, r.Node, r.Lag)
		default:
			continue
		}
		lines++
	}
	return lines
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
