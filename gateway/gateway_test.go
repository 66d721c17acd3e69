package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/config"
)

func TestMain(m *testing.M) {
	// A clustered server that is stopped while it copies a stream may leave these behind.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// load returns a configuration on free ports and a fresh data directory.
func load(t *testing.T, set ...string) *config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw") // short: the socket's path is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	base := []string{"data_dir=" + dir, "stomp.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0", "mqtt.listen=127.0.0.1:0", "http.listen=127.0.0.1:0", "storage.min_free_bytes=0", "drain_timeout=5s"}
	cfg, err := config.Load(config.Sources{Set: append(base, set...)})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func open(t *testing.T, cfg *config.Config) *Gateway {
	t.Helper()
	g, err := New(cfg, Deps{Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// run serves until the returned function is called, which returns Run's error.
func run(t *testing.T, g *Gateway) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	var once bool
	stop = func() error {
		if once {
			return nil
		}
		once = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() { stop() })
	return stop
}

// talk sends bytes and returns what is answered up to the first NUL.
func talk(t *testing.T, c net.Conn, send string) string {
	t.Helper()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return hear(t, c)
}

func hear(t *testing.T, c net.Conn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("after %q: %v", got.String(), err)
		}
		if b[0] == 0 {
			return strings.TrimLeft(got.String(), "\n")
		}
		got.WriteByte(b[0])
	}
}

func dial(t *testing.T, g *Gateway) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", g.Addr("stomp").String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestServesAndKeepsMessagesOverARestart(t *testing.T) {
	cfg := load(t)
	g := open(t, cfg)
	stop := run(t, g)
	c := dial(t, g)
	if got := talk(t, c, "CONNECT\n\n\x00"); !strings.HasPrefix(got, "CONNECTED\n") {
		t.Fatalf("answer %q", got)
	}
	if got := talk(t, c, "SEND\ndestination:/queue/a\nreceipt:1\n\nhello\x00"); !strings.HasPrefix(got, "RECEIPT\n") {
		t.Fatalf("answer %q", got)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		code, text := readyz(t, g)
		if code == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("readyz: %d %s", code, text)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := hear(t, c); !strings.HasPrefix(got, "ERROR\n") || !strings.Contains(got, "shutting down") {
		t.Errorf("on draining the client read %q", got)
	}
	g = open(t, cfg)
	run(t, g)
	c = dial(t, g)
	talk(t, c, "CONNECT\n\n\x00")
	if got := talk(t, c, "SUBSCRIBE\ndestination:/queue/a\nack:auto\n\n\x00"); !strings.HasSuffix(got, "\n\nhello") || strings.Contains(got, "redelivered") {
		t.Errorf("after the restart: %q", got)
	}
}

func TestNewLeavesNothingBehindWhenItFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := load(t, "admin.listen="+taken.Addr().String())
	if _, err := New(cfg, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "admin.listen") {
		t.Fatalf("with a taken port: %v", err)
	}
	// The data directory is free again.
	cfg = load(t, "data_dir="+cfg.DataDir)
	open(t, cfg).Close()
}

func TestASecondGatewayOnTheDataDirectoryIsRefused(t *testing.T) {
	cfg := load(t)
	g := open(t, cfg)
	defer g.Close()
	if _, err := New(cfg, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "in use by another mqgate process") {
		t.Fatalf("second gateway: %v", err)
	}
}

func TestTheAdminSocketIsTheOperators(t *testing.T) {
	cfg := load(t)
	g := open(t, cfg)
	run(t, g)
	path := filepath.Join(cfg.DataDir, AdminSocket)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	resp, err := client.Get("http://localhost/api/v1/queues")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestTLSListenerDemandsAClientCertificateAndFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	cert, key := ca.issue(t, dir, "server", 1)
	cfg := load(t, "stomp.tls.cert_file="+cert, "stomp.tls.key_file="+key, "stomp.tls.client_ca_file="+ca.file)
	g := open(t, cfg)
	run(t, g)
	addr := g.Addr("stomp (tls)").String()
	clientCert, clientKey := ca.issue(t, dir, "client", 2)
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	good := &tls.Config{RootCAs: ca.pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}}
	c, err := tls.Dial("tcp", addr, good)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := talk(t, c, "CONNECT\n\n\x00"); !strings.HasPrefix(got, "CONNECTED\n") {
		t.Errorf("answer %q", got)
	}
	if serial := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != 1 {
		t.Errorf("serial %d", serial)
	}
	bare, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.pool, ServerName: "localhost"})
	if err == nil {
		defer bare.Close()
		_, _ = io.WriteString(bare, "CONNECT\n\n\x00")
		if n, err := bare.Read(make([]byte, 1)); err == nil {
			t.Errorf("without a certificate %d bytes were answered", n)
		}
	}
}

func TestCertificateIsReadAgainWhenItsFilesChange(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	cert, key := ca.issue(t, dir, "server", 1)
	k := &certificate{certFile: cert, keyFile: key}
	if err := k.load(); err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		pair, err := k.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	ca.issue(t, dir, "server", 2)
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(cert, later, later); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 1 {
		t.Errorf("serial %d before the next look", got)
	}
	k.checked = time.Time{}
	if got := serial(); got != 2 {
		t.Errorf("serial %d after the files changed", got)
	}
	if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.checked = time.Time{}
	if got := serial(); got != 2 {
		t.Errorf("serial %d with an unreadable file", got)
	}
}

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	file string
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(100), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool(), file: filepath.Join(dir, "ca.pem")}
	a.pool.AddCert(cert)
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) issue(t *testing.T, dir, name string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "EC PRIVATE KEY", keyDER)
	return certFile, keyFile
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
