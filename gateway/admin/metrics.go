package admin

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mqgate/mqgate/router"
)

// maxQueueSeries bounds the queues that /metrics lists: the deepest ones.
const maxQueueSeries = 100

var (
	connectionsDesc  = prometheus.NewDesc("mqgate_connections", "Open client connections.", []string{"protocol"}, nil)
	publishedDesc    = prometheus.NewDesc("mqgate_messages_published_total", "Messages accepted from publishers.", nil, nil)
	refusedDesc      = prometheus.NewDesc("mqgate_messages_refused_total", "Publishes answered with an error.", nil, nil)
	deliveredDesc    = prometheus.NewDesc("mqgate_messages_delivered_total", "Messages handed to clients' connections.", nil, nil)
	redeliveredDesc  = prometheus.NewDesc("mqgate_messages_redelivered_total", "Deliveries that were marked redelivered.", nil, nil)
	settledDesc      = prometheus.NewDesc("mqgate_messages_settled_total", "Messages acknowledged by consumers.", nil, nil)
	deadLetteredDesc = prometheus.NewDesc("mqgate_messages_dead_lettered_total", "Messages stored in a dead-letter queue.", nil, nil)
	damagedDesc      = prometheus.NewDesc("mqgate_messages_damaged_total", "Stored messages that could not be read back.", nil, nil)
	droppedDesc      = prometheus.NewDesc("mqgate_messages_dropped_total", "Messages dropped, by reason.", []string{"reason"}, nil)
	readyDesc        = prometheus.NewDesc("mqgate_queue_ready", "Messages that wait for a consumer; the deepest queues only.", []string{"vhost", "queue"}, nil)
	unackedDesc      = prometheus.NewDesc("mqgate_queue_unacked", "Messages that consumers hold; the deepest queues only.", []string{"vhost", "queue"}, nil)
	consumersDesc    = prometheus.NewDesc("mqgate_queue_consumers", "Consumers; the deepest queues only.", []string{"vhost", "queue"}, nil)
	queuesDesc       = prometheus.NewDesc("mqgate_queues", "Queues that exist.", nil, nil)
	storeUsedDesc    = prometheus.NewDesc("mqgate_store_used_bytes", "Bytes that the store takes.", nil, nil)
	storeLimitDesc   = prometheus.NewDesc("mqgate_store_limit_bytes", "Bytes that the store may take.", nil, nil)
	expiredDesc      = prometheus.NewDesc("mqgate_sessions_expired_total", "Durable sessions that ended since their client stayed away.", nil, nil)
	eventsDesc       = prometheus.NewDesc("mqgate_connection_events_total", eventsHelp, []string{"protocol", "event"}, nil)
	sitesDesc        = prometheus.NewDesc("mqgate_federation_links", "Links with other sites that are up; on the node that has them.", nil, nil)
	crossedDesc      = prometheus.NewDesc("mqgate_federation_messages_total", "Messages that crossed between sites, or did not.", []string{"event"}, nil)
	buildDesc        = prometheus.NewDesc("mqgate_build_info", "1, with the version.", []string{"version", "go"}, nil)
)

// eventsHelp says what the events are that have no plain name.
const eventsHelp = "What happened to connections and requests; ws is WebSocket and plain HTTP. " +
	"over_limit: no place was left; accept_error: of the listening socket; no_proxy_header: not from a trusted balancer; " +
	"silent_closed: missed heart-beats, keep alive or pings; slow_closed: did not read; " +
	"error: a mistake after which the connection goes on; panic: a fault of the gateway's own."

// collector reads the router's counters when it is scraped.
type collector struct{ h *handler }

// Describe leaves the metrics unchecked: Collect makes them.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the current values.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	m := sink(ch)
	core := c.core()
	c.messages(m, core)
	c.connections(m)
	c.federation(m)
	used, limit := c.h.Usage()
	m.gauge(storeUsedDesc, float64(used))
	m.gauge(storeLimitDesc, float64(limit))
	m.gauge(buildDesc, 1, c.h.Version, runtime.Version())
	if core != nil { // else the queues are another node's to tell of
		queues(m, core)
	}
}

// sink takes the values of one scrape.
type sink chan<- prometheus.Metric

func (s sink) counter(d *prometheus.Desc, v uint64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// messages sends the counters of messages. In a cluster what is stored is counted where the queues are kept, and the rest where
// the clients are.
func (c collector) messages(m sink, core *router.Router) {
	s := &c.h.Router.Stats
	m.counter(publishedDesc, s.Published.Load())
	m.counter(refusedDesc, s.Refused.Load())
	m.counter(deliveredDesc, s.Delivered.Load())
	all := []*router.Router{c.h.Router}
	if core != nil && core != c.h.Router {
		all = append(all, core)
	}
	var redelivered, settled, deadLettered, damaged, expired uint64
	dropped := map[string]uint64{}
	for _, r := range all {
		redelivered += r.Stats.Redelivered.Load()
		settled += r.Stats.Settled.Load()
		deadLettered += r.Stats.DeadLettered.Load()
		damaged += r.Stats.Damaged.Load()
		expired += r.Stats.SessionsExpired.Load()
		for reason, n := range r.Dropped() {
			dropped[reason] += n
		}
	}
	m.counter(redeliveredDesc, redelivered)
	m.counter(settledDesc, settled)
	m.counter(deadLetteredDesc, deadLettered)
	m.counter(damagedDesc, damaged)
	m.counter(expiredDesc, expired)
	for reason, n := range dropped {
		m.counter(droppedDesc, n, reason)
	}
}

func (c collector) connections(m sink) {
	for protocol, n := range c.h.Connections() {
		m.gauge(connectionsDesc, float64(n), protocol)
	}
	if c.h.Events == nil {
		return
	}
	for protocol, events := range c.h.Events() {
		for event, n := range events {
			m.counter(eventsDesc, n, protocol, event)
		}
	}
}

func (c collector) federation(m sink) {
	if c.h.Federation == nil {
		return
	}
	links, events := c.h.Federation()
	if events == nil {
		return
	}
	m.gauge(sitesDesc, float64(links))
	for event, n := range events {
		m.counter(crossedDesc, n, event)
	}
}

// queues sends the gauges of the deepest queues.
func queues(m sink, core *router.Router) {
	m.gauge(queuesDesc, float64(core.Queues()))
	for _, q := range core.Deepest(maxQueueSeries) {
		m.gauge(readyDesc, float64(q.Ready), q.Vhost, q.Name)
		m.gauge(unackedDesc, float64(q.Unacked), q.Vhost, q.Name)
		m.gauge(consumersDesc, float64(q.Consumers), q.Vhost, q.Name)
	}
}

func (c collector) core() *router.Router {
	if c.h.Core == nil {
		return c.h.Router
	}
	return c.h.Core()
}

func (h *handler) metrics(w http.ResponseWriter, r *http.Request) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{h}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
