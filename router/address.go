package router

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind tells what an Address names.
type Kind uint8

const (
	// KindQueue is a mailbox with competing consumers.
	KindQueue Kind = iota + 1
	// KindTopic is a hierarchical name that subscribers' filters match.
	KindTopic
)

// DefaultVhost is the vhost of clients that name none.
const DefaultVhost = "/"

const (
	// MaxNameBytes bounds a queue name or a topic with its separators.
	MaxNameBytes = 1024
	// MaxLevels bounds the levels of a topic or filter.
	MaxLevels = 64
)

// Address names one queue or one concrete topic in a vhost. Only the parsers of
// this package make one, so an Address that exists is valid; the zero Address is
// "none". Addresses are comparable and may be map keys.
type Address struct {
	vhost string
	name  string // a topic's levels are joined by '/', whatever style it came in
	kind  Kind
}

// Kind returns KindQueue or KindTopic, or 0 for the zero Address.
func (a Address) Kind() Kind { return a.kind }

// IsZero reports whether a names nothing.
func (a Address) IsZero() bool { return a.kind == 0 }

// Vhost returns the vhost, DefaultVhost unless the client chose another.
func (a Address) Vhost() string { return a.vhost }

// Name returns the queue's name, or the topic's levels joined by '/'.
func (a Address) Name() string { return a.name }

// Levels returns the topic's levels; a queue has one.
func (a Address) Levels() []string {
	if a.kind != KindTopic {
		return []string{a.name}
	}
	return strings.Split(a.name, "/")
}

// Reserved reports whether a is a topic whose first level begins with '$':
// those belong to the gateway and clients may not publish to them.
func (a Address) Reserved() bool {
	return a.kind == KindTopic && strings.HasPrefix(a.name, "$")
}

// Temporary reports whether a is a temporary queue: only the session that made it
// consumes from it, and its name is known to those whom the session told it.
func (a Address) Temporary() bool { return a.kind == KindQueue && temporary(a.name) }

// String returns the address in the slash style, for logs and errors.
func (a Address) String() string { return a.Text(StyleSlash) }

// Style is how a destination is written. A MESSAGE gives the destination in the
// style that its SUBSCRIBE used.
type Style uint8

const (
	// StyleDot separates topic levels by '.', as ActiveMQ and RabbitMQ users write them.
	StyleDot Style = iota
	// StyleSlash separates topic levels by '/', as MQTT users write them.
	StyleSlash
)

// Text returns the destination in a style. It always parses back to the same
// address: a level that the style could not carry is percent-escaped.
func (a Address) Text(s Style) string {
	switch a.kind {
	case KindQueue:
		return "/queue/" + a.name
	case KindTopic:
		return "/topic/" + joinLevels(a.name, s, false)
	}
	return ""
}

// joinLevels writes canonical levels in a style, escaping what would read
// otherwise: separators, wildcards and the escapes themselves.
func joinLevels(name string, s Style, wildcards bool) string {
	levels := strings.Split(name, "/")
	last := len(levels) - 1
	// One level has no '/', so its dots would separate in either style.
	dots := s == StyleDot || len(levels) == 1
	sep := byte('/')
	if s == StyleDot {
		sep = '.'
	}
	var b strings.Builder
	for i, l := range levels {
		if i > 0 {
			b.WriteByte(sep)
		}
		switch {
		case wildcards && l == "+":
			b.WriteByte('*')
		case wildcards && l == "#":
			b.WriteByte('>')
		case i == last && strings.HasSuffix(l, " "):
			writeLevel(&b, l[:len(l)-1], dots)
			b.WriteString("%20") // a space at the end would be trimmed
		default:
			writeLevel(&b, l, dots)
		}
	}
	return b.String()
}

func writeLevel(b *strings.Builder, l string, dots bool) {
	if l == "*" || l == ">" || l == "+" || l == "#" {
		fmt.Fprintf(b, "%%%02X", l[0])
		return
	}
	for i := 0; i < len(l); i++ {
		switch c := l[i]; {
		case c == '.' && dots, c == '?', c == ',':
			fmt.Fprintf(b, "%%%02X", c)
		case c == '%' && escapeAt(l, i) != 0:
			b.WriteString("%25")
		default:
			b.WriteByte(c)
		}
	}
}

// escapeAt returns the byte that a percent escape at i stands for, or 0 if there
// is none. Only the bytes that names cannot carry otherwise are escapes, so a
// name such as "100%AB" means itself.
func escapeAt(s string, i int) byte {
	if i+2 >= len(s) || s[i] != '%' {
		return 0
	}
	switch strings.ToUpper(s[i+1 : i+3]) {
	case "20":
		return ' '
	case "25":
		return '%'
	case "2A":
		return '*'
	case "2B":
		return '+'
	case "23":
		return '#'
	case "2C":
		return ','
	case "2E":
		return '.'
	case "3E":
		return '>'
	case "3F":
		return '?'
	}
	return 0
}

func unescapeLevel(l string) string {
	if !strings.Contains(l, "%") {
		return l
	}
	var b strings.Builder
	for i := 0; i < len(l); i++ {
		if c := escapeAt(l, i); c != 0 {
			b.WriteByte(c)
			i += 2
			continue
		}
		b.WriteByte(l[i])
	}
	return b.String()
}

// QueueAddress returns the address of a queue. The name is taken as it is; it
// must be valid UTF-8 of 1 to MaxNameBytes bytes without control characters,
// without ',' and '?', and without leading or trailing space.
func QueueAddress(vhost, name string) (Address, error) {
	if err := checkText("queue name", name); err != nil {
		return Address{}, err
	}
	if strings.Trim(name, " ") != name {
		return Address{}, badName("queue name %q begins or ends with a space", name)
	}
	if strings.ContainsAny(name, ",?") {
		// A STOMP destination uses them for composites and options.
		return Address{}, badName("queue name %q contains ',' or '?'", name)
	}
	return Address{vhost: vhostOr(vhost), kind: KindQueue, name: name}, nil
}

// ParseDestination reads a destination as STOMP and JSON clients write it:
//
//	/queue/orders   orders   queue://orders       a queue
//	/topic/plant.7  /topic/plant/7  topic://plant.7   a topic
//
// A topic name that contains '/' is split at '/' (then '.' is an ordinary
// character), else at '.'. Wildcards are refused here; see ParseFilter.
func ParseDestination(vhost, s string) (Address, Style, error) {
	f, style, err := ParseFilter(vhost, s)
	if err != nil {
		return Address{}, style, err
	}
	if f.wild {
		return Address{}, style, badName("destination %q has a wildcard; only subscriptions may", s)
	}
	return f.address(), style, nil
}

// ParseFilter reads what a STOMP or JSON client subscribes to: a destination, in
// whose topic form '*' or '+' stands for one level, and '>' or '#' as the last
// level for that level and all below it.
func ParseFilter(vhost, s string) (Filter, Style, error) {
	kind, name, err := splitPrefix(s)
	if err != nil {
		return Filter{}, StyleDot, err
	}
	if kind == KindQueue {
		a, err := QueueAddress(vhost, name)
		return Filter{vhost: a.vhost, name: a.name, kind: a.kind}, StyleDot, err
	}
	style, sep := StyleDot, "."
	if strings.Contains(name, "/") {
		style, sep = StyleSlash, "/"
	}
	if len(name) > 3*MaxNameBytes { // what escapes stand for is counted below
		return Filter{}, style, tooLong("topic", len(name))
	}
	levels := strings.Split(name, sep)
	for i, l := range levels {
		switch l {
		case "*", "+":
			levels[i] = "+"
		case ">", "#":
			levels[i] = "#"
		default:
			l = unescapeLevel(l)
			if strings.ContainsAny(l, "+#") {
				return Filter{}, style, badName("topic %q: '+' and '#' stand for whole levels only", s)
			}
			levels[i] = l
		}
	}
	f, err := topicFilter(vhost, levels)
	return f, style, err
}

// splitPrefix tells queue from topic and strips the prefix.
func splitPrefix(s string) (Kind, string, error) {
	s = strings.Trim(s, " ")
	for _, p := range [...]struct {
		prefix string
		kind   Kind
	}{{"/queue/", KindQueue}, {"/topic/", KindTopic}, {"queue://", KindQueue}, {"topic://", KindTopic}} {
		if rest, ok := strings.CutPrefix(s, p.prefix); ok {
			return p.kind, rest, nil
		}
	}
	if strings.HasPrefix(s, "/") {
		return 0, "", badName("unknown destination %q: use /queue/NAME or /topic/NAME", s)
	}
	return KindQueue, s, nil
}

// MQTTQueuePrefix is the first level by which MQTT clients name queues.
const MQTTQueuePrefix = "$queue/"

// ParseMQTTTopic reads an MQTT topic name. "$queue/orders" is the queue orders.
func ParseMQTTTopic(vhost, topic string) (Address, error) {
	if strings.ContainsAny(topic, "+#") {
		// [MQTT-3.3.2-2]
		return Address{}, badName("topic %q has a wildcard", topic)
	}
	f, err := ParseMQTTFilter(vhost, topic)
	if err != nil {
		return Address{}, err
	}
	return f.address(), nil
}

// ParseMQTTFilter reads an MQTT topic filter without a $share prefix.
func ParseMQTTFilter(vhost, filter string) (Filter, error) {
	if name, ok := strings.CutPrefix(filter, MQTTQueuePrefix); ok {
		if strings.ContainsAny(name, "+#") { // no message could come: its topic would have a wildcard [MQTT-3.3.2-2]
			return Filter{}, badName("filter %q: a queue's name has no wildcards in MQTT", filter)
		}
		a, err := QueueAddress(vhost, name)
		return Filter{vhost: a.vhost, name: a.name, kind: a.kind}, err
	}
	levels := strings.Split(filter, "/")
	for _, l := range levels {
		// [MQTT-4.7.1-2] [MQTT-4.7.1-3]
		if len(l) > 1 && strings.ContainsAny(l, "+#") { // [MQTT-4.7.1-1]
			return Filter{}, badName("filter %q: a wildcard must be a whole level", filter)
		}
	}
	return topicFilter(vhost, levels)
}

// MQTTText returns the MQTT topic name of the address.
func (a Address) MQTTText() string {
	if a.kind == KindQueue {
		return MQTTQueuePrefix + a.name
	}
	return a.name
}

// Filter is an address in which topic levels may be wildcards. Filters are
// comparable and may be map keys.
type Filter struct {
	vhost string
	name  string // levels joined by '/'; wildcard levels are "+" and "#"
	kind  Kind
	wild  bool
}

// FilterOf returns the filter that matches exactly one address.
func FilterOf(a Address) Filter { return Filter{vhost: a.vhost, name: a.name, kind: a.kind} }

// Kind returns KindQueue or KindTopic.
func (f Filter) Kind() Kind { return f.kind }

// Vhost returns the vhost of the filter.
func (f Filter) Vhost() string { return f.vhost }

// Name returns the queue's name, or the levels joined by '/' in which "+" and
// "#" are wildcards.
func (f Filter) Name() string { return f.name }

// Wild reports whether the filter has a wildcard.
func (f Filter) Wild() bool { return f.wild }

// IsZero reports whether f matches nothing.
func (f Filter) IsZero() bool { return f.kind == 0 }

// Levels returns the levels of a topic filter.
func (f Filter) Levels() []string { return strings.Split(f.name, "/") }

// Address returns the one address that a filter without wildcards matches.
func (f Filter) Address() (Address, bool) { return f.address(), !f.wild && f.kind != 0 }

func (f Filter) address() Address { return Address{vhost: f.vhost, name: f.name, kind: f.kind} }

// Text returns the filter as a destination in a style; it parses back to f.
func (f Filter) Text(s Style) string {
	if f.kind == KindTopic {
		return "/topic/" + joinLevels(f.name, s, true)
	}
	return f.address().Text(s)
}

// String returns the filter in the slash style.
func (f Filter) String() string { return f.Text(StyleSlash) }

// Matches reports whether the filter covers the address. Wildcards never match
// a first level that begins with '$' [MQTT-4.7.2-1] [MQTT-4.7.3-4].
func (f Filter) Matches(a Address) bool {
	if f.kind != a.kind || f.vhost != a.vhost {
		return false
	}
	if !f.wild {
		return f.name == a.name
	}
	if strings.HasPrefix(a.name, "$") && !strings.HasPrefix(f.name, "$") {
		return false
	}
	return matchLevels(f.name, a.name)
}

// matchLevels compares level by level without allocating.
func matchLevels(filter, topic string) bool {
	for {
		fl, frest, fmore := strings.Cut(filter, "/")
		if fl == "#" {
			return true
		}
		tl, trest, tmore := strings.Cut(topic, "/")
		if fl != "+" && fl != tl {
			return false
		}
		switch {
		case !fmore && !tmore:
			return true
		case fmore && !tmore:
			return frest == "#" // "a/#" also matches "a" [MQTT-4.7.1-2]
		case !fmore:
			return false
		}
		filter, topic = frest, trest
	}
}

// topicFilter checks the levels and joins them.
func topicFilter(vhost string, levels []string) (Filter, error) {
	if len(levels) > MaxLevels {
		return Filter{}, badName("topic has %d levels; at most %d are allowed", len(levels), MaxLevels)
	}
	f := Filter{vhost: vhostOr(vhost), kind: KindTopic}
	for i, l := range levels {
		switch {
		case l == "#" && i != len(levels)-1:
			return Filter{}, badName("topic %q: '>' or '#' must be the last level", strings.Join(levels, "/"))
		case l == "#", l == "+":
			f.wild = true
		case strings.Contains(l, "/"):
			return Filter{}, badName("topic level %q contains '/'", l)
		}
	}
	f.name = strings.Join(levels, "/")
	if err := checkText("topic", f.name); err != nil {
		return Filter{}, err
	}
	if strings.HasPrefix(f.name, MQTTQueuePrefix) {
		// MQTT could not tell it from a queue.
		return Filter{}, badName("topics do not begin with %q: use /queue/NAME for the queue", MQTTQueuePrefix)
	}
	return f, nil
}

func vhostOr(v string) string {
	if v == "" {
		return DefaultVhost
	}
	return v
}

// checkText holds what every name must. MQTT lets a server refuse control
// characters [MQTT-1.5.4-2]; a name that has one could not be written in STOMP.
func checkText(what, s string) error {
	switch {
	case s == "":
		return badName("the %s is empty", what)
	case len(s) > MaxNameBytes:
		return tooLong(what, len(s))
	case !utf8.ValidString(s):
		return badName("the %s is not valid UTF-8", what)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return badName("%s %q has a control character", what, s)
		}
	}
	return nil
}

func tooLong(what string, bytes int) error {
	return badName("the %s has %d bytes; at most %d are allowed", what, bytes, MaxNameBytes)
}

func badName(format string, args ...any) error {
	return &Error{Op: "address", Class: Invalid, Text: fmt.Sprintf(format, args...)}
}
