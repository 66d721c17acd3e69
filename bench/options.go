package bench

import (
	"crypto/tls"
	"fmt"
	"net"
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

// Options says what to run. They are taken literally: zero is zero, not a default, except where a field says so.
type Options struct {
	Scenario Scenario
	// Addresses are the broker's host:port; several spread the connections over nodes in turn.
	Addresses []string
	// Sources are local IP addresses to connect from, in turn; none leaves it to the system. Conns against 127.0.0.1
	// spreads itself when there are none.
	Sources []string
	// TLS, when not nil, is how to speak to the broker; an empty ServerName becomes the address's host.
	TLS *tls.Config
	// User and Password log in; both empty means no login headers. Host is the virtual host.
	User, Password, Host string

	// Destination is where to send, with %r for the run's id (which keeps runs apart) and %d for the destination's number.
	// Empty means the protocol's default for the scenario.
	Destination string
	// Destinations is over how many destinations publishers and subscribers are spread, 1 or more.
	Destinations int
	// Publishers and Subscribers are numbers of connections, 1 or more (conns ignores them).
	Publishers, Subscribers int
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

	// Persistent marks messages so.
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

// shared is true when subscribers of one destination share its messages.
func (o *Options) shared() bool { return o.Scenario != Topic }

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
	for _, check := range []func() error{o.validateNetwork, o.validateCounts, o.validateLoad, o.validateHeaders} {
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
	for _, a := range o.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("--addr %q: %w: give host:port", a, err)
		}
	}
	for _, s := range o.Sources {
		if net.ParseIP(s) == nil {
			return fmt.Errorf("--source %q is not an IP address", s)
		}
	}
	if strings.ContainsAny(o.User+o.Password+o.Host+o.Destination, "\r\n\x00") {
		return fmt.Errorf("--user, --password, --host and --destination must not contain line ends or NUL")
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
