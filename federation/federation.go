package federation

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// Transport carries bytes between sites.
type Transport interface {
	// Send sends at most once, in order.
	Send(to string, b []byte) error
	// Ask returns the other site's answer.
	Ask(ctx context.Context, to string, b []byte) ([]byte, error)
	// Serve has the functions called with what other sites send and ask.
	Serve(live func([]byte), ask func(b []byte, answer func([]byte))) error
}

// Remote is another site, with what goes there and is taken from there.
type Remote struct {
	Site    string
	Send    []router.Filter // topics
	Receive []router.Filter // topics, and queues that it may forward to
	Queues  []router.Filter // queues that are forwarded there
}

// Options of a Bridge.
type Options struct {
	Site      string
	Remotes   []Remote
	Router    *router.Router
	Principal *router.Principal
	Transport Transport
	Log       *slog.Logger
}

// Headers of messages that crossed.
const (
	PathHeader  = "x-federated-path"
	IDHeader    = "x-federated-id" // what the message is called at its first site
	AgainHeader = "x-federated-again"
)

// Stats count what crossed, and what did not and why.
type Stats struct {
	Sent, Received    atomic.Uint64 // live messages
	NotSent           atomic.Uint64 // live messages while no link was up
	Forwarded, Stored atomic.Uint64 // of queues: to other sites, and from them
	Refused           atomic.Uint64 // of queues, from other sites: they keep them
	NotTaken          atomic.Uint64 // live messages of other sites
	Repeated          atomic.Uint64 // live messages that came another way before
}

// Counts returns the counters by name.
func (s *Stats) Counts() map[string]uint64 {
	return map[string]uint64{"sent": s.Sent.Load(), "received": s.Received.Load(), "not_sent": s.NotSent.Load(), "forwarded": s.Forwarded.Load(),
		"stored": s.Stored.Load(), "refused": s.Refused.Load(), "not_taken": s.NotTaken.Load(), "repeated": s.Repeated.Load()}
}

// Bridge moves messages between this site and others.
type Bridge struct {
	opt     Options
	session *router.Session
	life    context.Context
	end     context.CancelFunc
	group   sync.WaitGroup
	recent  recent
	Stats   Stats

	turn sync.Mutex // the session publishes for one at a time, and what is sent and what is asked come at once
}

// Open begins to move messages.
func Open(ctx context.Context, o Options) (*Bridge, error) {
	b := &Bridge{opt: o}
	b.life, b.end = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if b.session, err = o.Router.Connect(router.SessionOptions{Principal: o.Principal, Protocol: "federation", Remote: o.Site}); err != nil {
		return nil, err
	}
	if err := b.start(ctx); err != nil {
		b.Close()
		return nil, fmt.Errorf("link with other sites: %w", err)
	}
	return b, nil
}

func (b *Bridge) start(ctx context.Context) error {
	if err := b.opt.Transport.Serve(b.live, b.asked); err != nil {
		return err
	}
	for _, r := range b.opt.Remotes {
		for i, f := range r.Send {
			sub, err := b.session.Subscribe(ctx, router.SubscribeOptions{Filter: f, Receiver: &sender{bridge: b, to: r.Site, before: r.Send[:i]}})
			if err != nil {
				return err
			}
			sub.Start(nil)
		}
		for _, q := range r.Queues {
			f := &forwarder{bridge: b, to: r.Site, deliveries: make(chan *router.Delivery, forwardWindow)}
			sub, err := b.session.Subscribe(ctx, router.SubscribeOptions{Filter: q, Receiver: f, Credit: forwardWindow})
			if err != nil {
				return err
			}
			b.group.Go(f.run)
			sub.Start(nil)
		}
	}
	return nil
}

// Close ends it; what was not settled goes back to its queue.
func (b *Bridge) Close() {
	b.end()
	b.group.Wait()
	b.session.Close()
}

func (b *Bridge) remote(site string) (Remote, bool) {
	i := slices.IndexFunc(b.opt.Remotes, func(r Remote) bool { return r.Site == site })
	if i < 0 {
		return Remote{}, false
	}
	return b.opt.Remotes[i], true
}

// sender sends the live messages of a filter.
type sender struct {
	bridge *Bridge
	to     string
	before []router.Filter // a message that they match was sent for them
}

func (s *sender) Live(m *router.Message, _ *outbox.Batch) bool {
	if matches(s.before, m.To) || slices.Contains(path(m), s.to) {
		return true
	}
	if s.bridge.opt.Transport.Send(s.to, encode(s.bridge.opt.Site, false, m)) != nil {
		s.bridge.Stats.NotSent.Add(1)
		return true // it is counted
	}
	s.bridge.Stats.Sent.Add(1)
	return true
}

func (s *sender) Stored(*router.Delivery, *outbox.Batch) bool { return false }

func matches(filters []router.Filter, a router.Address) bool {
	return slices.ContainsFunc(filters, func(f router.Filter) bool { return f.Matches(a) })
}

// path are the sites that a message came through.
func path(m *router.Message) []string {
	p, _ := m.Header(PathHeader)
	if p == "" {
		return nil
	}
	return strings.Split(p, ",")
}

// encode writes the site that a message comes from, whether it may have been
// sent before, and the message.
func encode(site string, again bool, m *router.Message) []byte {
	dst := binary.AppendUvarint(nil, uint64(len(site)))
	dst = append(dst, site...)
	mark := byte(0)
	if again {
		mark = 1
	}
	return m.AppendEnvelope(append(dst, mark))
}

var errUnreadable = errors.New("unreadable message of another site")

// decode returns the message as it is to be published here, and its last site.
func (b *Bridge) decode(data []byte) (*router.Message, Remote, error) {
	n, size := binary.Uvarint(data)
	if size <= 0 || n >= uint64(len(data)-size) {
		return nil, Remote{}, errUnreadable
	}
	site, rest := string(data[size:size+int(n)]), data[size+int(n):]
	m, err := router.ParseEnvelope(rest[1:])
	if err != nil {
		return nil, Remote{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	r, ok := b.remote(site)
	came := append(path(m), site)
	switch {
	case !ok:
		return nil, r, fmt.Errorf("site %s is not linked with this one", site)
	case !matches(r.Receive, m.To):
		return nil, r, fmt.Errorf("this site takes no messages of %s from site %s", m.To, site)
	case slices.Contains(came, b.opt.Site):
		return nil, r, fmt.Errorf("the message came through this site already: %s", strings.Join(came, ","))
	}
	id := came[0] + "/" + m.ID.String()
	if first, ok := m.Header(IDHeader); ok && len(came) > 1 {
		id = first // each site gives the message an id of its own
	}
	return m.With(func(c *router.Message) {
		c.Headers = slices.DeleteFunc(slices.Clone(c.Headers), func(h router.Header) bool {
			return h.Name == PathHeader || h.Name == IDHeader || h.Name == AgainHeader
		})
		c.Headers = append(c.Headers, router.Header{Name: PathHeader, Value: strings.Join(came, ",")}, router.Header{Name: IDHeader, Value: id})
		if rest[0] != 0 {
			c.Headers = append(c.Headers, router.Header{Name: AgainHeader, Value: "true"})
		}
		if m.To.Kind() == router.KindQueue {
			c.DedupID = "site\x00" + id
		}
	}), r, nil
}

// live publishes what another site sent.
func (b *Bridge) live(data []byte) {
	m, _, err := b.decode(data)
	if err == nil && len(b.opt.Remotes) > 1 {
		if id, _ := m.Header(IDHeader); b.recent.has(id) {
			b.Stats.Repeated.Add(1)
			return
		}
	}
	if err == nil {
		var w outbox.Batch
		_, err = b.publish(m, &w, func(_ router.Stored, err error, _ *outbox.Batch) {
			if err != nil {
				b.Stats.NotTaken.Add(1)
			}
		})
		w.Flush()
	}
	if err != nil {
		b.Stats.NotTaken.Add(1)
		b.opt.Log.Warn("a message of another site is not taken", "error", err)
		return
	}
	b.Stats.Received.Add(1)
}

func (b *Bridge) publish(m *router.Message, w *outbox.Batch, done router.Done) (pending bool, err error) {
	b.turn.Lock()
	defer b.turn.Unlock()
	return b.session.Publish(b.life, m, w, done)
}
