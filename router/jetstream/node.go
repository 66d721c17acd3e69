package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Options of a Node and of the Store on it.
type Options struct {
	// Dir is the data directory; it is made, and locked against other processes.
	Dir string
	// NodeName names the server in logs, and this node in a cluster.
	NodeName string
	// SyncAlways: answered means on the disk. Otherwise the system is told to sync
	// every SyncInterval, and a power cut may take what was answered since.
	SyncAlways   bool
	SyncInterval time.Duration
	// MaxBytes bounds what all streams take on the disk; above it appends are
	// refused. 0: no bound.
	MaxBytes int64
	// MaxMessageBytes is the largest envelope, at most 60 MiB, which is the default.
	MaxMessageBytes int
	// MinFreeBytes is what must stay free on the disk; below it appends are refused.
	MinFreeBytes int64
	// DedupWindow is how long dedup ids are remembered; default 2 minutes.
	DedupWindow time.Duration
	// Cluster makes the node one of several; nil: it is alone.
	Cluster *ClusterOptions
	// External is a NATS that stores; nil: the embedded server does. Dir is then only
	// locked, for what others keep in it, and neither the limits of storage nor
	// what is said of syncing are used.
	External *ExternalOptions
	Log      *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.DedupWindow == 0 {
		o.DedupWindow = 2 * time.Minute
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = 10 * time.Second
	}
	if o.MaxMessageBytes <= 0 || o.MaxMessageBytes > maxEnvelope {
		o.MaxMessageBytes = maxEnvelope
	}
	return o
}

// Node is this process's part of the backbone: the locked data directory, the
// embedded server and the connections to it. In a cluster it takes part in
// replication from StartNode to Close, whether or not a Store is open on it.
type Node struct {
	opt    Options
	log    *slog.Logger
	lock   *os.File
	server *server.Server
	login  nats.Option // of a server that others could connect to; else nil
	limits server.JetStreamConfig
	api    *nats.Conn // on which an external NATS is asked how it is; else nil

	peers   atomic.Pointer[peers] // while it takes part in elections
	crammed atomic.Bool           // the node had no room, and its copies have not been complete since

	leaseSeen atomic.Int64 // when a renewal of the leader's lease was seen last, as time since epoch
	aside     bool         // data of before the cluster waits to be brought in
	claim     *nats.Conn   // says so to the other nodes
}

const (
	readyTimeout   = 60 * time.Second // for a large store to be recovered
	readyPoll      = 100 * time.Millisecond
	requestTimeout = 10 * time.Second
	maxPayload     = 64 << 20
	maxEnvelope    = 60 << 20
	openBatches    = 4096 // of one stream
)

// StartNode locks the data directory and starts the embedded server on it, unless
// a NATS elsewhere stores. In a cluster it does not wait for the other nodes:
// OpenStore does.
func StartNode(o Options) (_ *Node, err error) {
	o = o.withDefaults()
	n := &Node{opt: o, log: o.Log}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if o.Cluster != nil {
		if err := o.Cluster.check(o.NodeName); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if n.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if o.External != nil {
		return n, n.reachExternal()
	}
	if _, err := os.Stat(filepath.Join(o.Dir, restoringDir)); err == nil {
		return nil, fmt.Errorf("a restore into %s was interrupted; remove what is in it and restore again", o.Dir)
	}
	if n.keepsReplicas() {
		if err := n.moveAside(); err != nil {
			return nil, err
		}
		if err := n.setDamagedAside(); err != nil {
			return nil, err
		}
	}
	if err := n.startServer(); err != nil {
		return nil, err
	}
	return n, n.claimAdoption()
}

func (n *Node) startServer() error {
	so := n.serverOptions()
	if n.opt.Cluster != nil {
		if err := n.joinCluster(so); err != nil {
			return err
		}
	}
	srv, err := server.NewServer(so)
	if err != nil {
		return fmt.Errorf("make the embedded server: %w", err)
	}
	n.server = srv
	if err := startEmbedded(srv, n.log); err != nil {
		return err
	}
	if so.JetStream && !srv.JetStreamEnabled() {
		return errors.New("the embedded server could not start JetStream; its log says why")
	}
	if c := srv.JetStreamConfig(); c != nil {
		n.limits = *c
	}
	return nil
}

// startEmbedded starts a server and waits until it listens. What the server calls fatal, such as a port that another process has,
// it only logs, and never gets ready: here that is the error.
func startEmbedded(srv *server.Server, log *slog.Logger) error {
	l := newServerLog(log)
	srv.SetLoggerV2(l, false, false, false)
	srv.Start()
	for began := time.Now(); !srv.ReadyForConnections(readyPoll); {
		select {
		case text := <-l.fatal:
			return fmt.Errorf("the embedded server does not start: %s", text)
		default:
		}
		if time.Since(began) > readyTimeout {
			return fmt.Errorf("the embedded server is not ready after %v", readyTimeout)
		}
	}
	return nil
}

func (n *Node) serverOptions() *server.Options {
	so := &server.Options{
		ServerName: n.opt.NodeName, DontListen: true, NoSigs: true,
		JetStream: true, StoreDir: n.opt.Dir, SyncInterval: n.opt.SyncInterval,
		JetStreamMaxStore: n.maxStore(), JetStreamMaxMemory: 64 << 20,
		MaxPayload: maxPayload, MaxPending: 4 * maxPayload,
		// What the gateway has under way is bounded by the publisher.
		StreamMaxBufferedMsgs: 2 * publisherSlots, StreamMaxBufferedSize: 1 << 30,
	}
	so.JetStreamLimits.DefaultMaxConsumers = -1
	// The default, 50, is soon met by clients that commit at once.
	so.JetStreamLimits.MaxBatchInflightPerStream = openBatches
	so.JetStreamLimits.MaxBatchInflightTotal = 4 * openBatches
	return so
}

// maxStore is the server's own limit: above ours, so that records still fit.
func (n *Node) maxStore() int64 {
	if n.opt.MaxBytes <= 0 {
		return -1
	}
	return n.opt.MaxBytes + overhead
}

// dial makes a connection to the server.
func (n *Node) dial(name string, more ...nats.Option) (*nats.Conn, error) {
	if n.External() {
		return n.dialExternal(name, more...)
	}
	opts := []nats.Option{
		nats.InProcessServer(n.server), nats.Timeout(requestTimeout), nats.Name(name), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			n.log.Error("connection to the embedded server", "connection", name, "error", err)
		}),
	}
	opts = append(opts, more...)
	if n.login != nil {
		opts = append(opts, n.login)
	}
	c, err := nats.Connect("", opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded server: %w", err)
	}
	return c, nil
}

// Open starts a node and opens the store on it; closing the store ends both.
func Open(ctx context.Context, o Options) (*Store, error) {
	n, err := StartNode(o)
	if err != nil {
		return nil, err
	}
	s, err := n.OpenStore(ctx)
	if err != nil {
		n.Close()
		return nil, err
	}
	s.ownsNode = true
	return s, nil
}

// Close stops the server after it wrote what it had. Stores and carriers of the
// node must be closed before.
func (n *Node) Close() {
	if n.claim != nil {
		n.claim.Close()
	}
	if n.api != nil {
		n.api.Close()
	}
	if n.server != nil {
		n.server.Shutdown()
		n.server.WaitForShutdown()
	}
	if n.lock != nil {
		n.lock.Close()
	}
}

// Usage returns how many bytes the streams take on this node, and how many they
// may.
func (n *Node) Usage() (used, limit uint64) {
	if n.External() {
		return n.externalUsage()
	}
	v, err := n.server.Jsz(nil)
	if err != nil {
		return 0, 0
	}
	return v.Store, uint64(max(v.Config.MaxStore, 0))
}

// Healthy returns nil if the server answers.
func (n *Node) Healthy() error {
	if n.External() {
		return n.externalHealthy()
	}
	if h := n.server.Healthz(&server.HealthzOptions{JSEnabledOnly: true}); h.Error != "" {
		return errors.New(h.Error)
	}
	return nil
}

// Current returns nil if this node's replicas have what the cluster confirmed, as far as the node knows. One that was away copies
// what it missed; until then the loss of another node may be more than the cluster stands.
func (n *Node) Current() error {
	if !n.keepsReplicas() {
		return nil
	}
	if h := n.server.Healthz(nil); h.Error != "" {
		return errors.New(h.Error)
	}
	return nil
}

// streamDir is where the embedded server keeps a stream's files.
func (n *Node) streamDir(name string) string {
	return filepath.Join(n.opt.Dir, "jetstream", "$G", "streams", name)
}
