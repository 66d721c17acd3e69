package stomp

import (
	"context"
	"strings"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/selector"
	"github.com/mqgate/mqgate/stomp/frame"
)

// ackMode is the ack header of SUBSCRIBE.
type ackMode uint8

const (
	ackAuto ackMode = iota
	ackClient
	ackEach // client-individual
)

// subscription is what one SUBSCRIBE opened: a feed for each element of its destination.
type subscription struct {
	conn        *conn
	key         string
	id          string
	hasID       bool
	destination string // as the client wrote it
	mode        ackMode
	durable     string // identity of its inbox, "" for none
	bind        string // what x-bind-topic names
	feeds       []*feed

	// Under the connection's mu.
	first, last *held // unsettled, in order of delivery
	unwritten   int   // of auto mode
}

// idKey and destinationKey keep apart the subscriptions that have an id and those of STOMP 1.0 clients without one.
func idKey(id string) string            { return "i" + id }
func destinationKey(name string) string { return "d" + name }

// subscribe opens a subscription. Its RECEIPT leaves before the first MESSAGE.
func (c *conn) subscribe(f *frame.Frame) error {
	s, o, err := c.request(f)
	if err != nil {
		return err
	}
	browser, err := wantsBrowser(f)
	if err != nil {
		return err
	}
	if old := c.subs[s.key]; old != nil {
		if old.destination == s.destination && old.mode == s.mode && old.durable == s.durable && !browser {
			c.confirm(f) // a client that repeats itself
			return nil
		}
		return mistake("Choose another id, or send UNSUBSCRIBE first.", "subscription id %.64q is in use on this connection", s.id)
	}
	if len(c.subs) >= c.server.opt.MaxSubscriptions {
		return mistake("Use wildcards or another connection.", "the connection has %d subscriptions, which is the limit", len(c.subs))
	}
	places, err := c.places(s.destination)
	if err != nil {
		return err
	}
	if len(places) > 1 && s.durable != "" {
		return mistake("Make one durable subscription for each topic, or one with a wildcard.", "a durable subscription is for one destination, not for a composite")
	}
	if browser {
		if len(places) > 1 {
			return mistake("Look into one queue after the other.", "browser:true is for one queue, not for a composite")
		}
		return c.browse(f, s, places[0], o)
	}
	credit := o.Credit
	for _, p := range places {
		o.Credit = c.credit(s, p, credit)
		if err := c.openFeed(s, p, o); err != nil {
			s.close()
			return err
		}
	}
	if !c.confirmFirst(f) {
		return errLeft
	}
	if !asksRetained(f) {
		c.begun(s)
		return nil
	}
	s.openOffers()
	c.begun(s)
	if !s.offerRetained() {
		return errLeft
	}
	return nil
}

// confirmFirst sends the RECEIPT of a SUBSCRIBE before anything else: nothing may stand between it and the outbox, or a
// MESSAGE would overtake it. It returns false if the socket is gone.
func (c *conn) confirmFirst(f *frame.Frame) bool {
	if _, asked := f.Get("receipt"); !asked {
		return true
	}
	if !c.await(func() bool { return c.replies.head == nil }) {
		return false
	}
	c.confirm(f)
	return true
}

// begun lets the deliveries of a new subscription begin.
func (c *conn) begun(s *subscription) {
	if c.subs == nil {
		c.subs = map[string]*subscription{}
	}
	c.subs[s.key] = s
	for _, fd := range s.feeds {
		fd.source.Start(&c.batch)
	}
}

// request reads the headers of SUBSCRIBE. Credit is 0 if the client named none.
func (c *conn) request(f *frame.Frame) (*subscription, router.SubscribeOptions, error) {
	var o router.SubscribeOptions
	s := &subscription{conn: c, destination: strings.TrimSpace(f.Value("destination"))}
	if s.destination == "" {
		return nil, o, mistake("Add a header such as destination:/queue/NAME.", "SUBSCRIBE has no destination header")
	}
	id, found := f.Get("id")
	switch {
	case found:
		s.id, s.hasID, s.key = string(id), true, idKey(string(id))
	case c.version >= frame.V11 && !c.dialect.rabbit():
		return nil, o, mistake("Add an id header that is unique on the connection.", "SUBSCRIBE received without a subscription id!")
	default:
		s.key = destinationKey(s.destination)
	}
	var err error
	if s.mode, err = parseAckMode(f); err != nil {
		return nil, o, err
	}
	if err := c.checkUnsupported(f); err != nil {
		return nil, o, err
	}
	if s.durable, err = c.durableName(f, s.destination); err != nil {
		return nil, o, err
	}
	if text := strings.TrimSpace(f.Value("selector")); text != "" {
		if o.Selector, err = selector.Parse(text); err != nil {
			return nil, o, mistake("Selectors compare headers as SQL does, such as: region = 'eu' AND size > 3", "bad selector: %v", err)
		}
	}
	o.Exclusive = f.Value("activemq.exclusive") == "true"
	o.Durable, s.bind = s.durable, f.Value(bindHeader)
	o.NoLocal = f.Value("activemq.noLocal") == "true" || f.Value("no-local") == "true"
	o.Credit, err = prefetch(f)
	return s, o, err
}

// parseAckMode refuses what it does not know: taken for auto, as ActiveMQ does, a slip of the pen would lose messages.
func parseAckMode(f *frame.Frame) (ackMode, error) {
	value, _ := f.Get("ack")
	switch string(value) {
	case "", "auto":
		return ackAuto, nil
	case "client":
		return ackClient, nil
	case "client-individual":
		return ackEach, nil
	}
	return ackAuto, mistake("Use auto, client or client-individual.", "unknown ack mode %.32q", value)
}

// prefetch reads how many unsettled messages the client wants, 0 if it does not say.
func prefetch(f *frame.Frame) (int, error) {
	for _, name := range [...]string{"activemq.prefetchSize", "prefetch-count"} {
		n, found, err := f.Int(name)
		if err != nil {
			return 0, mistake("Write a whole number.", "%s", err)
		}
		if !found {
			continue
		}
		if n == 0 && name == "prefetch-count" {
			return maxPrefetch, nil // RabbitMQ: no limit
		}
		return clampPrefetch(n), nil
	}
	return 0, nil
}

// credit decides how many unsettled messages a feed may have, given what the client asked for.
func (c *conn) credit(s *subscription, p place, asked int) int {
	switch {
	case asked > 0:
		return asked
	case p.options.prefetch > 0:
		return p.options.prefetch
	case s.mode == ackAuto:
		return c.server.opt.AutoPrefetch
	case s.durable != "":
		return c.server.opt.DurablePrefetch
	}
	return c.server.opt.DefaultPrefetch
}

// checkUnsupported refuses what would change who gets which message: to ignore it would be worse.
func (c *conn) checkUnsupported(f *frame.Frame) error {
	if v, _ := f.Get("exclusive"); string(v) == "true" {
		return unsupported("exclusive")
	}
	if _, found := f.Get("x-stream-offset"); found {
		return unsupported("x-stream-offset")
	}
	return nil
}

var unsupportedHints = map[string]string{
	"consumer.selector": "Give the selector as a header of SUBSCRIBE.",
	"consumer.browser":  "Give browser:true as a header of SUBSCRIBE.",
	"x-stream-offset":   "Use a durable subscription to a topic.",
	"exclusive":         "Use a temporary queue, or activemq.exclusive:true to be the only one who gets messages.",
}

func unsupported(name string) *refusal {
	return mistake(unsupportedHints[name], "%s is not supported", name)
}

// durableName gives the identity of the inbox that SUBSCRIBE or UNSUBSCRIBE means, "" if the frame is not about a durable
// subscription.
func (c *conn) durableName(f *frame.Frame, destination string) (string, error) {
	for _, header := range [...]string{"activemq.subscriptionName", "durable-subscription-name", "durable-subscriber-name"} {
		name := f.Value(header)
		if name == "" {
			continue
		}
		if c.clientID == "" {
			return "", mistake("Add a client-id header to CONNECT.", "durable subscription %.64q needs a client-id", name)
		}
		return c.clientID + "\x00" + name, nil
	}
	if !c.dialect.rabbit() {
		return "", nil
	}
	durable := f.Value("durable") == "true" || f.Value("persistent") == "true"
	queue, named := f.Get("x-queue-name")
	id, hasID := f.Get("id")
	switch f, err := c.filterOf(destination); {
	case err == nil && f.Kind() == router.KindQueue:
		return "", nil // every queue is durable
	case !durable && named:
		return "", mistake("Add durable:true.", "x-queue-name is for durable subscriptions")
	case !durable:
		return "", nil
	case named:
		return c.clientID + "\x00" + string(queue), nil
	case !hasID:
		return "", mistake("Add an id header: it names the subscription together with the destination.", "a durable subscription needs an id")
	}
	return c.clientID + "\x00" + destination + "\x00" + string(id), nil
}

func (c *conn) filterOf(destination string) (router.Filter, error) {
	if destination == "" {
		return router.Filter{}, nil
	}
	p, err := c.place(destination)
	return p.filter, err
}

// openFeed subscribes to one place.
func (c *conn) openFeed(s *subscription, p place, o router.SubscribeOptions) error {
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	if topic, queue, ok := c.virtualTopic(p); ok {
		if err := c.session.BindQueue(ctx, topic, queue); err != nil {
			return err
		}
	}
	if s.bind != "" {
		topic, queue, err := c.binding(s.bind, p)
		if err == nil {
			err = c.session.BindQueue(ctx, topic, queue)
		}
		if err != nil {
			return err
		}
	}
	fd := &feed{sub: s, filter: p.filter}
	o.Filter, o.Receiver = p.filter, fd
	o.Exclusive = o.Exclusive || p.options.exclusive
	source, err := c.session.Subscribe(ctx, o)
	if err != nil {
		return err
	}
	fd.source = source
	fd.prepare(p, source.Stores())
	s.feeds = append(s.feeds, fd)
	return nil
}

// virtualTopic tells which topic is bound to a queue by its name: /queue/Consumer.GROUP.VirtualTopic.NAME gets what is sent
// to /topic/VirtualTopic.NAME, from the first SUBSCRIBE on. ActiveMQ's convention.
func (c *conn) virtualTopic(p place) (router.Filter, router.Address, bool) {
	queue, concrete := p.filter.Address()
	if c.dialect.rabbit() || !concrete || queue.Kind() != router.KindQueue {
		return router.Filter{}, queue, false
	}
	rest, ok := strings.CutPrefix(queue.Name(), "Consumer.")
	if !ok {
		return router.Filter{}, queue, false
	}
	group, name, ok := strings.Cut(rest, ".")
	if !ok || group == "" || !strings.HasPrefix(name, "VirtualTopic.") {
		return router.Filter{}, queue, false
	}
	f, _, err := router.ParseFilter(queue.Vhost(), "/topic/"+name)
	return f, queue, err == nil
}

// bindHeader on SUBSCRIBE to a queue names a topic, or many by wildcards, whose messages the queue gets from then on, whether
// somebody consumes it or not. On UNSUBSCRIBE it ends that.
const bindHeader = "x-bind-topic"

// binding reads the topics of bindHeader and the queue of a place.
func (c *conn) binding(topics string, p place) (router.Filter, router.Address, error) {
	queue, concrete := p.filter.Address()
	if !concrete || queue.Kind() != router.KindQueue || p.foreign {
		return router.Filter{}, queue, mistake("Subscribe to a queue, such as /queue/NAME.", "header %s is for queues", bindHeader)
	}
	t, err := c.place(topics)
	if err == nil && t.filter.Kind() != router.KindTopic {
		err = mistake("Name topics, such as /topic/plant.*.temp.", "header %s: %.64q is not a topic", bindHeader, topics)
	}
	return t.filter, queue, err
}

// unbind ends a queue's binding.
func (c *conn) unbind(topics, destination string) error {
	p, err := c.place(destination)
	if err != nil {
		return err
	}
	topic, queue, err := c.binding(topics, p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	return c.session.UnbindQueue(ctx, topic, queue)
}

// unsubscribe ends a subscription. With the headers of a durable one it ends that for good, and what its inbox holds is
// deleted, even while it is active here: that is what people mean by it.
func (c *conn) unsubscribe(f *frame.Frame) error {
	s := c.find(f)
	destination := strings.TrimSpace(f.Value("destination"))
	if s != nil {
		destination = s.destination
	}
	durable, err := c.durableName(f, destination)
	if err != nil {
		return err
	}
	wantsEnd := f.Value("durable") == "true" || f.Value("persistent") == "true"
	switch {
	case s != nil && s.durable != "" && c.dialect.rabbit() && wantsEnd:
		durable = s.durable
	case s != nil && s.durable == "" && (durable != "" || c.dialect.rabbit() && wantsEnd):
		return mistake("Send UNSUBSCRIBE with the id only.", "subscription to %.64q is not durable", s.destination)
	case s == nil && durable == "":
		return mistake("Give the id of the SUBSCRIBE, or in STOMP 1.0 its destination.", "No subscription matched.")
	}
	if topics := f.Value(bindHeader); topics != "" {
		if err := c.unbind(topics, destination); err != nil {
			return err
		}
	}
	if s == nil {
		s = c.durableSubscription(durable)
	}
	if s != nil && !c.drop(s) {
		return errLeft
	}
	if durable != "" {
		ctx, cancel := context.WithTimeout(c.life, operationTimeout)
		defer cancel()
		if err := c.session.Unbind(ctx, durable, &c.batch); err != nil {
			return err
		}
	}
	c.confirm(f)
	return nil
}

// find gives the subscription that UNSUBSCRIBE names by id, or by destination.
func (c *conn) find(f *frame.Frame) *subscription {
	if id, found := f.Get("id"); found {
		return c.subs[idKey(string(id))]
	}
	destination := strings.TrimSpace(f.Value("destination"))
	if destination == "" {
		return nil
	}
	if s := c.subs[destinationKey(destination)]; s != nil {
		return s
	}
	for _, s := range c.subs {
		if s.destination == destination {
			return s
		}
	}
	return nil
}

func (c *conn) durableSubscription(durable string) *subscription {
	for _, s := range c.subs {
		if s.durable == durable {
			return s
		}
	}
	return nil
}

// drop ends a subscription: what the client did not settle goes back. It returns false if the socket is gone.
func (c *conn) drop(s *subscription) bool {
	delete(c.subs, s.key)
	for _, fd := range s.feeds {
		fd.closed.Store(true)
	}
	c.mu.Lock()
	for h := s.first; h != nil; h = s.first {
		if h.tx != nil {
			h.tx.fail(mistake("Send COMMIT before UNSUBSCRIBE.", "a message acknowledged in the transaction was given back by UNSUBSCRIBE"))
		}
		c.forget(h)
	}
	c.mu.Unlock()
	// In auto mode, what is in the outbox will reach the client, and shall not go to another one as well.
	if !c.awaitPeer(func() bool { return s.unwritten == 0 || c.disowned }) {
		return false
	}
	s.close()
	return true
}

func (s *subscription) close() {
	for _, fd := range s.feeds {
		fd.closed.Store(true)
		fd.source.Close(&s.conn.batch)
	}
}
