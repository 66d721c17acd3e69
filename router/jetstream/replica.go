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

// caughtUp returns when a stream's leader shows all that it, or the one before it, had accepted: what an earlier store had under way is
// then in its place. The sequence of the stream's end is returned. Nobody writes meanwhile: the caller has the only open store.
//
// A stream that is not there, as it was deleted again since a node could not begin its copy, is jetstream.ErrStreamNotFound.
//
// What is read later may come from any replica, by chance, and one that lags shows less: readers compare with what is known.
func (s *Store) caughtUp(ctx context.Context, name, subject string) (uint64, error) {
	for {
		proposed, err := s.proposed(ctx, subject)
		if err == nil {
			var info *jetstream.StreamInfo
			if info, err = s.leaderInfo(ctx, name); err == nil && info.State.LastSeq >= proposed {
				return info.State.LastSeq, nil
			}
			if err == nil {
				err = fmt.Errorf("%w: its leader holds messages up to %d, and has more to store up to %d", errLags, info.State.LastSeq, proposed)
			}
		}
		if errors.Is(err, nats.ErrNoResponders) { // nobody takes what is for it: it has no leader, or is gone
			_, err = s.leaderInfo(ctx, name)
		}
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return 0, err
		}
		if !pause(ctx, formingPoll/2) {
			return 0, unavailable(fmt.Errorf("stream %s does not settle: %w", name, err))
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
// applied behind it. Whoever reads the stream and finds the barrier has found all. Streams of messages have none: each has an
// account of what it must hold, and what comes late is heard of (foreign.go).
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
	codeStreamNotMade        = 10049 // one of the nodes has no room
)

// isCode reports whether JetStream refused with a code.
func isCode(err error, code jetstream.ErrorCode) bool {
	var api jetstream.JetStreamError
	return errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == code
}

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
