package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	leaseStream  = "MQGATE_LEASE"
	leaseSubject = "lease"

	// leaseTTL is how long a lease holds after its last renewal. Others count it from
	// when they saw the renewal, which was later, so they never begin too early; the
	// holder stops leaseMargin before, since clocks need not run alike.
	leaseTTL    = 3 * time.Second
	leaseMargin = 400 * time.Millisecond
	leaseRenew  = 400 * time.Millisecond
	leaseLook   = 200 * time.Millisecond
	// leaderless is for how long the lease may be unreadable before nobody is taken to
	// lead.
	leaderless = 1500 * time.Millisecond
	// leaseTimeout is for one question about it.
	leaseTimeout = 700 * time.Millisecond
	// A node that could not lead leaves it to others for firstPause, and twice as long each time that it fails again.
	firstPause, longestPause = 400 * time.Millisecond, 6 * time.Second
)

// Term is what a holder of the lease has: valid until it was not renewed.
type Term struct {
	// Address is where the leader is to listen, unique to the term.
	Address string

	validUntil atomic.Int64 // nanoseconds since epoch, below
	announced  atomic.Bool
	peers      *peers
	changed    chan struct{} // has announced told at once
}

// epoch gives monotonic times, which no change of the wall clock moves.
var epoch = time.Now()

// Valid reports whether the lease holds. It is right also after a pause of the
// process.
func (t *Term) Valid() bool { return int64(time.Since(epoch)) < t.validUntil.Load() }

// Nodes returns how many nodes of the cluster are there now, the holder included.
func (t *Term) Nodes() int { return t.peers.count() }

// Announce has the other nodes know that the leader listens at Address.
func (t *Term) Announce() {
	t.announced.Store(true)
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// Candidate is a node that may lead.
type Candidate interface {
	// Eligible reports whether the node wants to lead now.
	Eligible() bool
	// Lead leads until ctx ends, and returns when it does no more. Its cause tells
	// whether the lease was lost (ErrLeaseLost): then nothing may be stored any more.
	Lead(ctx context.Context, t *Term) error
	// Follow hears who leads, "" if nobody is known to, and whether this node sees the
	// majority of the cluster.
	Follow(node, address string, majority bool)
}

// ErrLeaseLost is the cause that ends Lead when the lease could not be renewed.
var ErrLeaseLost = errors.New("the lease of the cluster's leader was lost")

// ErrStepDown is the cause that ends Lead when the node gives the lease up.
var ErrStepDown = errors.New("the node gives up the lead")

// leaseRecord is the stored form.
type leaseRecord struct {
	Node    string `json:"node"`              // "": given up
	Address string `json:"address,omitempty"` // once the leader listens
	Term    string `json:"term"`
}

// election has one node of a cluster lead at a time.
type election struct {
	node *Node
	conn *nats.Conn
	js   jetstream.JetStream
	log  *slog.Logger
	who  Candidate

	created  bool
	seq      uint64 // of the record seen last
	changed  time.Time
	rec      leaseRecord
	answered time.Time
	peers    *peers
	failing  failing

	mu             sync.Mutex
	leads, listens string // which node leads, and its address
	known          string // what Follow was told last
}

// failing is a node that could not lead since somebody led last: a damaged store does not heal by trying.
type failing struct {
	times int
	why   string
	until time.Time // when it may try again
}

// again notes that it happened once more, and reports whether that is news.
func (f *failing) again(err error) bool {
	pause := min(firstPause<<min(f.times, 10), longestPause)
	f.until = time.Now().Add(pause + mrand.N(pause/4))
	f.times++
	news := f.why != err.Error()
	f.why = err.Error()
	return news
}

// level is for what is said of each attempt to lead.
func (f *failing) level() slog.Level {
	if f.times > 0 {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Campaign takes part in the cluster's election until ctx ends: it tells the
// candidate who leads, and has it lead while the node holds the lease.
func (n *Node) Campaign(ctx context.Context, who Candidate) error {
	conn, err := n.dial("lease")
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	p, err := newPeers(n, conn)
	if err != nil {
		return err
	}
	n.peers.Store(p)
	defer n.peers.Store(nil)
	e := &election{node: n, conn: conn, js: js, log: n.log, who: who, changed: time.Now(), answered: time.Now(), peers: p}
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { e.watch(ctx) })
	watching.Go(func() { n.watchDisk(ctx) })
	tick := time.NewTicker(leaseLook)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.look(ctx)
		case <-ctx.Done():
			watching.Wait()
			who.Follow("", "", true)
			return nil
		}
	}
}

// watch greets the other nodes and tells when the majority is reached or not, whatever questions about the lease wait for
// an answer, until ctx ends.
func (e *election) watch(ctx context.Context) {
	greet, look := time.NewTicker(greetEvery), time.NewTicker(greetEvery/2)
	defer greet.Stop()
	defer look.Stop()
	for {
		select {
		case <-greet.C:
			e.peers.greet()
		case <-look.C:
			e.mu.Lock()
			e.tell()
			e.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// look reads the lease, tells who leads, and takes it if it is free.
func (e *election) look(ctx context.Context) {
	if err := e.read(ctx); err != nil {
		if time.Since(e.answered) > leaderless {
			e.follow("", "")
		}
		return
	}
	e.answered = time.Now()
	free := e.rec.Node == "" || time.Since(e.changed) > leaseTTL
	if !free {
		e.follow(e.rec.Node, e.rec.Address)
		return
	}
	e.follow("", "")
	if !e.node.mayLead() || !e.who.Eligible() || ctx.Err() != nil || time.Now().Before(e.failing.until) {
		return
	}
	t := &Term{changed: make(chan struct{}, 1), peers: e.peers}
	id := rand.Text()
	t.Address = "leader." + id
	if err := e.write(ctx, leaseRecord{Node: e.node.opt.NodeName, Term: id}, t); err != nil {
		return // another was faster, or there is no majority
	}
	e.lead(ctx, t, id)
}

// follow notes who leads, and tells.
func (e *election) follow(node, address string) {
	if address == "" {
		node = "" // it does not listen yet
	} else {
		e.failing = failing{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leads, e.listens = node, address
	e.tell()
}

// tell tells who leads, and whether the majority is reached, if that is news; with the lock held. A leader that does not reach it
// can store nothing until it does, so its clients are told soon: it may yet keep its lease.
func (e *election) tell() {
	node, address, majority := e.leads, e.listens, e.peers.majority()
	if !majority && node == e.node.opt.NodeName {
		node, address = "", ""
	}
	know := node + "\x00" + address + strconv.FormatBool(majority)
	if know != e.known {
		e.known = know
		e.who.Follow(node, address, majority)
	}
}

// read gets the record from the leader of its stream, which is never behind.
func (e *election) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if !e.created {
		if err := e.create(ctx); err != nil {
			return err
		}
	}
	m, err := e.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+leaseStream, []byte(`{"last_by_subj":"`+leaseSubject+`"}`))
	if err != nil {
		return err
	}
	var a struct {
		Message *struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return fmt.Errorf("read the lease: %w", err)
	}
	switch {
	case a.Error != nil && a.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		e.seen(0, leaseRecord{})
		return nil
	case a.Error != nil:
		return a.Error
	case a.Message == nil:
		return errors.New("read the lease: an empty answer")
	}
	var rec leaseRecord
	if err := json.Unmarshal(a.Message.Data, &rec); err != nil {
		return fmt.Errorf("read the lease: %w", err)
	}
	e.seen(a.Message.Seq, rec)
	return nil
}

func (e *election) seen(seq uint64, rec leaseRecord) {
	if seq != e.seq || e.changed.IsZero() {
		e.seq, e.changed = seq, time.Now()
		e.node.leaseSeen.Store(int64(time.Since(epoch)))
	}
	e.rec = rec
}

// LeaseAge is how long ago this node saw the leader renew its lease.
func (n *Node) LeaseAge() time.Duration {
	return max(time.Since(epoch)-time.Duration(n.leaseSeen.Load()), 0)
}

// leaseConfig is how the stream of the lease should be; who opens the store brings it up to that.
func (n *Node) leaseConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: leaseStream, Subjects: []string{leaseSubject}, MaxMsgsPerSubject: 1, Storage: jetstream.FileStorage, Replicas: n.replicas(),
	}
}

func (e *election) create(ctx context.Context) error {
	_, err := e.js.Stream(ctx, leaseStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) && e.node.mayLead() {
		_, err = e.js.CreateStream(ctx, e.node.leaseConfig())
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return err
	}
	e.created = true
	return nil
}

// write replaces the record that was seen last, and extends the term.
func (e *election) write(ctx context.Context, rec leaseRecord, t *Term) error {
	body, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	m := nats.NewMsg(leaseSubject)
	m.Data = body
	m.Header.Set("Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(e.seq, 10))
	sent := time.Since(epoch)
	answer, err := e.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	stored, err := parseAnswer(answer.Data)
	if err != nil {
		return err
	}
	e.seq, e.rec, e.changed, e.answered = stored.Seq, rec, time.Now(), time.Now()
	e.node.leaseSeen.Store(int64(time.Since(epoch)))
	t.validUntil.Store(int64(sent + leaseTTL - leaseMargin))
	return nil
}

// lead has the candidate lead, and renews the lease until it is lost or given up.
func (e *election) lead(ctx context.Context, t *Term, id string) {
	level := e.failing.level()
	e.log.Log(ctx, level, "this node leads the cluster")
	e.attract(ctx)
	leading, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	done := make(chan struct{})
	var failure error
	ended.Go(func() {
		defer close(done)
		failure = e.who.Lead(leading, t)
	})
	cause := e.renew(ctx, t, id, done)
	if errors.Is(cause, ErrLeaseLost) {
		e.follow("", "")
	}
	end(cause)
	// While it stores its last words the lease must not end.
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-time.After(leaseRenew):
			if !errors.Is(cause, ErrLeaseLost) {
				_ = e.write(context.WithoutCancel(ctx), leaseRecord{Node: e.node.opt.NodeName, Term: id}, t) // it is tried again
			}
		}
	}
	ended.Wait()
	t.validUntil.Store(0)
	if !errors.Is(cause, ErrLeaseLost) {
		if err := e.write(context.WithoutCancel(ctx), leaseRecord{Term: id}, &Term{}); err != nil {
			e.log.Warn("the lease could not be given up; it ends by itself", "error", err)
		}
	}
	if failure != nil && e.failing.again(failure) {
		e.log.Error("this node could not lead; it will try again, and says so when that changes", "error", failure)
	}
	e.log.Log(ctx, level, "this node does not lead the cluster any more", "cause", cause)
}

// attract moves the leadership of the lease's stream to this node: then the loss of another node never delays a renewal.
func (e *election) attract(ctx context.Context) {
	if e.node.External() || e.node.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, leaseStream) {
		return
	}
	body := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, e.node.opt.NodeName)
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if _, err := e.conn.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+leaseStream, body); err != nil {
		e.log.Debug("the lease's stream stays where it is led", "error", err)
	}
}

// renew keeps the lease until it is lost, the candidate is done or ctx ends.
func (e *election) renew(ctx context.Context, t *Term, id string, done <-chan struct{}) error {
	tick := time.NewTicker(leaseRenew)
	defer tick.Stop()
	for {
		rec := leaseRecord{Node: e.node.opt.NodeName, Term: id}
		if t.announced.Load() {
			rec.Address = t.Address
		}
		if err := e.write(ctx, rec, t); err != nil && ctx.Err() == nil {
			// It may be stored although no answer came: look.
			if err := e.read(ctx); err == nil && e.rec.Term != id {
				return ErrLeaseLost
			}
		}
		if !t.Valid() {
			return ErrLeaseLost
		}
		e.follow(rec.Node, rec.Address)
		select {
		case <-tick.C:
		case <-t.changed:
		case <-done:
			return ErrStepDown
		case <-ctx.Done():
			return ErrStepDown
		}
		if !e.who.Eligible() {
			return ErrStepDown
		}
	}
}
