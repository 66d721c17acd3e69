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

// DrainingCheck is the name of the check that fails while clients are sent away: as all of them, it says what holds.
const DrainingCheck = "accepting"

// ready answers load balancers, which look at the status, and people, who read
// which checks hold. With ?drain=404 a node that only drains answers 404: HAProxy
// (http-check disable-on-404) then sends it no new connections and leaves it the
// old ones, which the node closes itself, a few at a time.
func (h *handler) ready(w http.ResponseWriter, r *http.Request) {
	checks := h.Ready()
	status, text := http.StatusOK, "ready\n"
	if !AllHold(checks) {
		status, text = http.StatusServiceUnavailable, "not ready\n"
		if r.FormValue("drain") == "404" && onlyDraining(checks) {
			status = http.StatusNotFound
		}
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

// onlyDraining reports whether all checks hold but that.
func onlyDraining(checks []Check) bool {
	return !slices.ContainsFunc(checks, func(c Check) bool { return c.Problem != "" && c.Name != DrainingCheck })
}
