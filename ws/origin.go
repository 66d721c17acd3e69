package ws

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mqgate/mqgate/router/door"
)

// visitor is what a request tells of where it comes from.
type visitor struct {
	allowed bool
	// strict: only a login that names a user is accepted, not "anonymous because on
	// this machine".
	strict bool
	// origin is that of a page of elsewhere that is allowed; "": there is none.
	origin string
}

// visitor decides about a request, against pages of other sites that connect
// with their visitor's network position. Cookies are never looked at.
func (s *Server) visitor(r *http.Request) visitor {
	origins := r.Header.Values("Origin")
	switch {
	case len(origins) > 1:
		return visitor{}
	case len(origins) == 0:
		return visitor{allowed: !crossSite(r), strict: r.Header.Get("Authorization") == "" && !(door.Loopback(r.RemoteAddr) && door.LiteralHost(r.Host))}
	}
	origin := origins[0]
	if slices.ContainsFunc(s.opt.Origins, func(o string) bool { return o == "*" || strings.EqualFold(o, origin) }) {
		return visitor{allowed: true, origin: origin}
	}
	u, err := url.Parse(origin)
	// "null" is what sandboxed frames and local files say: it is nobody's origin.
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
		return visitor{}
	}
	// A name that its owner made to resolve to this machine is its pages' own origin
	// as well (DNS rebinding): they get no more than who logs in.
	return visitor{allowed: true, strict: !door.LiteralHost(r.Host)}
}

// crossSite reports that a browser sends the request for a page of elsewhere
// without naming its origin, as it does for images and links.
func crossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	return true
}
