package jetstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// ClusterOptions make a node one of several that keep each stream together.
type ClusterOptions struct {
	// Name of the cluster. Nodes of another name are not let in.
	Name string
	// Listen is where other nodes connect: host:port; port 0 takes a free one.
	Listen string
	// Advertise is the address by which others reach Listen; empty: Listen's own.
	Advertise string
	// Join are the addresses of the nodes, host:port. This node's own may be among
	// them.
	Join []string
	// Secret is shared by all nodes: none gets in without it.
	Secret string
	// TLS encrypts the connections between nodes. It must demand and verify the
	// certificates of both sides.
	TLS *tls.Config
	// Insecure lets nodes talk without TLS over a network.
	Insecure bool
	// Replicas of each stream; 0: 3.
	Replicas int
	// NoStorage: this node keeps no replica of anything.
	NoStorage bool
}

// defaultReplicas survive the loss of one node.
const defaultReplicas = 3

func (c *ClusterOptions) replicas() int {
	if c.Replicas > 0 {
		return c.Replicas
	}
	return defaultReplicas
}

// check refuses what would be insecure or could not work.
func (c *ClusterOptions) check(node string) error {
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil:
		return fmt.Errorf("address for other nodes: %w", err)
	case c.Name == "" || node == "":
		return errors.New("a cluster and each of its nodes need a name")
	case c.Secret == "":
		return errors.New("a cluster needs a secret: without one anybody could join and read everything")
	case c.TLS == nil && !c.Insecure && !loopback(host):
		return fmt.Errorf("nodes would talk without encryption over the network (%s): set up TLS, or choose that explicitly", c.Listen)
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

const routeUser = "mqgate"

// routePassword is what nodes show each other: the secret itself never travels.
func (c *ClusterOptions) routePassword() string {
	h := sha256.Sum256([]byte("mqgate route\x00" + c.Name + "\x00" + c.Secret))
	return hex.EncodeToString(h[:])
}

// joinCluster makes the server one of a cluster.
func (n *Node) joinCluster(so *server.Options) error {
	c := n.opt.Cluster
	quickElections()
	// DontListen would keep routes from starting (2.15.2): listen for clients where
	// only this machine can reach it, with a login that nobody knows.
	so.DontListen, so.Host, so.Port = false, "127.0.0.1", server.RANDOM_PORT
	so.Username, so.Password = rand.Text(), rand.Text()
	n.login = nats.UserInfo(so.Username, so.Password)

	so.JetStream = !c.NoStorage
	// The Raft log shares fsyncs among the appends that wait for one.
	so.SyncAlways = n.opt.SyncAlways

	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("address for other nodes: %w", err)
	}
	so.Cluster.Name, so.Cluster.Host = c.Name, host
	if so.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("port for other nodes: %w", err)
	}
	if so.Cluster.Port == 0 {
		so.Cluster.Port = server.RANDOM_PORT
	}
	so.Cluster.Advertise = c.Advertise
	so.Cluster.NoAdvertise = true // of the port for clients
	so.Cluster.Username, so.Cluster.Password = routeUser, c.routePassword()
	so.Cluster.TLSConfig, so.Cluster.TLSTimeout = c.TLS, 5
	so.Cluster.ConnectRetries = 60
	so.Cluster.PingInterval, so.Cluster.MaxPingsOut = time.Second, 2
	for _, addr := range c.Join {
		so.Routes = append(so.Routes, &url.URL{Scheme: "nats-route", Host: addr, User: url.UserPassword(routeUser, c.routePassword())})
	}
	return nil
}

// Clustered reports whether streams are replicated over several nodes.
func (n *Node) Clustered() bool { return n.opt.Cluster != nil }

// keepsReplicas reports whether the node is one of several and stores its part.
func (n *Node) keepsReplicas() bool { return n.opt.Cluster != nil && !n.opt.Cluster.NoStorage }

// replicas is the number of copies of each stream.
func (n *Node) replicas() int {
	switch {
	case n.opt.External != nil:
		return max(n.opt.External.Replicas, 1)
	case n.opt.Cluster != nil:
		return n.opt.Cluster.replicas()
	}
	return 1
}

// formingPoll is how often a node looks whether the cluster has formed.
const formingPoll = 100 * time.Millisecond

// waitForming returns once the cluster has a leader for its metadata. That takes
// a majority of the nodes, and all of them at the very first start: nodes that
// have no data of the cluster do not count as a majority among themselves, since
// they may have lost it.
func (n *Node) waitForming(ctx context.Context, c *nats.Conn) error {
	var last error
	for {
		if last = apiAnswers(ctx, c); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return unavailable(fmt.Errorf("the cluster has no majority of its nodes: %w (%w)", context.Cause(ctx), last))
		case <-time.After(formingPoll):
		}
	}
}

// apiAnswers returns nil if JetStream's API answers.
func apiAnswers(ctx context.Context, c *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := c.RequestWithContext(ctx, "$JS.API.INFO", nil)
	if err != nil {
		return err
	}
	var a struct {
		Error *struct {
			Message string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return err
	}
	if a.Error != nil {
		return errors.New(a.Error.Message)
	}
	return nil
}

// LeadHere asks for the leadership of all streams to move to this node, so that
// the store's reads and appends stay in the process. It is a matter of speed
// alone and takes a while: it belongs off any path that somebody waits for.
func (s *Store) LeadHere(ctx context.Context) error {
	if !s.node.keepsReplicas() {
		return nil
	}
	s.mu.Lock()
	names := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(stepdowns)
	for _, name := range names {
		g.Go(func() error { return s.leadStream(ctx, name) })
	}
	return g.Wait()
}

// stepdowns is how many leaderships are moved at once.
const stepdowns = 4

func (s *Store) leadStream(ctx context.Context, name string) error {
	if s.node.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, name) {
		return nil
	}
	if h := s.node.server.Healthz(&server.HealthzOptions{Account: server.DEFAULT_GLOBAL_ACCOUNT, Stream: name}); h.Error != "" {
		return fmt.Errorf("this node's copy of stream %s is not complete: %s", name, h.Error)
	}
	body := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, s.node.opt.NodeName)
	if err := s.request(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+name, body); err != nil {
		return fmt.Errorf("move the leader of stream %s to this node: %w", name, err)
	}
	return nil
}
