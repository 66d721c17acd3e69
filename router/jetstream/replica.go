package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
)

// caughtUp returns when a read of a stream gives all that its leader holds.
// Reads are answered by any replica, this node's own if it has one: one that lags
// would hide the end of a backlog, or return a value that has been replaced.
// Nobody writes meanwhile: the caller has the only open store. What an earlier one
// had under way is waited for. The sequence of the stream's end is returned.
func (s *Store) caughtUp(ctx context.Context, name, subject string) (uint64, error) {
	var proposed uint64
	asked := false
	for {
		var err error
		if !asked {
			proposed, err = s.proposed(ctx, subject)
			asked = err == nil
		}
		info, infoErr := s.leaderInfo(ctx, name)
		err = errors.Join(err, infoErr)
		if err == nil && info.State.LastSeq < proposed {
			err = fmt.Errorf("%w: its leader holds messages up to %d, and has more to store up to %d", errLags, info.State.LastSeq, proposed)
		}
		if err == nil && info.State.LastSeq == 0 {
			return 0, nil
		}
		if err == nil {
			if s.node.replicas() == 1 {
				return info.State.LastSeq, nil
			}
			if err = s.replicaHas(info); err == nil {
				return info.State.LastSeq, nil
			}
		}
		if !pause(ctx, formingPoll/2) {
			return 0, unavailable(fmt.Errorf("the replicas of stream %s have not caught up: %w", name, err))
		}
	}
}

// proposed asks a stream's leader up to which sequence it has accepted messages. Those that no majority has stored yet are in no
// other answer; but an append that can never be right is refused with that number.
func (s *Store) proposed(ctx context.Context, subject string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := s.conn.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: nats.Header{"Nats-Expected-Last-Sequence": []string{never}}})
	if err != nil {
		return 0, err
	}
	_, err = parseAnswer(m.Data)
	var refused *refusal
	if router.ClassOf(err) == router.Full {
		return 0, nil // it accepts nothing, whatever is asked
	}
	if !errors.As(err, &refused) || refused.code != codeWrongLast {
		return 0, fmt.Errorf("asked for the end of its stream, %s answered %q: %w", subject, m.Data, err)
	}
	_, number, _ := strings.Cut(refused.message, "wrong last sequence: ")
	last, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("asked for the end of its stream, %s answered %q: %w", subject, refused.message, err)
	}
	return last, nil
}

// never is a last sequence that no stream reaches.
const never = "9007199254740991"

// barrierToken ends the subject of a stream's barrier: an empty value that stands for nothing.
const barrierToken = "barrier"

// barrier returns when all that an earlier leader had stored in a stream of values is there to be read. A Raft leader that
// was just elected answers before it has applied what it took over; its log has one order, so what is stored behind it is
// applied behind it. Streams of messages need none: what comes late is heard of (foreign.go).
func (s *Store) barrier(ctx context.Context, subject string) error {
	for {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			m, err := s.conn.RequestWithContext(ctx, subject, nil)
			if err != nil {
				return err
			}
			_, err = parseAnswer(m.Data)
			return err
		}()
		if err == nil {
			return nil
		}
		if !pause(ctx, formingPoll) {
			return unavailable(fmt.Errorf("the stream of %s confirms nothing: %w", subject, err))
		}
	}
}

// leaderInfo asks a stream's leader, which alone answers.
func (s *Store) leaderInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return st.CachedInfo(), nil
}

var errLags = errors.New("a replica lags")

// replicaHas returns nil if the replica that answers reads has what the leader
// has. Replicas apply one log in one order, so equal ends and equal numbers mean
// equal contents.
func (s *Store) replicaHas(info *jetstream.StreamInfo) error {
	if s.node.External() {
		return othersHave(info)
	}
	have, ok := s.local.state(s.node.server, info.Config.Name)
	if !ok {
		return othersHave(info)
	}
	want := info.State
	if want.LastSeq == have.LastSeq && want.FirstSeq == have.FirstSeq && want.Msgs == have.Msgs {
		return nil
	}
	s.local.forget()
	return fmt.Errorf("%w: it holds %d messages up to %d, the leader %d up to %d", errLags, have.Msgs, have.LastSeq, want.Msgs, want.LastSeq)
}

// othersHave judges by what the leader says of its followers, for a node that has
// no replica. They hear of the last commit with the next heartbeat at the latest.
const heardOfCommit = 1100 * time.Millisecond // a heartbeat at the server's defaults

func othersHave(info *jetstream.StreamInfo) error {
	if info.Cluster == nil || len(info.Cluster.Replicas) == 0 {
		return fmt.Errorf("%w: the leader knows no other yet", errLags)
	}
	for _, r := range info.Cluster.Replicas {
		if !r.Offline && (!r.Current || r.Lag > 0) {
			return fmt.Errorf("%w: %s by %d", errLags, r.Name, r.Lag)
		}
	}
	time.Sleep(heardOfCommit)
	return nil
}

// replicaStates are what this node's replicas hold. The server tells of all at
// once, so one answer serves for all streams that have not changed since.
type replicaStates struct {
	mu     sync.Mutex
	states map[string]server.StreamState
}

func (r *replicaStates) state(srv *server.Server, stream string) (server.StreamState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.states[stream]; ok {
		return st, true
	}
	a, err := srv.JszAccount(&server.JSzOptions{Account: server.DEFAULT_GLOBAL_ACCOUNT, Streams: true})
	if err != nil {
		return server.StreamState{}, false
	}
	r.states = make(map[string]server.StreamState, len(a.Streams))
	for _, d := range a.Streams {
		r.states[d.Name] = d.State
	}
	st, ok := r.states[stream]
	return st, ok
}

func (r *replicaStates) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = nil
}

// pause waits, and reports whether ctx still runs.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// What JetStream answers while a cluster forms or elects.
const (
	codeClusterNotAvailable  = 10008 // no leader for the metadata
	codeClusterNotLeader     = 10009
	codeClusterNoPeers       = 10005 // fewer nodes than replicas, so far
	codeClusterNotAssigned   = 10007
	codeClusterPeerNotMember = 10040
	codeStreamOffline        = 10118
)

// mayPass reports whether an error is one that a cluster gives while it forms or
// elects, and not a refusal.
func mayPass(err error) bool {
	var api jetstream.JetStreamError
	if errors.As(err, &api) && api.APIError() != nil {
		switch api.APIError().ErrorCode {
		case codeClusterNotAvailable, codeClusterNotLeader, codeClusterNoPeers, codeClusterNotAssigned, codeClusterPeerNotMember, codeStreamOffline:
			return true
		}
		return false
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, jetstream.ErrNoStreamResponse)
}
