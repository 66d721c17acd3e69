package mqtt

import (
	"context"
	"errors"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/router"
)

// subscription is what one filter of a client stands for.
type subscription struct {
	text     string // the filter as the client wrote it
	share    string // of whose group it is a member
	filter   router.Filter
	qos      byte
	noLocal  bool
	asIs     bool // retain as published
	handling byte // of retained messages
	id       int
	feed     *feed // nil: its messages come by the session's inbox
	fresh    bool  // did not exist before this SUBSCRIBE
}

// sharePrefix begins the filters of shared subscriptions (MQTT 5 section 4.8.2).
const sharePrefix = "$share/"

// subscribe opens subscriptions. SUBACK says for each filter what became of it, and leaves before what they deliver.
func (c *conn) subscribe(first byte, body []byte) error {
	id, filters, err := decodeFilters(first>>4, body, c.version)
	if err != nil {
		return err
	}
	if c.durable != nil { // SUBACK goes first
		c.durable.hold()
		defer c.durable.unhold()
	}
	why := ""                              // the first refusal, in words
	codes := make([]byte, 0, len(filters)) // [MQTT-3.8.4-6]
	opened := make([]*subscription, 0, len(filters))
	for i := range filters { // [MQTT-3.8.4-5]
		s, err := c.parseSubscription(&filters[i])
		if err == nil {
			err = c.openSubscription(s)
		}
		if err != nil {
			var broken *fault
			if errors.As(err, &broken) && broken.code == protocolError {
				return err
			}
			codes = append(codes, c.subscribeReason(err)) // [MQTT-3.8.4-7]
			if why == "" {
				why = publicText(err)
			}
			continue
		}
		if s.feed != nil && s.feed.opening {
			s.feed.source.Start(&c.batch) // from now on nothing is missed: others may act on SUBACK before we go on
		}
		codes = append(codes, s.qos) // [MQTT-3.9.3-2]
		opened = append(opened, s)
	}
	c.control(c.appendCodes(nil, typeSuback, id, codes, why)) // [MQTT-3.8.4-1] [MQTT-3.8.4-2]
	for _, s := range opened {
		c.startSubscription(s)
	}
	if c.durable != nil && len(opened) > 0 {
		if err := c.durable.open(); err != nil {
			return &fault{code: unspecified, text: "the session's inbox cannot be read", cause: err}
		}
	}
	return nil
}

// parseSubscription reads one filter with its options.
func (c *conn) parseSubscription(f *packets.Subscription) (*subscription, error) {
	s := &subscription{text: f.Filter, qos: f.Qos, noLocal: f.NoLocal, asIs: f.RetainAsPublished, handling: f.RetainHandling, id: f.Identifier}
	rest := f.Filter
	if shared, ok := strings.CutPrefix(f.Filter, sharePrefix); ok {
		group, filter, more := strings.Cut(shared, "/")
		if !more || group == "" || filter == "" || strings.ContainsAny(group, "+#") { // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
			return nil, faulty(badFilter, "a shared subscription is written $share/GROUP/FILTER")
		}
		if s.noLocal { // [MQTT-3.8.3-4]
			return nil, faulty(protocolError, "a shared subscription must not be no-local")
		}
		s.share, rest = group, filter
	}
	var err error
	s.filter, err = router.ParseMQTTFilter(c.session.Vhost, rest)
	if s.share != "" {
		// More would bind a message to the first client that it was sent to: even if that never comes back, no other may
		// get it [MQTT-4.8.2-4] [MQTT-4.8.2-5].
		s.qos = min(s.qos, 1)
	}
	if err == nil && s.share != "" && s.filter.Kind() == router.KindQueue {
		err = faulty(badFilter, "consumers of a queue share it by themselves: subscribe to %s", rest)
	}
	return s, err
}

// subscribeReason is the SUBACK code of a filter that was refused; older versions know only one [MQTT-3.9.3-1].
func (c *conn) subscribeReason(err error) byte {
	if c.version != v5 {
		return byte(unspecified)
	}
	var f *fault
	if errors.As(err, &f) {
		return byte(f.code)
	}
	switch router.ClassOf(err) {
	case router.Denied:
		return byte(notAuthorized)
	case router.Invalid:
		return byte(badFilter)
	case router.Full:
		return byte(quotaExceeded)
	}
	return byte(unspecified)
}

// openSubscription makes a subscription, or changes that of the same filter without a gap [MQTT-3.8.4-3].
func (c *conn) openSubscription(s *subscription) error {
	old := c.subs[s.text]
	s.fresh = old == nil
	if s.fresh && len(c.subs) >= c.server.opt.MaxSubscriptions {
		return faulty(quotaExceeded, "the client has %d subscriptions, which is the limit", len(c.subs))
	}
	if old != nil && old.feed != nil && !c.byInbox(s) && old.noLocal == s.noLocal {
		s.feed = old.feed // [MQTT-3.8.4-4]
		s.feed.set(s)
		c.remember(s)
		return nil
	}
	if err := c.attach(s); err != nil {
		return err
	}
	c.remember(s)
	if old != nil {
		c.detach(old, c.byInbox(s) || c.keepsShare(s))
	}
	return nil
}

func (c *conn) remember(s *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subs == nil {
		c.subs = map[string]*subscription{}
	}
	c.subs[s.text] = s
	c.sessionChanged()
}

// byInbox reports whether the messages of a subscription are kept for the session while its client is away.
func (c *conn) byInbox(s *subscription) bool {
	return c.durable != nil && s.qos > 0 && s.share == "" && s.filter.Kind() == router.KindTopic && !s.filter.System()
}

// keepsShare reports whether the messages of a shared subscription wait for the session while none of the group's clients is
// there.
func (c *conn) keepsShare(s *subscription) bool {
	return c.durable != nil && s.qos > 0 && s.share != "" && !s.filter.System()
}

// wantsRetained reports whether the retained messages are due now [MQTT-3.3.1-9] to [MQTT-3.3.1-11].
func (s *subscription) wantsRetained() bool {
	return s.share == "" && s.handling != 2 && (s.handling == 0 || s.fresh) // [MQTT-3.3.1-10]
}

// attach makes the router's part of a subscription.
func (c *conn) attach(s *subscription) error {
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	c.batch.Flush() // it may wait for the store
	if c.byInbox(s) {
		return c.durable.session.Bind(ctx, s.filter, router.BindOptions{NoLocal: s.noLocal, Retained: s.wantsRetained()})
	}
	if c.keepsShare(s) {
		if err := c.durable.session.BindShared(ctx, s.share, s.filter); err != nil {
			return err
		}
	}
	fd := &feed{conn: c, topic: s.share != "", opening: s.filter.Kind() == router.KindTopic}
	fd.set(s)
	o := router.SubscribeOptions{Filter: s.filter, Receiver: fd, Credit: c.window.max, NoLocal: s.noLocal}
	var err error
	if s.share != "" {
		fd.source, err = c.session.SubscribeShared(s.share, o)
	} else {
		fd.source, err = c.session.Subscribe(ctx, o)
	}
	if err == nil {
		s.feed = fd
	}
	return err
}

// startSubscription lets deliveries begin, after the retained messages.
func (c *conn) startSubscription(s *subscription) {
	if s.feed == nil {
		return // its inbox has the retained messages too
	}
	if s.filter.Kind() == router.KindQueue {
		s.feed.source.Start(&c.batch) // nothing, if it was started before
		return
	}
	var retained []*router.Message
	if s.wantsRetained() {
		retained, _ = c.session.Retained(s.filter) // the subscription itself was authorised; rights do not change
	}
	s.feed.opened(s, retained)
}

// detach ends the router's part of a subscription. Bound is whether its filter still feeds the inbox.
func (c *conn) detach(s *subscription, bound bool) {
	if s.feed != nil {
		s.feed.closed.Store(true)
		s.feed.source.Close(&c.batch)
	}
	if bound || c.durable == nil || s.feed != nil && !c.keepsShare(s) {
		return
	}
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	var err error
	if s.share != "" {
		err = c.durable.session.UnbindShared(ctx, s.share, s.filter)
	} else {
		err = c.durable.session.Unbind(ctx, s.filter)
	}
	if err != nil {
		c.log().Warn("a filter could not be taken from a session's inbox", "filter", s.text, "error", err)
	}
}

// unsubscribe ends subscriptions. UNSUBACK follows when they have ended.
func (c *conn) unsubscribe(first byte, body []byte) error {
	id, filters, err := decodeFilters(first>>4, body, c.version)
	if err != nil {
		return err
	}
	codes := make([]byte, len(filters)) // [MQTT-3.11.3-1]
	for i, f := range filters {         // [MQTT-3.10.4-6]
		s := c.subs[f.Filter] // [MQTT-3.10.4-1]: compared byte by byte
		if s == nil {
			codes[i] = byte(noSubscription) // [MQTT-3.11.3-2]
			continue
		}
		c.mu.Lock()
		delete(c.subs, f.Filter)
		c.sessionChanged()
		c.mu.Unlock()
		c.detach(s, false) // [MQTT-3.10.4-2]
	}
	c.control(c.appendCodes(nil, typeUnsuback, id, codes, "")) // [MQTT-3.10.4-4] [MQTT-3.10.4-5]
	return nil
}
