package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/mqgate/mqgate/router"
)

// forwarded is a request that another node of the cluster has authenticated.
type forwarded struct {
	Method string `json:"method"`
	Target string `json:"target"` // path and query
	User   string `json:"user"`
}

// forwardedAnswer is what the leader says to it.
type forwardedAnswer struct {
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}

// kept has a verb on what is stored answered by the leader of the cluster, if that is another router than ours.
func (h *handler) kept(f verb) http.Handler {
	if h.Forward == nil {
		return h.guard(f)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := h.principal(r)
		if err != nil {
			h.refuse(w, err)
			return
		}
		if err := r.ParseForm(); err != nil {
			writeError(w, &router.Error{Op: "admin", Class: router.Invalid, Text: "the parameters cannot be read", Err: err})
			return
		}
		q, err := json.Marshal(forwarded{Method: r.Method, Target: r.URL.Path + "?" + r.Form.Encode(), User: p.Name()})
		var a forwardedAnswer
		if err == nil {
			var b []byte
			if b, err = h.Forward(r.Context(), q); err == nil {
				err = json.Unmarshal(b, &a)
			}
		}
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.Status)
		_, _ = w.Write(a.Body) // whoever asked went away
	})
}

// Answer answers, at the leader, a request that another node forwarded: its user has admin rights.
func Answer(ctx context.Context, o Options, request []byte) ([]byte, error) {
	var q forwarded
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, fmt.Errorf("read a forwarded request: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, "http://localhost"+q.Target, nil)
	if err != nil {
		return nil, fmt.Errorf("read a forwarded request: %w", err)
	}
	o.Forward = nil
	h := &handler{Options: o, trusted: true, as: router.NewPrincipal(q.User, "", true, nil)}
	w := &answerWriter{status: http.StatusOK}
	h.mux().ServeHTTP(w, r)
	body := bytes.TrimSpace(w.body.Bytes())
	if !json.Valid(body) {
		body, _ = json.Marshal(map[string]string{"error": string(body)}) // a text always encodes
	}
	return json.Marshal(forwardedAnswer{Status: w.status, Body: body})
}

// answerWriter keeps an answer.
type answerWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header is for http.ResponseWriter.
func (w *answerWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// WriteHeader is for http.ResponseWriter.
func (w *answerWriter) WriteHeader(status int) { w.status = status }

// Write is for http.ResponseWriter.
func (w *answerWriter) Write(b []byte) (int, error) { return w.body.Write(b) }
