// Package admin is the operator's HTTP interface: health, metrics, and the verbs
// on queues and connections that the command line uses.
//
// It guarantees that only an administrator changes or reads anything but health
// and metrics: over the Unix socket in the data directory that is whoever may
// open the file, over TCP a user with admin rights. It never touches storage but
// through the router, and every verb passes the router's Authorize.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// Options of the interface.
type Options struct {
	Router *router.Router
	// Core returns the router that keeps what is stored, nil if it is on another node. Nil: Router does.
	Core    func() *router.Router
	Auth    router.Authenticator
	Version string
	// Ready returns the conditions for clients to come.
	Ready func() []Check
	// Cluster returns the state of all nodes.
	Cluster func(context.Context) (Cluster, error)
	// Backup writes all that is stored.
	Backup func(context.Context, io.Writer) error
	// Drain begins to send the clients away, after which the process ends.
	Drain func() DrainState
	// Usage returns the bytes that the store takes and may take.
	Usage func() (used, limit uint64)
	// Connections returns the number of connections by protocol.
	Connections func() map[string]int
	// Events returns what happened to connections, counted by protocol and event; nil: nothing is counted.
	Events func() map[string]map[string]uint64
	// Federation returns the number of links with other sites and the counters of what crossed them, nil where this node has
	// no links; nil: there are none.
	Federation func() (links int, events map[string]uint64)
	Log        *slog.Logger
	// Forward asks the leader of the cluster, which answers with Answer; nil: this node keeps what is stored.
	Forward func(ctx context.Context, request []byte) ([]byte, error)
}

// Handler returns the interface for a listener; trusted is true for one that
// only the administrator can reach.
func Handler(o Options, trusted bool) http.Handler {
	return (&handler{Options: o, trusted: trusted}).mux()
}

func (h *handler) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", h.ready)
	mux.HandleFunc("GET /metrics", h.metrics)
	for pattern, f := range map[string]verb{
		"GET /api/v1/queues":         h.queues,
		"GET /api/v1/queue":          h.queue,
		"GET /api/v1/queue/messages": h.messages,
		"POST /api/v1/queue/purge":   h.purge,
		"POST /api/v1/queue/move":    h.move,
		"DELETE /api/v1/queue":       h.remove,
		"GET /api/v1/connections":    h.connections,
	} {
		mux.Handle(pattern, h.kept(f))
	}
	mux.Handle("GET /api/v1/cluster", h.guard(h.cluster))
	mux.Handle("POST /api/v1/drain", h.guard(h.drain))
	mux.HandleFunc("POST /api/v1/backup", h.backup)
	return mux
}

type handler struct {
	Options
	trusted bool
	as      *router.Principal // whom another node has authenticated; else nil
}

// verb answers a request of a principal with a value to be sent as JSON.
type verb func(r *http.Request, p *router.Principal) (any, error)

// guard authenticates, runs a verb and writes its answer.
func (h *handler) guard(f verb) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := h.principal(r)
		if err != nil {
			h.refuse(w, err)
			return
		}
		v, err := f(r, p)
		if err != nil {
			if router.ClassOf(err) == router.Internal {
				h.Log.Error("admin request failed", "path", r.URL.Path, "error", err)
			}
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	})
}

// refuse asks for a login.
func (h *handler) refuse(w http.ResponseWriter, err error) {
	w.Header().Set("WWW-Authenticate", `Basic realm="mqgate", charset="UTF-8"`)
	writeError(w, err)
}

// operator is whoever may open the data directory's socket.
var operator = router.NewPrincipal("operator", "", true, nil)

func (h *handler) principal(r *http.Request) (*router.Principal, error) {
	if h.as != nil {
		return h.as, nil
	}
	if h.trusted {
		return operator, nil
	}
	// A page in a browser on this machine could send requests here. It cannot set
	// this header without a permission that is never given, and a name that was
	// made to resolve to this machine does not pass as its address, nor has its
	// owner a certificate that browsers take for it here.
	if r.Method != http.MethodGet && r.Header.Get("X-Mqgate-Admin") == "" {
		return nil, &router.Error{Op: "admin", Class: router.Denied, Text: "requests that change something need the header X-Mqgate-Admin: 1"}
	}
	if r.TLS == nil && !door.LiteralHost(r.Host) {
		return nil, &router.Error{Op: "admin", Class: router.Denied, Text: "address the admin listener by its IP address or as localhost; by another name it is served with TLS only (admin.tls)"}
	}
	user, password, has := r.BasicAuth()
	p, err := h.Auth.Authenticate(r.Context(), router.Credentials{User: user, Password: password, HasUser: has, Protocol: "admin", Remote: r.RemoteAddr})
	if err != nil {
		return nil, err
	}
	if !p.Admin() {
		return nil, &router.Error{Op: "admin", Class: router.Denied, Text: "this needs a user with admin rights"}
	}
	return p, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client went away
}

var statuses = map[router.Class]int{
	router.Invalid: http.StatusBadRequest, router.Denied: http.StatusForbidden, router.NotFound: http.StatusNotFound,
	router.Conflict: http.StatusConflict, router.Full: http.StatusInsufficientStorage,
	router.TooLarge: http.StatusRequestEntityTooLarge, router.Unavailable: http.StatusServiceUnavailable,
}

func writeError(w http.ResponseWriter, err error) {
	status, ok := statuses[router.ClassOf(err)]
	if !ok {
		status = http.StatusInternalServerError
	}
	writeJSON(w, status, map[string]string{"error": router.TextOf(err), "class": router.ClassOf(err).String()})
}

// address reads the queue that a request names.
func address(r *http.Request, key string) (router.Address, error) {
	name := r.FormValue(key)
	if name == "" {
		return router.Address{}, &router.Error{Op: "admin", Class: router.Invalid, Text: "the parameter " + key + " is missing"}
	}
	a, _, err := router.ParseDestination(r.FormValue("vhost"), name)
	if err == nil && a.Kind() != router.KindQueue {
		err = &router.Error{Op: "admin", Class: router.Invalid, Text: name + " is a topic; topics keep no messages"}
	}
	return a, err
}

func number(r *http.Request, key string, fallback uint64) (uint64, error) {
	v := r.FormValue(key)
	if v == "" {
		return fallback, nil
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		return 0, &router.Error{Op: "admin", Class: router.Invalid, Text: "the parameter " + key + " is no number"}
	}
	return n, nil
}

func (h *handler) queues(_ *http.Request, p *router.Principal) (any, error) {
	return h.Router.MailboxInfos(p), nil
}

func (h *handler) queue(r *http.Request, p *router.Principal) (any, error) {
	a, err := address(r, "name")
	if err != nil {
		return nil, err
	}
	return h.Router.QueueInfo(p, a)
}

func (h *handler) purge(r *http.Request, p *router.Principal) (any, error) {
	a, err := address(r, "name")
	if err != nil {
		return nil, err
	}
	n, err := h.Router.Purge(r.Context(), p, a)
	h.audit("purge", p, a, err, "messages", n)
	return map[string]int{"purged": n}, err
}

func (h *handler) move(r *http.Request, p *router.Principal) (any, error) {
	from, err := address(r, "from")
	if err != nil {
		return nil, err
	}
	to, err := address(r, "to")
	if err != nil {
		return nil, err
	}
	limit, err := number(r, "limit", 0)
	if err != nil {
		return nil, err
	}
	n, err := h.Router.Move(r.Context(), p, from, to, int(limit))
	h.audit("move", p, from, err, "to", to.Name(), "messages", n)
	return map[string]int{"moved": n}, err
}

func (h *handler) remove(r *http.Request, p *router.Principal) (any, error) {
	a, err := address(r, "name")
	if err != nil {
		return nil, err
	}
	err = h.Router.DeleteQueue(r.Context(), p, a)
	h.audit("delete", p, a, err)
	return map[string]string{"deleted": a.Name()}, err
}

// audit logs who changed what.
func (h *handler) audit(verb string, p *router.Principal, a router.Address, err error, more ...any) {
	h.Log.Info("admin", append([]any{"verb", verb, "user", p.Name(), "vhost", a.Vhost(), "queue", a.Name(), "error", err}, more...)...)
}

// Connection is one client as operators see it.
type Connection struct {
	Session       string    `json:"session"`
	Protocol      string    `json:"protocol"`
	User          string    `json:"user"`
	ClientID      string    `json:"client_id,omitempty"`
	Remote        string    `json:"remote"`
	Since         time.Time `json:"since"`
	Subscriptions int       `json:"subscriptions"`
}

func (h *handler) connections(*http.Request, *router.Principal) (any, error) {
	out := []Connection{}
	for _, s := range h.Router.Sessions() {
		out = append(out, Connection{Session: s.ID.String(), Protocol: s.Protocol, User: s.Principal.Name(),
			ClientID: s.Principal.ClientID(), Remote: s.Remote, Since: s.Since, Subscriptions: s.Subscriptions()})
	}
	return out, nil
}

// Serve serves a listener until ctx ends, then finishes the requests under way.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		MaxHeaderBytes: 32 << 10, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() {
		shut, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if s.Shutdown(shut) != nil {
			s.Close()
		}
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
