package gateway

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router"
)

const (
	// systemEvery is how often the gateway tells of itself to those who subscribe to "$SYS/…".
	systemEvery = 10 * time.Second
	// maxSystemQueues bounds the queues that it tells of: the deepest ones.
	maxSystemQueues = 1000
	// systemFresh is how long an answer of other nodes serves all who ask.
	systemFresh = time.Second
)

// systemQuestion is how the nodes of a cluster ask each other for their part of it.
const systemQuestion = "system"

// systemPart is what one node has to tell; numbers are added up over all nodes.
type systemPart struct {
	Clients  map[string]int    `json:"clients"` // by protocol
	Counters map[string]uint64 `json:"counters"`
	Dropped  map[string]uint64 `json:"dropped"`
	// Of what is stored; only the node that leads has these.
	Stores   bool          `json:"stores,omitempty"`
	Away     int           `json:"away,omitempty"` // durable sessions without a connection
	Retained int           `json:"retained,omitempty"`
	Queues   int           `json:"queues,omitempty"`
	Deepest  []systemQueue `json:"deepest,omitempty"`
}

type systemQueue struct {
	Name                      string `json:"name"`
	Ready, Unacked, Consumers int
}

// systemTold is what all nodes said last.
type systemTold struct {
	sync.Mutex
	at    time.Time
	parts []systemPart
}

// systemPart is this node's.
func (g *Gateway) systemPart() systemPart {
	s := &g.router.Stats
	p := systemPart{Clients: g.connections(), Dropped: g.router.Dropped(), Counters: map[string]uint64{
		"subscriptions/count": uint64(g.router.Subscriptions()),
		"bytes/received":      g.mqtt.Stats.BytesReceived.Load(), // by MQTT
		"bytes/sent":          g.mqtt.Stats.BytesSent.Load(),
		"messages/received":   s.Published.Load(),
		"messages/sent":       s.Delivered.Load(),
		"messages/refused":    s.Refused.Load(),
	}}
	core := g.core()
	if core == nil {
		return p
	}
	if core != g.router { // what clients sent and got was counted where they are
		for reason, n := range core.Dropped() {
			p.Dropped[reason] += n
		}
	}
	all, online := core.DurableSessions()
	p.Stores, p.Away, p.Retained, p.Queues = true, all-online, core.RetainedCount(), core.Queues()
	for _, q := range core.Deepest(maxSystemQueues) {
		p.Deepest = append(p.Deepest, systemQueue{q.Name, q.Ready, q.Unacked, q.Consumers})
	}
	return p
}

// systemAnswer is this node's part for another one.
func (g *Gateway) systemAnswer() []byte {
	if !g.fronts.Load() {
		return nil
	}
	text, err := json.Marshal(g.systemPart())
	if err != nil {
		g.log.Error("cannot tell other nodes of this one", "error", err)
	}
	return text
}

// systemParts are those of all nodes that answer; where there are several, of a moment ago at most.
func (g *Gateway) systemParts() []systemPart {
	if g.peers == nil {
		return []systemPart{g.systemPart()}
	}
	g.told.Lock()
	defer g.told.Unlock()
	if time.Since(g.told.at) < systemFresh {
		return g.told.parts
	}
	answers, err := g.peers.status.AskAlso(context.Background(), systemQuestion) // for a second at most
	if err != nil {
		g.log.Warn("cannot ask other nodes how they are", "error", err)
	}
	g.told.parts = nil
	for _, a := range answers {
		var p systemPart
		if json.Unmarshal(a, &p) == nil { // a node of another version may say something else
			g.told.parts = append(g.told.parts, p)
		}
	}
	g.told.at = time.Now()
	return g.told.parts
}

// systemValues are what the gateway tells of itself, under names that other MQTT servers use where there are such: of all nodes
// of a cluster, but for the node's own version, time and disk.
func (g *Gateway) systemValues() []router.SystemValue {
	var out []router.SystemValue
	add := func(topic, text string) {
		out = append(out, router.SystemValue{Topic: "$SYS/broker/" + topic, Text: text})
	}
	number := func(topic string, n uint64) { add(topic, strconv.FormatUint(n, 10)) }

	add("version", "mqgate version "+g.version)
	add("uptime", strconv.FormatInt(int64(time.Since(g.started)/time.Second), 10)+" seconds")
	used, limit := g.node.Usage()
	number("store/bytes", used)
	number("store/limit", limit)

	numbers, dropped := map[string]uint64{}, map[string]uint64{}
	for _, reason := range router.DropReasons {
		dropped[reason] = 0
	}
	var stored systemPart
	for _, p := range g.systemParts() {
		for protocol, n := range p.Clients {
			numbers["clients/"+protocol] += uint64(n)
			numbers["clients/connected"] += uint64(n)
		}
		for topic, n := range p.Counters {
			numbers[topic] += n
		}
		for reason, n := range p.Dropped {
			dropped[reason] += n
		}
		if p.Stores {
			stored = p
		}
	}
	for reason, n := range dropped {
		numbers["messages/dropped/"+reason] = n
		numbers["messages/dropped"] += n
	}
	if stored.Stores { // else nobody leads now
		numbers["clients/disconnected"] = uint64(stored.Away) // durable sessions
		numbers["clients/total"] = numbers["clients/connected"] + uint64(stored.Away)
		numbers["retained messages/count"] = uint64(stored.Retained)
		numbers["queues/count"] = uint64(stored.Queues)
	}
	for _, topic := range slices.Sorted(maps.Keys(numbers)) {
		number(topic, numbers[topic])
	}
	for _, q := range stored.Deepest {
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
