package gateway

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/mqgate/mqgate/config"
)

// freeAddress returns an address on which nothing listens; outgoing connections have higher ports.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// fromFile is a configuration of a file in dir, whose relative names are those of files beside it.
func fromFile(t *testing.T, dir, name, text string) *config.Config {
	t.Helper()
	data, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	file := filepath.Join(dir, name+".yaml")
	text = fmt.Sprintf(`
node_name: %s
data_dir: %s
stomp: {listen: "127.0.0.1:0"}
mqtt: {listen: "127.0.0.1:0"}
http: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
storage: {min_free_bytes: 0}
drain_timeout: 5s
`, name, data) + text
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Sources{File: file})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// certificates makes those of the named, all of one authority, in a directory of their own beside its ca.pem.
func certificates(t *testing.T, dir string, names ...string) *authority {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t, dir)
	for i, name := range names {
		a.issue(t, dir, name, int64(i+1))
	}
	return a
}

// awaitReady waits until a gateway has a reason not to be ready that has the words in it; "" is for none.
func awaitReady(t *testing.T, g *Gateway, reason string) {
	t.Helper()
	var problems []string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		problems = nil
		for _, c := range g.ready() {
			if c.Problem != "" {
				problems = append(problems, c.Problem)
			}
		}
		if reason == "" && problems == nil || reason != "" && strings.Contains(strings.Join(problems, "\n"), reason) {
			return
		}
	}
	t.Fatalf("%s is not ready because of %q, not %q", g.cfg.NodeName, problems, reason)
}

// client logs in with STOMP.
func client(t *testing.T, g *Gateway) net.Conn {
	t.Helper()
	c := dial(t, g)
	if got := talk(t, c, "CONNECT\n\n\x00"); !strings.HasPrefix(got, "CONNECTED\n") {
		t.Fatalf("%s answers %q", g.cfg.NodeName, got)
	}
	return c
}

// crosses has a message stored by one gateway, and consumed at another.
func crosses(t *testing.T, from, to *Gateway, body string) {
	t.Helper()
	if got := talk(t, client(t, from), "SEND\ndestination:/queue/crossing\nreceipt:1\npersistent:true\n\n"+body+"\x00"); !strings.HasPrefix(got, "RECEIPT\n") {
		t.Fatalf("%s answers %q", from.cfg.NodeName, got)
	}
	c := client(t, to)
	defer c.Close()
	if got := talk(t, c, "SUBSCRIBE\nid:1\ndestination:/queue/crossing\n\n\x00"); !strings.HasSuffix(got, "\n\n"+body) {
		t.Errorf("%s answers %q, without %q", to.cfg.NodeName, got, body)
	}
}

// greeted is what a port of NATS says to whoever connects and asks; secure is nil for plaintext.
func greeted(t *testing.T, addr string, secure *tls.Config) string {
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

// Nodes whose files name certificates of one authority are a cluster; one that knows the secret and comes with another's is in
// contact with nobody.
func TestRoutesAreEncryptedAsTheFileSays(t *testing.T) {
	dir := t.TempDir()
	ours := certificates(t, filepath.Join(dir, "ours"), "n1", "n2", "n3")
	certificates(t, filepath.Join(dir, "theirs"), "n3")
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("a secret of three nodes"), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := []string{freeAddress(t), freeAddress(t), freeAddress(t)}
	node := func(i int, certs string) (g *Gateway, stop func() error) {
		name := fmt.Sprint("n", i+1)
		g = open(t, fromFile(t, dir, name, fmt.Sprintf(`
cluster:
  name: test
  listen: %s
  join: [%s]
  secret_file: secret
  tls: {cert_file: %[3]s/%[4]s.pem, key_file: %[3]s/%[4]s.key, client_ca_file: ours/ca.pem}
`, addrs[i], strings.Join(addrs, ", "), certs, name)))
		return g, run(t, g)
	}
	n1, _ := node(0, "ours")
	n2, _ := node(1, "ours")
	n3, stop := node(2, "ours")
	for _, n := range []*Gateway{n1, n2, n3} {
		awaitReady(t, n, "")
	}
	crosses(t, n1, n3, "one")
	toldOfAll(t, []*Gateway{n1, n2, n3})
	var backups int
	for _, n := range []*Gateway{n1, n2, n3} {
		leader, _ := n.member.lease()
		switch err := n.backup(t.Context(), io.Discard); {
		case err == nil:
			backups++
		case !strings.Contains(err.Error(), fmt.Sprintf("the leader of the cluster makes backups: ask node %q", leader)):
			t.Errorf("backup on %s: %v", n.cfg.NodeName, err)
		}
	}
	if backups != 1 {
		t.Errorf("%d nodes make backups", backups)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "ours", "n3.pem"), filepath.Join(dir, "ours", "n3.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		who    string
		secure *tls.Config
		want   bool
	}{
		{"plaintext", nil, false},
		{"no certificate", &tls.Config{RootCAs: ours.pool, ServerName: "127.0.0.1"}, false},
		{"our certificate", &tls.Config{RootCAs: ours.pool, ServerName: "127.0.0.1", Certificates: []tls.Certificate{pair}}, true},
	} {
		if got := greeted(t, addrs[0], tt.secure); strings.HasPrefix(got, "INFO ") != tt.want {
			t.Errorf("%s is greeted with %q", tt.who, got)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	n3, _ = node(2, "theirs")
	awaitReady(t, n3, "majority")
	crosses(t, n1, n2, "two")
	if got := talk(t, client(t, n3), "SEND\ndestination:/queue/x\nreceipt:1\npersistent:true\n\nx\x00"); !strings.HasPrefix(got, "ERROR\n") || !strings.Contains(got, "try again, or another node") {
		t.Errorf("the node that is alone answers %q", got)
	}
}

// Sites whose files name certificates of one authority are linked; those that know the secret and have another's, or none,
// are not.
func TestLinksAreEncryptedAsTheFileSays(t *testing.T) {
	dir := t.TempDir()
	certificates(t, filepath.Join(dir, "ours"), "berlin", "oslo")
	certificates(t, filepath.Join(dir, "theirs"), "rome")
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("a secret of all sites"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddress(t)
	site := func(name, settings string) *Gateway {
		g := open(t, fromFile(t, dir, name, "federation:\n  site: "+name+"\n  secret_file: secret\n"+settings))
		run(t, g)
		return g
	}
	files := func(certs, name string) string {
		return fmt.Sprintf("  tls: {cert_file: %[1]s/%[2]s.pem, key_file: %[1]s/%[2]s.key, client_ca_file: ours/ca.pem}\n", certs, name)
	}
	dials := "  remotes: [{site: berlin, addresses: [" + addr + "], queues: [crossing]}]\n"
	berlin := site("berlin", "  listen: "+addr+"\n  remotes: [{site: oslo, receive: [/queue/crossing]}]\n"+files("ours", "berlin"))
	strangers := []*Gateway{site("rome", dials+files("theirs", "rome")), site("paris", dials+"  insecure: true\n")}
	oslo := site("oslo", dials+files("ours", "oslo"))
	crosses(t, oslo, berlin, "one")
	if got := greeted(t, addr, nil); !strings.Contains(got, `"tls_required":true`) || !strings.Contains(got, `"tls_verify":true`) {
		t.Errorf("who links is greeted with %q", got)
	}
	for _, s := range strangers {
		if n, _ := s.federation(); n != 0 {
			t.Errorf("%s is linked", s.cfg.NodeName)
		}
	}
	if n, _ := berlin.federation(); n != 1 {
		t.Errorf("there are %d links with berlin", n)
	}
}

// natsOfAnOperator runs a NATS that demands TLS of both sides, and credentials of an account with JetStream; those are in the
// file user.creds, and those of an operator that it does not know in stranger.creds.
func natsOfAnOperator(t *testing.T, dir string) (addr string) {
	t.Helper()
	var failed error
	must := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	pair := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		k, err := create()
		must(err)
		public, err := k.PublicKey()
		must(err)
		return k, public
	}
	var trusted *jwt.OperatorClaims
	_, system := pair(nkeys.CreateAccount)
	accounts := &server.MemAccResolver{}
	for i, file := range []string{"user.creds", "stranger.creds"} {
		operator, operatorID := pair(nkeys.CreateOperator)
		account, accountID := pair(nkeys.CreateAccount)
		user, userID := pair(nkeys.CreateUser)
		a := jwt.NewAccountClaims(accountID)
		a.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		text, err := a.Encode(operator)
		must(err)
		if i == 0 {
			trusted = jwt.NewOperatorClaims(operatorID)
			must(accounts.Store(accountID, text))
			text, err = jwt.NewAccountClaims(system).Encode(operator)
			must(err)
			must(accounts.Store(system, text))
		}
		text, err = jwt.NewUserClaims(userID).Encode(account)
		must(err)
		seed, err := user.Seed()
		must(err)
		creds, err := jwt.FormatUserConfig(text, seed)
		must(err)
		must(os.WriteFile(filepath.Join(dir, file), creds, 0o600))
	}
	secure, err := peerTLS(config.TLS{CertFile: filepath.Join(dir, "nats.pem"), KeyFile: filepath.Join(dir, "nats.key"), ClientCAFile: filepath.Join(dir, "ca.pem")})
	must(err)
	if failed != nil {
		t.Fatal(failed)
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		TLSConfig: secure, TLSVerify: true, TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: accounts, SystemAccount: system})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("NATS is not ready")
	}
	return s.Addr().String()
}

// Gateways use an existing NATS over TLS and with the credentials that their files name; without them they say at the start what
// NATS refused.
func TestNATSOverTLSWithCredentials(t *testing.T) {
	dir := t.TempDir()
	certificates(t, dir, "nats", "gateway")
	certificates(t, filepath.Join(dir, "theirs"), "gateway")
	addr := natsOfAnOperator(t, dir)
	gateway := func(name, creds, authority, own string) (*Gateway, error) {
		text := "nats:\n  url: tls://" + addr + "\n"
		if creds != "" {
			text += "  credentials_file: " + creds + "\n"
		}
		text += "  tls:\n    ca_file: " + authority + "\n"
		if own != "" {
			text += "    cert_file: " + own + ".pem\n    key_file: " + own + ".key\n"
		}
		return New(fromFile(t, dir, name, text), Deps{Log: slog.New(slog.DiscardHandler), Version: "test"})
	}
	for _, tt := range []struct{ name, creds, authority, own, want string }{
		{"no-credentials", "", "ca.pem", "gateway", "uthorization"},
		{"strange-credentials", "stranger.creds", "ca.pem", "gateway", "uthorization"},
		{"strange-authority", "user.creds", "theirs/ca.pem", "gateway", "certificate"},
		{"strange-certificate", "user.creds", "ca.pem", "theirs/gateway", "tls"},
		{"no-certificate", "user.creds", "ca.pem", "", "tls"},
		{"no-such-authority", "user.creds", "no-such.pem", "gateway", "no-such.pem"},
	} {
		g, err := gateway(tt.name, tt.creds, tt.authority, tt.own)
		if err == nil {
			run(t, g)
			t.Errorf("%s: it started", tt.name)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %q says nothing of %q", tt.name, err, tt.want)
		}
	}
	var both []*Gateway
	for _, name := range []string{"g1", "g2"} {
		g, err := gateway(name, "user.creds", "ca.pem", "gateway")
		if err != nil {
			t.Fatal(err)
		}
		run(t, g)
		both = append(both, g)
	}
	for _, g := range both {
		awaitReady(t, g, "")
	}
	crosses(t, both[0], both[1], "one")
	crosses(t, both[1], both[0], "two")
	for _, g := range both {
		c, err := g.cluster(t.Context())
		if err != nil || len(c.Nodes) != 2 || !c.Nodes[0].Reachable || !c.Nodes[1].Reachable || c.Nodes[0].Leader == c.Nodes[1].Leader {
			t.Errorf("%s sees %+v, %v", g.cfg.NodeName, c.Nodes, err)
		}
	}
	toldOfAll(t, both)
}

// The admin listener answers by a host's name where TLS has proved that, for its certificate need not name the address; without, a
// page could have made the name.
func TestAdminByName(t *testing.T) {
	dir := t.TempDir()
	ours := certificates(t, dir, "gw")
	files := []string{"admin.tls.cert_file=" + filepath.Join(dir, "gw.pem"), "admin.tls.key_file=" + filepath.Join(dir, "gw.key")}
	for _, tt := range []struct {
		scheme, listener string
		set              []string
		want             int
	}{
		{"http", "admin", nil, http.StatusForbidden},
		{"https", "admin (tls)", files, http.StatusOK},
	} {
		g := open(t, load(t, append(tt.set, "anonymous.admin=true")...))
		run(t, g)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.scheme+"://"+g.Addr(tt.listener).String()+"/api/v1/queues", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "gw.example"
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ours.pool}, DisableKeepAlives: true}}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.want {
			t.Errorf("by %s: %s %s, %v", tt.scheme, resp.Status, text, err)
		}
	}
}
