package config

import (
	"time"
)

// Config is the whole configuration. The meaning, range and default of each key
// is in the text that Reference prints; the tags here are what decoding,
// validation and Reference share:
//
//	key       the name in YAML, and one part of the dotted key
//	min, max  the range, inclusive, in the unit of the type
//	oneof     the only values allowed
//	relative  "file": a relative path is taken from the directory of the file that holds it
//	secret    never printed
//	zero      what 0 means, when 0 is allowed below min
type Config struct {
	DataDir      string        `key:"data_dir"`
	NodeName     string        `key:"node_name"`
	DrainTimeout time.Duration `key:"drain_timeout" min:"0s" max:"10m"`
	Drain        Drain         `key:"drain"`
	Log          Log           `key:"log"`
	Stomp        Stomp         `key:"stomp"`
	Mqtt         Mqtt          `key:"mqtt"`
	HTTP         HTTP          `key:"http"`
	Admin        Admin         `key:"admin"`
	Storage      Storage       `key:"storage"`
	Cluster      Cluster       `key:"cluster"`
	Nats         Nats          `key:"nats"`
	Federation   Federation    `key:"federation"`
	Queues       Queues        `key:"queues"`
	Topics       Topics        `key:"topics"`
	Limits       Limits        `key:"limits"`
	Users        []User        `key:"users"`
	UsersFile    string        `key:"users_file" relative:"file"`
	Tokens       Tokens        `key:"tokens"`
	Anonymous    Anonymous     `key:"anonymous"`
}

// Drain says how clients are sent away before the process ends.
type Drain struct {
	Grace  time.Duration `key:"grace" min:"0s" max:"5m"`
	Spread time.Duration `key:"spread" min:"0s" max:"10m"`
}

// Log says what is logged and how.
type Log struct {
	Format string `key:"format" oneof:"text,json"`
	Level  string `key:"level" oneof:"debug,info,warn,error"`
}

// The dialects of STOMP that a listener can speak.
const (
	DialectActiveMQ = "activemq"
	DialectRabbitMQ = "rabbitmq"
)

// Stomp configures the STOMP front-end.
type Stomp struct {
	Listen          string     `key:"listen"`
	Dialect         string     `key:"dialect" oneof:"activemq,rabbitmq"`
	TLS             TLS        `key:"tls"`
	ProxyProtocol   []string   `key:"proxy_protocol"`
	Listeners       []Listener `key:"listeners"`
	DefaultPrefetch int        `key:"default_prefetch" min:"1" max:"65535"`
	Heartbeat       Heartbeat  `key:"heartbeat"`
}

// Open returns the listeners that are to be opened: the main one first, then
// the extra ones in their order, without those whose address is empty.
func (s Stomp) Open() []Listener {
	all := append([]Listener{{Listen: s.Listen, Dialect: s.Dialect, TLS: s.TLS, ProxyProtocol: s.ProxyProtocol}}, s.Listeners...)
	open := all[:0]
	for _, l := range all {
		if l.Listen != "" {
			open = append(open, l)
		}
	}
	return open
}

// Listener is one port of a front-end.
type Listener struct {
	Listen  string `key:"listen"`
	Dialect string `key:"dialect" oneof:"activemq,rabbitmq"`
	TLS     TLS    `key:"tls"`
	// ProxyProtocol is as Stomp.ProxyProtocol.
	ProxyProtocol []string `key:"proxy_protocol"`
}

// TLS names the files of a TLS listener. The zero TLS is a plain listener.
type TLS struct {
	CertFile     string `key:"cert_file" relative:"file"`
	KeyFile      string `key:"key_file" relative:"file"`
	ClientCAFile string `key:"client_ca_file" relative:"file"`
}

// Enabled reports whether the listener speaks TLS.
func (t TLS) Enabled() bool { return t.CertFile != "" }

// Heartbeat bounds what STOMP clients may agree on.
type Heartbeat struct {
	SendMin      time.Duration `key:"send_min" min:"100ms" max:"10m"`
	ReceiveMin   time.Duration `key:"receive_min" min:"100ms" max:"10m"`
	GracePercent int           `key:"grace_percent" min:"100" max:"1000"`
}

// Mqtt configures the MQTT front-end.
type Mqtt struct {
	Listen           string        `key:"listen"`
	TLS              TLS           `key:"tls"`
	ProxyProtocol    []string      `key:"proxy_protocol"`
	MaxSessionExpiry time.Duration `key:"max_session_expiry" min:"1s" max:"365d"`
	MaxInflight      int           `key:"max_inflight" min:"1" max:"65535"`
	OfflineMessages  int           `key:"offline_messages" min:"1" max:"10000000"`
	OfflineBytes     Bytes         `key:"offline_bytes" min:"1KiB"`
}

// HTTP configures the listener for browsers: WebSocket, the HTTP interface and the chat.
type HTTP struct {
	Listen            string        `key:"listen"`
	TLS               TLS           `key:"tls"`
	ProxyProtocol     []string      `key:"proxy_protocol"`
	Listeners         []WebListener `key:"listeners"`
	Origins           []string      `key:"origins"`
	MessageBytes      Bytes         `key:"message_bytes" min:"8KiB" max:"56MiB"`
	RequestsPerSecond int           `key:"requests_per_second" min:"1" max:"1000000"`
	OverRate          string        `key:"over_rate" oneof:"slow,close"`
	PingInterval      time.Duration `key:"ping_interval" min:"1s" max:"10m"`
	Compression       bool          `key:"compression"`
	Lease             time.Duration `key:"lease" min:"1s" max:"1h"`
}

// What clients get that ask for more than http.requests_per_second.
const (
	OverRateSlow  = "slow"
	OverRateClose = "close"
)

// What a listener for WebSocket alone carries.
const (
	CarriesSTOMP = "stomp"
	CarriesMQTT  = "mqtt"
)

// WebListener is one more port for WebSocket, of one protocol whatever the path,
// as other brokers have it.
type WebListener struct {
	Listen        string   `key:"listen"`
	Carries       string   `key:"carries" oneof:"stomp,mqtt"`
	Dialect       string   `key:"dialect" oneof:"activemq,rabbitmq"`
	TLS           TLS      `key:"tls"`
	ProxyProtocol []string `key:"proxy_protocol"`
}

// TopicRule has the topics that match a pattern keep a history.
type TopicRule struct {
	Pattern    string        `key:"pattern"`
	History    int           `key:"history" min:"1" max:"100000"`
	HistoryAge time.Duration `key:"history_age" min:"1s" zero:"no limit"`
}

// Topics are the rules for topics; the first that matches counts.
type Topics []TopicRule

// Admin configures the local HTTP endpoint for health, metrics and the
// operator's verbs.
type Admin struct {
	Listen string `key:"listen"`
	TLS    TLS    `key:"tls"`
}

// What a store does when it finds its own files damaged.
const (
	OnDamageRefuse   = "refuse"
	OnDamageContinue = "continue"
)

// Storage configures the embedded store.
type Storage struct {
	Sync         Sync   `key:"sync"`
	MaxBytes     Bytes  `key:"max_bytes" min:"64MiB" zero:"what is used, and 80% of what is free at start"`
	MinFreeBytes Bytes  `key:"min_free_bytes" min:"0"`
	OnDamage     string `key:"on_damage" oneof:"refuse,continue"`
}

// Limits bounds what clients may ask for.
type Limits struct {
	Connections                int           `key:"connections" min:"1" max:"1000000"`
	ConnectionsPerUser         int           `key:"connections_per_user" min:"1" max:"1000000" zero:"no limit besides limits.connections"`
	FrameBytes                 Bytes         `key:"frame_bytes" min:"1KiB" max:"56MiB"`
	HeaderBytes                Bytes         `key:"header_bytes" min:"1KiB" max:"1MiB"`
	Headers                    int           `key:"headers" min:"16" max:"10000"`
	LoginTimeout               time.Duration `key:"login_timeout" min:"100ms" max:"5m"`
	OutboundBytes              Bytes         `key:"outbound_bytes" min:"64KiB" max:"1GiB"`
	UnconfirmedMessages        int           `key:"unconfirmed_messages" min:"1" max:"1000000"`
	TransactionMessages        int           `key:"transaction_messages" min:"1" max:"1000"`
	TransactionBytes           Bytes         `key:"transaction_bytes" min:"1KiB" max:"56MiB"`
	Queues                     int           `key:"queues" min:"1" max:"1000000"`
	SubscriptionsPerConnection int           `key:"subscriptions_per_connection" min:"1" max:"100000"`
}

// User is one account.
type User struct {
	Name         string   `key:"name"`
	PasswordHash string   `key:"password_hash" secret:"true"`
	PasswordFile string   `key:"password_file" relative:"file"`
	CertNames    []string `key:"cert_names"`
	Allow        Allow    `key:"allow"`
	Admin        bool     `key:"admin"`
}

// Allow lists destination patterns by what may be done there. An empty list
// allows nothing.
type Allow struct {
	Read    []string `key:"read"`
	Write   []string `key:"write"`
	Consume []string `key:"consume"`
}

// Tokens are logins that a web application signs for its visitors.
type Tokens struct {
	SecretFile string `key:"secret_file" relative:"file"`
	As         string `key:"as"`
}

// Whether clients without a login are let in.
const (
	AnonymousAuto = "auto"
	AnonymousYes  = "true"
	AnonymousNo   = "false"
)

// Anonymous says what clients without a login may do.
type Anonymous struct {
	Allow   string   `key:"allow" oneof:"auto,true,false"`
	Read    []string `key:"read"`
	Write   []string `key:"write"`
	Consume []string `key:"consume"`
	Admin   bool     `key:"admin"`
}

// AnonymousAllowed reports whether clients without a login are let in: as
// anonymous.allow says, where "auto" means yes while there are no users and
// every listener is on the loopback interface.
func (c *Config) AnonymousAllowed() bool {
	switch c.Anonymous.Allow {
	case AnonymousYes:
		return true
	case AnonymousAuto:
		return len(c.Users) == 0 && len(c.exposed()) == 0
	}
	return false
}

// Default returns the configuration of an empty file. NodeName is empty there;
// Load fills in the host name.
func Default() *Config {
	everything := func() []string { return []string{">"} }
	return &Config{
		DataDir:      "./mqgate-data",
		DrainTimeout: 20 * time.Second,
		Drain:        Drain{Spread: 10 * time.Second},
		Log:          Log{Format: "text", Level: "info"},
		Stomp: Stomp{
			Listen:          "127.0.0.1:61613",
			Dialect:         DialectActiveMQ,
			DefaultPrefetch: 1,
			Heartbeat:       Heartbeat{SendMin: time.Second, ReceiveMin: time.Second, GracePercent: 200},
		},
		Mqtt: Mqtt{
			Listen: "127.0.0.1:1883", MaxSessionExpiry: 7 * 24 * time.Hour, MaxInflight: 256,
			OfflineMessages: 100_000, OfflineBytes: 64 * MiB,
		},
		HTTP: HTTP{
			Listen: "127.0.0.1:8080", MessageBytes: 2 * MiB, RequestsPerSecond: 1000, OverRate: OverRateSlow,
			PingInterval: 25 * time.Second, Lease: time.Minute,
		},
		Admin: Admin{Listen: "127.0.0.1:9090"},
		Storage: Storage{
			Sync:         SyncAlways(),
			MinFreeBytes: GiB,
			OnDamage:     OnDamageRefuse,
		},
		Cluster: Cluster{Storage: true},
		Limits: Limits{
			Connections:                10_000,
			FrameBytes:                 16 * MiB,
			HeaderBytes:                64 * KiB,
			Headers:                    1000,
			LoginTimeout:               10 * time.Second,
			OutboundBytes:              4 * MiB,
			UnconfirmedMessages:        4096,
			TransactionMessages:        1000,
			TransactionBytes:           16 * MiB,
			Queues:                     2000,
			SubscriptionsPerConnection: 1000,
		},
		Anonymous: Anonymous{
			Allow: AnonymousAuto,
			Read:  everything(), Write: everything(), Consume: everything(),
			Admin: true,
		},
	}
}
