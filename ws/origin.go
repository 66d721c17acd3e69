package ws

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// originAllowed decides whether a handshake may go on, against pages of other
// sites that connect with their visitor's network position or cookies.
// named is false if there is no Origin: then it is no browser.
func (s *Server) originAllowed(r *http.Request) (allowed, named bool) {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true, false
	}
	if len(origins) > 1 {
		return false, true
	}
	origin := origins[0]
	if slices.ContainsFunc(s.opt.Origins, func(o string) bool { return o == "*" || strings.EqualFold(o, origin) }) {
		return true, true
	}
	u, err := url.Parse(origin)
	// "null" is what sandboxed frames and local files say: it is nobody's origin.
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host), true
}

func loopback(remote string) bool {
	p, err := netip.ParseAddrPort(remote)
	return err == nil && p.Addr().Unmap().IsLoopback()
}
