package ws

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// subscription is one of a client: a topic filter, a topic with its history, a
// queue, or a durable subscription. A message event is a prefix of its own, the
// numbers of the one delivery, and a tail that all subscribers share.
type subscription struct {
	client *client
	id     string
	prefix []byte
	slash  bool // topics are written with '/'
	auto   bool // deliveries are settled once written
	source *router.Subscription
	follow *router.Following
	room   router.Address // whose presence it wants
	closed atomic.Bool
	offer  atomic.Pointer[router.Offer] // nil unless retained messages are being sent

	// Under the client's lock.
	held map[uint64]handed
	last uint64 // delivery number
}

var (
	_ router.Receiver        = (*subscription)(nil)
	_ router.HistoryReceiver = (*subscription)(nil)
)

const (
	maxCredit     = 10_000
	defaultCredit = 1 // fair among workers
	autoCredit    = 1000
)

func (c *client) subscribe(r *request) error {
	if err := c.checkSubscribe(r); err != nil {
		return err
	}
	f, style, err := router.ParseFilter(c.session.Vhost, r.To)
	if err != nil {
		return err
	}
	if r.Retained && f.Kind() != router.KindTopic {
		return mistake("retained messages are of topics")
	}
	s := &subscription{client: c, id: r.Sub, slash: style == router.StyleSlash, auto: r.Ack != "client"}
	s.prefix = append(appendQuoted([]byte(`{"event":"message","sub":`), r.Sub), ',')
	if r.Presence || r.History != nil {
		topic, concrete := f.Address()
		if !concrete || f.Kind() != router.KindTopic {
			return mistake("history and presence are for one topic, without wildcards")
		}
		if r.Presence {
			s.room = topic
		}
	}
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	var members []byte
	if r.History != nil {
		topic, _ := f.Address()
		if members, err = s.followFrom(ctx, topic, r.History); err != nil {
			return err
		}
	} else if err := s.open(ctx, r, f); err != nil {
		return err
	}
	c.mu.Lock()
	c.subs[s.id] = s
	c.mu.Unlock()
	if r.Retained {
		s.offer.Store(router.NewOffer())
	}
	c.awaitReplies() // the reply leaves before the first message
	c.answer(r, members, nil)
	if s.follow != nil {
		s.follow.Start(&c.batch)
	} else {
		s.source.Start(&c.batch)
	}
	if r.Retained {
		s.offerRetained()
	}
	if r.Presence {
		c.server.presence.watch(s)
	}
	return nil
}

func (c *client) checkSubscribe(r *request) error {
	switch {
	case r.Sub == "" || len(r.Sub) > maxNameBytes || !printable(r.Sub):
		return mistake("sub must name the subscription, in 1 to %d bytes without control characters", maxNameBytes)
	case c.subs[r.Sub] != nil:
		return &apiError{code: router.Conflict.String(), text: "there is a subscription " + strconv.Quote(r.Sub) + " already"}
	case len(c.subs) >= c.server.opt.MaxSubscriptions:
		return &apiError{code: router.TooLarge.String(), text: "there are " + strconv.Itoa(len(c.subs)) + " subscriptions already, which is the limit"}
	case r.Ack != "" && r.Ack != "auto" && r.Ack != "client":
		return mistake(`ack must be "auto" or "client"`)
	case r.Credit < 0 || r.Credit > maxCredit:
		return mistake("credit must be 0 (default) to %d", maxCredit)
	case r.Retained && (r.History != nil || r.Durable != ""):
		return mistake("retained messages are for a subscription without history that is not durable")
	case r.Durable != "" && (c.clientID == "" || r.History != nil):
		return mistake("a durable subscription needs the clientId of connect, and has no history")
	case len(r.Durable) > maxClientIDBytes || !printable(r.Durable):
		return mistake("durable is at most %d bytes without control characters", maxClientIDBytes)
	}
	return nil
}

func (s *subscription) open(ctx context.Context, r *request, f router.Filter) error {
	o := router.SubscribeOptions{Filter: f, Receiver: s, NoLocal: r.NoLocal, Credit: r.Credit}
	if o.Credit == 0 {
		o.Credit = defaultCredit
		if s.auto {
			o.Credit = autoCredit
		}
	}
	if r.Durable != "" {
		o.Durable = durableName(s.client.clientID, r.Durable)
	}
	var err error
	s.source, err = s.client.session.Subscribe(ctx, o)
	return err
}

// durableName is what identifies a durable subscription: the client and its name for it.
func durableName(clientID, name string) string { return clientID + "\x00" + name }

func (s *subscription) followFrom(ctx context.Context, topic router.Address, h *historyStart) ([]byte, error) {
	from := router.HistoryStart{Last: h.Last, AfterSeq: h.Seq, Epoch: h.Epoch}
	if h.SinceMs > 0 {
		from.Since = time.UnixMilli(h.SinceMs)
	}
	if h.Last < 0 || h.SinceMs < 0 {
		return nil, mistake("history.last and history.sinceMs must not be negative")
	}
	var p router.HistoryPosition
	var err error
	if s.follow, p, err = s.client.session.Follow(ctx, topic, from, s); err != nil {
		return nil, err
	}
	m := strconv.AppendUint([]byte(`,"epoch":`), p.Epoch, 10)
	m = strconv.AppendUint(append(m, `,"first":`...), p.First, 10)
	m = strconv.AppendUint(append(m, `,"last":`...), p.Last, 10)
	return strconv.AppendBool(append(m, `,"complete":`...), p.Complete), nil
}

func (c *client) unsubscribe(r *request) error {
	s := c.subs[r.Sub]
	if s == nil {
		return mistake("there is no subscription %.64q", r.Sub)
	}
	if r.Forget && (r.Durable == "" || c.clientID == "") {
		return mistake("forget needs the durable name, and the clientId of connect")
	}
	s.closed.Store(true)
	c.server.presence.unwatch(s)
	if s.follow != nil {
		s.follow.Close()
	} else {
		s.source.Close(&c.batch)
	}
	c.mu.Lock()
	delete(c.subs, r.Sub)
	s.held = nil
	c.mu.Unlock()
	if r.Forget {
		ctx, cancel := context.WithTimeout(c.life, operationTimeout)
		defer cancel()
		if err := c.session.Unbind(ctx, durableName(c.clientID, r.Durable), &c.batch); err != nil {
			return err
		}
	}
	c.answer(r, nil, nil)
	return nil
}

// Live appends a message that is kept nowhere. It allocates nothing but the tail
// that all subscribers share.
func (s *subscription) Live(m *router.Message, w *outbox.Batch) bool {
	if s.closed.Load() {
		return true // the client has unsubscribed meanwhile: nothing was lost
	}
	c := s.client
	if o := s.offer.Load(); o != nil && m.Has(router.FlagRetain) {
		if o.Live(m, func() bool { _, ok := s.put(m, w, nil); return ok }) {
			return true
		}
	} else if _, ok := s.put(m, w, nil); ok {
		return true
	}
	if c.ending.Load() != nil {
		return true // not slow, but leaving
	}
	c.slow(errSlow)
	return false
}

// Kept appends a message of the history.
func (s *subscription) Kept(m *router.Message, seq uint64, w *outbox.Batch) bool {
	var number [32]byte
	n := strconv.AppendUint(append(number[:0], `"seq":`...), seq, 10)
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || s.closed.Load() {
		return false
	}
	if _, ok := s.put(m, w, append(n, ',')); !ok {
		c.paused = append(c.paused, s.follow)
		return false
	}
	return true
}

// Missed tells that messages left the history unread.
func (s *subscription) Missed(before uint64, w *outbox.Batch) {
	b := appendQuoted([]byte(`{"event":"missed","sub":`), s.id)
	b = strconv.AppendUint(append(b, `,"before":`...), before, 10)
	s.client.control(w, opText, append(b, '}'))
}

// Stored appends a message that is to be settled.
func (s *subscription) Stored(d *router.Delivery, w *outbox.Batch) bool {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || s.closed.Load() {
		return false
	}
	var numbers [96]byte
	n := numbers[:0]
	if !s.auto {
		n = strconv.AppendUint(append(n, `"delivery":`...), s.last+1, 10)
		n = append(n, ',')
	}
	n = strconv.AppendInt(append(n, `"count":`...), int64(d.Count), 10)
	n = strconv.AppendBool(append(n, `,"redelivered":`...), d.Redelivered() || d.Count > 1)
	end, ok := s.put(d.Message, w, append(n, ','))
	if !ok {
		c.paused = append(c.paused, s.source) // once: the router gives it nothing before Resume
		return false
	}
	h := handed{d, end}
	if s.auto {
		c.unwritten.push(h)
		return true
	}
	s.last++
	if s.held == nil {
		s.held = map[uint64]handed{}
	}
	s.held[s.last] = h
	return true
}

// put appends a message event; numbers are members of the one delivery.
func (s *subscription) put(m *router.Message, w *outbox.Batch, numbers []byte) (end uint64, ok bool) {
	tail, own := m.Encoded(tailKey(s.slash), tailBuild(s.slash)), len(s.prefix)+len(numbers)
	op, n := byte(opText), own+len(tail)
	packed := s.client.decoder.deflate && len(tail) >= deflateFrom
	if packed {
		tail = m.Encoded(packedKey(s.slash), packedBuild(s.slash))
		op, n = opText|rsv1, storedHeadBytes+own+len(tail)
	}
	buf, ok := s.client.out.Begin(n + headMax)
	if !ok {
		return s.client.out.End(w, buf), false
	}
	buf = appendHead(buf, op, n)
	if packed {
		buf = appendStoredHead(buf, own)
	}
	buf = append(buf, s.prefix...)
	buf = append(buf, numbers...)
	return s.client.out.EndShared(w, buf, tail), true
}

// tailKey and tailBuild are of the encoding of a message that subscribers with
// the same style of destinations share; packedKey and packedBuild of the same deflated.
func tailKey(slash bool) uint32 {
	if slash {
		return router.EncodingKey('W', 1)
	}
	return router.EncodingKey('W', 0)
}

func tailBuild(slash bool) func(*router.Message) []byte {
	if slash {
		return slashTail
	}
	return dotTail
}

func packedKey(slash bool) uint32 {
	if slash {
		return router.EncodingKey('W', 3)
	}
	return router.EncodingKey('W', 2)
}

func packedBuild(slash bool) func(*router.Message) []byte {
	if slash {
		return packedSlashTail
	}
	return packedDotTail
}

func dotTail(m *router.Message) []byte   { return appendTail(nil, m, router.StyleDot) }
func slashTail(m *router.Message) []byte { return appendTail(nil, m, router.StyleSlash) }

// appendTail appends a message's members and the brace that ends the event.
func appendTail(b []byte, m *router.Message, style router.Style) []byte {
	if b == nil {
		b = make([]byte, 0, m.Size()+m.Size()/8+128)
	}
	b = append(b, `"id":"`...)
	b = m.ID.AppendText(b)
	b = appendQuoted(append(b, `","to":`...), m.To.Text(style))
	b = strconv.AppendInt(append(b, `,"timeMs":`...), m.TimestampMs, 10)
	for _, f := range [...]struct{ name, value string }{
		{`,"contentType":`, m.ContentType}, {`,"replyTo":`, router.PlainReplyTo(m.ReplyTo)}, {`,"correlationId":`, m.CorrelationID},
	} {
		if f.value != "" {
			b = appendQuoted(append(b, f.name...), f.value)
		}
	}
	if m.ExpiresUnixMs > 0 {
		b = strconv.AppendInt(append(b, `,"expiresMs":`...), m.ExpiresUnixMs, 10)
	}
	if m.Priority != router.DefaultPriority {
		b = strconv.AppendUint(append(b, `,"priority":`...), uint64(m.Priority), 10)
	}
	if !m.Has(router.FlagPersistent) {
		b = append(b, `,"persistent":false`...)
	}
	b = appendHeaders(b, m.Headers)
	return append(appendBody(b, m), '}')
}

// appendHeaders appends the user headers; the first of a name wins, as a JSON
// reader would take the last.
func appendHeaders(b []byte, hs []router.Header) []byte {
	if len(hs) == 0 {
		return b
	}
	b = append(b, `,"headers":{`...)
	n := 0
next:
	for i, h := range hs {
		for _, before := range hs[:i] {
			if before.Name == h.Name {
				continue next
			}
		}
		if n++; n > 1 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, h.Name), ':')
		b = appendQuoted(b, h.Value)
	}
	return append(b, '}')
}

// appendBody appends data, body or base64: whatever loses nothing.
func appendBody(b []byte, m *router.Message) []byte {
	switch {
	case !utf8.Valid(m.Body):
		b = append(b, `,"base64":`...)
		enc, _ := json.Marshal(m.Body) // bytes always encode, as base64
		return append(b, enc...)
	case isJSON(m.ContentType) && json.Valid(m.Body):
		return append(append(b, `,"data":`...), m.Body...)
	}
	return appendQuoted(append(b, `,"body":`...), m.Body)
}

func isJSON(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(t), jsonType)
}
