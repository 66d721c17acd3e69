package door

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
)

// CertificateNames gives the names in the client certificate that TLS verified.
func CertificateNames(socket net.Conn) []string {
	t, ok := socket.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	state := t.ConnectionState()
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	var names []string
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	names = append(names, leaf.DNSNames...)
	names = append(names, leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	return names
}

// Loopback reports whether a peer's address is on this machine.
func Loopback(address string) bool {
	p, err := netip.ParseAddrPort(address)
	return err == nil && p.Addr().Unmap().IsLoopback()
}

// LiteralHost reports whether a Host header needs no name service.
func LiteralHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.EqualFold(host, "localhost") || net.ParseIP(strings.Trim(host, "[]")) != nil
}
