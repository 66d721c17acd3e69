package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// endpoint is one address to listen on and the key that says so.
type endpoint struct {
	key  string
	text string
	host string // "" is every interface
	port uint16
	// proxied: whoever can reach the proxy before it can reach it.
	proxied bool
}

// endpoints returns the addresses that are to be opened, and what is wrong with
// those that are none.
func (c *Config) endpoints() ([]endpoint, Errors) {
	var all []endpoint
	var wrong Errors
	add := func(key, text string, proxies []string) {
		if text == "" {
			return
		}
		e, p := parseEndpoint(key, text)
		if p != nil {
			wrong = append(wrong, p)
			return
		}
		e.proxied = len(proxies) > 0
		all = append(all, e)
	}
	add("stomp.listen", c.Stomp.Listen, c.Stomp.ProxyProtocol)
	for i, l := range c.Stomp.Listeners {
		add("stomp.listeners["+strconv.Itoa(i)+"].listen", l.Listen, l.ProxyProtocol)
	}
	add("mqtt.listen", c.Mqtt.Listen, c.Mqtt.ProxyProtocol)
	add("http.listen", c.HTTP.Listen, c.HTTP.ProxyProtocol)
	for i, l := range c.HTTP.Listeners {
		add("http.listeners["+strconv.Itoa(i)+"].listen", l.Listen, l.ProxyProtocol)
	}
	add("admin.listen", c.Admin.Listen, nil)
	return all, wrong
}

// peerEndpoints are where other nodes and sites connect, not clients. What is
// wrong with one is found where the rest of its section is looked at.
func (c *Config) peerEndpoints() []endpoint {
	var all []endpoint
	for _, at := range [...]struct{ key, text string }{{"cluster.listen", c.Cluster.Listen}, {"federation.listen", c.Federation.Listen}} {
		if e, p := parseEndpoint(at.key, at.text); p == nil && at.text != "" {
			all = append(all, e)
		}
	}
	return all
}

func parseEndpoint(key, text string) (endpoint, *Problem) {
	const hint = `write HOST:PORT, such as 127.0.0.1:61613 or [::1]:61613; ":61613" is every interface, "" is closed`
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return endpoint{}, problem(key, hint, "%s is not an address to listen on", quote(text))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return endpoint{}, problem(key, hint, "%s has no port from 0 to 65535", quote(text))
	}
	if strings.ContainsAny(host, " \t/*") {
		return endpoint{}, problem(key, hint, "%s has no valid host", quote(text))
	}
	return endpoint{key: key, text: text, host: canonicalHost(host), port: uint16(n)}, nil
}

// canonicalHost writes equal hosts equally.
func canonicalHost(host string) string {
	if strings.EqualFold(host, "localhost") {
		return "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return strings.ToLower(host)
	}
	if ip = ip.Unmap(); ip.IsUnspecified() {
		// On most systems [::] takes the IPv4 port as well, so all wildcards collide.
		return ""
	}
	return ip.String()
}

// loopback reports whether only this machine can connect. A host name might
// resolve to anything, so only "localhost" counts.
func (e endpoint) loopback() bool {
	ip, err := netip.ParseAddr(e.host)
	return err == nil && ip.IsLoopback()
}

// collides reports whether the two cannot both be opened. Port 0 is a free port
// and never does.
func (e endpoint) collides(o endpoint) bool {
	return e.port != 0 && e.port == o.port && (e.host == o.host || e.host == "" || o.host == "")
}

// exposed returns the endpoints that other machines can reach, be it through a proxy.
func (c *Config) exposed() []endpoint {
	all, _ := c.endpoints()
	var open []endpoint
	for _, e := range all {
		if !e.loopback() || e.proxied {
			open = append(open, e)
		}
	}
	return open
}
