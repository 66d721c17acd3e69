package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The account of the clients of a cluster: connections that come through a proxy
// need one.
const (
	ClusterUser     = "load"
	ClusterPassword = "load-secret"
)

// ClusterOptions say what to start.
type ClusterOptions struct {
	// Nodes is how many; one alone has no cluster section.
	Nodes int
	// Set are settings of all nodes.
	Set []string
	// Data returns where a node's data is, instead of on the disk, and settings of its own.
	Data func(node string) (dir string, set []string)
	// Network has the routes between the nodes go through a Network.
	Network bool
}

// Cluster is a number of gateways behind HAProxy, on this machine.
type Cluster struct {
	Nodes    []*ClusterNode
	Network  *Network
	Balancer *HAProxy

	fronts           map[string]string
	options          ClusterOptions
	password, secret string // files
}

// ClusterNode is one of them.
type ClusterNode struct {
	*Broker
	Name  string
	ports map[string]string // addresses by listener: they stay over restarts
}

// NewCluster starts the nodes, as users run them, and the load balancer, and waits
// until all are ready.
func NewCluster(t testing.TB, o ClusterOptions) *Cluster {
	t.Helper()
	RequireHAProxy(t)
	dir := TempDir(t)
	c := &Cluster{fronts: map[string]string{}, options: o, password: filepath.Join(dir, "password"), secret: filepath.Join(dir, "secret")}
	for path, text := range map[string]string{c.password: ClusterPassword, c.secret: strings.Repeat("s3cret", 8)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"stomp", "mqtt", "http"} {
		c.fronts[name] = FreeAddress(t)
	}
	if o.Network {
		c.Network = NewNetwork(t)
	}
	c.Grow(t, o.Nodes)
	c.Balancer = startHAProxy(t, dir, c.fronts, c.Nodes)
	return c
}

// Grow starts so many nodes more, and waits until all are ready. A node that was alone must be down: it starts again as one of
// several.
func (c *Cluster) Grow(t testing.TB, more int) {
	t.Helper()
	alone := len(c.Nodes) <= 1
	for range more {
		c.add(t)
	}
	if alone && len(c.Nodes) > 1 {
		c.join()
	}
	t.Cleanup(func() { // before each is waited for: they end beside each other
		for _, n := range c.Nodes {
			if n.Running() {
				n.Terminate()
			}
		}
	})
	c.StartAll(t)
	for _, n := range c.Nodes {
		c.AwaitReady(t, n, true)
	}
}

// add makes a node, without starting it.
func (c *Cluster) add(t testing.TB) {
	t.Helper()
	binary, err := PlainBinary()
	if err != nil {
		t.Fatal(err)
	}
	b := New(t, c.options.Set...)
	b.binary, b.AllowErrors = binary, true // a node that loses others says so
	n := &ClusterNode{Broker: b, Name: fmt.Sprintf("n%d", len(c.Nodes)+1), ports: map[string]string{}}
	for _, l := range []string{"stomp", "mqtt", "http", "admin", "cluster"} {
		n.ports[l] = FreeAddress(t)
	}
	n.Set = append(n.Set, "node_name="+n.Name, "storage.min_free_bytes=0", "drain.grace=2s", "drain.spread=2s",
		`users=[{name: `+ClusterUser+`, password_file: "`+c.password+`", admin: true, allow: {read: [">"], write: [">"], consume: [">"]}}]`)
	for _, l := range []string{"stomp", "mqtt", "http"} {
		n.Set = append(n.Set, l+".listen="+n.ports[l], l+".proxy_protocol=[127.0.0.1]")
	}
	n.Set = append(n.Set, "admin.listen="+n.ports["admin"])
	if c.options.Data != nil {
		dir, set := c.options.Data(n.Name)
		n.Set = append(n.Set, set...)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink(dir, n.DataDir())); err != nil {
			t.Fatal(err)
		}
	}
	c.Nodes = append(c.Nodes, n)
}

// join has the nodes make one cluster.
func (c *Cluster) join() {
	doors := map[string]string{}
	var all []string
	for _, n := range c.Nodes {
		doors[n.Name] = n.ports["cluster"]
		if c.Network != nil {
			doors[n.Name] = c.Network.Door(n.Name, n.ports["cluster"])
		}
		all = append(all, doors[n.Name])
	}
	for _, n := range c.Nodes {
		n.Set = append(n.Set, "cluster.name=test", "cluster.listen="+n.ports["cluster"], "cluster.secret_file="+c.secret,
			"cluster.join=["+strings.Join(all, ", ")+"]")
		if c.Network != nil {
			n.Set = append(n.Set, "cluster.advertise="+doors[n.Name])
		}
	}
}

// StartAll starts all nodes that do not run, at once: none is ready before most are there.
func (c *Cluster) StartAll(t testing.TB) {
	t.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(c.Nodes))
	for i, n := range c.Nodes {
		if n.Running() {
			continue
		}
		if err := n.launch(); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { errs[i] = n.awaitReady() })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Restart starts a node again and waits until it is ready; unlike Start it may be
// called on any goroutine.
func (n *ClusterNode) Restart() error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.awaitReady()
}

// Running reports whether the process lives.
func (b *Broker) Running() bool {
	p := b.process()
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// AdminURL is the node's admin listener.
func (n *ClusterNode) AdminURL() string { return "http://" + n.ports["admin"] }

// Port is the address of one of the node's own listeners, past the load balancer.
func (n *ClusterNode) Port(listener string) string { return n.ports[listener] }

// Names are the names of all nodes but one.
func (c *Cluster) Names(but string) (names []string) {
	for _, n := range c.Nodes {
		if n.Name != but {
			names = append(names, n.Name)
		}
	}
	return names
}

// STOMP, MQTT and HTTP are the load balancer's addresses.
func (c *Cluster) STOMP() string { return c.fronts["stomp"] }

// MQTT is the load balancer's address for MQTT.
func (c *Cluster) MQTT() string { return c.fronts["mqtt"] }

// HTTP is the load balancer's address for WebSocket and HTTP.
func (c *Cluster) HTTP() string { return c.fronts["http"] }

// status asks a node that runs for the state of the cluster.
func (c *Cluster) status() (s clusterStatus, err error) {
	err = errors.New("no node runs")
	for _, n := range c.Nodes {
		if n.Running() {
			if err = n.get("/api/v1/cluster", &s); err == nil && s.Leader != "" {
				return s, nil
			}
		}
	}
	return s, err
}

// clusterStatus is what /api/v1/cluster says, as far as tests want it.
type clusterStatus struct {
	Leader  string
	Streams []struct {
		Name, Leader string
		Missing      int
		Replicas     []struct {
			Node             string
			Current, Offline bool
		}
	}
}

func (n *ClusterNode) get(path string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.AdminURL()+path, nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(ClusterUser, ClusterPassword)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("%s: %s", resp.Status, text)
		}
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// Leader names the node that leads.
func (c *Cluster) Leader(t testing.TB) string {
	t.Helper()
	var s clusterStatus
	Eventually(t, StartTimeout, func() (err error) {
		if s, err = c.status(); err == nil && s.Leader == "" {
			err = errors.New("no leader is known")
		}
		return err
	})
	return s.Leader
}

// AwaitReady waits until /readyz of a node says that it is ready, or that it is not.
func (c *Cluster) AwaitReady(t testing.TB, n *ClusterNode, ready bool) {
	t.Helper()
	Eventually(t, StartTimeout, func() error {
		switch err := n.Ready(); {
		case ready:
			return err
		case err == nil:
			return fmt.Errorf("%s is still ready", n.Name)
		}
		return nil
	})
}

// AwaitCurrent waits until every stream has a leader and all its replicas, and none is behind.
func (c *Cluster) AwaitCurrent(t testing.TB) {
	t.Helper()
	Eventually(t, StartTimeout, c.Current)
}

// Current returns nil if every stream has a leader and all its replicas, and none is behind.
func (c *Cluster) Current() error {
	s, err := c.status()
	if err != nil {
		return err
	}
	for _, st := range s.Streams {
		if st.Leader == "" {
			return fmt.Errorf("stream %s has no leader", st.Name)
		}
		if st.Missing > 0 {
			return fmt.Errorf("stream %s lacks %d replicas", st.Name, st.Missing)
		}
		for _, r := range st.Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("stream %s on %s is behind", st.Name, r.Node)
			}
		}
	}
	if len(s.Streams) == 0 {
		return errors.New("no stream is known")
	}
	return nil
}

// Ready returns nil if /readyz says that the node is, and else what it says.
func (n *ClusterNode) Ready() error { return n.get("/readyz", nil) }
