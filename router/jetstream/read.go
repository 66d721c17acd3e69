package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
)

// reader reads stored messages by batched direct gets. All answers come to one
// subscription; the last token of the reply subject tells whose they are.
type reader struct {
	conn   *nats.Conn
	prefix string

	mu      sync.Mutex
	next    uint64
	waiting map[string]*readRequest
}

type readRequest struct {
	entries []router.Entry
	ended   chan error
}

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
	for {
		select {
		case err := <-req.ended:
			return req.entries, err
		case <-time.After(nudgeAfter * lookEvery):
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
