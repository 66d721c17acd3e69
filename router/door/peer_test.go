package door

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"slices"
	"testing"
)

// shownConn is a connection over TLS whose state is as a test says.
type shownConn struct {
	net.Conn
	state tls.ConnectionState
}

func (c shownConn) ConnectionState() tls.ConnectionState { return c.state }

func TestCertificateNames(t *testing.T) {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "common"}, DNSNames: []string{"a.example", "b.example"}, EmailAddresses: []string{"c@example"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example", Path: "/worker"}}}
	shown := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	verified := shown
	verified.VerifiedChains = [][]*x509.Certificate{{leaf}}
	if got, want := CertificateNames(shownConn{state: verified}), []string{"common", "a.example", "b.example", "c@example", "spiffe://example/worker"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	for name, c := range map[string]net.Conn{"not verified": shownConn{state: shown}, "none": shownConn{}, "no TLS": &net.TCPConn{}} {
		if got := CertificateNames(c); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true,
		"10.0.0.1:1": false, "[::]:1": false, "localhost:1": false, "@": false, "": false} {
		if got := Loopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

func TestLiteralHost(t *testing.T) {
	for host, want := range map[string]bool{"127.0.0.1": true, "10.0.0.1:9090": true, "::1": true, "[::1]": true, "[::1]:9090": true,
		"localhost": true, "LOCALHOST:9090": true, "localhost.evil.example": false, "gw.example:9090": false, "127.0.0.1.evil.example": false, "": false} {
		if got := LiteralHost(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}
