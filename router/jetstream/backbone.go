package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
)

// Options of a Store.
type Options struct {
	// Dir is the data directory; it is made, and locked against other processes.
	Dir string
	// NodeName names the server in logs.
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
	Log         *slog.Logger
}

// Store is a router.Store on JetStream.
type Store struct {
	opt    Options
	lock   *os.File
	server *server.Server
	conn   *nats.Conn // publishes and their answers
	reads  *nats.Conn // reads, so that a backlog does not delay confirmations
	js     jetstream.JetStream
	pub    *publisher
	reader *reader
	group  sync.WaitGroup
	syncs  chan struct{} // bounds fsyncs under way

	full, diskLow atomic.Bool // appends are refused

	records, bindings, transactions, retained, sessions *stream

	mu      sync.Mutex
	streams map[string]*stream
}

var _ router.Store = (*Store)(nil)

const (
	recordsStream      = "MQGATE_RECORDS"
	bindingsStream     = "MQGATE_BINDINGS"
	transactionsStream = "MQGATE_TRANSACTIONS"

	readyTimeout   = 60 * time.Second // for a large store to be recovered
	requestTimeout = 10 * time.Second
	maxPayload     = 64 << 20
	maxEnvelope    = 60 << 20
	openBatches    = 4096 // of one stream
)

// Open locks the data directory, starts the embedded server on it and returns
// the store.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if o.DedupWindow == 0 {
		o.DedupWindow = 2 * time.Minute
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = 10 * time.Second
	}
	if o.MaxMessageBytes <= 0 || o.MaxMessageBytes > maxEnvelope {
		o.MaxMessageBytes = maxEnvelope
	}
	s := &Store{opt: o, streams: map[string]*stream{}, syncs: make(chan struct{}, 8)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if s.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if err := s.startServer(); err != nil {
		return nil, err
	}
	if err := s.connect(); err != nil {
		return nil, err
	}
	return s, s.openSystem(ctx)
}

func (s *Store) startServer() error {
	o := &server.Options{
		ServerName: s.opt.NodeName, DontListen: true, NoSigs: true,
		JetStream: true, StoreDir: s.opt.Dir, SyncInterval: s.opt.SyncInterval,
		JetStreamMaxStore: s.maxStore(), JetStreamMaxMemory: 64 << 20,
		MaxPayload: maxPayload, MaxPending: 4 * maxPayload,
		// What the gateway has under way is bounded by the publisher.
		StreamMaxBufferedMsgs: 2 * publisherSlots, StreamMaxBufferedSize: 1 << 30,
	}
	o.JetStreamLimits.DefaultMaxConsumers = -1
	// The default, 50, is soon met by clients that commit at once.
	o.JetStreamLimits.MaxBatchInflightPerStream = openBatches
	o.JetStreamLimits.MaxBatchInflightTotal = 4 * openBatches
	srv, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("make the embedded server: %w", err)
	}
	srv.SetLoggerV2(serverLog{s.opt.Log}, false, false, false)
	s.server = srv
	srv.Start()
	if !srv.ReadyForConnections(readyTimeout) {
		return fmt.Errorf("the embedded server is not ready after %v", readyTimeout)
	}
	if !srv.JetStreamEnabled() {
		return errors.New("the embedded server could not start JetStream; its log says why")
	}
	return nil
}

// maxStore is the server's own limit: above ours, so that records still fit.
func (s *Store) maxStore() int64 {
	if s.opt.MaxBytes <= 0 {
		return -1
	}
	return s.opt.MaxBytes + overhead
}

func (s *Store) connect() error {
	var err error
	if s.conn, err = s.dial("publish"); err != nil {
		return err
	}
	if s.reads, err = s.dial("read"); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.reads); err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	if s.pub, err = newPublisher(s.conn, &s.group); err != nil {
		return err
	}
	s.checkSpace()
	s.group.Go(s.watchSpace)
	s.reader, err = newReader(s.reads)
	return err
}

func (s *Store) dial(name string) (*nats.Conn, error) {
	c, err := nats.Connect("", nats.InProcessServer(s.server), nats.Name(name), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.opt.Log.Error("connection to the embedded server", "connection", name, "error", err)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded server: %w", err)
	}
	return c, nil
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
		Name: transactionsStream, Subjects: []string{"t"},
	}); err != nil {
		return err
	}
	if err = s.openValues(ctx); err != nil {
		return err
	}
	if s.opt.SyncAlways {
		return s.records.syncer.verify()
	}
	return nil
}

// stream is one JetStream stream with its syncer.
type stream struct {
	name   string
	store  *Store
	syncer *syncer // nil unless SyncAlways
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
	if err := s.createStream(ctx, c); err != nil {
		return nil, err
	}
	st = &stream{name: c.Name, store: s}
	if s.opt.SyncAlways {
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

func (s *Store) createStream(ctx context.Context, c jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := s.js.CreateStream(ctx, c)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		// It exists with an older configuration: bring it up to this one.
		_, err = s.js.UpdateStream(ctx, c)
	}
	if err != nil {
		return unavailable(fmt.Errorf("open stream %s: %w", c.Name, err))
	}
	return nil
}

// deleteStream deletes a stream with all it holds.
func (s *Store) deleteStream(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s.mu.Lock()
	st := s.streams[name]
	delete(s.streams, name)
	s.mu.Unlock()
	if st != nil && st.syncer != nil {
		st.syncer.close()
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
	s.group.Wait()
	for _, st := range s.streams {
		if st.syncer != nil {
			st.syncer.close()
		}
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// Usage returns how many bytes the streams take, and how many they may.
func (s *Store) Usage() (used, limit uint64) {
	v, err := s.server.Jsz(nil)
	if err != nil {
		return 0, 0
	}
	return v.Store, uint64(max(v.Config.MaxStore, 0))
}

// Healthy returns nil if the store answers.
func (s *Store) Healthy() error {
	if h := s.server.Healthz(&server.HealthzOptions{JSEnabledOnly: true}); h.Error != "" {
		return errors.New(h.Error)
	}
	return nil
}

func unavailable(err error) error {
	return &router.Error{Op: "store", Class: router.Unavailable, Text: "the store cannot confirm now; try again", RetryAfter: time.Second, Err: err}
}

// streamDir is where the embedded server keeps a stream's files.
func (s *Store) streamDir(name string) string {
	return filepath.Join(s.opt.Dir, "jetstream", "$G", "streams", name)
}

// serverLog passes the embedded server's log on: what it calls notices are ours
// to debug by.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(f string, v ...any) { l.log.Debug("store: " + fmt.Sprintf(f, v...)) }
func (l serverLog) Warnf(f string, v ...any) {
	if strings.HasPrefix(f, "Maximum payloads over") {
		return // chosen: a message is stored as one, and frame_bytes bounds it
	}
	l.log.Warn("store: " + fmt.Sprintf(f, v...))
}
func (l serverLog) Fatalf(f string, v ...any) { l.log.Error("store: " + fmt.Sprintf(f, v...)) }
func (l serverLog) Errorf(f string, v ...any) { l.log.Error("store: " + fmt.Sprintf(f, v...)) }
func (l serverLog) Debugf(f string, v ...any) {}
func (l serverLog) Tracef(f string, v ...any) {}
