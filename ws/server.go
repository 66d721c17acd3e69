package ws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Server is the HTTP handler. Create it with New, end it with Drain.
type Server struct {
	// Stats are the counters.
	Stats Stats

	opt      Options
	presence presence
	assets   http.Handler
	life     context.Context
	kill     context.CancelCauseFunc
	group    sync.WaitGroup // connections
	clock    sync.WaitGroup // run and what it starts

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
	{"mqtt", protocolMQTT}, {"mqttv3.1", protocolMQTT},
}

// ServeHTTP serves /ws (what the subprotocol says, else JSON), /stomp, /mqtt and
// the JavaScript client below /client/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ws":
		s.upgrade(w, r, protocolJSON, true)
	case "/stomp":
		s.upgrade(w, r, protocolSTOMP, false)
	case "/mqtt":
		s.upgrade(w, r, protocolMQTT, false)
	default:
		s.assets.ServeHTTP(w, r)
	}
}

// STOMP is a handler for ports that carry STOMP only, as ActiveMQ's 61614 and
// RabbitMQ's 15674 do: it serves "/", "/ws" and "/stomp".
func (s *Server) STOMP() http.Handler { return s.only(protocolSTOMP, "/stomp") }

// MQTT is the same for MQTT (8083, 9001, 15675): "/", "/ws" and "/mqtt".
func (s *Server) MQTT() http.Handler { return s.only(protocolMQTT, "/mqtt") }

func (s *Server) only(p protocol, path string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/", "/ws", path:
			s.upgrade(w, r, p, false)
		default:
			http.NotFound(w, r)
		}
	})
}

// choose finds the protocol and the subprotocol to answer with.
func choose(r *http.Request, p protocol, any bool) (protocol, string, error) {
	asked := websocket.Subprotocols(r)
	for _, sub := range subprotocols {
		if (any || sub.p == p) && slices.Contains(asked, sub.name) {
			return sub.p, sub.name, nil
		}
	}
	switch {
	case len(asked) > 0:
		return 0, "", fmt.Errorf("none of the subprotocols %q is spoken here", asked)
	case p == protocolMQTT:
		return 0, "", errors.New("ask for the subprotocol mqtt") // [MQTT-6.0.0-3]
	}
	return p, "", nil
}

// serves reports whether a protocol is provided.
func (s *Server) serves(p protocol) bool {
	return p == protocolJSON || p == protocolSTOMP && s.opt.ServeSTOMP != nil || p == protocolMQTT && s.opt.ServeMQTT != nil
}

// upgrade makes a WebSocket of a request, and serves it on a goroutine of its
// own: the HTTP server's would keep its buffers and the request.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, p protocol, any bool) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Connection", "close")
		http.Error(w, "This address is for WebSocket connections.", http.StatusUpgradeRequired)
		return
	}
	p, sub, err := choose(r, p, any)
	allowed, named := s.originAllowed(r)
	switch {
	case !allowed:
		s.turnAway(w, http.StatusForbidden, "The origin of this page is not allowed; the operator can allow it (http.origins).")
		return
	case err != nil:
		s.turnAway(w, http.StatusBadRequest, "Bad subprotocol: "+err.Error()+".")
		return
	case !s.serves(p):
		s.turnAway(w, http.StatusNotFound, "This protocol is not enabled.")
		return
	}
	if !s.reserve() {
		w.Header().Set("Retry-After", "5")
		s.turnAway(w, http.StatusServiceUnavailable, "There are too many connections, or the server is stopping.")
		return
	}
	u := websocket.Upgrader{
		HandshakeTimeout: s.opt.WriteTimeout, EnableCompression: false,
		CheckOrigin: func(*http.Request) bool { return true }, // decided above
	}
	if sub != "" {
		u.Subprotocols = []string{sub}
	}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		s.group.Done()
		s.Stats.Refused.Add(1)
		return // it has answered
	}
	s.Stats.Accepted.Add(1)
	strict := !named && !loopback(r.RemoteAddr) && r.Header.Get("Authorization") == ""
	s.begin(conn.NetConn(), p, strict)
}

func (s *Server) turnAway(w http.ResponseWriter, status int, text string) {
	s.Stats.Refused.Add(1)
	http.Error(w, text, status)
}

// reserve counts a connection's goroutine if the limits allow one more.
func (s *Server) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || len(s.conns) >= s.opt.MaxConnections {
		return false
	}
	s.group.Add(1)
	return true
}

// begin starts a connection that reserve has counted.
func (s *Server) begin(socket net.Conn, p protocol, strict bool) {
	_ = socket.SetDeadline(time.Time{}) // the HTTP server's; a closed socket shows at the first read
	var c connection
	var serve func()
	switch p {
	case protocolJSON:
		j := newClient(s, socket, strict)
		c, serve = j, j.serve
	default:
		st := &stream{Conn: socket, server: s, binary: p == protocolMQTT, checked: strict}
		st.decoder.maxFrame = uint64(s.opt.MaxMessageBytes)
		st.readMs.Store(time.Now().UnixMilli())
		st.onClose = func() { s.forget(st) }
		f := s.opt.ServeSTOMP
		if p == protocolMQTT {
			f = s.opt.ServeMQTT
		}
		c, serve = st, func() { defer st.Close(); f(st.wrap()) }
	}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	draining := s.draining
	s.mu.Unlock()
	if draining {
		c.depart(errDraining)
	}
	go func() { // counted by reserve, ended by Drain
		defer s.group.Done()
		defer s.forget(c)
		s.contain(serve)
	}()
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
	s.kill(errDraining)
	s.clock.Wait()
	return err
}
