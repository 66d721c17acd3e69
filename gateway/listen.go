package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/examples/chat"
	"github.com/mqgate/mqgate/gateway/proxy"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/stomp"
)

// AdminSocket is the name of the Unix socket in the data directory by which the
// command line reaches a running gateway: whoever may open it is the operator.
const AdminSocket = "admin.sock"

// maxSocketPath is what the system allows for the path of a Unix socket.
const maxSocketPath = 100

// listen binds every port before anything is served.
func (g *Gateway) listen() error {
	for i, c := range g.cfg.Stomp.Open() {
		dialect, err := stomp.ParseDialect(c.Dialect)
		if err != nil {
			return err
		}
		name := "stomp"
		if i > 0 {
			name = fmt.Sprintf("stomp.listeners[%d]", i-1)
		}
		serve := func(ctx context.Context, l net.Listener) error { return g.stomp.Serve(ctx, l, dialect) }
		if err := g.listenTCP(name, c.Listen, c.TLS, c.ProxyProtocol, serve); err != nil {
			return err
		}
	}
	if err := g.listenTCP("mqtt", g.cfg.Mqtt.Listen, g.cfg.Mqtt.TLS, g.cfg.Mqtt.ProxyProtocol, g.mqtt.Serve); err != nil {
		return err
	}
	if err := g.listenSocket(); err != nil {
		return err
	}
	if err := g.listenHTTP("admin", g.cfg.Admin.Listen, g.cfg.Admin.TLS, nil, g.adminHandler(false)); err != nil {
		return err
	}
	if err := g.listenHTTP("http", g.cfg.HTTP.Listen, g.cfg.HTTP.TLS, g.cfg.HTTP.ProxyProtocol, g.browserHandler()); err != nil {
		return err
	}
	return g.listenWebSocket()
}

// listenWebSocket binds the ports that carry one protocol whatever the path.
func (g *Gateway) listenWebSocket() error {
	for i, c := range g.cfg.HTTP.Listeners {
		h := g.ws.MQTT()
		if c.Carries == config.CarriesSTOMP {
			dialect, err := stomp.ParseDialect(c.Dialect)
			if err != nil {
				return err
			}
			h = g.ws.STOMP(func(socket net.Conn) { g.stomp.ServeConn(socket, dialect) })
		}
		if err := g.listenHTTP(fmt.Sprintf("http.listeners[%d]", i), c.Listen, c.TLS, c.ProxyProtocol, h); err != nil {
			return err
		}
	}
	return nil
}

// browserHandler serves WebSocket, its JavaScript client and the chat.
func (g *Gateway) browserHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", g.ws)
	mux.Handle("/chat/", chat.Handler("/chat/"))
	mux.Handle("GET /{$}", http.RedirectHandler("/chat/", http.StatusFound)) // whoever types the address only
	return mux
}

// bind listens if there is an address; l is nil if there is none. Proxies are the
// networks of the load balancers before it, if any.
func (g *Gateway) bind(name, address string, c config.TLS, proxies []string) (l net.Listener, full string, err error) {
	if address == "" {
		return nil, name, nil
	}
	if l, err = door.Listen(context.Background(), address); err != nil {
		return nil, name, fmt.Errorf("listen (%s.listen): %w", name, err)
	}
	if len(proxies) > 0 {
		trusted, err := config.Networks(proxies)
		if err != nil {
			l.Close()
			return nil, name, fmt.Errorf("%s.proxy_protocol: %w", name, err)
		}
		// Its header comes first, before a TLS handshake too.
		p := proxy.NewListener(l, proxy.Options{Trusted: trusted, Name: name, Log: g.log})
		protocol, _, _ := strings.Cut(name, ".")
		if protocol == "http" {
			protocol = "ws" // as connections are counted
		}
		g.proxied, l = append(g.proxied, proxied{p, protocol}), p
	}
	return withTLS(l, name, c)
}

func (g *Gateway) listenTCP(name, address string, c config.TLS, proxies []string, serve func(context.Context, net.Listener) error) error {
	l, name, err := g.bind(name, address, c, proxies)
	if l != nil {
		g.listeners = append(g.listeners, listener{Listener: l, name: name, serve: serve})
	}
	return err
}

func (g *Gateway) listenHTTP(name, address string, c config.TLS, proxies []string, h http.Handler) error {
	l, name, err := g.bind(name, address, c, proxies)
	if l != nil {
		g.undo = append(g.undo, func() { l.Close() })
		g.webs = append(g.webs, webListener{Listener: l, name: name, handler: h})
	}
	return err
}

// withTLS wraps a bound listener if its configuration has certificates; it
// closes it if they cannot be used.
func withTLS(l net.Listener, name string, c config.TLS) (net.Listener, string, error) {
	if !c.Enabled() {
		return l, name, nil
	}
	tc, err := tlsConfig(c)
	if err != nil {
		l.Close()
		return nil, name, fmt.Errorf("TLS of %s: %w", name, err)
	}
	return tls.NewListener(l, tc), name + " (tls)", nil
}

// listenSocket binds the operator's socket. A path that the system does not
// allow leaves the admin port as the only way.
func (g *Gateway) listenSocket() error {
	path := filepath.Join(g.cfg.DataDir, AdminSocket)
	if len(path) > maxSocketPath {
		g.log.Warn("the data directory's path is too long for the admin socket; use admin.listen", "path", path)
		return nil
	}
	// The data directory is locked: a socket that is there is a dead one.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old admin socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on the admin socket: %w", err)
	}
	g.undo = append(g.undo, func() { l.Close() })
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("protect the admin socket: %w", err)
	}
	g.webs = append(g.webs, webListener{Listener: l, name: "admin socket", handler: g.adminHandler(true)})
	return nil
}

// tlsConfig serves the certificate in the files, also after they change.
func tlsConfig(c config.TLS) (*tls.Config, error) {
	k := &certificate{certFile: c.CertFile, keyFile: c.KeyFile}
	if err := k.load(); err != nil {
		return nil, err
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: k.get}
	if c.ClientCAFile != "" {
		pem, err := os.ReadFile(c.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read client CA: %w", err)
		}
		tc.ClientCAs = x509.NewCertPool()
		if !tc.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", c.ClientCAFile)
		}
		tc.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return tc, nil
}

// peerTLS is for nodes of a cluster, which are servers and clients of each other.
func peerTLS(c config.TLS) (*tls.Config, error) {
	tc, err := tlsConfig(c)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	tc.Certificates, tc.GetCertificate, tc.RootCAs = []tls.Certificate{pair}, nil, tc.ClientCAs
	return tc, nil
}

// recheck is how long a certificate is used before its files are looked at again.
const recheck = 30 * time.Second

// certificate is a key pair that follows its files: renewals need no restart. A
// pair that cannot be read leaves the old one in use.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	pair    *tls.Certificate
	changed time.Time // of the newer file
	checked time.Time
}

func (k *certificate) load() error {
	changed, err := k.modified()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return err
	}
	k.pair, k.changed, k.checked = &pair, changed, time.Now()
	return nil
}

func (k *certificate) modified() (time.Time, error) {
	a, err := os.Stat(k.certFile)
	if err != nil {
		return time.Time{}, err
	}
	b, err := os.Stat(k.keyFile)
	if err != nil {
		return time.Time{}, err
	}
	if b.ModTime().After(a.ModTime()) {
		return b.ModTime(), nil
	}
	return a.ModTime(), nil
}

func (k *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.checked) > recheck {
		k.checked = time.Now()
		if changed, err := k.modified(); err == nil && !changed.Equal(k.changed) {
			_ = k.load() // a pair that is being replaced is read at the next look
		}
	}
	return k.pair, nil
}
