package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// durable is the connection's side of a session that outlives it. What must be known after a crash of the gateway is in the
// session's record before the client can rely on it: ids of QoS 2 messages in either direction. The rest, such as packet
// identifiers of QoS 1, is stored when the connection ends.
//
// Saves are coalesced: one is under way at a time, and the next covers all that came meanwhile.
type durable struct {
	conn    *conn
	session *router.DurableSession
	inbox   *feed // nil before the first subscription of QoS 1 or 2

	// Under the connection's lock.
	earlier  map[uint64]storedFlight // in flight on the connection before, by sequence
	released map[uint64]*flight      // those of which the client has sent PUBREC
	restored []storedSubscription
	held     bool // the inbox waits for SUBACK
	saving   bool
	failed   bool // the store refused the record: what waits for it is not answered any more
	dirty    bool
	waiting  sessionWaiters // for the next save
	ready    []*flight      // saved, to be sent in this order when there is room
	line     int            // how many deliveries wait for the record, or in ready

	identity   string // of this session, unlike any before it of the client
	lastNumber uint64 // of a receipt
	noted      []notedPublish
	publishing bool // a goroutine publishes what is noted
	unanswered int  // publishes that the router was given by that goroutine

	turn sync.Mutex // the router takes one publish at a time from a session
}

// sessionWaiters are what a save is awaited for.
type sessionWaiters struct {
	publishes []notedPublish // of QoS 2, by the client
	replies   []*reply       // PUBREC of those that failed
	completed []uint16       // PUBCOMP
	flights   []*flight      // PUBLISH of QoS 2
	released  []*flight      // PUBREL
}

// storedState is the record's form of a session.
type storedState struct {
	Subscriptions []storedSubscription `json:"s,omitempty"`
	Identity      string               `json:"k,omitempty"`
	LastNumber    uint64               `json:"n,omitempty"`
	Received      []storedReceipt      `json:"r,omitempty"`
	Flights       []storedFlight       `json:"f,omitempty"`
	LastID        uint16               `json:"l,omitempty"`
}

type storedSubscription struct {
	Filter   string `json:"f"`
	QoS      byte   `json:"q,omitempty"`
	NoLocal  bool   `json:"l,omitempty"`
	AsIs     bool   `json:"a,omitempty"`
	Handling byte   `json:"h,omitempty"`
	ID       int    `json:"i,omitempty"`
}

// storedReceipt is a QoS 2 publish that the client has not released.
type storedReceipt struct {
	ID     uint16 `json:"i"`
	Number uint64 `json:"n"`
	Stored bool   `json:"s,omitempty"`
}

type storedFlight struct {
	ID       uint16 `json:"i"`
	QoS      byte   `json:"q"`
	Seq      uint64 `json:"s"`
	Released bool   `json:"r,omitempty"`
}

// newDurable reads the session's state.
func newDurable(c *conn, s *router.DurableSession) (*durable, error) {
	d := &durable{conn: c, session: s, earlier: map[uint64]storedFlight{}, released: map[uint64]*flight{}}
	state := s.State()
	if state == nil {
		d.identity = newIdentity()
		return d, nil
	}
	var st storedState
	if err := json.Unmarshal(state, &st); err != nil {
		return d, fmt.Errorf("read the session's state: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d.restored, c.window.lastID = st.Subscriptions, st.LastID
	d.identity, d.lastNumber = st.Identity, st.LastNumber
	c.received = map[uint16]receipt{}
	for _, r := range st.Received {
		in := receipt{number: r.Number, state: receiptUnsure}
		if r.Stored {
			in.state = receiptStored
		}
		c.received[r.ID] = in
	}
	for _, f := range st.Flights {
		if !f.Released {
			d.earlier[f.Seq] = f
			continue
		}
		x := c.window.take(f.ID)
		x.qos, x.seq, x.released = 2, f.Seq, true
		d.released[f.Seq] = x
	}
	c.quota = len(c.received)
	return d, nil
}

// resume goes on where the session stopped, behind CONNACK: what was released is released again, then the inbox sends what
// was not acknowledged, under the identifiers that it had [MQTT-4.4.0-1].
func (d *durable) resume() error {
	c := d.conn
	c.mu.Lock()
	var ids []uint16
	for id := range c.window.flight {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		c.writeReply(&c.batch, typePubrel, id, success, "")
	}
	c.mu.Unlock()
	for _, st := range d.restored {
		if err := d.restore(st); err != nil {
			c.log().Warn("a subscription of a resumed session was refused", "filter", st.Filter, "error", err)
		}
	}
	return d.open()
}

// restore opens a subscription of the record again. What is bound to the inbox needs nothing but to be known.
func (d *durable) restore(st storedSubscription) error {
	c := d.conn
	s, err := c.parseSubscription(st.packet())
	if err != nil {
		return err
	}
	if !c.byInbox(s) { // the record keeps no handling: nothing retained is sent again
		if err := c.attach(s); err != nil {
			return err
		}
	}
	c.remember(s)
	if s.feed != nil {
		s.feed.source.Start(&c.batch)
		s.feed.opened(s, nil)
	}
	return nil
}

// packet writes the subscription as SUBSCRIBE had it.
func (st *storedSubscription) packet() *packets.Subscription {
	return &packets.Subscription{Filter: st.Filter, Qos: st.QoS, NoLocal: st.NoLocal, RetainAsPublished: st.AsIs, RetainHandling: st.Handling, Identifier: st.ID}
}

// open begins to receive from the inbox, once there is one.
func (d *durable) open() error {
	if d.inbox != nil {
		return nil
	}
	c := d.conn
	fd := &feed{conn: c, inbox: true}
	fd.set(&subscription{})
	source, err := d.session.Receive(fd, c.window.max)
	if err != nil || source == nil {
		return err
	}
	fd.source, d.inbox = source, fd
	source.Start(&c.batch)
	return nil
}

// hold keeps what is stored back until unhold.
func (d *durable) hold() {
	d.conn.mu.Lock()
	d.held = true
	d.conn.mu.Unlock()
}

func (d *durable) unhold() {
	c := d.conn
	c.mu.Lock()
	d.held = false
	feeds := c.paused
	c.paused = nil
	c.mu.Unlock()
	resume(next{feeds: feeds}, &c.batch)
}

// leave gives the session up for the next connection.
func (d *durable) leave(publishWill bool) {
	c := d.conn
	ctx, cancel := context.WithTimeout(context.Background(), operationTimeout)
	defer cancel()
	c.mu.Lock()
	state := d.encode()
	c.mu.Unlock()
	if publishWill && c.will.Delay == 0 || publishWill && c.expirySec == 0 {
		c.server.Stats.Wills.Add(1)
	}
	err := d.session.Leave(ctx, router.LeaveOptions{Expiry: expiry(c.expirySec), Will: publishWill, State: state})
	if err != nil && !errors.Is(err, router.ErrTakenOver) { // else the session is another connection's, which this node had not heard of
		c.log().Error("a session could not be stored", "error", err)
	}
}

// encode makes the record; with mu held.
func (d *durable) encode() []byte {
	c := d.conn
	st := storedState{LastID: c.window.lastID, Identity: d.identity, LastNumber: d.lastNumber}
	for _, s := range c.subs {
		st.Subscriptions = append(st.Subscriptions, storedSubscription{Filter: s.text, QoS: s.qos, NoLocal: s.noLocal, AsIs: s.asIs, Handling: s.handling, ID: s.id})
	}
	for id, in := range c.received {
		st.Received = append(st.Received, storedReceipt{ID: id, Number: in.number, Stored: in.state == receiptStored})
	}
	for _, f := range c.window.flight {
		if f.seq != 0 {
			st.Flights = append(st.Flights, storedFlight{ID: f.id, QoS: f.qos, Seq: f.seq, Released: f.released})
		}
	}
	for _, f := range d.earlier { // not sent again yet
		st.Flights = append(st.Flights, f)
	}
	b, err := json.Marshal(st)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}

// sessionChanged has the session's record written soon; with mu held.
func (c *conn) sessionChanged() {
	if c.durable != nil && !c.closed {
		c.durable.touch()
	}
}

// touch has the record written; with mu held, which the store's answer does not need before it is called.
func (d *durable) touch() {
	if d.conn.closed {
		return // leave writes it
	}
	if d.saving {
		d.dirty = true
		return
	}
	d.saving, d.dirty = true, false
	waiting := d.waiting
	d.waiting = sessionWaiters{}
	d.session.Save(d.encode(), func(_ router.Stored, err error, w *outbox.Batch) { d.saved(waiting, err, w) })
}

// saved does what waited for the record.
func (d *durable) saved(done sessionWaiters, err error, w *outbox.Batch) {
	c := d.conn
	if err != nil {
		c.stop(&fault{code: unavailable, text: "the session could not be stored", cause: err})
		c.mu.Lock()
		d.failed = true
		c.changed.Broadcast()
		c.mu.Unlock()
		return
	}
	c.mu.Lock()
	d.saving = false
	for _, r := range done.replies {
		r.ready = true
	}
	c.emit(w)
	for _, id := range done.completed {
		c.answer(w, typePubcomp, id, success)
	}
	if d.noted = append(d.noted, done.publishes...); len(d.noted) > 0 && !d.publishing && !c.closed {
		d.publishing = true
		c.tasks.Go(d.publishNoted)
	}
	for _, f := range done.released {
		c.answer(w, typePubrel, f.id, success)
	}
	d.ready = append(d.ready, done.flights...)
	d.sendReady(w)
	if d.dirty && !c.closed {
		d.touch()
	}
	feeds := c.pump(w) // what was too large for the client left its place
	c.changed.Broadcast()
	c.mu.Unlock()
	resume(feeds, w)
}

// awaitReleased has a PUBREL wait for the record; with mu held.
func (d *durable) awaitReleased(f *flight) {
	d.waiting.released = append(d.waiting.released, f)
	d.touch()
}

// sendReady sends QoS 2 messages whose identifiers are stored; with mu held.
func (d *durable) sendReady(w *outbox.Batch) {
	c := d.conn
	for len(d.ready) > 0 && !c.closed {
		f := d.ready[0]
		end, sent := c.send(f.message, f.id, f.options, w)
		if !sent {
			return // Drained calls again
		}
		d.ready = d.ready[1:]
		d.line--
		f.saving, f.message = false, nil
		if end == 0 {
			delete(c.window.flight, f.id)
			c.rejectLater(f.delivery)
		}
	}
}

// inboxOptions are those of all subscriptions that a message of the inbox matches: one copy with the highest QoS and every
// identifier [MQTT-3.3.4-2]; with mu held. None means that the client has unsubscribed.
func (c *conn) inboxOptions(m *router.Message) (s sendOptions, matched bool) {
	for _, sub := range c.subs {
		if sub.feed != nil || !sub.filter.Matches(m.To) {
			continue
		}
		matched = true
		s.qos = max(s.qos, min(sub.qos, qosOf(m)))
		s.retain = s.retain || sub.asIs && m.Has(router.FlagRetain) || m.Has(router.FlagKept) // [MQTT-3.3.1-8]
		if sub.id > 0 {                                                                       // [MQTT-3.3.4-4]
			s.ids = append(s.ids, sub.id)
		}
	}
	slices.Sort(s.ids)
	return s, matched
}

// receive sends a message of the inbox; with mu held.
func (d *durable) receive(fd *feed, x *router.Delivery, w *outbox.Batch) bool {
	c := d.conn
	d.forgetBefore(x.Seq)
	if f := d.released[x.Seq]; f != nil { // the client has it: only its PUBCOMP was missing [MQTT-4.3.3-6]
		delete(d.released, x.Seq)
		d.takeAgain(f, x)
		return true
	}
	if x.Redelivered() {
		if f := c.window.find(x.Seq); f != nil { // over this connection: another leader of the cluster gives it once more
			d.takeAgain(f, x)
			return true
		}
	}
	was, again := d.earlier[x.Seq]
	s, matched := c.inboxOptions(x.Message)
	switch {
	case again: // what was begun is finished as it was begun
		s.qos = was.QoS
	case !matched:
		c.settleLater(x)
		return true
	case s.qos == 0:
		return fd.sendUntracked(x, s, w)
	}
	if !c.window.open() || len(c.window.queue.items) > 0 {
		c.waiting = append(c.waiting, fd)
		return false
	}
	s.dup = again || x.Redelivered() // [MQTT-3.3.1-1]
	f := c.window.take(was.ID)
	f.qos, f.delivery, f.seq = s.qos, x, x.Seq
	if s.qos == 2 && !again || d.line > 0 { // QoS 1 does not overtake QoS 2
		delete(d.earlier, x.Seq)
		d.line++
		f.saving, f.message, f.options = true, x.Message, s
		d.waiting.flights = append(d.waiting.flights, f)
		d.touch()
		return true
	}
	end, sent := c.send(x.Message, f.id, s, w)
	if end == 0 {
		delete(c.window.flight, f.id)
	}
	if sent {
		delete(d.earlier, x.Seq)
	}
	return fd.handled(x, end, sent)
}

// forgetBefore ends what the record says was in flight and the inbox, which gives what it holds in ascending order, passed
// over: the gateway died after the inbox forgot the message and before the record did. With mu held.
func (d *durable) forgetBefore(seq uint64) {
	for s := range d.earlier {
		if s < seq {
			delete(d.earlier, s)
		}
	}
	for s, f := range d.released {
		if s >= seq {
			continue
		}
		delete(d.released, s)
		f.gone = true
		if f.finished {
			d.conn.window.remove(f)
		}
	}
}

// completeStored ends a delivery of QoS 2 from the inbox: its identifier is free when the mailbox has forgotten the message.
func (c *conn) completeStored(f *flight) {
	c.mu.Lock()
	f.finished = true
	c.window.finished++
	d := f.delivery
	var feeds next
	if f.gone {
		feeds = c.free(f, &c.batch)
	} else {
		feeds = c.pump(&c.batch) // the client has room for the next
	}
	c.mu.Unlock()
	resume(feeds, &c.batch)
	if d != nil { // else the inbox has not come to it yet, or has it no more
		c.forget(f, d, &c.batch)
	}
}

// forget has the mailbox forget a completed delivery, and then frees its identifier.
func (c *conn) forget(f *flight, d *router.Delivery, w *outbox.Batch) {
	err := d.Ack(w, func(_ router.Stored, err error, w *outbox.Batch) {
		if err != nil {
			// The next connection completes it, or this one when the mailbox gives it again. Until then its identifier is in use, also if
			// the mailbox has forgotten it for an earlier leader: only to the next connection it gives all that it has.
			return
		}
		c.mu.Lock()
		feeds := c.free(f, w)
		c.mu.Unlock()
		resume(feeds, w)
	})
	if err != nil {
		c.log().Debug("a completed message is not held any more", "error", err) // as above
	}
}

// takeAgain takes what the client was sent already, and neither gets twice nor has settled; with mu held. If it has completed it
// meanwhile, the session knows it until the mailbox has forgotten it, as in completeStored: a mailbox that dies before gives it again.
func (d *durable) takeAgain(f *flight, x *router.Delivery) {
	c := d.conn
	f.delivery = x
	if !f.finished {
		return
	}
	c.tasks.Go(func() {
		var w outbox.Batch
		c.forget(f, x, &w)
		w.Flush()
	})
}

// free gives back the place of a stored delivery that is completed; with mu held.
func (c *conn) free(f *flight, w *outbox.Batch) next {
	c.window.remove(f)
	c.sessionChanged()
	return c.pump(w)
}
