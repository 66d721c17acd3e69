package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Check is one condition of being ready for clients.
type Check struct {
	Name string `json:"name"`
	// Problem is why it does not hold; empty if it does.
	Problem string `json:"problem,omitempty"`
}

// AllHold reports whether no check has a problem.
func AllHold(checks []Check) bool {
	return !slices.ContainsFunc(checks, func(c Check) bool { return c.Problem != "" })
}

// ready answers load balancers, which look at the status, and people, who read
// which checks hold.
func (h *handler) ready(w http.ResponseWriter, _ *http.Request) {
	checks := h.Ready()
	status, text := http.StatusOK, "ready\n"
	if !AllHold(checks) {
		status, text = http.StatusServiceUnavailable, "not ready\n"
	}
	var b strings.Builder
	b.WriteString(text)
	for _, c := range checks {
		if c.Problem == "" {
			fmt.Fprintf(&b, "[+] %s\n", c.Name)
		} else {
			fmt.Fprintf(&b, "[-] %s: %s\n", c.Name, c.Problem)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(b.String())) // whoever asked went away
}
