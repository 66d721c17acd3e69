package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
)

// reader reads stored messages by batched direct gets. All answers come to one
// subscription; the last token of the reply subject tells whose they are.
type reader struct {
	conn   *nats.Conn
	prefix string
	// patience is how long an answer may stand still before another is asked for;
	// 0: for ever. In a cluster the replica that was asked may be one of a node that
	// stands still or is cut off, and which was not noticed yet.
	patience time.Duration

	mu      sync.Mutex
	next    uint64
	waiting map[string]*readRequest
}

type readRequest struct {
	entries []router.Entry
	heard   atomic.Int64 // how many
	ended   chan error
}

// readPatience is a reader's patience in a cluster. Elections take longer: a node
// that takes the lead must not wait for one that is gone.
const readPatience = 700 * time.Millisecond

var errStandsStill = errors.New("the replica that was asked does not answer")

func newReader(conn *nats.Conn) (*reader, error) {
	r := &reader{conn: conn, prefix: nats.NewInbox() + ".", waiting: map[string]*readRequest{}}
	sub, err := conn.Subscribe(r.prefix+"*", r.answered)
	if err == nil {
		err = sub.SetPendingLimits(-1, -1) // bounded by the requests' own limits
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to reads: %w", err)
	}
	return r, nil
}

type directGet struct {
	Seq      uint64 `json:"seq"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes,omitempty"`
	Subject  string `json:"next_by_subj,omitempty"`
}

// read returns the messages of a stream from a sequence on; of one subject
// unless that is empty.
func (r *reader) read(ctx context.Context, stream string, get directGet) ([]router.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if ctx.Err() != nil {
		return nil, unavailable(fmt.Errorf("read from stream %s: %w", stream, context.Cause(ctx)))
	}
	body, err := json.Marshal(get)
	if err != nil {
		return nil, fmt.Errorf("encode a read: %w", err)
	}
	for {
		entries, err := r.attempt(ctx, stream, body)
		if !errors.Is(err, errStandsStill) {
			return entries, err
		}
	}
}

// attempt asks once.
func (r *reader) attempt(ctx context.Context, stream string, body []byte) ([]router.Entry, error) {
	req := &readRequest{ended: make(chan error, 1)}
	r.mu.Lock()
	r.next++
	id := strconv.FormatUint(r.next, 10)
	r.waiting[id] = req
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, id)
		r.mu.Unlock()
	}()
	if err := r.conn.PublishRequest("$JS.API.DIRECT.GET."+stream, r.prefix+id, body); err != nil {
		return nil, unavailable(err)
	}
	moved, heard := time.Now(), int64(0)
	for {
		select {
		case err := <-req.ended:
			return req.entries, err
		case <-time.After(nudgeAfter * lookEvery):
			if n := req.heard.Load(); n != heard {
				moved, heard = time.Now(), n
			}
			if r.patience > 0 && time.Since(moved) > r.patience {
				return nil, errStandsStill
			}
			_ = r.conn.FlushTimeout(requestTimeout) // as publisher.nudge; the wait below ends in any case
		case <-ctx.Done():
			return nil, unavailable(fmt.Errorf("read from stream %s: %w", stream, context.Cause(ctx)))
		}
	}
}

// answered takes one message of an answer; it runs on one goroutine.
func (r *reader) answered(m *nats.Msg) {
	r.mu.Lock()
	req := r.waiting[m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]]
	r.mu.Unlock()
	if req == nil {
		return // its caller gave up
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			req.end(unavailable(fmt.Errorf("read without a sequence: %w", err)))
			return
		}
		req.entries = append(req.entries, router.Entry{Seq: seq, Envelope: m.Data})
		req.heard.Add(1)
	case "204", "404": // end of batch; nothing there
		req.end(nil)
	default:
		req.end(unavailable(fmt.Errorf("read refused: %s %s", status, m.Header.Get("Description"))))
	}
}

func (q *readRequest) end(err error) {
	select {
	case q.ended <- err:
	default:
	}
}
