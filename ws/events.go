package ws

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// feed is a topic as a stream of server-sent events. What of the topic is kept has
// ids, behind which a browser's EventSource goes on by itself when it comes back.
type feed struct {
	server *Server
	owner  *caller
	slash  bool
	out    *outbox.Outbox
	source *router.Subscription
	follow *router.Following
	epoch  uint64
	lastMs atomic.Int64 // when something was written
	once   sync.Once
	over   chan struct{}

	mu     sync.Mutex // a refusal and its note are one
	paused bool
}

var (
	_ router.Receiver        = (*feed)(nil)
	_ router.HistoryReceiver = (*feed)(nil)
	_ outbox.Owner           = (*feed)(nil)
)

// eventWriter is what an outbox writes to: the response, at once.
type eventWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write writes and flushes.
func (w eventWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	if err == nil {
		err = w.control.Flush()
	}
	return n, err
}

// apiEvents streams a topic until the client leaves, does not read, or the server stops.
func (s *Server) apiEvents(w http.ResponseWriter, r *http.Request, p *router.Principal) error {
	if err := known(r, "last", "since", "after"); err != nil {
		return err
	}
	filter, style, err := router.ParseFilter(router.DefaultVhost, "/topic/"+r.PathValue("topic"))
	if err != nil {
		return err
	}
	from, asked, err := eventsFrom(r)
	if err != nil {
		return err
	}
	c, err := s.connectHTTP(r, p)
	if err != nil {
		return err
	}
	defer c.leave()
	control := http.NewResponseController(w)
	f := &feed{server: s, owner: c, slash: style == router.StyleSlash, over: make(chan struct{})}
	f.out = outbox.New(eventWriter{w, control}, f, outbox.Options{MaxBytes: s.opt.OutboundBytes, Reserve: controlReserve})
	position, err := f.open(r.Context(), filter, from, asked)
	if err != nil {
		return err
	}
	if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil { // they would end the stream
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx
	w.WriteHeader(http.StatusOK)
	f.run(r.Context(), position, from)
	last := time.AfterFunc(s.opt.FlushTimeout, func() { _ = control.SetWriteDeadline(time.Now()) }) // it fails on a closed connection
	defer last.Stop()
	f.out.Close()
	return nil
}

// eventsFrom reads from where a history is wanted; asked: it is wanted at all.
func eventsFrom(r *http.Request) (from router.HistoryStart, asked bool, err error) {
	q := r.URL.Query()
	after := q.Get("after")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		after = id // of a reconnection, whose address is still the first one
	}
	if after != "" {
		epoch, seq, ok := strings.Cut(after, "-")
		e, errEpoch := strconv.ParseUint(epoch, 10, 64)
		n, errSeq := strconv.ParseUint(seq, 10, 64)
		if !ok || errEpoch != nil || errSeq != nil || e == 0 {
			return from, false, mistake("after and Last-Event-ID are the id of an event of this stream")
		}
		return router.HistoryStart{Epoch: e, AfterSeq: n}, true, nil
	}
	if text := q.Get("last"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return from, false, mistake("last must be a number of messages")
		}
		return router.HistoryStart{Last: int(n)}, true, nil
	}
	if text := q.Get("since"); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms <= 0 {
			return from, false, mistake("since must be a time in milliseconds since 1970")
		}
		return router.HistoryStart{Since: time.UnixMilli(ms)}, true, nil
	}
	return from, false, nil
}

// open subscribes: with the history of a topic that has one, else live.
func (f *feed) open(ctx context.Context, filter router.Filter, from router.HistoryStart, asked bool) (*router.HistoryPosition, error) {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	if topic, concrete := filter.Address(); concrete {
		follow, p, err := f.owner.Follow(ctx, topic, from, f)
		if err == nil {
			f.follow, f.epoch = follow, p.Epoch
			return &p, nil
		}
		if asked || router.ClassOf(err) != router.NotFound {
			return nil, err
		}
	} else if asked {
		return nil, mistake("a history is of one topic, without wildcards")
	}
	var err error
	f.source, err = f.owner.Subscribe(ctx, router.SubscribeOptions{Filter: filter, Receiver: f})
	return nil, err
}

// run writes events until the end.
func (f *feed) run(ctx context.Context, p *router.HistoryPosition, from router.HistoryStart) {
	var w outbox.Batch
	f.write(&w, f.greeting(p, from), true)
	f.server.register(f)
	defer f.server.forget(f)
	if f.follow != nil {
		f.follow.Start(&w)
	} else {
		f.source.Start(&w)
	}
	w.Flush()
	select {
	case <-f.over:
	case <-ctx.Done():
		f.out.Abort(context.Cause(ctx))
	}
}

// greeting are the first lines: how soon to come back, and where the stream begins.
func (f *feed) greeting(p *router.HistoryPosition, from router.HistoryStart) []byte {
	b := []byte("retry: 2000\nevent: ready\n")
	if p == nil {
		return append(b, "data: {}\n\n"...)
	}
	// The id moves with the messages; until one comes, a reconnection begins here.
	if from.Last == 0 && from.Since.IsZero() && from.Epoch == 0 {
		b = append(f.appendID(b, p.Last), '\n')
	}
	b = strconv.AppendUint(append(b, `data: {"epoch":`...), p.Epoch, 10)
	b = strconv.AppendUint(append(b, `,"first":`...), p.First, 10)
	b = strconv.AppendUint(append(b, `,"last":`...), p.Last, 10)
	b = strconv.AppendBool(append(b, `,"complete":`...), p.Complete)
	return append(b, "}\n\n"...)
}

func (f *feed) appendID(b []byte, seq uint64) []byte {
	b = strconv.AppendUint(append(b, "id: "...), f.epoch, 10)
	return strconv.AppendUint(append(b, '-'), seq, 10)
}

// write appends bytes; control may use the reserve.
func (f *feed) write(w *outbox.Batch, b []byte, control bool) bool {
	begin := f.out.Begin
	if control {
		begin = f.out.BeginControl
	}
	buf, ok := begin(len(b))
	if ok {
		buf = append(buf, b...)
		f.lastMs.Store(time.Now().UnixMilli())
	}
	f.out.End(w, buf)
	return ok
}

// Live appends a message that is kept nowhere.
func (f *feed) Live(m *router.Message, w *outbox.Batch) bool {
	if f.put(m, 0, w) || f.ended() {
		return true
	}
	f.slow()
	return false
}

// Kept appends a message of the history.
func (f *feed) Kept(m *router.Message, seq uint64, w *outbox.Batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = !f.put(m, seq, w)
	return !f.paused
}

// Missed tells that messages left the history unread.
func (f *feed) Missed(before uint64, w *outbox.Batch) {
	b := strconv.AppendUint([]byte("event: missed\ndata: {\"before\":"), before, 10)
	f.write(w, append(b, "}\n\n"...), true)
}

// Stored is not called: a topic without a durable subscription settles nothing.
func (f *feed) Stored(*router.Delivery, *outbox.Batch) bool { return false }

// put appends a message as an event, with an id if it has a sequence.
func (f *feed) put(m *router.Message, seq uint64, w *outbox.Batch) bool {
	tail := m.Encoded(lineKey(f.slash), lineBuild(f.slash))
	var small [128]byte
	b := small[:0]
	if seq > 0 {
		b = append(f.appendID(b, seq), '\n')
		b = strconv.AppendUint(append(b, `data: {"seq":`...), seq, 10)
		b = append(b, ',')
	} else {
		b = append(b, "data: {"...)
	}
	buf, ok := f.out.Begin(len(b) + len(tail))
	if !ok {
		f.out.End(w, buf)
		return false
	}
	f.lastMs.Store(time.Now().UnixMilli())
	f.out.EndShared(w, append(buf, b...), tail)
	return true
}

// lineKey and lineBuild are of the encoding that all streams with the same style share.
func lineKey(slash bool) uint32 {
	if slash {
		return router.EncodingKey('W', 5)
	}
	return router.EncodingKey('W', 4)
}

func lineBuild(slash bool) func(*router.Message) []byte {
	return func(m *router.Message) []byte {
		b := m.Encoded(tailKey(slash), tailBuild(slash))
		if bytes.ContainsAny(b, "\r\n") { // between the tokens of someone's JSON: a line would end there
			var one bytes.Buffer
			if json.Compact(&one, append([]byte{'{'}, b...)) == nil {
				b = one.Bytes()[1:]
			}
		}
		return append(b[:len(b):len(b)], "\n\n"...)
	}
}

// slow ends the stream of a client that does not read, and counts it.
func (f *feed) slow() {
	f.once.Do(func() {
		f.server.Stats.SlowClosed.Add(1)
		close(f.over)
	})
}

func (f *feed) end() { f.once.Do(func() { close(f.over) }) }

func (f *feed) ended() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// tick keeps proxies, and the client's idea that the stream lives.
func (f *feed) tick(nowMs int64) {
	if nowMs-f.lastMs.Load() >= f.server.opt.PingInterval.Milliseconds() {
		f.write(nil, []byte(":\n\n"), true)
	}
}

func (f *feed) depart(error) { f.end() }
func (f *feed) abort(error)  { f.end() }

// Written has nothing to settle.
func (f *feed) Written(uint64) {}

// Drained goes on with the history.
func (f *feed) Drained() {
	f.mu.Lock()
	paused := f.paused
	f.paused = false
	f.mu.Unlock()
	if paused {
		var w outbox.Batch
		f.follow.Resume(&w)
		w.Flush()
	}
}

// Failed ends the stream.
func (f *feed) Failed(cause error) {
	if errors.Is(cause, outbox.ErrSlow) {
		f.slow()
	}
	f.end()
}
