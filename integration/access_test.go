package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// TestUsers makes a users file with "mqgate passwd", and tries what its patterns
// allow and what not.
func TestUsers(t *testing.T) {
	b := harness.New(t)
	file := filepath.Join(b.Dir, "users.yaml")
	for _, u := range []string{"worker", "boss"} {
		args := []string{"passwd", "--stdin", "--file", file, "--user", u}
		if u == "boss" {
			args = append(args, "--allow-all", "--admin")
		}
		if code, out, errs := b.Command("secret of "+u+"\n", args...); code != 0 || !strings.Contains(out, u) {
			t.Fatalf("passwd: %d %s %s", code, out, errs)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "secret of") {
		t.Fatal("the users file has the password in clear")
	}
	// As the operator would: passwd says that a new user is without rights.
	config := "users_file: " + file + "\n"
	writeConfig(t, b, config)
	rights := string(text)
	for _, r := range []string{`read: ["/topic/plant.>"]`, `write: ["/queue/orders.*", "/topic/plant.%u"]`, `consume: ["/queue/orders.*"]`} {
		name, _, _ := strings.Cut(r, " ")
		if !strings.Contains(rights, name+" []") {
			t.Fatalf("the new user has no empty list %s\n%s", name, text)
		}
		rights = strings.Replace(rights, name+" []", r, 1)
	}
	if err := os.WriteFile(file, []byte(rights), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Set = []string{"stomp.listen=0.0.0.0:0"} // users make this possible
	b.Start()
	_, port, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + port

	for name, headers := range map[string][]string{
		"wrong password": {"login:worker", "passcode:wrong"}, "unknown user": {"login:nobody", "passcode:x"}, "no login": nil,
	} {
		w, err := harness.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Login(headers...); err == nil || !strings.Contains(err.Error(), "ERROR") {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := harness.MustLogin(t, addr, "login:worker", "passcode:secret of worker")
	tries := []struct {
		command, destination string
		allowed              bool
	}{
		{"SEND", "/queue/orders.eu", true}, {"SEND", "/queue/orders", false}, {"SEND", "/queue/orders.eu.x", false},
		{"SEND", "/queue/DLQ.orders.eu", false}, {"SEND", "/topic/plant.worker", true}, {"SEND", "/topic/plant.boss", false},
		{"SUBSCRIBE", "/queue/orders.eu", true}, {"SUBSCRIBE", "/queue/salaries", false},
		{"SUBSCRIBE", "/topic/plant.7.temp", true}, {"SUBSCRIBE", "/topic/plant.>", true}, {"SUBSCRIBE", "/topic/salaries.>", false},
	}
	for i, try := range tries {
		w.Must(t, try.command, nil, "destination:"+try.destination, fmt.Sprintf("id:%d", i), "receipt:r")
		f, err := w.Read(time.Minute)
		for err == nil && f.Command == "MESSAGE" {
			f, err = w.Read(time.Minute)
		}
		if err != nil {
			t.Fatalf("%s %s: %v", try.command, try.destination, err)
		}
		if got := f.Command == "RECEIPT"; got != try.allowed {
			t.Errorf("%s %s: %s", try.command, try.destination, f)
		}
	}
	boss := harness.MustLogin(t, addr, "login:boss", "passcode:secret of boss")
	boss.MustConfirm(t, "SEND", nil, "destination:/queue/salaries")

	// A wildcard may be wider than what is allowed; what it brings is not.
	wide := harness.MustLogin(t, addr, "login:worker", "passcode:secret of worker")
	wide.MustConfirm(t, "SUBSCRIBE", nil, "destination:/topic/>", "id:1")
	boss.MustConfirm(t, "SEND", []byte("secret"), "destination:/topic/salaries.boss")
	boss.MustConfirm(t, "SEND", []byte("public"), "destination:/topic/plant.9")
	if f := wide.Expect(t, "MESSAGE"); string(f.Body) != "public" {
		t.Errorf("the worker read what is not for it: %s", f)
	}
}

// TestTLSClientCertificates serves TLS to holders of a certificate only, and takes
// its name for a user.
func TestTLSClientCertificates(t *testing.T) {
	b := harness.New(t)
	ca := newAuthority(t)
	ca.writeTo(t, b.Dir, "ca", ca.certificate)
	server, worker := ca.issue(t, "localhost"), ca.issue(t, "worker-7")
	ca.writeTo(t, b.Dir, "server", server)
	writeConfig(t, b, `stomp:
  tls: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}
users:
  - name: worker
    cert_names: [worker-7]
    allow: {write: [/queue/jobs]}
`)
	b.Start()
	addr := b.ListenerAddr("stomp (tls)")
	roots := x509.NewCertPool()
	roots.AddCert(ca.certificate.Leaf)

	w, err := harness.DialTLS(addr, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{worker}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.Login(); err != nil {
		t.Fatal(err)
	}
	w.MustConfirm(t, "SEND", []byte("by certificate"), "destination:/queue/jobs")
	w.Must(t, "SEND", nil, "destination:/queue/salaries", "receipt:r")
	w.Expect(t, "ERROR")

	strangers := newAuthority(t)
	for name, certs := range map[string][]tls.Certificate{"none": nil, "of a stranger": {strangers.issue(t, "worker-7")}} {
		c, err := harness.DialTLS(addr, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: certs})
		if err != nil {
			continue // refused in the handshake
		}
		if err := c.Login(); err == nil { // with TLS 1.3 the client learns it at its first read
			t.Errorf("certificate %s: logged in", name)
			c.Close()
		}
	}
	plain, err := harness.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Login(); err == nil {
		t.Error("a client without TLS logged in")
	}
}

// authority is a certificate authority of a test.
type authority struct {
	certificate tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &authority{sign(t, template, nil)}
}

// issue makes a certificate for a name, for servers and clients.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	return sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
}

// sign makes a key and a certificate, self-signed without an authority.
func sign(t *testing.T, template *x509.Certificate, a *authority) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, any(key)
	if a != nil {
		parent, signer = a.certificate.Leaf, a.certificate.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// writeTo writes NAME.pem and NAME.key.
func (a *authority) writeTo(t *testing.T, dir, name string, c tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, name + ".key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
