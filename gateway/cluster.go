package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway/admin"
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

// member is this node's part in a cluster. Its clients are served by an edge router,
// which asks the leader for all that is stored; while this node leads, a core router
// on the cluster's store answers the edges, its own among them.
type member struct {
	g         *Gateway
	node      *jetstream.Node
	transport *jetstream.Transport
	options   router.Options // of the core, without store and carrier
	life      context.Context
	end       context.CancelFunc
	group     sync.WaitGroup

	mu       sync.Mutex
	leader   string // node that leads; "" while none is known
	majority bool
	// leaderless is since when nobody leads, tookLow whether this node took the lead though its disk was nearly full.
	leaderless time.Time
	tookLow    bool
	met        bool           // there was contact with a leader
	unlinked   time.Time      // since when there is none; zero: there is
	alive      time.Time      // when this process was last seen running
	whole      time.Time      // since when the copies are current, while that counts
	leads      bool           // or is about to
	core       *router.Router // while this node leads
	store      *jetstream.Store
}

var _ jetstream.Candidate = (*member)(nil)

const (
	// holdAlone and holdElecting are how long a publish waits for a leader: a node that
	// is cut off says so soon, one that sees the others elect waits for them.
	holdAlone    = 1500 * time.Millisecond
	holdElecting = 10 * time.Second
	// othersFirst is how long a node without room waits for another to lead.
	othersFirst = 3 * time.Second
	// standstill is a pause of the whole process, such as of its virtual machine, after which it must ask what it missed;
	// aliveEvery is how often it looks.
	standstill = 3 * time.Second
	aliveEvery = 500 * time.Millisecond
	// settled is for how long copies must be current to count as complete.
	settled = time.Second
	// closePatience bounds the last words of a leader that gives up.
	closePatience = 15 * time.Second
)

// joinCluster starts the node and its edge router, and takes part in electing.
func (g *Gateway) joinCluster(o jetstream.Options, r router.Options) error {
	var err error
	if g.cfg.Cluster.Enabled() {
		o.Cluster, err = clusterOptions(g.cfg.Cluster)
	} else {
		o.External, err = externalOptions(g.cfg.Nats)
	}
	if err != nil {
		return err
	}
	m := &member{g: g, options: r, majority: true}
	m.life, m.end = context.WithCancel(context.Background())
	if m.node, err = jetstream.StartNode(o); err != nil {
		return err
	}
	g.undo = append(g.undo, m.node.Close)
	g.node = m.node
	if m.transport, err = m.node.Transport(); err != nil {
		return err
	}
	g.undo = append(g.undo, m.transport.Close)
	carrier, err := m.node.Carrier()
	if err != nil {
		return err
	}
	g.undo = append(g.undo, carrier.Close)
	edge := router.Options{Authorize: r.Authorize, Log: r.Log, Carrier: carrier, History: r.History,
		Edge: &router.EdgeOptions{Transport: m.transport, Node: g.cfg.NodeName, Hold: holdAlone}}
	if g.router, err = router.New(context.Background(), edge); err != nil {
		return err
	}
	g.undo = append(g.undo, m.stop)
	g.member = m
	g.checks = append(g.checks, readyCheck{"leader", m.linked})
	if err := g.joinPeers(m.node, m.lease); err != nil {
		return err
	}
	m.group.Go(m.watch)
	m.group.Go(func() {
		if err := m.node.Campaign(m.life, m); err != nil {
			g.log.Error("this node takes no part in the cluster", "error", err)
		}
	})
	return nil
}

func clusterOptions(c config.Cluster) (*jetstream.ClusterOptions, error) {
	secret, err := c.Secret()
	if err != nil {
		return nil, err
	}
	o := &jetstream.ClusterOptions{Name: c.Name, Listen: c.Listen, Advertise: c.Advertise, Join: c.Join, Secret: secret,
		Insecure: c.Insecure, Replicas: c.Replicas, NoStorage: !c.Storage}
	if c.TLS.Enabled() {
		if o.TLS, err = peerTLS(c.TLS); err != nil {
			return nil, fmt.Errorf("cluster.tls: %w", err)
		}
	}
	return o, nil
}

// externalOptions are for gateways that store in a NATS of their own, and share it
// as the nodes of a cluster share theirs.
func externalOptions(c config.Nats) (*jetstream.ExternalOptions, error) {
	o := &jetstream.ExternalOptions{URL: c.URL, CredentialsFile: c.CredentialsFile, Replicas: c.Replicas}
	if c.TLS == (config.NatsTLS{}) {
		return o, nil
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS.CAFile != "" {
		pem, err := os.ReadFile(c.TLS.CAFile)
		if err != nil {
			return nil, fmt.Errorf("nats.tls.ca_file: %w", err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("nats.tls.ca_file: there is no certificate in %s", c.TLS.CAFile)
		}
	}
	if c.TLS.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("nats.tls: %w", err)
		}
		o.TLS.Certificates = []tls.Certificate{pair}
	}
	return o, nil
}

// stop ends the edge, then the part in the election: clients are gone.
func (m *member) stop() {
	m.g.closeRouter()
	m.end()
	m.group.Wait()
}

// linked is a condition of being ready. While nodes elect a leader none has contact
// with one, and a load balancer that took that for a failure would close the
// connections of all clients everywhere: what they ask for waits meanwhile, and so
// does this. A node that is cut off is not ready at once, and when it is back, or its
// disk has room again, it is ready once it has copied what it missed.
func (m *member) linked() error {
	m.noticeStandstill()
	linked := m.g.router.Linked()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.majority && m.leader != "" && linked {
		if m.met && !m.node.Crammed() {
			m.whole = time.Time{}
		} else if err := m.copied(); err != nil {
			return fmt.Errorf("copying what was stored while this node was away or had no room: %w", err)
		}
		m.met, m.unlinked = true, time.Time{}
		return nil
	}
	if m.unlinked.IsZero() {
		m.unlinked = time.Now()
	}
	switch patient := m.met && time.Since(m.unlinked) < holdElecting; {
	case !m.majority:
		return errors.New("no contact with the majority of the cluster")
	case patient:
		return nil
	case m.leader == "":
		return errors.New("the cluster has no leader now")
	}
	return fmt.Errorf("no contact with the leader, %s", m.leader)
}

// watch looks, until the node leaves, for pauses of the process, and for what a node must see to be ready again: whoever asks first
// need not hear that it is not, long after it was.
func (m *member) watch() {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for m.life.Err() == nil {
		_ = m.linked() // whoever asks hears it
		select {
		case <-tick.C:
		case <-m.life.Done():
		}
	}
}

// noticeStandstill has a node that stood still be not ready until it has copied what it missed: it had contact with the leader
// before, and has heard of nothing since.
func (m *member) noticeStandstill() {
	m.mu.Lock()
	paused := time.Since(m.alive)
	stood := !m.alive.IsZero() && paused > standstill
	m.alive = time.Now()
	m.met = m.met && !stood
	m.mu.Unlock()
	if stood {
		m.g.log.Warn("this node stood still: its process was stopped, its machine paused or without a processor to spare", "for", paused.Round(100*time.Millisecond))
	}
}

// copied returns nil once this node's copies have been current for a while: one that has just come back takes some moments to hear
// which there are, and until then those that it knows are all. The caller holds mu.
func (m *member) copied() error {
	if err := m.node.Current(); err != nil {
		m.whole = time.Time{}
		return err
	}
	if m.whole.IsZero() {
		m.whole = time.Now()
	}
	if time.Since(m.whole) < settled {
		return errors.New("all is there that it knows of so far")
	}
	return nil
}

// Eligible reports whether the node may lead: one that sends its clients away gives the lead up first, and so does one whose
// disk is nearly full, since another may have room. If none has, one leads all the same: consumers must be able to make room. A node
// that still copies what it missed lets others lead, too.
func (m *member) Eligible() bool {
	if m.life.Err() != nil || m.g.draining() {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.tookLow, m.leader == "" && time.Since(m.leaderless) > othersFirst:
		return true
	case m.node.DiskLow():
		return false
	}
	return m.leads || m.node.Current() == nil
}

// Follow has the edge ask who leads now.
func (m *member) Follow(node, address string, majority bool) {
	m.mu.Lock()
	before := m.leader
	if node == "" && before != "" {
		m.leaderless = time.Now()
	}
	m.leader, m.majority = node, majority
	m.met = m.met && majority
	m.mu.Unlock()
	if node == "" && before != "" && m.life.Err() == nil && !m.g.draining() { // whoever reads only warnings has seen why clients waited
		m.g.log.Warn("the leader of the cluster is gone, or out of reach; what is to be stored waits for the next one", "leader", before, "majority", majority)
	} else {
		m.g.log.Info("leader of the cluster", "leader", node, "majority", majority)
	}
	hold := holdElecting
	if !majority {
		hold = holdAlone
	}
	m.g.router.Hold(hold)
	m.g.router.FollowLeader(address)
}

// Lead opens the cluster's store and serves the edges until ctx ends.
func (m *member) Lead(ctx context.Context, t *jetstream.Term) error {
	began := time.Now()
	m.setLeads(true)
	defer m.setLeads(false)
	store, err := m.node.OpenStore(ctx)
	if err != nil {
		return fmt.Errorf("open the cluster's store: %w", err)
	}
	defer store.Close()
	store.Fence(t.Valid)
	carrier, err := m.node.Carrier()
	if err != nil {
		return err
	}
	defer carrier.Close()
	o := m.options
	o.Store, o.Carrier, o.Gather = store, carrier, true
	core, err := router.New(ctx, o)
	if err != nil {
		return fmt.Errorf("load what is stored: %w", err)
	}
	leader, err := core.Lead(router.LeaderOptions{Transport: m.transport, Address: t.Address, Valid: t.Valid, Nodes: t.Nodes,
		Principal: m.g.auth.Principal, Answer: func(ctx context.Context, q []byte) ([]byte, error) {
			return admin.Answer(ctx, m.g.adminOptions(core), q)
		}})
	if err != nil {
		core.Abandon()
		return fmt.Errorf("listen for the other nodes: %w", err)
	}
	m.setCore(core, store, m.node.DiskLow())
	defer m.setCore(nil, nil, false)
	t.Announce()
	m.g.log.Info("leading", "queues", core.Queues(), "took", time.Since(began).Round(time.Millisecond))
	m.group.Go(func() {
		if err := store.LeadHere(ctx); err != nil && ctx.Err() == nil {
			m.g.log.Debug("some streams are led elsewhere", "error", err)
		}
	})
	unlink, err := m.g.linkSites(ctx, core)
	if err != nil {
		m.g.log.Error("this site is not linked with others", "error", err)
		unlink = func() {}
	}
	<-ctx.Done()
	unlink()
	if !t.Valid() {
		core.Abandon()
		return nil
	}
	leader.HandOver()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	if err := core.Close(last); err != nil {
		return fmt.Errorf("not everything could be saved; a few messages may be delivered again, marked: %w", err)
	}
	return nil
}

func (m *member) setCore(r *router.Router, s *jetstream.Store, low bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.core, m.store, m.tookLow = r, s, low
}

func (m *member) setLeads(leads bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leads = leads
}

// leading returns the core router and the store while this node leads; else nil.
func (m *member) leading() (*router.Router, *jetstream.Store) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core, m.store
}

// lease tells who leads, and how long ago it said so.
func (m *member) lease() (node string, renewed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader, m.node.LeaseAge()
}
