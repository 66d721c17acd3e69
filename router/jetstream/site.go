package jetstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// SiteOptions link this site with others.
type SiteOptions struct {
	Site string
	// Listen is where other sites make the link: host:port; empty: nowhere.
	Listen string
	// Dial has the addresses of each site to which this one makes the link; any one
	// of a site's addresses does.
	Dial [][]string
	// Secret is shared by the linked sites.
	Secret string
	// TLS encrypts the links; it must demand and verify the certificates of both sides.
	TLS *tls.Config
	// Insecure lets other sites link over a network without TLS.
	Insecure bool
	Log      *slog.Logger
}

// Site is this site's end of the links with others: a leaf node of its own, apart
// from the server that stores, so that nothing crosses but what is sent here.
// Links are made again when they break.
type Site struct {
	name   string
	server *server.Server
	conn   *nats.Conn
}

// OpenSite listens for other sites and begins to link with those that are dialled.
func OpenSite(o SiteOptions) (*Site, error) {
	if o.Secret == "" || o.Site == "" {
		return nil, errors.New("a linked site needs a name and a secret")
	}
	h := sha256.Sum256([]byte("mqgate site\x00" + o.Secret))
	password := hex.EncodeToString(h[:])
	so := &server.Options{ServerName: "site-" + o.Site + "-" + rand.Text(), NoSigs: true, MaxPayload: maxPayload, MaxPending: 4 * maxPayload,
		Host: "127.0.0.1", Port: server.RANDOM_PORT, Username: rand.Text(), Password: rand.Text()}
	so.LeafNode.ReconnectInterval = time.Second
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return nil, fmt.Errorf("address for other sites: %w", err)
		}
		if o.TLS == nil && !o.Insecure && !loopback(host) {
			return nil, fmt.Errorf("sites would talk without encryption over the network (%s): set up TLS, or choose that explicitly", o.Listen)
		}
		so.LeafNode.Host = host
		if so.LeafNode.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("port for other sites: %w", err)
		}
		if so.LeafNode.Port == 0 {
			so.LeafNode.Port = server.RANDOM_PORT
		}
		so.LeafNode.Username, so.LeafNode.Password = routeUser, password
		so.LeafNode.TLSConfig, so.LeafNode.TLSTimeout = o.TLS, 5
	}
	for _, addrs := range o.Dial {
		r := &server.RemoteLeafOpts{TLSConfig: o.TLS, TLS: o.TLS != nil, TLSTimeout: 5}
		for _, a := range addrs {
			r.URLs = append(r.URLs, &url.URL{Scheme: "nats-leaf", Host: a, User: url.UserPassword(routeUser, password)})
		}
		so.LeafNode.Remotes = append(so.LeafNode.Remotes, r)
	}
	srv, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("make the links of this site: %w", err)
	}
	srv.SetLoggerV2(serverLog{log: o.Log.With("part", "federation")}, false, false, false)
	s := &Site{name: o.Site, server: srv}
	srv.Start()
	if !srv.ReadyForConnections(readyTimeout) {
		s.Close()
		return nil, fmt.Errorf("this site does not listen for others after %v: is %s in use?", readyTimeout, o.Listen)
	}
	s.conn, err = nats.Connect("", nats.InProcessServer(srv), nats.Timeout(requestTimeout), nats.Name("federation"), nats.MaxReconnects(-1), nats.UserInfo(so.Username, so.Password),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { o.Log.Error("links of this site", "error", err) }))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("connect to the links of this site: %w", err)
	}
	return s, nil
}

// Addr is where other sites make the link.
func (s *Site) Addr() net.Addr {
	v, err := s.server.Varz(nil)
	if err != nil || v.LeafNode.Port == 0 {
		return nil
	}
	return &net.TCPAddr{IP: net.ParseIP(v.LeafNode.Host), Port: v.LeafNode.Port}
}

// Links counts the links that are up.
func (s *Site) Links() int { return s.server.NumLeafNodes() }

func siteSubject(site, what string) string { return "mqgate.site." + hashName(site) + "." + what }

// errUnlinked: there is nobody to send to.
var errUnlinked = errors.New("no other site is linked with this one now")

// Send sends to a site, at most once and in order. While no link is up it fails.
func (s *Site) Send(to string, b []byte) error {
	if s.Links() == 0 {
		return errUnlinked
	}
	return s.conn.Publish(siteSubject(to, "live"), b)
}

// Ask sends to a site and returns its answer.
func (s *Site) Ask(ctx context.Context, to string, b []byte) ([]byte, error) {
	m, err := s.conn.RequestWithContext(ctx, siteSubject(to, "stored"), b)
	if err != nil {
		return nil, fmt.Errorf("ask site %s: %w", to, err)
	}
	return m.Data, nil
}

// Serve has live called with what other sites send, and ask with what they ask;
// each one at a time.
func (s *Site) Serve(live func([]byte), ask func(b []byte, answer func([]byte))) error {
	_, err := s.conn.Subscribe(siteSubject(s.name, "live"), func(m *nats.Msg) { live(m.Data) })
	if err == nil {
		_, err = s.conn.Subscribe(siteSubject(s.name, "stored"), func(m *nats.Msg) {
			ask(m.Data, func(b []byte) { _ = m.Respond(b) }) // without an answer the other site asks again
		})
	}
	if err == nil {
		err = s.conn.FlushTimeout(requestTimeout)
	}
	return err
}

// Close ends the links.
func (s *Site) Close() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}
