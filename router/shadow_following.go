package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// shadowFollowing passes a topic's history on to the edge, a window of it at a time.
type shadowFollowing struct {
	shadow    *shadow
	id        uint64
	following *Following

	mu  sync.Mutex
	out int // sent, and not taken there
}

var _ HistoryReceiver = (*shadowFollowing)(nil)

// Kept passes a message on if there is room on the way.
func (f *shadowFollowing) Kept(m *Message, seq uint64, _ *outbox.Batch) bool {
	f.mu.Lock()
	full := f.out >= followWindow
	if !full {
		f.out++
	}
	f.mu.Unlock()
	if full {
		return false
	}
	l := f.shadow.link
	b := append(binary.AppendUvarint(l.begin(opEvent), f.shadow.n), byte(eventKept))
	b = binary.AppendUvarint(binary.AppendUvarint(b, f.id), seq)
	l.end(m.AppendEnvelope(b))
	return true
}

// Missed passes that on.
func (f *shadowFollowing) Missed(before uint64, _ *outbox.Batch) {
	l := f.shadow.link
	b := append(binary.AppendUvarint(l.begin(opEvent), f.shadow.n), byte(eventMissed))
	l.end(binary.AppendUvarint(binary.AppendUvarint(b, f.id), before))
}

func (f *shadowFollowing) taken(n int, w *outbox.Batch) {
	f.mu.Lock()
	f.out -= n
	f.mu.Unlock()
	f.following.Resume(w)
}

func (x *shadow) follow(ctx context.Context, r envelopeReader) ([]byte, error) {
	var c followCall
	if json.Unmarshal(r.b, &c) != nil {
		return nil, errFrame
	}
	f := &shadowFollowing{shadow: x, id: c.ID}
	from := HistoryStart{Last: c.Last, AfterSeq: c.AfterSeq, Epoch: c.Epoch}
	if c.SinceMs != 0 {
		from.Since = time.UnixMilli(c.SinceMs)
	}
	var p HistoryPosition
	var err error
	if f.following, p, err = x.session.Follow(ctx, c.Topic.address(), from, f); err != nil {
		return nil, err
	}
	x.follows[c.ID] = f
	f.following.Start(nil)
	return appendJSON(nil, p), nil
}
