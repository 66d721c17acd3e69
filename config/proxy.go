package config

import (
	"fmt"
	"net/netip"
)

// Networks reads a proxy_protocol list: networks, or single addresses.
func Networks(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(list))
	for i, text := range list {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
			ip = ip.Unmap()
			out[i] = netip.PrefixFrom(ip, ip.BitLen())
			continue
		}
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil || p.Addr().Is4In6():
			return nil, fmt.Errorf("%s is not a network such as 10.0.0.0/24, nor an address", quote(text))
		case p != p.Masked():
			return nil, fmt.Errorf("%s has bits below its mask; the network is %s", quote(text), p.Masked())
		}
		out[i] = p
	}
	return out, nil
}

func (c *Config) checkProxies() Errors {
	var found Errors
	check := func(key string, list []string) {
		if _, err := Networks(list); err != nil {
			found = append(found, problem(key, "name the networks of your load balancers", "%s", err))
		}
	}
	check("stomp.proxy_protocol", c.Stomp.ProxyProtocol)
	for i, l := range c.Stomp.Listeners {
		check(fmt.Sprintf("stomp.listeners[%d].proxy_protocol", i), l.ProxyProtocol)
	}
	check("mqtt.proxy_protocol", c.Mqtt.ProxyProtocol)
	check("http.proxy_protocol", c.HTTP.ProxyProtocol)
	for i, l := range c.HTTP.Listeners {
		check(fmt.Sprintf("http.listeners[%d].proxy_protocol", i), l.ProxyProtocol)
	}
	return found
}
