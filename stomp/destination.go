package stomp

import (
	"strconv"
	"strings"

	"github.com/mqgate/mqgate/router"
)

// place is one destination as a client named it.
type place struct {
	filter  router.Filter
	style   router.Style
	shown   string // how this client's MESSAGEs name it, if not by the address's own text
	foreign bool   // a temporary queue of some connection, named by its full name
	options consumerOptions
}

// consumerOptions are what may follow '?' in a destination.
type consumerOptions struct {
	prefetch  int // 0 if there is none
	exclusive bool
}

// The prefixes of temporary destinations. A client names its own by the first two; the others are what the rest of the world
// sees in reply-to.
const (
	tempQueuePrefix       = "/temp-queue/"
	tempTopicPrefix       = "/temp-topic/"
	remoteTempQueuePrefix = "/remote-temp-queue/"
	remoteTempTopicPrefix = "/remote-temp-topic/"
	replyQueuePrefix      = "/reply-queue/"
	// tempName begins the names of all temporary destinations.
	tempName = "temp."
)

// places reads a destination header. In the ActiveMQ dialect it may be a composite "a,b", whose elements without a prefix
// take the kind of the first one.
func (c *conn) places(text string) ([]place, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, mistake("Name a destination, such as /queue/NAME or /topic/NAME.", "the destination is empty")
	}
	if c.dialect.rabbit() || !strings.Contains(text, ",") {
		p, err := c.place(text)
		return []place{p}, err
	}
	elements := strings.Split(text, ",")
	if len(elements) > maxElements {
		return nil, mistake("Send it in parts.", "the composite destination has %d elements; at most %d are allowed", len(elements), maxElements)
	}
	out := make([]place, 0, len(elements))
	for i, e := range elements {
		e = strings.TrimSpace(e)
		if i > 0 && out[0].filter.Kind() == router.KindTopic && !strings.HasPrefix(e, "/") && !strings.Contains(e, "://") {
			e = "/topic/" + e
		}
		p, err := c.place(e)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// place reads one destination.
func (c *conn) place(text string) (place, error) {
	name, options, _ := strings.Cut(text, "?")
	p, err := c.placeNamed(name)
	if err != nil {
		return place{}, err
	}
	p.options, err = destinationOptions(options)
	return p, err
}

func (c *conn) placeNamed(name string) (place, error) {
	if p, special, err := c.temporary(name); special {
		return p, err
	}
	name, err := c.dialect.destination(name)
	if err != nil {
		return place{}, err
	}
	f, style, err := router.ParseFilter(c.session.Vhost, name)
	if err != nil {
		return place{}, err
	}
	if f.Kind() == router.KindQueue && !c.dialect.rabbit() && wildcardQueue(f.Name()) {
		return place{}, mistake("Name each queue, or have the messages sent to a topic: wildcards are for topics.",
			"queue %.64q has a wildcard", f.Name())
	}
	return place{filter: f, style: style}, nil
}

// wildcardQueue knows the queue names that ActiveMQ takes for patterns.
func wildcardQueue(name string) bool {
	for l := range strings.SplitSeq(name, ".") {
		if l == "*" || l == ">" {
			return true
		}
	}
	return false
}

// destination translates what only one dialect knows into what the router parses.
func (d Dialect) destination(name string) (string, error) {
	if !d.rabbit() {
		return name, nil
	}
	if q, ok := strings.CutPrefix(name, "/amq/queue/"); ok {
		return "/queue/" + slashes(q), nil
	}
	if q, ok := strings.CutPrefix(name, "/queue/"); ok {
		return "/queue/" + slashes(q), nil
	}
	if e, ok := strings.CutPrefix(name, "/exchange/"); ok {
		exchange, key, _ := strings.Cut(e, "/")
		if exchange == "amq.topic" && key != "" {
			return "/topic/" + key, nil
		}
		return "", mistake("Use /topic/KEY for topics and /queue/NAME for queues; of the exchanges only /exchange/amq.topic/KEY is known.",
			"there is no exchange %.64q", exchange)
	}
	return name, nil
}

// slashes undoes the one escape that RabbitMQ knows in queue names.
func slashes(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "%2F", "/"), "%2f", "/")
}

// temporary reads a temporary destination; special is false if name is none.
func (c *conn) temporary(name string) (p place, special bool, err error) {
	if rest, ok := strings.CutPrefix(name, "temp-queue://"); ok {
		name = tempQueuePrefix + rest
	} else if rest, ok := strings.CutPrefix(name, "temp-topic://"); ok {
		name = tempTopicPrefix + rest
	}
	if c.dialect.rabbit() && (strings.HasPrefix(name, tempQueuePrefix) || strings.HasPrefix(name, tempTopicPrefix)) {
		return place{}, true, mistake("Name it in the reply-to header of SEND: that subscribes to it.", "temporary destinations are for reply-to only")
	}
	switch prefix, rest := splitTemporary(name); prefix {
	case tempQueuePrefix:
		a, err := c.temporaryQueue(rest)
		return place{filter: router.FilterOf(a), shown: name}, true, err
	case tempTopicPrefix:
		f, _, err := router.ParseFilter(c.session.Vhost, "/topic/"+c.temporaryTopic(rest))
		return place{filter: f, shown: name}, true, err
	case remoteTempQueuePrefix, replyQueuePrefix:
		if !strings.HasPrefix(rest, tempName) {
			return place{}, true, mistake("Use the reply-to of the message as it is.", "%.64q is not the name of a temporary queue", rest)
		}
		a, err := router.QueueAddress(c.session.Vhost, rest)
		return place{filter: router.FilterOf(a), shown: name, foreign: true}, true, err
	case remoteTempTopicPrefix:
		if !strings.HasPrefix(rest, tempName) {
			return place{}, true, mistake("Use the reply-to of the message as it is.", "%.64q is not the name of a temporary topic", rest)
		}
		f, _, err := router.ParseFilter(c.session.Vhost, "/topic/"+rest)
		return place{filter: f, shown: name}, true, err
	}
	return place{}, false, nil
}

func splitTemporary(name string) (prefix, rest string) {
	for _, p := range [...]string{tempQueuePrefix, tempTopicPrefix, remoteTempQueuePrefix, remoteTempTopicPrefix, replyQueuePrefix} {
		if rest, ok := strings.CutPrefix(name, p); ok {
			return p, rest
		}
	}
	return "", name
}

// temporaryQueue makes the connection's queue of a name, once.
func (c *conn) temporaryQueue(name string) (router.Address, error) {
	if a, ok := c.temps[name]; ok {
		return a, nil
	}
	if len(c.temps) >= c.server.opt.MaxSubscriptions {
		return router.Address{}, mistake("Use one temporary queue for many replies.", "the connection has %d temporary queues, which is the limit", len(c.temps))
	}
	a, err := c.session.TemporaryQueue(name)
	if err != nil {
		return router.Address{}, err
	}
	if c.temps == nil {
		c.temps = map[string]router.Address{}
	}
	c.temps[name] = a
	return a, nil
}

// temporaryTopic gives the topic name of the connection's temporary topic, in the dot style.
func (c *conn) temporaryTopic(name string) string {
	return tempName + c.session.ID.String() + "." + name
}

// replyTo translates a temporary destination in a reply-to header into the name that works on other connections. Any other
// text stays as it is.
func (c *conn) replyTo(text string) (string, error) {
	name, _, _ := strings.Cut(strings.TrimSpace(text), "?")
	if rest, ok := strings.CutPrefix(name, "temp-queue://"); ok {
		name = tempQueuePrefix + rest
	}
	switch prefix, rest := splitTemporary(name); {
	case prefix == tempQueuePrefix && c.dialect.rabbit():
		return c.replyQueue(name, rest)
	case prefix == tempQueuePrefix:
		a, err := c.temporaryQueue(rest)
		return remoteTempQueuePrefix + a.Name(), err
	case prefix == tempTopicPrefix && !c.dialect.rabbit():
		return remoteTempTopicPrefix + c.temporaryTopic(rest), nil
	}
	return text, nil
}

// replyQueue makes a temporary queue and subscribes to it, as RabbitMQ does for a reply-to: the subscription's id is the
// destination that the client wrote.
func (c *conn) replyQueue(name, rest string) (string, error) {
	a, err := c.temporaryQueue(rest)
	if err != nil {
		return "", err
	}
	shown := replyQueuePrefix + a.Name()
	if c.subs[idKey(name)] != nil {
		return shown, nil
	}
	s := &subscription{conn: c, key: idKey(name), id: name, hasID: true, destination: name, mode: ackAuto}
	if err := c.openFeed(s, place{filter: router.FilterOf(a), shown: shown}, router.SubscribeOptions{Credit: c.server.opt.AutoPrefetch}); err != nil {
		return "", err
	}
	c.begun(s)
	return shown, nil
}

// destinationOptions reads what follows '?' in a destination. ActiveMQ over STOMP ignores it; what it asks for is honoured
// here, and what would change who gets a message and is not known is refused.
func destinationOptions(options string) (o consumerOptions, err error) {
	for option := range strings.SplitSeq(options, "&") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "consumer.prefetchSize":
			n, err := strconv.Atoi(value)
			if err != nil {
				return o, mistake("Write ?consumer.prefetchSize=N with a whole number.", "option consumer.prefetchSize: %.32q is not a number", value)
			}
			o.prefetch = clampPrefetch(int64(n))
		case "consumer.exclusive":
			o.exclusive = value == "true"
		case "consumer.browser":
			if value == "true" {
				return o, unsupported(key)
			}
		case "consumer.selector":
			return o, unsupported(key)
		}
	}
	return o, nil
}

func clampPrefetch(n int64) int { return int(min(max(n, 1), maxPrefetch)) }
