package ws

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// The plain HTTP interface (HTTP.md): for scripts that cannot hold a socket, and
// for EventSource. Every answer is JSON, or an event stream, that a browser does
// not show as a page.

// apiHandler returns the interface below /api/.
func (s *Server) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /api/publish/{destination...}", s.apiCall(s.apiPublish))
	mux.Handle("GET /api/queues/{queue}/next", s.apiCall(s.apiNext))
	mux.Handle("POST /api/leases/{lease}/{verb}", s.apiCall(s.apiSettle))
	mux.Handle("GET /api/topics/{topic...}", s.apiCall(s.apiEvents))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.welcome(w, r) {
			mux.ServeHTTP(w, r)
		}
	})
}

// welcome decides about the origin, tells browsers so, and answers their question
// in advance. False: the request is answered.
func (s *Server) welcome(w http.ResponseWriter, r *http.Request) bool {
	h, from := w.Header(), s.visitor(r)
	h.Add("Vary", "Origin")
	if from.origin != "" {
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Expose-Headers", "Retry-After")
	}
	switch {
	case !from.allowed:
		s.Stats.Refused.Add(1)
		s.apiError(w, http.StatusForbidden, &apiError{code: "denied", text: "the origin of this page is not allowed; the operator can allow it (http.origins)"})
		return false
	case r.Method == http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET, POST")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID, "+strings.Join(publishHeaders, ", "))
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
		return false
	}
	return true
}

// caller is who makes a request, with a session for its duration.
type caller struct {
	*router.Session
	server *Server
}

// leave ends the session.
func (c *caller) leave() {
	c.Session.Close()
	c.server.exit(c.Principal.Name())
}

// apiCall logs in whoever asks, within the limits, and answers the error that f returns.
func (s *Server) apiCall(f func(http.ResponseWriter, *http.Request, *router.Principal) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Stats.HTTPRequests.Add(1)
		if !s.arrive() {
			s.answerError(w, r, errStopping)
			return
		}
		defer s.group.Done()
		err := error(errFault) // a panic leaves it
		s.contain(func() { err = s.apiAnswer(w, r, f) })
		if err != nil {
			s.answerError(w, r, err)
		}
	})
}

func (s *Server) apiAnswer(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter, *http.Request, *router.Principal) error) error {
	p, err := s.loginHTTP(r)
	if err != nil {
		return err
	}
	if err := s.withinRate(p.Name(), r); err != nil {
		return err
	}
	return f(w, r, p)
}

// arrive counts a request that Drain waits for.
func (s *Server) arrive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.group.Add(1)
	return true
}

var errStopping = &apiError{code: router.Unavailable.String(), text: "the server is stopping, come back", retry: true, retryAfterMs: 1000}

// errFault is what is answered if a panic ends the request.
var errFault = &apiError{code: router.Internal.String(), text: "internal error"}

// withinRate counts a request of a user, or of an address if it has no name.
func (s *Server) withinRate(user string, r *http.Request) error {
	key := "user " + user
	if user == "" {
		key = "address " + hostOf(r.RemoteAddr)
	}
	n := s.opt.RequestsPerSecond
	if s.rates.of(key, rate.Limit(n), 2*n).Allow() {
		return nil
	}
	s.Stats.Throttled.Add(1)
	return errOverRate
}

var errOverRate = &apiError{code: codeRate, text: "too many requests", retry: true, retryAfterMs: 1000}

// codeRate is the code of a request over the rate limit.
const codeRate = "rate"

func hostOf(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// loginHTTP makes a principal of what the request shows: Basic, Bearer, the token
// of an EventSource, or nothing.
func (s *Server) loginHTTP(r *http.Request) (*router.Principal, error) {
	failures := s.rates.of("failures "+hostOf(r.RemoteAddr), failuresPerSecond, failuresBurst)
	if failures.Tokens() < 1 {
		s.Stats.Throttled.Add(1)
		return nil, errOverRate
	}
	p, err := s.identify(r)
	if err != nil && router.ClassOf(err) == router.Denied {
		s.Stats.LoginFailures.Add(1)
		failures.Allow()
		return nil, &loginError{err}
	}
	return p, err
}

// loginError is answered with 401.
type loginError struct{ error }

// Unwrap returns the cause.
func (e *loginError) Unwrap() error { return e.error }

func (s *Server) identify(r *http.Request) (*router.Principal, error) {
	ctx, cancel := context.WithTimeout(r.Context(), s.opt.LoginTimeout)
	defer cancel()
	c := router.Credentials{Vhost: router.DefaultVhost, Protocol: "http", Remote: r.RemoteAddr, Loopback: door.Loopback(r.RemoteAddr)}
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token, bearer := strings.TrimSpace(value), strings.EqualFold(scheme, "Bearer")
	if r.Method == http.MethodGet && scheme == "" && r.URL.Query().Has("access_token") {
		token, bearer = r.URL.Query().Get("access_token"), true // an EventSource sends no headers of ours
	}
	c.User, c.Password, c.HasUser = r.BasicAuth()
	switch {
	case bearer && s.opt.Token == nil:
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "tokens are not accepted here; give user and password"}
	case bearer:
		return s.opt.Token(ctx, token, c)
	case scheme != "" && !c.HasUser:
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "the Authorization header is neither Basic nor Bearer"}
	case !c.HasUser && s.visitor(r).strict:
		return nil, &router.Error{Op: "login", Class: router.Denied, Text: "a login is needed: give a token, or user and password"}
	}
	return s.opt.Authenticate.Authenticate(ctx, c)
}

// connectHTTP begins a session for a request.
func (s *Server) connectHTTP(r *http.Request, p *router.Principal) (*caller, error) {
	if err := s.enter(p.Name()); err != nil {
		return nil, err
	}
	session, err := s.opt.Router.Connect(router.SessionOptions{
		Principal: p, Vhost: router.DefaultVhost, Protocol: "http", Remote: r.RemoteAddr, Kick: func(error) {},
	})
	if err != nil {
		s.exit(p.Name())
		return nil, err
	}
	return &caller{session, s}, nil
}

// statuses is the one table from error codes to HTTP.
var statuses = map[string]int{
	"bad-request": http.StatusBadRequest, "invalid": http.StatusBadRequest, "denied": http.StatusForbidden,
	"not-found": http.StatusNotFound, "conflict": http.StatusConflict, "too-large": http.StatusRequestEntityTooLarge,
	"full": http.StatusServiceUnavailable, "unavailable": http.StatusServiceUnavailable, codeRate: http.StatusTooManyRequests,
}

func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) {
	e := s.explain(err, r.RemoteAddr)
	status, known := statuses[e.code]
	if !known {
		status = http.StatusInternalServerError
	}
	var login *loginError
	if errors.As(err, &login) {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="mqgate", charset="UTF-8", Bearer realm="mqgate"`)
	}
	s.apiError(w, status, e)
}

func (s *Server) apiError(w http.ResponseWriter, status int, e *apiError) {
	s.Stats.Errors.Add(1)
	if e.retryAfterMs > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt((e.retryAfterMs+999)/1000, 10))
	}
	writeJSON(w, status, append(e.append([]byte(`{"error":`)), '}', '\n'))
}

// writeJSON answers with what a browser must not take for anything else.
func writeJSON(w http.ResponseWriter, status int, b []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // an error is the client's leaving
}

// duration reads a query parameter: "30s", or milliseconds.
func duration(r *http.Request, name string, def, most time.Duration) (time.Duration, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return def, nil
	}
	d, err := parseDuration(text)
	if err != nil || d < 0 || d > most {
		return 0, mistake("%s must be from 0 to %s, such as 30s or 30000 (milliseconds)", name, most)
	}
	return d, nil
}

func parseDuration(text string) (time.Duration, error) {
	if ms, err := strconv.ParseInt(text, 10, 48); err == nil {
		return time.Duration(ms) * time.Millisecond, nil
	}
	return time.ParseDuration(text)
}

// known refuses query parameters that nothing reads: a misspelt one must be noticed.
func known(r *http.Request, names ...string) error {
next:
	for name := range r.URL.Query() {
		for _, n := range append(names, "access_token") {
			if n == name {
				continue next
			}
		}
		return mistake("unknown parameter %.64q; those of this address are %s", name, strings.Join(names, ", "))
	}
	return nil
}

// textMember appends a string member.
func textMember(dst []byte, name, value string) []byte {
	return appendQuoted(append(append(append(dst, `,"`...), name...), `":`...), value)
}
