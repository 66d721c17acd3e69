package bench

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/mqtt"
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp"
	"github.com/mqgate/mqgate/ws"
)

// gateway is the real front-ends on one router that stores in memory.
type gateway struct {
	router            *router.Router
	stomp, mqtt, http string // addresses
}

// everyone lets in whoever does not call himself intruder.
type everyone struct{}

func (everyone) Authenticate(_ context.Context, c router.Credentials) (*router.Principal, error) {
	if c.User == "intruder" {
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "not you"}
	}
	return router.NewPrincipal(c.User, c.ClientID, false, nil), nil
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	r, err := router.New(t.Context(), router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: slog.New(slog.DiscardHandler),
		QueuePolicy: func(router.Address) router.Policy { return router.Policy{MaxLength: 1000} }})
	if err != nil {
		t.Fatal(err)
	}
	stompServer, err := stomp.New(stomp.Options{Router: r, Authenticate: everyone{}})
	if err != nil {
		t.Fatal(err)
	}
	mqttServer, err := mqtt.New(mqtt.Options{Router: r, Authenticate: everyone{}, ReceiveMaximum: 20})
	if err != nil {
		t.Fatal(err)
	}
	webServer, err := ws.New(ws.Options{Router: r, Authenticate: everyone{}, Version: "test", RequestsPerSecond: 1_000_000,
		ServeSTOMP: func(c net.Conn) { stompServer.ServeConn(c, stomp.ActiveMQ) }, ServeMQTT: func(c net.Conn) { mqttServer.ServeConn(c) }})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{router: r}
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	listen := func(serve func(net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		serving.Go(func() {
			if err := serve(l); err != nil {
				t.Error(err)
			}
		})
		return l.Addr().String()
	}
	g.stomp = listen(func(l net.Listener) error { return stompServer.Serve(ctx, l, stomp.ActiveMQ) })
	g.mqtt = listen(func(l net.Listener) error { return mqttServer.Serve(ctx, l) })
	web := httptest.NewServer(webServer)
	g.http = web.Listener.Addr().String()
	t.Cleanup(func() {
		stop()
		serving.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for _, end := range []func(context.Context) error{webServer.Drain, stompServer.Drain, mqttServer.Drain, r.Close} {
			if err := end(ctx); err != nil {
				t.Error(err)
			}
		}
		web.Close()
	})
	return g
}

// options is a small counted run between two protocols; "-ws" behind one carries it over WebSocket.
func (g *gateway) options(publish, subscribe string) Options {
	o := Options{Scenario: Topic, Host: "/", Destinations: 1, Publishers: 1, Subscribers: 1, SizeBytes: 64, Window: 10, Count: 500,
		Drain: 20 * time.Second, Timeout: 20 * time.Second, Connections: 10, Dialers: 4, Cores: 1}
	o.Protocol, o.Addresses = g.side(publish)
	o.SubscriberProtocol, o.SubscriberAddresses = g.side(subscribe)
	return o
}

func (g *gateway) side(text string) (protocol string, addresses []string) {
	protocol, web := strings.CutSuffix(text, "-ws")
	switch {
	case web:
		return protocol, []string{"ws://" + g.http}
	case protocol == STOMP:
		return protocol, []string{g.stomp}
	}
	return protocol, []string{g.mqtt}
}

// TestEveryProtocolAgainstTheGateway makes clean runs of each protocol and between them.
func TestEveryProtocolAgainstTheGateway(t *testing.T) {
	g := startGateway(t)
	for _, tc := range []struct {
		name, publish, subscribe string
		change                   func(*Options)
		due                      int64
	}{
		{"MQTT QoS 0", "mqtt", "mqtt", func(o *Options) { o.Inflight = 50 }, 500},
		{"MQTT QoS 1", "mqtt", "mqtt", func(o *Options) { o.QoS = 1 }, 500},
		{"MQTT QoS 2", "mqtt", "mqtt", func(o *Options) { o.QoS = 2 }, 500},
		{"MQTT 5 QoS 1, user properties", "mqtt5", "mqtt5", func(o *Options) { o.QoS = 1; o.SendHeaders = []string{"a:b:c"}; o.Prefetch = 5 }, 500},
		{"MQTT 5 QoS 2, fan-out", "mqtt5", "mqtt5", func(o *Options) { o.QoS, o.Publishers, o.Subscribers = 2, 2, 3 }, 1500},
		{"MQTT 5, window above the broker's receive maximum", "mqtt5", "mqtt5", func(o *Options) { o.QoS, o.Window = 1, 500 }, 500},
		{"MQTT durable", "mqtt", "mqtt", func(o *Options) { o.QoS, o.Durable = 1, true }, 500},
		{"MQTT 5 durable QoS 2", "mqtt5", "mqtt5", func(o *Options) { o.QoS, o.Durable = 2, true }, 500},
		{"MQTT queue", "mqtt", "mqtt", func(o *Options) { o.Scenario, o.QoS, o.Subscribers = Queue, 1, 2 }, 500},
		{"MQTT backlog", "mqtt", "mqtt", func(o *Options) { o.Scenario, o.QoS = Backlog, 1 }, 500},
		{"MQTT large bodies", "mqtt", "mqtt", func(o *Options) { o.SizeBytes, o.Count, o.Inflight = 200_000, 20, 2 }, 20},
		{"MQTT over WebSocket", "mqtt-ws", "mqtt5-ws", func(o *Options) { o.QoS = 1 }, 500},
		{"MQTT over WebSocket, large bodies", "mqtt-ws", "mqtt-ws", func(o *Options) { o.SizeBytes, o.Count, o.Inflight = 100_000, 20, 2 }, 20},
		{"STOMP over WebSocket", "stomp-ws", "stomp-ws", func(o *Options) { o.Subscribers = 3 }, 1500},
		{"STOMP queue over WebSocket", "stomp-ws", "stomp-ws", func(o *Options) { o.Scenario = Queue }, 500},
		{"JSON", "json-ws", "json-ws", func(o *Options) { o.Subscribers = 3 }, 1500},
		{"JSON without replies", "json-ws", "json-ws", func(o *Options) { o.Window, o.Inflight = 0, 20 }, 500},
		{"JSON queue", "json-ws", "json-ws", func(o *Options) { o.Scenario, o.Prefetch, o.Persistent = Queue, 10, true }, 500},
		{"MQTT to STOMP", "mqtt", "stomp", func(o *Options) { o.QoS = 1 }, 500},
		{"STOMP to MQTT", "stomp", "mqtt5", func(o *Options) { o.Inflight = 20 }, 500},
		{"STOMP to MQTT, queue", "stomp", "mqtt", func(o *Options) { o.Scenario, o.QoS = Queue, 1 }, 500},
		{"MQTT to JSON", "mqtt", "json-ws", func(o *Options) { o.QoS, o.Subscribers = 2, 2 }, 1000},
		{"JSON to STOMP over WebSocket", "json-ws", "stomp-ws", func(o *Options) {}, 500},
		{"names given for both sides", "mqtt", "stomp", func(o *Options) {
			o.QoS, o.Destination, o.SubscriberDestination = 1, "a/%r", "/topic/a.%r"
		}, 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := g.options(tc.publish, tc.subscribe)
			tc.change(&o)
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Received != tc.due || r.Sent != o.Count || len(r.Faults()) > 0 || r.P50US <= 0 {
				t.Errorf("want %d sent, %d received, no faults: %v\n%s", o.Count, tc.due, r.Faults(), describe(r))
			}
			if confirms := r.Window > 0; confirms != (r.ConfirmP50US > 0) {
				t.Errorf("window %d, confirmation %v us", r.Window, r.ConfirmP50US)
			}
			want := tc.publish
			if tc.subscribe != tc.publish {
				want += ">" + tc.subscribe
			}
			if r.Protocol != want || r.Server == "" {
				t.Errorf("protocol %q, server %q", r.Protocol, r.Server)
			}
		})
	}
}

// Idle connections of every protocol open, live through heart-beats, and close.
func TestIdleConnectionsOfEveryProtocol(t *testing.T) {
	g := startGateway(t)
	for _, protocol := range []string{"stomp", "mqtt", "mqtt5", "stomp-ws", "mqtt-ws", "json-ws"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			o := g.options(protocol, protocol)
			o.Scenario, o.Connections, o.Duration, o.Heartbeat = Conns, 30, 100*time.Millisecond, 50*time.Millisecond
			r, err := Run(t.Context(), o)
			if err != nil || r.Opened != 30 || len(r.Faults()) > 0 || r.Protocol != protocol {
				t.Errorf("%v %s", err, describe(r))
			}
		})
	}
}

// What a durable run made at the broker is gone when the run is over.
func TestDurableSessionsEndWithTheRun(t *testing.T) {
	g := startGateway(t)
	for _, protocol := range []string{MQTT, MQTT5} {
		o := g.options(protocol, protocol)
		o.QoS, o.Durable, o.Subscribers = 1, true, 3
		if r, err := Run(t.Context(), o); err != nil || len(r.Faults()) > 0 {
			t.Fatal(r, err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			left, _ := g.router.DurableSessions()
			if left == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s left %d sessions behind", protocol, left)
			}
		}
	}
}

func TestRefusedLogins(t *testing.T) {
	g := startGateway(t)
	for _, protocol := range []string{"mqtt", "mqtt5", "stomp-ws", "mqtt-ws", "json-ws"} {
		o := g.options(protocol, protocol)
		o.User, o.Password = "intruder", "x"
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "--user") {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

func TestRefusedHandshakes(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	o := (&gateway{http: plain.Listener.Addr().String()}).options("mqtt-ws", "mqtt-ws")
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "/mqtt: the broker answered 404") {
		t.Errorf("%v", err)
	}
}
