package gateway

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mqgate/mqgate/router"
)

const (
	// systemEvery is how often the gateway tells of itself to those who subscribe to "$SYS/…".
	systemEvery = 10 * time.Second
	// maxSystemQueues bounds the queues that it tells of: the deepest ones.
	maxSystemQueues = 1000
)

// systemValues are what this node tells of itself, under names that other MQTT servers use where there are such. What is
// stored belongs to the node that leads a cluster.
func (g *Gateway) systemValues() []router.SystemValue {
	var out []router.SystemValue
	add := func(topic, text string) {
		out = append(out, router.SystemValue{Topic: "$SYS/broker/" + topic, Text: text})
	}
	number := func(topic string, n uint64) { add(topic, strconv.FormatUint(n, 10)) }

	add("version", "mqgate version "+g.version)
	add("uptime", strconv.FormatInt(int64(time.Since(g.started)/time.Second), 10)+" seconds")
	connected := 0
	for protocol, n := range g.connections() {
		connected += n
		number("clients/"+protocol, uint64(n))
	}
	core := g.core()
	away := 0
	if core != nil {
		all, online := core.DurableSessions()
		away = all - online
	}
	number("clients/connected", uint64(connected))
	number("clients/disconnected", uint64(away)) // durable sessions
	number("clients/total", uint64(connected+away))
	number("subscriptions/count", uint64(g.router.Subscriptions()))
	number("bytes/received", g.mqtt.Stats.BytesReceived.Load()) // by MQTT
	number("bytes/sent", g.mqtt.Stats.BytesSent.Load())

	stats := []*router.Stats{&g.router.Stats}
	if core != nil && core != g.router {
		stats = append(stats, &core.Stats)
	}
	dropped := map[string]uint64{}
	for _, reason := range router.DropReasons {
		dropped[reason] = 0
	}
	var received, sent, refused uint64
	for _, s := range stats {
		received += s.Published.Load()
		sent += s.Delivered.Load()
		refused += s.Refused.Load()
		for reason, n := range s.Dropped() {
			dropped[reason] += n
		}
	}
	number("messages/received", received)
	number("messages/sent", sent)
	number("messages/refused", refused)
	var lost uint64
	for _, reason := range slices.Sorted(maps.Keys(dropped)) {
		number("messages/dropped/"+reason, dropped[reason])
		lost += dropped[reason]
	}
	number("messages/dropped", lost)
	used, limit := g.node.Usage()
	number("store/bytes", uint64(max(used, 0)))
	number("store/limit", uint64(max(limit, 0)))
	if core == nil {
		return out
	}
	number("retained messages/count", uint64(core.RetainedCount()))
	number("queues/count", uint64(core.Queues()))
	for _, q := range core.Deepest(maxSystemQueues) {
		if strings.ContainsAny(q.Name, "+#") {
			continue // no topic has that
		}
		number("queues/"+q.Name+"/ready", uint64(q.Ready))
		number("queues/"+q.Name+"/unacked", uint64(q.Unacked))
		number("queues/"+q.Name+"/consumers", uint64(q.Consumers))
	}
	return out
}

// core is the router that stores: this node's own, that of the node if it leads its cluster, or nil.
func (g *Gateway) core() *router.Router {
	if g.member == nil {
		return g.router
	}
	core, _ := g.member.leading()
	return core
}
