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
	webSocketDesc    = prometheus.NewDesc("mqgate_websocket_events_total", "What happened to WebSocket connections and HTTP requests.", []string{"event"}, nil)
	sitesDesc        = prometheus.NewDesc("mqgate_federation_links", "Links with other sites that are up; on the node that has them.", nil, nil)
	crossedDesc      = prometheus.NewDesc("mqgate_federation_messages_total", "Messages that crossed between sites, or did not.", []string{"event"}, nil)
	buildDesc        = prometheus.NewDesc("mqgate_build_info", "1, with the version.", []string{"version", "go"}, nil)
)

// collector reads the router's counters when it is scraped.
type collector struct{ h *handler }

// Describe leaves the metrics unchecked: Collect makes them.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the current values.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := &c.h.Router.Stats
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter(publishedDesc, s.Published.Load())
	counter(refusedDesc, s.Refused.Load())
	counter(deliveredDesc, s.Delivered.Load())
	// In a cluster the rest happens where the queues are kept: it counts there.
	core, all := c.core(), []*router.Stats{s}
	if core != nil && core != c.h.Router {
		all = append(all, &core.Stats)
	}
	var redelivered, settled, deadLettered, damaged uint64
	dropped := map[string]uint64{}
	for _, s := range all {
		redelivered += s.Redelivered.Load()
		settled += s.Settled.Load()
		deadLettered += s.DeadLettered.Load()
		damaged += s.Damaged.Load()
		for reason, n := range s.Dropped() {
			dropped[reason] += n
		}
	}
	counter(redeliveredDesc, redelivered)
	counter(settledDesc, settled)
	counter(deadLetteredDesc, deadLettered)
	counter(damagedDesc, damaged)
	if c.h.WebSocket != nil {
		for event, n := range c.h.WebSocket() {
			counter(webSocketDesc, n, event)
		}
	}
	if c.h.Federation != nil {
		if links, events := c.h.Federation(); events != nil {
			gauge(sitesDesc, float64(links))
			for event, n := range events {
				counter(crossedDesc, n, event)
			}
		}
	}
	for reason, n := range dropped {
		counter(droppedDesc, n, reason)
	}
	for protocol, n := range c.h.Connections() {
		gauge(connectionsDesc, float64(n), protocol)
	}
	used, limit := c.h.Usage()
	gauge(storeUsedDesc, float64(used))
	gauge(storeLimitDesc, float64(limit))
	gauge(buildDesc, 1, c.h.Version, runtime.Version())
	if core == nil {
		return // the queues are another node's to tell of
	}
	queues := core.Deepest(maxQueueSeries)
	gauge(queuesDesc, float64(core.Queues()))
	for _, q := range queues {
		gauge(readyDesc, float64(q.Ready), q.Vhost, q.Name)
		gauge(unackedDesc, float64(q.Unacked), q.Vhost, q.Name)
		gauge(consumersDesc, float64(q.Consumers), q.Vhost, q.Name)
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
