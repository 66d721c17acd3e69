package ws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/router"
)

// Server is the HTTP handler. Create it with New, end it with Drain.
type Server struct {
	// Stats are the counters.
	Stats Stats

	opt      Options
	presence presence
	assets   http.Handler
	api      http.Handler
	leases   leases
	rates    rates
	life     context.Context
	kill     context.CancelCauseFunc
	group    sync.WaitGroup // connections
	clock    sync.WaitGroup // run and what it starts

	packedBytes atomic.Int64 // of deflated messages that streams collect

	mu       sync.Mutex
	conns    map[connection]struct{}
	draining bool
}

// connection is one WebSocket, of any protocol.
type connection interface {
	// tick is called about every second; it must not block.
	tick(nowMs int64)
	// depart ends the connection for a cause, in good order; it must not block for long.
	depart(cause error)
	// abort ends it at once.
	abort(cause error)
}

// New returns a server. It runs one goroutine until Drain.
func New(o Options) (*Server, error) {
	switch {
	case o.Router == nil:
		return nil, errors.New("ws: Options.Router is missing")
	case o.Authenticate == nil:
		return nil, errors.New("ws: Options.Authenticate is missing")
	}
	s := &Server{opt: o.withDefaults(), conns: map[connection]struct{}{}, assets: clientHandler()}
	s.presence.init(s)
	s.api = s.apiHandler()
	s.leases.init(s)
	s.life, s.kill = context.WithCancelCause(context.Background())
	s.clock.Go(s.run)
	return s, nil
}

// clockTick is how often presence is looked at; connections are every fourth time.
const clockTick = 250 * time.Millisecond

func (s *Server) run() {
	t := time.NewTicker(clockTick)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-s.life.Done():
			return
		case now := <-t.C:
			s.presence.look(s.life)
			if n%4 == 0 {
				for _, c := range s.connections() {
					c.tick(now.UnixMilli())
				}
				s.rates.prune()
			}
		}
	}
}

func (s *Server) connections() []connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]connection, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}

// Connections returns how many there are now, of all protocols.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// protocol is what a WebSocket carries.
type protocol uint8

const (
	protocolJSON protocol = iota + 1
	protocolSTOMP
	protocolMQTT
)

// JSONSubprotocol is the name of the JSON protocol.
const JSONSubprotocol = "mqgate.json.v1"

var subprotocols = []struct {
	name string
	p    protocol
}{
	{JSONSubprotocol, protocolJSON},
	{"v12.stomp", protocolSTOMP}, {"v11.stomp", protocolSTOMP}, {"v10.stomp", protocolSTOMP},
	{"stomp", protocolSTOMP}, // what ActiveMQ takes besides
	{"mqtt", protocolMQTT}, {"mqttv3.1", protocolMQTT},
}

// entrance is an address for WebSocket handshakes.
type entrance struct {
	p     protocol
	any   bool           // a subprotocol of another protocol is served as well
	serve func(net.Conn) // a stream; nil: what the options say
}

// ServeHTTP serves /ws (what the subprotocol says, else JSON), /stomp, /mqtt, the
// plain HTTP interface below /api/, and the JavaScript client below /client/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/ws":
		s.upgrade(w, r, entrance{p: protocolJSON, any: true})
	case path == "/stomp":
		s.upgrade(w, r, entrance{p: protocolSTOMP})
	case path == "/mqtt":
		s.upgrade(w, r, entrance{p: protocolMQTT})
	case strings.HasPrefix(path, "/api/"):
		s.api.ServeHTTP(w, r)
	default:
		s.assets.ServeHTTP(w, r)
	}
}

// STOMP is a handler for ports that carry STOMP only, whatever the path, as
// ActiveMQ's 61614 ("/") and RabbitMQ's 15674 ("/ws") do. Serve serves a
// connection, nil: as Options.ServeSTOMP does.
func (s *Server) STOMP(serve func(net.Conn)) http.Handler {
	return s.only(entrance{p: protocolSTOMP, serve: serve})
}

// MQTT is the same for MQTT (8083, 9001, 15675).
func (s *Server) MQTT() http.Handler { return s.only(entrance{p: protocolMQTT}) }

func (s *Server) only(e entrance) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.upgrade(w, r, e) })
}

// choose finds the protocol and the subprotocol to answer with.
func choose(r *http.Request, e entrance) (protocol, string, error) {
	asked := websocket.Subprotocols(r)
	for _, sub := range subprotocols {
		if (e.any || sub.p == e.p) && slices.Contains(asked, sub.name) {
			return sub.p, sub.name, nil
		}
	}
	switch {
	case len(asked) > 0:
		return 0, "", fmt.Errorf("none of the subprotocols %q is spoken here", asked)
	case e.p == protocolMQTT:
		return 0, "", errors.New("ask for the subprotocol mqtt") // [MQTT-6.0.0-3]
	}
	return e.p, "", nil
}

// server returns what serves a stream, nil if the protocol is not provided.
func (s *Server) server(p protocol, e entrance) func(net.Conn) {
	switch {
	case e.serve != nil:
		return e.serve
	case p == protocolMQTT:
		return s.opt.ServeMQTT
	}
	return s.opt.ServeSTOMP
}

// upgrade makes a WebSocket of a request, and serves it on a goroutine of its
// own: the HTTP server's would keep its buffers and the request.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, e entrance) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Connection", "close")
		http.Error(w, "This address is for WebSocket connections.", http.StatusUpgradeRequired)
		return
	}
	p, sub, err := choose(r, e)
	from := s.visitor(r)
	serve := s.server(p, e)
	switch {
	case !from.allowed:
		s.turnAway(w, http.StatusForbidden, "The origin of this page is not allowed; the operator can allow it (http.origins).")
		return
	case err != nil:
		s.turnAway(w, http.StatusBadRequest, "Bad subprotocol: "+err.Error()+".")
		return
	case p != protocolJSON && serve == nil:
		s.turnAway(w, http.StatusNotFound, "This protocol is not enabled.")
		return
	}
	if !s.reserve() {
		w.Header().Set("Retry-After", "5")
		s.turnAway(w, http.StatusServiceUnavailable, "There are too many connections, or the server is stopping.")
		return
	}
	deflate := s.opt.Compression && offersDeflate(r)
	u := websocket.Upgrader{
		HandshakeTimeout: s.opt.LoginTimeout, EnableCompression: deflate,
		CheckOrigin: func(*http.Request) bool { return true }, // decided above
	}
	if sub != "" {
		u.Subprotocols = []string{sub} // [MQTT-6.0.0-4]
	}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		s.opt.Seats.Leave()
		s.group.Done()
		s.Stats.Refused.Add(1)
		return // it has answered
	}
	s.Stats.Accepted.Add(1)
	s.begin(conn.NetConn(), arrival{p: p, serve: serve, strict: from.strict, deflate: deflate})
}

func (s *Server) turnAway(w http.ResponseWriter, status int, text string) {
	s.Stats.Refused.Add(1)
	http.Error(w, text, status)
}

// reserve takes a seat, and counts a connection's goroutine, if the limits allow one
// more.
func (s *Server) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || !s.opt.Seats.Take() {
		return false
	}
	s.group.Add(1)
	return true
}

// arrival is what the handshake settled.
type arrival struct {
	p       protocol
	serve   func(net.Conn)
	strict  bool // a login that names a user is needed
	deflate bool // permessage-deflate
}

// begin starts a connection that reserve has counted.
func (s *Server) begin(socket net.Conn, a arrival) {
	_ = socket.SetDeadline(time.Time{}) // the HTTP server's; a closed socket shows at the first read
	var c connection
	var serve func()
	switch a.p {
	case protocolJSON:
		j := newClient(s, socket, a)
		c, serve = j, func() { defer s.opt.Seats.Leave(); j.serve() }
	default:
		st := newStream(s, socket, a)
		c, serve = st, func() {
			defer st.finish()
			s.opt.Seats.Leave() // the server of its protocol takes one
			a.serve(st.wrap())
		}
	}
	s.register(c)
	go func() { // counted by reserve, ended by Drain
		defer s.group.Done()
		defer s.forget(c)
		s.contain(serve)
	}()
}

// register has the clock and Drain know of a connection.
func (s *Server) register(c connection) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	draining := s.draining
	s.mu.Unlock()
	if draining {
		c.depart(errDraining)
	}
}

// contain turns a panic into a counter and a line in the log.
func (s *Server) contain(f func()) {
	defer func() {
		if p := recover(); p != nil {
			s.Stats.Panics.Add(1)
			s.opt.Log.Error("a fault ended a WebSocket connection", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (s *Server) forget(c connection) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// enter counts a connection of a user.
func (s *Server) enter(user string) error {
	if !s.opt.Seats.Enter(user) {
		return &router.Error{Op: "connect", Class: router.Full, RetryAfter: 5 * time.Second,
			Text: fmt.Sprintf("user %s has %d connections already, which is the limit (limits.connections_per_user)", user, s.opt.Seats.PerUser())}
	}
	return nil
}

// exit undoes enter.
func (s *Server) exit(user string) { s.opt.Seats.Exit(user) }

// parting is the close code for a stream that ends from our side.
func (s *Server) parting() (uint16, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return errDraining.code, errDraining.reason
	}
	return closeNormal, ""
}

// Stop has handshakes refused and streams that end from now on tell 1001: call
// it before the STOMP and MQTT servers are drained.
func (s *Server) Stop() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
}

// Drain ends the server: every client gets the replies it waits for and a close
// frame that asks it to come back. It waits for all connections, streams among
// them; when ctx ends first the rest is closed at once and ctx's cause is returned.
func (s *Server) Drain(ctx context.Context) error {
	s.Stop()
	for _, c := range s.connections() {
		c.depart(errDraining)
	}
	over := make(chan struct{})
	go func() { s.group.Wait(); close(over) }() // ends with the connections
	var err error
	select {
	case <-over:
	case <-ctx.Done():
		err = fmt.Errorf("drain WebSocket connections: %w", context.Cause(ctx))
		for _, c := range s.connections() {
			c.abort(errDraining)
		}
		<-over
	}
	s.leases.closeAll() // no request is under way that would take another
	s.kill(errDraining)
	s.clock.Wait()
	return err
}
