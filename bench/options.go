package bench

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Scenario is the shape of a run.
type Scenario string

// The scenarios.
const (
	// Queue sends through queues with competing consumers: each message is due at one of them.
	Queue Scenario = "queue"
	// Topic fans out: each message is due at every subscriber of its destination.
	Topic Scenario = "topic"
	// Backlog fills queues while nobody consumes, then drains them; both are timed.
	Backlog Scenario = "backlog"
	// Conns opens idle connections and holds them.
	Conns Scenario = "conns"
)

// The protocols that a run can speak.
const (
	STOMP = "stomp" // 1.0 to 1.2, as the broker chooses
	MQTT  = "mqtt"  // 3.1.1
	MQTT5 = "mqtt5"
	JSON  = "json" // mqgate.json.v1, over WebSocket
)

// Options says what to run. They are taken literally: zero is zero, not a default, except where a field says so.
type Options struct {
	Scenario Scenario
	// Protocol is what publishers and idle connections speak, SubscriberProtocol what subscribers speak. Empty means STOMP,
	// and the same as the publishers.
	Protocol, SubscriberProtocol string
	// Addresses are where the broker listens: host:port, or for WebSocket ws://host:port/path, without a path the usual one
	// of the protocol. Several spread the connections over nodes in turn. SubscriberAddresses are for subscribers alone; none
	// means the same.
	Addresses, SubscriberAddresses []string
	// WebSocket carries the protocol also where an address is only host:port.
	WebSocket bool
	// Sources are local IP addresses to connect from, in turn; none leaves it to the system. Conns against 127.0.0.1
	// spreads itself when there are none.
	Sources []string
	// TLS, when not nil, is how to speak to the broker; an empty ServerName becomes the address's host.
	TLS *tls.Config
	// User and Password log in; both empty means no login headers. Host is the virtual host.
	User, Password, Host string

	// Destination is where to send, with %r for the run's id (which keeps runs apart) and %d for the destination's number.
	// Empty means the protocol's default for the scenario. SubscriberDestination is how subscribers name it; empty means the
	// same.
	Destination, SubscriberDestination string
	// Destinations is over how many destinations publishers and subscribers are spread, 1 or more.
	Destinations int
	// Publishers and Subscribers are numbers of connections, 1 or more (conns ignores them).
	Publishers, Subscribers int
	// Timed is of how many subscribers of a topic the latency is taken, spread evenly over all; 0 means all. The others read
	// about once a second what has come, which costs little, and check it all the same. For rooms of thousands whose members
	// share the cores with the broker: what a kernel takes to hand each of them every message at once would be measured there.
	Timed int
	// SizeBytes is the length of a body, 40 to 16 MiB.
	SizeBytes int

	// Window is how many messages a publisher has unconfirmed at most, up to 1,000,000; 0 asks for no confirmations.
	Window int
	// Inflight is how many messages of a publisher may be on their way to its subscribers; 0 sets no limit.
	Inflight int
	// RatePerSecond paces all publishers together; 0 sends as fast as the window allows.
	RatePerSecond float64
	// Count is the number of messages of all publishers together; 0 means a timed run. Backlog needs one.
	Count int64
	// Warmup comes before the measured Duration of a timed run. For conns, Duration is how long to hold.
	Warmup, Duration time.Duration
	// Drain is how long to wait for what is missing while nothing comes.
	Drain time.Duration
	// Timeout bounds connecting, subscribing and closing.
	Timeout time.Duration

	// QoS is that of MQTT publishers and subscribers.
	QoS int
	// Durable gives MQTT clients sessions that outlive their connections. They are ended with the run.
	Durable bool
	// Persistent marks messages so, where the protocol has the mark.
	Persistent bool
	// Ack is auto, client-individual or client; empty means auto for topics and client-individual otherwise.
	Ack string
	// Prefetch is how many unacknowledged messages a subscriber asks for; 0 leaves it to the broker.
	Prefetch int
	// SendHeaders and SubscribeHeaders are additional headers, each "name:value".
	SendHeaders, SubscribeHeaders []string

	// Connections is how many conns opens, Dialers how many of them at a time.
	Connections, Dialers int
	// Heartbeat is the interval offered and kept by conns; 0 offers none.
	Heartbeat time.Duration

	// BrokerPIDs are processes whose CPU and memory to report, with all their descendants.
	BrokerPIDs []int
	// Cores is how many cores the generator may use (GOMAXPROCS); it only serves to say when that was the limit.
	Cores int
}

const (
	maxBodyBytes   = 16 << 20
	maxWindow      = 1_000_000
	maxConnections = 1_000_000
)

func (o *Options) protocol() string {
	if o.Protocol == "" {
		return STOMP
	}
	return o.Protocol
}

func (o *Options) subscriberProtocol() string {
	if o.SubscriberProtocol == "" {
		return o.protocol()
	}
	return o.SubscriberProtocol
}

func (o *Options) subscriberAddresses() []string {
	if len(o.SubscriberAddresses) == 0 {
		return o.Addresses
	}
	return o.SubscriberAddresses
}

func (o *Options) subscriberDestination() string {
	if o.SubscriberDestination == "" && o.sameNames() {
		return o.Destination
	}
	return o.SubscriberDestination
}

// sameNames is true when subscribers name destinations as publishers do.
func (o *Options) sameNames() bool {
	mqtt := func(name string) bool { return name == MQTT || name == MQTT5 }
	return mqtt(o.protocol()) == mqtt(o.subscriberProtocol())
}

// targets reads addresses that Validate has checked.
func (o *Options) targets(addresses []string, p protocol) (targets []target) {
	for _, a := range addresses {
		t, _ := parseTarget(a)
		if t.websocket = t.websocket || o.WebSocket; t.path == "" {
			t.path = p.webPath()
		}
		targets = append(targets, t)
	}
	return targets
}

// speaks reports whether publishers or subscribers speak one of the protocols.
func (o *Options) speaks(names ...string) bool {
	return slices.Contains(names, o.protocol()) || slices.Contains(names, o.subscriberProtocol())
}

// shared is true when subscribers of one destination share its messages.
func (o *Options) shared() bool { return o.Scenario != Topic }

// timed reports whether the latency of subscriber i is taken.
func (o *Options) timed(i int) bool {
	return o.Timed == 0 || i*o.Timed/o.Subscribers != (i+1)*o.Timed/o.Subscribers
}

// ackMode is how subscribers acknowledge. A topic's messages need no acknowledgement; a queue's are to survive a consumer.
func (o *Options) ackMode() string {
	switch {
	case o.Ack != "":
		return o.Ack
	case o.shared():
		return "client-individual"
	}
	return "auto"
}

// Validate says what is wrong with the options and which flag to change.
func (o *Options) Validate() error {
	switch o.Scenario {
	case Queue, Topic, Backlog, Conns:
	default:
		return fmt.Errorf("unknown scenario %q: choose queue, topic, backlog or conns", o.Scenario)
	}
	for _, check := range []func() error{o.validateNetwork, o.validateProtocols, o.validateCounts, o.validateLoad, o.validateHeaders} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) validateNetwork() error {
	if len(o.Addresses) == 0 {
		return fmt.Errorf("--addr: no broker address: give host:port")
	}
	if err := o.validateAddresses("--addr", o.Addresses, o.protocol()); err != nil {
		return err
	}
	if err := o.validateAddresses("--sub-addr", o.subscriberAddresses(), o.subscriberProtocol()); err != nil {
		return err
	}
	for _, s := range o.Sources {
		if net.ParseIP(s) == nil {
			return fmt.Errorf("--source %q is not an IP address", s)
		}
	}
	if strings.ContainsAny(o.User+o.Password+o.Host+o.Destination+o.SubscriberDestination, "\r\n\x00") {
		return fmt.Errorf("--user, --password, --host, --destination and --sub-dest must not contain line ends or NUL")
	}
	return nil
}

func (o *Options) validateAddresses(flag string, addresses []string, protocol string) error {
	for _, a := range addresses {
		t, err := parseTarget(a)
		switch {
		case err != nil:
			return fmt.Errorf("%s %q: %w: give host:port or ws://host:port/path", flag, a, err)
		case t.secure && o.TLS == nil, t.websocket && !t.secure && o.TLS != nil:
			return fmt.Errorf("%s %q: wss:// goes with TLS, ws:// without", flag, a)
		case protocol == JSON && !t.websocket && !o.WebSocket:
			return fmt.Errorf("%s %q: json goes over WebSocket: give ws://host:port/path", flag, a)
		}
	}
	return nil
}

func (o *Options) validateProtocols() error {
	for _, p := range []string{o.protocol(), o.subscriberProtocol()} {
		switch p {
		case STOMP, MQTT, MQTT5, JSON:
		default:
			return fmt.Errorf("unknown protocol %q: choose %s, %s, %s or %s", p, STOMP, MQTT, MQTT5, JSON)
		}
	}
	mqtt := o.speaks(MQTT, MQTT5)
	switch {
	case o.QoS < 0 || o.QoS > 2:
		return fmt.Errorf("--qos %d: choose 0, 1 or 2", o.QoS)
	case o.QoS > 0 && !mqtt, o.Durable && !mqtt:
		return fmt.Errorf("--qos and --durable are for %s and %s", MQTT, MQTT5)
	case o.QoS > 0 && (o.Window < 1 || o.Window > mqttMostWindow):
		return fmt.Errorf("--window %d is out of range: QoS 1 and 2 allow 1 to %d unconfirmed messages", o.Window, mqttMostWindow)
	case o.Persistent && !o.speaks(STOMP, JSON):
		return fmt.Errorf("--persistent is not for MQTT: give --qos 1 or 2")
	case o.Destination != "" && o.SubscriberDestination == "" && !o.sameNames():
		return fmt.Errorf("--destination %q: subscribers name it in another way: give --sub-dest", o.Destination)
	case len(o.SendHeaders) > 0 && o.protocol() != STOMP && o.protocol() != MQTT5:
		return fmt.Errorf("--send-header is for %s and %s", STOMP, MQTT5)
	case len(o.SubscribeHeaders) > 0 && o.subscriberProtocol() != STOMP:
		return fmt.Errorf("--subscribe-header is for %s", STOMP)
	}
	return nil
}

func (o *Options) validateCounts() error {
	for _, f := range []struct {
		flag     string
		n        int
		low, top int
	}{
		{"--dests", o.Destinations, 1, maxConnections},
		{"--publishers", o.Publishers, 1, maxConnections},
		{"--subscribers", o.Subscribers, 1, maxConnections},
		{"--timed", o.Timed, 0, maxConnections},
		{"--size", o.SizeBytes, stampBytes, maxBodyBytes},
		{"--window", o.Window, 0, maxWindow},
		{"--inflight", o.Inflight, 0, maxWindow},
		{"--prefetch", o.Prefetch, 0, maxWindow},
		{"--connections", o.Connections, 1, maxConnections},
		{"--dialers", o.Dialers, 1, 10_000},
		{"--procs", o.Cores, 1, 1 << 16},
	} {
		if f.n < f.low || f.n > f.top {
			return fmt.Errorf("%s %d is out of range: give %d to %d", f.flag, f.n, f.low, f.top)
		}
	}
	for _, pid := range o.BrokerPIDs {
		if pid < 1 {
			return fmt.Errorf("--pid %d is no process id", pid)
		}
	}
	return nil
}

func (o *Options) validateLoad() error {
	const maxRate = 1e9
	switch {
	case !(o.RatePerSecond >= 0 && o.RatePerSecond <= maxRate): // also refuses NaN
		return fmt.Errorf("--rate %g is out of range: give 0 (unpaced) to %g messages a second", o.RatePerSecond, maxRate)
	case o.Count < 0:
		return fmt.Errorf("--count %d is negative: give 0 for a timed run", o.Count)
	case o.Scenario == Backlog && o.Count == 0:
		return fmt.Errorf("backlog needs --count: how many messages to fill the queue with")
	case o.Scenario == Backlog && o.Inflight > 0:
		return fmt.Errorf("--inflight cannot limit backlog, which fills the queue while nothing is delivered: use --window")
	case o.Timed > o.Subscribers:
		return fmt.Errorf("--timed %d is more than --subscribers %d", o.Timed, o.Subscribers)
	case o.Timed > 0 && (o.Scenario != Topic || o.Count > 0 || o.Inflight > 0 || o.RatePerSecond == 0):
		return fmt.Errorf("--timed is for topics with a --rate, for a time: who reads once a second holds up all else")
	case o.Destinations > 1 && o.Destination != "" && !strings.Contains(o.Destination, "%d"):
		return fmt.Errorf("--dests %d needs %%d in --destination %q, or all of them are one", o.Destinations, o.Destination)
	case o.Scenario != Conns && (o.Subscribers < o.Destinations || o.Publishers < o.Destinations):
		return fmt.Errorf("--dests %d needs as many publishers and subscribers, or some would serve nobody", o.Destinations)
	case o.Scenario != Conns && o.Count == 0 && o.Duration <= 0:
		return fmt.Errorf("a timed run needs --duration above 0; or give --count")
	case o.Warmup < 0 || o.Duration < 0 || o.Heartbeat < 0:
		return fmt.Errorf("--warmup, --duration and --heartbeat must not be negative")
	case o.Heartbeat > 0 && o.Heartbeat < time.Millisecond:
		return fmt.Errorf("--heartbeat %v is under a millisecond, the unit of heart-beats", o.Heartbeat)
	case o.Drain <= 0 || o.Timeout <= 0:
		return fmt.Errorf("--drain and --timeout must be above 0")
	}
	return nil
}

func (o *Options) validateHeaders() error {
	switch o.Ack {
	case "", "auto", "client", "client-individual":
	default:
		return fmt.Errorf("--ack %q: choose auto, client-individual or client", o.Ack)
	}
	for _, h := range append(append([]string(nil), o.SendHeaders...), o.SubscribeHeaders...) {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" || strings.ContainsAny(h, "\r\n\x00") {
			return fmt.Errorf("header %q: write name:value without line ends", h)
		}
	}
	return nil
}
