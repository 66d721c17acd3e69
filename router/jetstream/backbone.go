package jetstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// Store is a router.Store on JetStream.
type Store struct {
	node     *Node
	ownsNode bool
	opt      Options
	conn     *nats.Conn // publishes and their answers
	reads    *nats.Conn // reads, so that a backlog does not delay confirmations
	js       jetstream.JetStream
	pub      *publisher
	reader   *reader
	group    sync.WaitGroup
	syncs    chan struct{} // bounds fsyncs under way

	full, diskLow atomic.Bool // appends are refused

	trims     sync.RWMutex // held while a log is trimmed
	trimsHeld bool         // a backup is made: logs keep what is settled

	records, bindings, transactions, retained, sessions *stream

	mu      sync.Mutex
	streams map[string]*stream
	short   map[string]jetstream.StreamConfig // how streams should be that have fewer replicas
	begun   bool                              // the store's own streams are open: the cluster has met

	local   replicaStates
	hearers map[string]func(router.Entry, *outbox.Batch) // by subject
	fence   func() bool                                  // nil: none

	life context.Context // of what runs until Close
	end  context.CancelFunc
}

var _ router.Store = (*Store)(nil)

const (
	recordsStream      = "MQGATE_RECORDS"
	bindingsStream     = "MQGATE_BINDINGS"
	transactionsStream = "MQGATE_TRANSACTIONS"
	transactionSubject = "t"
)

// OpenStore opens the streams of the node, or of its cluster. A store may be
// closed and another opened; in a cluster only one node may have one open at a
// time, which is the caller's to see to.
func (n *Node) OpenStore(ctx context.Context) (_ *Store, err error) {
	s := &Store{node: n, opt: n.opt, streams: map[string]*stream{}, short: map[string]jetstream.StreamConfig{}, syncs: make(chan struct{}, 8)}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.connect(); err != nil {
		return nil, err
	}
	if n.shared() {
		if err := n.waitForming(ctx, s.reads); err != nil {
			return nil, err
		}
		if err := n.adopt(ctx, s.reads); err != nil {
			return nil, err
		}
	}
	return s, s.openSystem(ctx)
}

// Node returns the node that the store is of.
func (s *Store) Node() *Node { return s.node }

// Fence has the store refuse to store anything once valid says no: then another
// node has it. It is set before the store is used.
func (s *Store) Fence(valid func() bool) { s.fence = valid }

func (s *Store) fenced() bool { return s.fence != nil && !s.fence() }

var errFenced = errors.New("another node leads the cluster now")

func (s *Store) connect() error {
	var err error
	if s.conn, err = s.node.dial("publish"); err != nil {
		return err
	}
	if s.reads, err = s.node.dial("read"); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.reads); err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	if s.pub, err = newPublisher(s.conn, s.node.shared(), &s.group); err != nil {
		return err
	}
	s.checkSpace()
	s.group.Go(s.watchSpace)
	if s.node.shared() {
		s.group.Go(s.watchLanes)
		s.group.Go(s.watchStrangers)
		s.group.Go(s.watchReplicas)
	}
	s.reader, err = newReader(s.reads)
	if err == nil && s.node.Clustered() {
		s.reader.patience = readPatience
	}
	return err
}

// openSystem makes the streams that every store has.
func (s *Store) openSystem(ctx context.Context) error {
	var err error
	if s.records, err = s.openStream(ctx, jetstream.StreamConfig{
		Name: recordsStream, Subjects: []string{"r.*"}, MaxMsgsPerSubject: 1,
	}); err != nil {
		return err
	}
	if s.bindings, err = s.openStream(ctx, jetstream.StreamConfig{
		Name: bindingsStream, Subjects: []string{"b.*"}, MaxMsgsPerSubject: 1,
	}); err != nil {
		return err
	}
	if s.transactions, err = s.openStream(ctx, jetstream.StreamConfig{
		Name: transactionsStream, Subjects: []string{transactionSubject},
	}); err != nil {
		return err
	}
	if err = s.openValues(ctx); err != nil {
		return err
	}
	if s.node.shared() {
		if err := s.createStream(ctx, s.node.leaseConfig()); err != nil {
			return err
		}
	}
	s.begun = true
	if s.records.syncer != nil {
		return s.records.syncer.verify()
	}
	return nil
}

// stream is one JetStream stream with its syncer.
type stream struct {
	name   string
	store  *Store
	lane   *lane   // nil unless the stream is replicated
	syncer *syncer // nil unless SyncAlways; a cluster's Raft log syncs itself
}

// openStream opens a stream, or makes it.
func (s *Store) openStream(ctx context.Context, c jetstream.StreamConfig) (*stream, error) {
	s.mu.Lock()
	st := s.streams[c.Name]
	s.mu.Unlock()
	if st != nil {
		return st, nil
	}
	c.Storage = jetstream.FileStorage
	c.Discard = jetstream.DiscardNew
	if c.MaxMsgsPerSubject > 0 {
		c.Discard = jetstream.DiscardOld
	}
	c.AllowDirect = true
	c.AllowAtomicPublish = c.MaxMsgsPerSubject == 0
	c.Duplicates = s.opt.DedupWindow
	c.MaxConsumers = -1
	c.Replicas = s.node.replicas()
	if err := s.createStream(ctx, c); err != nil {
		return nil, err
	}
	st = &stream{name: c.Name, store: s}
	if s.node.shared() {
		subject := strings.Replace(c.Subjects[0], "*", barrierToken, 1)
		if c.MaxMsgsPerSubject > 0 || c.Name == transactionsStream {
			if err := s.barrier(ctx, subject); err != nil {
				return nil, err
			}
		}
		last, err := s.caughtUp(ctx, c.Name, subject)
		for errors.Is(err, jetstream.ErrStreamNotFound) && pause(ctx, formingPoll) {
			s.opt.Log.Debug("a stream is gone again before it was used", "stream", c.Name)
			if err = s.createStream(ctx, c); err == nil {
				last, err = s.caughtUp(ctx, c.Name, subject)
			}
		}
		if err != nil {
			return nil, unavailable(err)
		}
		st.lane = newLane(st, last, laneOptions{name: st.name, values: c.MaxMsgsPerSubject == 1, life: s.life, group: &s.group, log: s.opt.Log, found: s.found})
	}
	if s.opt.SyncAlways && !s.node.shared() {
		st.syncer = newSyncer(s, c.Name)
		if err := st.syncer.begin(); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.streams[c.Name]; other != nil {
		return other, nil
	}
	s.streams[c.Name] = st
	return st, nil
}

func (st *stream) close() {
	if st.lane != nil {
		st.lane.close()
	}
	if st.syncer != nil {
		st.syncer.close()
	}
}

// createStream makes a stream, or brings one that exists up to this configuration. Where there are fewer nodes now than replicas it
// does with fewer until there are: with those that a stream has already, or with the majority that would have to confirm anyway.
// Only the store's first streams wait for all nodes: else two that lost their data would begin a cluster of their own.
func (s *Store) createStream(ctx context.Context, c jetstream.StreamConfig) error {
	began := time.Now()
	retry := func(err error) bool {
		rejected := errors.Is(err, errRejected) || isCode(err, codeStreamNotMade)
		return s.node.shared() && (mayPass(err) || rejected && time.Since(began) < rejectedPatience)
	}
	err := s.tryStream(ctx, c)
	for err != nil && retry(err) {
		if s.doWithFewer(ctx, c, err) {
			return nil
		}
		if !pause(ctx, formingPoll) {
			break
		}
		err = s.tryStream(ctx, c)
	}
	if err != nil {
		return unavailable(fmt.Errorf("open stream %s: %w", c.Name, err))
	}
	return nil
}

func (s *Store) tryStream(ctx context.Context, c jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.CreateStream(ctx, c)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		_, err = s.js.UpdateStream(ctx, c) // of before, or with another number of replicas
		return err
	}
	if err != nil {
		return err
	}
	return s.accepted(ctx, st.CachedInfo())
}

const (
	// rejectionTime is for how long after it was made a stream is deleted again if any node cannot begin its copy (five seconds in 2.15.2),
	// and until that is done.
	rejectionTime = 7 * time.Second
	// rejectedPatience is how long a stream is made again that was deleted so: a node without room soon stops, and then does not count.
	rejectedPatience = 30 * time.Second
)

var errRejected = errors.New("a node could not begin its copy of the stream")

// accepted returns once a new stream stays: what was stored in one that is deleted again would be lost though it was confirmed. Where
// all nodes that are to have it have room that is at once.
func (s *Store) accepted(ctx context.Context, info *jetstream.StreamInfo) error {
	peers := s.node.peers.Load()
	used := info.State.LastSeq > 0 // it was accepted before
	if peers == nil || used || info.Cluster == nil || time.Since(info.Created).Abs() > time.Minute {
		return nil
	}
	cramped := peers.cramped(info.Cluster.Leader)
	for _, r := range info.Cluster.Replicas {
		cramped = cramped || peers.cramped(r.Name)
	}
	for end := time.Now().Add(rejectionTime); cramped && time.Now().Before(end); {
		if !pause(ctx, formingPoll) {
			return ctx.Err()
		}
		if _, err := s.leaderInfo(ctx, info.Config.Name); errors.Is(err, jetstream.ErrStreamNotFound) {
			return errRejected
		}
	}
	return nil
}

// doWithFewer reports whether a stream that cannot have all its replicas now has fewer.
func (s *Store) doWithFewer(ctx context.Context, c jetstream.StreamConfig, err error) bool {
	if !isCode(err, codeClusterNoPeers) {
		return false
	}
	there := c
	there.Replicas = 0
	if info, err := s.leaderInfo(ctx, c.Name); err == nil {
		there.Replicas = info.Config.Replicas
	} else if errors.Is(err, jetstream.ErrStreamNotFound) && s.begun {
		there.Replicas = c.Replicas/2 + 1
	}
	if there.Replicas == 0 || there.Replicas >= c.Replicas || s.tryStream(ctx, there) != nil {
		return false
	}
	s.opt.Log.Warn("fewer replicas than there should be, until enough nodes have room", "stream", c.Name, "replicas", there.Replicas, "should_be", c.Replicas)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.short[c.Name] = c
	return true
}

// raiseDelay is how often streams with too few replicas are looked after.
const raiseDelay = 2 * time.Second

// watchReplicas gives streams the replicas that they lack, once there are nodes for them.
func (s *Store) watchReplicas() {
	for pause(s.life, raiseDelay) {
		s.mu.Lock()
		short := slices.Collect(maps.Values(s.short))
		s.mu.Unlock()
		for _, c := range short {
			if err := s.tryStream(s.life, c); err != nil {
				s.opt.Log.Debug("no replica more yet", "stream", c.Name, "error", err)
				break // it is the same for the others
			}
			s.mu.Lock()
			delete(s.short, c.Name)
			s.mu.Unlock()
			s.opt.Log.Info("a stream has all its replicas", "stream", c.Name, "replicas", c.Replicas)
		}
	}
}

// deleteStream deletes a stream with all it holds.
func (s *Store) deleteStream(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s.mu.Lock()
	st := s.streams[name]
	delete(s.streams, name)
	delete(s.short, name)
	s.mu.Unlock()
	if st != nil {
		st.close()
	}
	if err := s.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return unavailable(fmt.Errorf("delete stream %s: %w", name, err))
	}
	return nil
}

// Close stops the server after it wrote what it had. It may be called once, also
// on a store that Open could not finish.
func (s *Store) Close() {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.reads != nil {
		s.reads.Close()
	}
	if s.pub != nil {
		s.pub.close()
	}
	s.end()
	for _, l := range s.lanes() {
		l.close()
	}
	s.group.Wait()
	for _, st := range s.streams {
		st.close()
	}
	if s.ownsNode {
		s.node.Close()
	}
}

// Usage returns how many bytes the streams take, and how many they may.
func (s *Store) Usage() (used, limit uint64) { return s.node.Usage() }

// Healthy returns nil if the store answers.
func (s *Store) Healthy() error { return s.node.Healthy() }

func unavailable(err error) error {
	return &router.Error{Op: "store", Class: router.Unavailable, Text: "the store cannot confirm now; try again", RetryAfter: time.Second, Err: err}
}
