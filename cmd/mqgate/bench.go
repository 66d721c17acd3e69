package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/mqgate/mqgate/bench"
)

// BenchCmd is the verb bench: a load generator that also checks what arrives.
//
// Exit status: 0 when everything sent was delivered exactly as it should be, 3 when something was lost, duplicated without
// the redelivered mark, out of order, refused or otherwise wrong, 1 when the run could not be made.
type BenchCmd struct {
	Scenario string `arg:"" optional:"" enum:"queue,topic,backlog,conns" default:"queue" help:"queue (competing consumers), topic (fan-out), backlog (fill --count, then drain) or conns (idle connections)."`

	Proto    string `enum:"stomp,mqtt,mqtt5,json" default:"stomp" help:"Protocol: stomp, mqtt (3.1.1), mqtt5, or json (mqgate.json.v1 over WebSocket)."`
	SubProto string `enum:"stomp,mqtt,mqtt5,json," default:"" help:"Protocol of the subscribers, if it is another."`

	Addr        []string `placeholder:"ADDRESS" help:"Where the broker listens: HOST:PORT, ws://HOST:PORT/PATH or wss://… (default: the protocol's port on 127.0.0.1); several spread the connections over nodes."`
	SubAddr     []string `placeholder:"ADDRESS" help:"The same for subscribers, if it is another."`
	WS          bool     `name:"ws" help:"Carry the protocol over WebSocket; the default address is port 8080 then."`
	Source      []string `placeholder:"IP" help:"Local addresses to connect from, in turn."`
	TLS         bool     `name:"tls" help:"Speak TLS."`
	TLSCA       string   `name:"tls-ca" type:"existingfile" placeholder:"FILE" help:"Certificates (PEM) to trust instead of the system's."`
	TLSInsecure bool     `name:"tls-insecure" help:"Do not verify the broker's certificate. For tests only."`
	User        string   `short:"u" help:"User name."`
	Password    string   `env:"MQBENCH_PASSWORD" help:"Password; better in the environment, where the process list does not show it."`
	Host        string   `default:"/" help:"Virtual host."`

	Publishers  int    `short:"p" default:"1" help:"Publishers, each a connection."`
	Subscribers int    `short:"s" default:"1" help:"Subscribers, each a connection."`
	Timed       int    `default:"0" help:"Subscribers of a paced topic whose latency is taken; the others read once a second what has come, and check it. For rooms of thousands beside the broker (default: all)."`
	Destination string `placeholder:"PATTERN" help:"Where to send; %r becomes the run's id, %d the destination's number (default: /queue/bench.%r.%d or /topic/bench.%r.%d, and what MQTT calls the same)."`
	SubDest     string `placeholder:"PATTERN" help:"How subscribers name it, where they speak another protocol."`
	Dests       int    `default:"1" help:"Destinations to spread publishers and subscribers over."`
	Size        int    `default:"256" placeholder:"BYTES" help:"Body size, at least 40 (default ${default})."`

	Window   int           `default:"100" help:"Unconfirmed messages per publisher: STOMP receipts, MQTT QoS 1 and 2, JSON replies; 0 asks for none."`
	Inflight int           `default:"0" help:"Messages of a publisher on their way to its subscribers, end to end; 0 sets no limit."`
	Rate     float64       `default:"0" placeholder:"PER-SECOND" help:"Messages a second of all publishers together, latency counted from when each was due; 0 sends as fast as the window allows."`
	Count    int64         `default:"0" help:"Send this many messages instead of for a time (backlog: 100000)."`
	Warmup   time.Duration `default:"3s" help:"Time before the measured window."`
	Duration time.Duration `default:"10s" help:"The measured window; conns: how long to hold."`
	Drain    time.Duration `default:"5s" help:"Give up on what is missing after this long without any."`
	Timeout  time.Duration `default:"10s" help:"Limit for connecting, subscribing and closing."`

	Ack             string   `enum:"auto,client-individual,client," default:"" help:"How subscribers acknowledge: auto, client-individual or client (default: auto for topic, else client-individual)."`
	Prefetch        int      `default:"0" help:"Unacknowledged messages a subscriber asks for; 0 leaves it to the broker."`
	QoS             int      `name:"qos" default:"0" help:"MQTT: quality of service of publishers and subscribers, 0 to 2."`
	Durable         bool     `help:"MQTT: sessions that outlive their connections. They are ended with the run."`
	Persistent      bool     `help:"STOMP and JSON: mark messages persistent."`
	SendHeader      []string `sep:"none" placeholder:"NAME:VALUE" help:"Additional header of every message, or user property of MQTT 5 (repeatable)."`
	SubscribeHeader []string `sep:"none" placeholder:"NAME:VALUE" help:"Additional header of every subscription (repeatable)."`

	Connections int           `short:"c" default:"1000" help:"conns: connections to open."`
	Dialers     int           `default:"64" help:"conns: how many to open at a time."`
	Heartbeat   time.Duration `default:"0s" help:"conns: heart-beats to offer and keep (MQTT: keep alive, in whole seconds)."`

	PID    []int  `name:"pid" help:"Broker process; report its CPU per delivered message and memory, with its descendants'."`
	Procs  int    `default:"1" help:"Cores the generator may use."`
	Output string `short:"o" enum:"table,json" default:"table" help:"table, or json: one line on stdout, the table on stderr."`
}

// Run makes the run, prints its report and fails if something was not delivered as it should be.
func (c *BenchCmd) Run() error {
	options, err := c.options()
	if err != nil {
		return err
	}
	// One core by default: on a small machine the generator takes from the broker what it uses, and idle cores of a Go
	// program look for work, which costs more than it brings here. A larger heap between collections serves the same end.
	runtime.GOMAXPROCS(c.Procs)
	debug.SetGCPercent(400)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process without a report
	report, err := bench.Run(ctx, options)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := c.print(report); err != nil {
		return fmt.Errorf("bench: print the report: %w", err)
	}
	if faults := report.Faults(); len(faults) > 0 {
		return benchFaults(faults)
	}
	return nil
}

func (c *BenchCmd) print(report *bench.Report) error {
	if c.Output != "json" {
		return report.WriteTable(os.Stdout)
	}
	if err := report.WriteTable(os.Stderr); err != nil {
		return err
	}
	return report.WriteJSON(os.Stdout)
}

func (c *BenchCmd) options() (bench.Options, error) {
	const backlogCount = 100_000
	secure, err := c.secure()
	if err != nil {
		return bench.Options{}, err
	}
	count := c.Count
	if c.Scenario == string(bench.Backlog) && count == 0 {
		count = backlogCount
	}
	return bench.Options{
		Scenario: bench.Scenario(c.Scenario), Protocol: c.Proto, SubscriberProtocol: c.SubProto,
		Addresses: c.addresses(c.Addr, c.Proto), SubscriberAddresses: c.subscriberAddresses(), WebSocket: c.WS, Sources: c.Source, TLS: secure,
		User: c.User, Password: c.Password, Host: c.Host,
		Destination: c.Destination, SubscriberDestination: c.SubDest, Destinations: c.Dests, Publishers: c.Publishers, Subscribers: c.Subscribers, Timed: c.Timed, SizeBytes: c.Size,
		Window: c.Window, Inflight: c.Inflight, RatePerSecond: c.Rate, Count: count,
		Warmup: c.Warmup, Duration: c.Duration, Drain: c.Drain, Timeout: c.Timeout,
		QoS: c.QoS, Durable: c.Durable, Persistent: c.Persistent, Ack: c.Ack, Prefetch: c.Prefetch, SendHeaders: c.SendHeader, SubscribeHeaders: c.SubscribeHeader,
		Connections: c.Connections, Dialers: c.Dialers, Heartbeat: c.Heartbeat, BrokerPIDs: c.PID, Cores: c.Procs,
	}, nil
}

// defaultPorts are the gateway's own.
var defaultPorts = map[string]string{bench.STOMP: "61613", bench.MQTT: "1883", bench.MQTT5: "1883", bench.JSON: "8080"}

// addresses are those that were given, or the default for a protocol.
func (c *BenchCmd) addresses(given []string, protocol string) []string {
	const loopback = "127.0.0.1:"
	switch {
	case len(given) > 0:
		return given
	case c.WS || protocol == bench.JSON:
		return []string{"ws://" + loopback + defaultPorts[bench.JSON]}
	}
	return []string{loopback + defaultPorts[protocol]}
}

// subscriberAddresses are none where they are the same as the publishers'.
func (c *BenchCmd) subscriberAddresses() []string {
	if len(c.SubAddr) > 0 || c.SubProto == "" || c.SubProto == c.Proto || len(c.Addr) > 0 && c.WS {
		return c.SubAddr
	}
	return c.addresses(nil, c.SubProto)
}

// secure is the TLS configuration asked for, nil for none.
func (c *BenchCmd) secure() (*tls.Config, error) {
	secure := c.TLS
	for _, a := range append(append([]string(nil), c.Addr...), c.SubAddr...) {
		secure = secure || strings.HasPrefix(a, "wss://")
	}
	if !secure {
		if c.TLSCA != "" || c.TLSInsecure {
			return nil, fmt.Errorf("--tls-ca and --tls-insecure need --tls or a wss:// address")
		}
		return nil, nil
	}
	config, err := trusting(c.TLSCA)
	if err == nil {
		config.InsecureSkipVerify = c.TLSInsecure
	}
	return config, err
}

// trusting is TLS with a peer whose certificate one of those in a file signed, or without a file one of the system's.
func trusting(file string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return config, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-ca %s holds no certificate in PEM form", file)
	}
	return config, nil
}

// benchFaults is a run that worked and found something wrong. The report has said it in full.
type benchFaults []string

func (f benchFaults) Error() string { return "not delivered as sent: " + strings.Join(f, ", ") }

// ExitCode tells it apart from a run that could not be made.
func (f benchFaults) ExitCode() int { return 3 }
