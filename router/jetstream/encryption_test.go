package jetstream_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router/jetstream"
)

// authority issues certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.sign(t, template)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, by := template, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// peer is how a node with a certificate of the authority speaks to the others, and they to it.
func (a *authority) peer(t *testing.T, name string) *tls.Config {
	t.Helper()
	cert, key := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		RootCAs: a.pool, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// greeting is the first line that is sent to whoever connects and says something; secure is nil for plaintext.
func greeting(t *testing.T, addr string, secure *tls.Config) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		secure = secure.Clone()
		secure.ServerName = "127.0.0.1"
		c = tls.Client(c, secure)
	} else if _, err := fmt.Fprint(c, "PING\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return line
}

// Nodes with certificates of one authority form a cluster over routes that demand TLS
// of both sides. One that knows the secret and has no such certificate gets no route,
// and one that has a certificate and does not know the secret gets none either.
func TestClusterOverTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	c := newCluster(t, func(i int, o *jetstream.Options) { o.Cluster.TLS = ours.peer(t, o.NodeName) })
	c.startAll()
	s := c.open(0)
	defer s.Close()
	log := openLog(t, s, crashQueue)
	appendN(t, log, "over TLS")
	for _, tt := range []struct {
		name   string
		secure *tls.Config
		want   bool
	}{
		{"plaintext", nil, false}, {"no certificate", &tls.Config{RootCAs: ours.pool}, false}, {"our certificate", ours.peer(t, "n9"), true},
	} {
		if g := greeting(t, c.opts[0].Cluster.Listen, tt.secure); strings.HasPrefix(g, "INFO ") != tt.want {
			t.Errorf("%s is greeted with %q", tt.name, g)
		}
	}
	for _, tt := range []struct {
		name string
		edit func(o *jetstream.ClusterOptions)
	}{
		{"without TLS", func(o *jetstream.ClusterOptions) { o.TLS = nil }},
		{"with another authority's certificate", func(o *jetstream.ClusterOptions) {
			o.TLS = others.peer(t, "stranger")
			o.TLS.RootCAs = ours.pool // it would trust the others
		}},
		{"without a certificate", func(o *jetstream.ClusterOptions) { o.TLS.Certificates = nil }},
		{"with another secret", func(o *jetstream.ClusterOptions) { o.Secret = "guessed" }},
	} {
		c.stop(1)
		o := c.opts[1]
		stranger := *o.Cluster
		stranger.TLS = stranger.TLS.Clone()
		tt.edit(&stranger)
		o.Cluster = &stranger
		if n, err := jetstream.StartNode(o); err == nil {
			// Whoever is let in has its routes within milliseconds, and is not with a second of trying.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if s, err := n.OpenStore(ctx); err == nil {
				s.Close()
				t.Errorf("%s: the store was opened", tt.name)
			}
			cancel()
			if n.Routes() != 0 {
				t.Errorf("%s: there are %d routes", tt.name, n.Routes())
			}
			n.Close()
		}
		appendN(t, log, tt.name)
	}
	c.start(1)
	eventually(t, func() error {
		if n := c.nodes[1].Routes(); n == 0 {
			return fmt.Errorf("the node is not back among the others")
		}
		return nil
	})
}

// Links between sites are encrypted and authenticated in the same way.
func TestSitesOverTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	open := func(o jetstream.SiteOptions) *jetstream.Site {
		t.Helper()
		o.Log = quiet()
		s, err := jetstream.OpenSite(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	hub := open(jetstream.SiteOptions{Site: "hub", Listen: "127.0.0.1:0", Secret: "a shared secret", TLS: ours.peer(t, "hub")})
	addr := hub.Addr().String()
	if g := greeting(t, addr, nil); !strings.Contains(g, `"tls_required":true`) || !strings.Contains(g, `"tls_verify":true`) {
		t.Errorf("links do not demand TLS: %s", g)
	}
	stranger := others.peer(t, "stranger")
	stranger.RootCAs = ours.pool
	dial := [][]string{{addr}}
	refused := []*jetstream.Site{
		open(jetstream.SiteOptions{Site: "a", Dial: dial, Secret: "a shared secret"}),
		open(jetstream.SiteOptions{Site: "b", Dial: dial, Secret: "a shared secret", TLS: stranger}),
		open(jetstream.SiteOptions{Site: "c", Dial: dial, Secret: "guessed", TLS: ours.peer(t, "c")}),
	}
	good := open(jetstream.SiteOptions{Site: "d", Dial: dial, Secret: "a shared secret", TLS: ours.peer(t, "d")})
	eventually(t, func() error {
		if good.Links() != 1 {
			return fmt.Errorf("no link over TLS")
		}
		return nil
	})
	for i, s := range refused {
		if s.Links() != 0 {
			t.Errorf("stranger %d is linked", i)
		}
	}
	if n := hub.Links(); n != 1 {
		t.Errorf("the site has %d links, not 1", n)
	}
	if _, err := jetstream.OpenSite(jetstream.SiteOptions{Site: "e", Listen: "0.0.0.0:0", Secret: "s", Log: quiet()}); err == nil ||
		!strings.Contains(err.Error(), "without encryption") {
		t.Errorf("plaintext over the network: %v", err)
	}
}
