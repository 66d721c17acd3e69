// Package gateway builds everything from a configuration and runs it: the store,
// the router, the front-ends and their listeners, and the admin interface.
//
// It guarantees that errors of configuration, ports and storage surface in New,
// before anything is served; that what was started is stopped again, in reverse,
// if a later part fails; and that Run returns only when the store is closed. It
// never handles a message.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway/admin"
	"github.com/mqgate/mqgate/gateway/auth"
	"github.com/mqgate/mqgate/gateway/proxy"
	"github.com/mqgate/mqgate/mqtt"
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/stomp"
	"github.com/mqgate/mqgate/ws"
)

// Deps are what a gateway takes from its process.
type Deps struct {
	Log     *slog.Logger
	Version string
}

// Gateway is a broker that is ready to run.
type Gateway struct {
	cfg     *config.Config
	log     *slog.Logger
	version string
	started time.Time
	auth    *auth.Authority
	store   *jetstream.Store         // nil in a cluster: the leader opens it
	node    *jetstream.Node          // of the store
	member  *member                  // of a cluster; else nil
	link    atomic.Pointer[siteLink] // with other sites, where this node has them
	router  *router.Router
	stomp   *stomp.Server
	mqtt    *mqtt.Server
	ws      *ws.Server
	seats   *door.Seats // of all front-ends together

	listeners []listener
	proxied   []proxied
	webs      []webListener
	undo      []func() // in order of start; Close runs them backwards
	checks    []readyCheck
	peers     *peers // nil on a single node
	told      systemTold
	fronts    atomic.Bool // the front-ends are there: other nodes may ask before
	serving   atomic.Bool
	closing   sync.Once

	drainAsked chan struct{} // closed by Drain
	askDrain   sync.Once
}

// listener is a bound port of a front-end that serves connections.
type listener struct {
	net.Listener
	name  string
	serve func(context.Context, net.Listener) error
}

// proxied is what stands before a listener's own connections where load balancers make them.
type proxied struct {
	*proxy.Listener
	protocol string
}

// webListener is a bound port, or the socket in the data directory, that serves
// HTTP until everything else has ended.
type webListener struct {
	net.Listener
	name    string
	handler http.Handler
}

// startTimeout bounds the recovery of the store.
const startTimeout = 10 * time.Minute

// New locks the data directory, opens the store and binds every listener.
func New(cfg *config.Config, deps Deps) (_ *Gateway, err error) {
	g := &Gateway{cfg: cfg, log: deps.Log, version: deps.Version, drainAsked: make(chan struct{}), started: time.Now()}
	g.checks = g.ownChecks()
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	if g.auth, err = auth.New(auth.OptionsFrom(cfg)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := g.openStore(ctx); err != nil {
		return nil, err
	}
	if err := g.makeFrontEnds(); err != nil {
		return nil, err
	}
	return g, g.listen()
}

// frontEnd is what all of them have.
type frontEnd interface {
	Drain(context.Context) error
	Shed(n int) int
	Connections() int
}

func (g *Gateway) frontEnds() map[string]frontEnd {
	return map[string]frontEnd{"stomp": g.stomp, "mqtt": g.mqtt, "ws": g.ws}
}

func (g *Gateway) makeFrontEnds() error {
	var err error
	g.seats = door.NewSeats(g.cfg.Limits.Connections, g.cfg.Limits.ConnectionsPerUser)
	if g.stomp, err = stomp.New(g.stompOptions()); err != nil {
		return err
	}
	if g.mqtt, err = mqtt.New(g.mqttOptions()); err != nil {
		return err
	}
	dialect, err := stomp.ParseDialect(g.cfg.Stomp.Dialect)
	if err != nil {
		return err
	}
	if g.ws, err = ws.New(g.wsOptions(dialect)); err != nil {
		return err
	}
	g.fronts.Store(true)
	g.undo = append(g.undo, g.drain) // what drained before has nothing to do
	g.router.Tell(systemEvery, g.systemValues)
	return nil
}

// acceptsDamage reports whether a store that lost confirmed messages is started. With lazy syncing a power cut loses the last moments by
// choice: that is reported, and no reason not to start. A NATS elsewhere syncs as it is told, and not by ours.
func acceptsDamage(c *config.Config) bool {
	lazy := !c.Storage.Sync.Always() && c.Nats.URL == ""
	return lazy || c.Storage.OnDamage == config.OnDamageContinue
}

func (g *Gateway) openStore(ctx context.Context) error {
	c := g.cfg.Storage
	limit, err := g.maxStoreBytes()
	if err != nil {
		return err
	}
	history, err := g.historyRules()
	if err != nil {
		return err
	}
	so := jetstream.Options{
		Dir: g.cfg.DataDir, NodeName: g.cfg.NodeName, SyncAlways: c.Sync.Always(), SyncInterval: c.Sync.Interval,
		MaxBytes: limit, MinFreeBytes: int64(c.MinFreeBytes), Log: g.log,
	}
	ro := router.Options{
		Authorize: g.auth, Log: g.log, QueuePolicy: g.queuePolicy,
		AcceptDamage: acceptsDamage(g.cfg),
		MaxQueues:    g.cfg.Limits.Queues, MaxTransactionMessages: g.cfg.Limits.TransactionMessages,
		MaxTransactionBytes: int(g.cfg.Limits.TransactionBytes), History: history,
		InboxPolicy: router.Policy{MaxLength: g.cfg.Mqtt.OfflineMessages, MaxBytes: int64(g.cfg.Mqtt.OfflineBytes)},
	}
	if g.cfg.Cluster.Enabled() || g.cfg.Nats.URL != "" {
		return g.joinCluster(so, ro)
	}
	if g.store, err = jetstream.Open(ctx, so); err != nil {
		return err
	}
	g.undo = append(g.undo, g.store.Close)
	g.node = g.store.Node()
	ro.Store = g.store
	if g.router, err = router.New(ctx, ro); err != nil {
		return err
	}
	g.undo = append(g.undo, g.closeRouter)
	stop, err := g.linkSites(ctx, g.router)
	if err != nil {
		return err
	}
	g.undo = append(g.undo, stop)
	return nil
}

func (g *Gateway) closeRouter() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := g.router.Close(ctx); err != nil {
		g.log.Error("not everything could be saved; a few messages may be delivered again after the next start, marked", "error", err)
	}
}

// maxStoreBytes is the limit of the configuration, or most of the free disk; 0 where a NATS elsewhere stores.
func (g *Gateway) maxStoreBytes() (int64, error) {
	if g.cfg.Nats.URL != "" {
		return 0, nil
	}
	if n := int64(g.cfg.Storage.MaxBytes); n > 0 {
		return n, nil
	}
	if err := os.MkdirAll(g.cfg.DataDir, 0o700); err != nil {
		return 0, fmt.Errorf("make data directory: %w", err)
	}
	free, err := jetstream.FreeBytes(g.cfg.DataDir)
	if err != nil {
		return 0, fmt.Errorf("tell the free space of the data directory (set storage.max_bytes): %w", err)
	}
	used, err := dirBytes(g.cfg.DataDir)
	if err != nil {
		return 0, fmt.Errorf("measure the data directory: %w", err)
	}
	return used + free/10*8, nil
}

// dirBytes is what the files below dir take.
func dirBytes(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

func (g *Gateway) queuePolicy(a router.Address) router.Policy {
	p := g.cfg.Queues.Policy(a.Name())
	return router.Policy{
		MaxLength: int(p.MaxLength), MaxBytes: int64(p.MaxBytes), Expiry: p.Expiry, MaxDeliveries: p.MaxDeliveries,
		DeadLetter: p.DeadLetterQueue(a.Name()), DropExpired: p.OnExpire == config.OnExpireDrop,
		RedeliveryDelay: p.RedeliveryDelay, RedeliveryMax: max(p.RedeliveryBackoffMax, p.RedeliveryDelay),
	}
}

func (g *Gateway) stompOptions() stomp.Options {
	c, l := g.cfg.Stomp, g.cfg.Limits
	o := stomp.Options{
		Router: g.router, Authenticate: g.auth, Log: g.log, Version: g.version,
		LoginTimeout: l.LoginTimeout, OutboundBytes: int(l.OutboundBytes),
		Seats: g.seats, MaxSubscriptions: l.SubscriptionsPerConnection,
		MaxUnconfirmed: l.UnconfirmedMessages, MaxUnconfirmedBytes: max(16<<20, int(l.FrameBytes)),
		MaxTransactionMessages: l.TransactionMessages, MaxTransactionBytes: int(l.TransactionBytes),
		DefaultPrefetch:  c.DefaultPrefetch,
		HeartbeatSendMin: c.Heartbeat.SendMin, HeartbeatReceiveMin: c.Heartbeat.ReceiveMin,
		HeartbeatGracePercent: c.Heartbeat.GracePercent,
	}
	o.Limits = stomp.FrameLimits(int(l.FrameBytes), int(l.HeaderBytes), l.Headers)
	return o
}

func (g *Gateway) mqttOptions() mqtt.Options {
	c, l := g.cfg.Mqtt, g.cfg.Limits
	return mqtt.Options{
		Router: g.router, Authenticate: g.auth, Log: g.log,
		MaxPacketBytes: int(l.FrameBytes), LoginTimeout: l.LoginTimeout, OutboundBytes: int(l.OutboundBytes),
		Seats: g.seats, MaxSubscriptions: l.SubscriptionsPerConnection,
		MaxUnconfirmedBytes: max(16<<20, int(l.FrameBytes)), MaxInflight: c.MaxInflight, MaxSessionExpiry: c.MaxSessionExpiry,
	}
}

func (g *Gateway) wsOptions(d stomp.Dialect) ws.Options {
	c, l := g.cfg.HTTP, g.cfg.Limits
	return ws.Options{
		Router: g.router, Authenticate: g.auth, Token: g.auth.Token, Log: g.log, Version: g.version, Origins: c.Origins,
		ServeSTOMP:      func(socket net.Conn) { g.stomp.ServeConn(socket, d) },
		ServeMQTT:       g.mqtt.ServeConn,
		MaxMessageBytes: int(c.MessageBytes), MaxFrameBytes: int(l.FrameBytes + l.HeaderBytes), Compression: c.Compression,
		Seats: g.seats, MaxSubscriptions: l.SubscriptionsPerConnection,
		LoginTimeout: l.LoginTimeout, PingInterval: c.PingInterval, OutboundBytes: int(l.OutboundBytes),
		RequestsPerSecond: c.RequestsPerSecond, CloseOverRate: c.OverRate == config.OverRateClose, Lease: c.Lease,
	}
}

// chatHistory is what rooms of the chat keep when no rules are set.
const chatHistory = 200

// historyRules returns which topics keep their last messages.
func (g *Gateway) historyRules() (func(router.Address) (int, time.Duration), error) {
	rules := g.cfg.Topics
	if len(rules) == 0 {
		for _, p := range []string{"chat.rooms.*", "chat.moderation.*", "chat.system.*"} {
			rules = append(rules, config.TopicRule{Pattern: p, History: chatHistory})
		}
	}
	filters := make([]router.Filter, len(rules))
	for i, r := range rules {
		var err error
		if filters[i], _, err = router.ParseFilter("", "/topic/"+r.Pattern); err != nil {
			return nil, fmt.Errorf("topics[%d].pattern: %w", i, err)
		}
	}
	return func(a router.Address) (int, time.Duration) {
		for i, f := range filters {
			if f.Matches(a) {
				return rules[i].History, rules[i].HistoryAge
			}
		}
		return 0, 0
	}, nil
}

// Run serves until ctx ends, Drain is called or a part fails, then drains and
// closes. It returns nil if no part failed.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.Close()
	life, stopWebs := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWebs()
	accepting, stopAccepting := context.WithCancel(life)
	defer stopAccepting()
	serve, failed := errgroup.WithContext(accepting)
	var webs errgroup.Group
	for _, l := range g.webs {
		webs.Go(func() error { return admin.Serve(life, l.Listener, l.handler) })
		g.announce(l.name, l.Addr())
	}
	for _, l := range g.listeners {
		serve.Go(func() error { return l.serve(failed, l.Listener) })
		g.announce(l.name, l.Addr())
	}
	g.serving.Store(true)
	g.log.Info("ready", "version", g.version, "data_dir", g.cfg.DataDir, "sync", g.cfg.Storage.Sync.String())
	g.notify("READY=1")
	select {
	case <-ctx.Done():
		g.Drain()
	case <-g.drainAsked:
	case <-failed.Done():
		g.Drain()
	}
	g.notify("STOPPING=1")
	g.grace(failed.Done())
	stopAccepting()
	g.ws.Stop()
	err := serve.Wait()
	g.shed()
	g.drain() // the admin interface still answers: not ready
	stopWebs()
	return errors.Join(err, webs.Wait())
}

func (g *Gateway) announce(name string, a net.Addr) {
	line := []any{"listener", name, "address", a.String()}
	switch name { // who starts a gateway for the first time has something to look at
	case "http":
		line = append(line, "chat", "http://"+a.String()+"/chat/")
	case "http (tls)":
		line = append(line, "chat", "https://"+a.String()+"/chat/")
	}
	g.log.Info("listening", line...)
}

// Close stops what New started, last first. It may be called more than once.
func (g *Gateway) Close() {
	g.closing.Do(func() {
		for _, l := range g.listeners {
			l.Close()
		}
		for i := len(g.undo) - 1; i >= 0; i-- {
			g.undo[i]()
		}
		g.log.Info("stopped")
	})
}

func (g *Gateway) adminHandler(trusted bool) http.Handler {
	o := g.adminOptions(g.router)
	if m := g.member; m != nil {
		o.Forward = g.router.Ask
		o.Core = func() *router.Router {
			core, _ := m.leading()
			return core
		}
	}
	return admin.Handler(o, trusted)
}

func (g *Gateway) adminOptions(r *router.Router) admin.Options {
	return admin.Options{
		Router: r, Auth: g.auth, Version: g.version, Log: g.log, Usage: g.node.Usage,
		Ready: g.ready, Connections: g.connections, Events: g.events, Federation: g.federation, Cluster: g.cluster, Drain: g.drainByOperator, Backup: g.backup,
	}
}

func (g *Gateway) connections() map[string]int {
	n := map[string]int{}
	if !g.fronts.Load() {
		return n
	}
	for name, f := range g.frontEnds() {
		n[name] = f.Connections()
	}
	return n
}

// events is what happened to connections, counted by protocol and event.
func (g *Gateway) events() map[string]map[string]uint64 {
	all := map[string]map[string]uint64{"stomp": g.stomp.Stats.Counts(), "mqtt": g.mqtt.Stats.Counts(), "ws": g.ws.Stats.Counts()}
	for _, p := range g.proxied {
		all[p.protocol]["no_proxy_header"] += p.Refused()
	}
	return all
}

// Addr returns the address of a listener by its name as the log has it, such as
// "stomp"; nil if there is none.
func (g *Gateway) Addr(name string) net.Addr {
	for _, l := range g.listeners {
		if l.name == name {
			return l.Addr()
		}
	}
	for _, l := range g.webs {
		if l.name == name {
			return l.Addr()
		}
	}
	return nil
}
