package gateway

import (
	"context"
	"fmt"
	"strings"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/federation"
	"github.com/mqgate/mqgate/gateway/auth"
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

// linkSites makes the links with other sites, for the router that stores: in a
// cluster the leader has them.
func (g *Gateway) linkSites(ctx context.Context, r *router.Router) (stop func(), err error) {
	c := g.cfg.Federation
	if !c.Enabled() {
		return func() {}, nil
	}
	so := jetstream.SiteOptions{Site: c.Site, Listen: c.Listen, Insecure: c.Insecure, Log: g.log}
	if so.Secret, err = c.Secret(); err != nil {
		return nil, err
	}
	if c.TLS.Enabled() {
		if so.TLS, err = peerTLS(c.TLS); err != nil {
			return nil, fmt.Errorf("federation.tls: %w", err)
		}
	}
	fo := federation.Options{Site: c.Site, Router: r, Log: g.log}
	for i, remote := range c.Remotes {
		f, err := siteFilters(remote)
		if err != nil {
			return nil, fmt.Errorf("federation.remotes[%d]: %w", i, err)
		}
		fo.Remotes = append(fo.Remotes, f)
		if len(remote.Addresses) > 0 {
			so.Dial = append(so.Dial, remote.Addresses)
		}
	}
	if fo.Principal, err = auth.Everything("federation"); err != nil {
		return nil, err
	}
	site, err := jetstream.OpenSite(so)
	if err != nil {
		return nil, err
	}
	fo.Transport = site
	b, err := federation.Open(ctx, fo)
	if err != nil {
		site.Close()
		return nil, err
	}
	link := &siteLink{site, b}
	g.link.Store(link)
	g.log.Info("linking with other sites", "site", c.Site, "remotes", len(c.Remotes))
	return func() {
		g.link.CompareAndSwap(link, nil)
		site.Close() // nothing more arrives
		b.Close()
	}, nil
}

// siteLink is this node's part in linking the site with others.
type siteLink struct {
	site   *jetstream.Site
	bridge *federation.Bridge
}

// federation returns the number of links with other sites, and what crossed them, where this node has them.
func (g *Gateway) federation() (links int, events map[string]uint64) {
	l := g.link.Load()
	if l == nil {
		return 0, nil
	}
	return l.site.Links(), l.bridge.Stats.Counts()
}

func siteFilters(c config.FederationRemote) (federation.Remote, error) {
	r := federation.Remote{Site: c.Site}
	for _, list := range [...]struct {
		key    string
		prefix string
		texts  []string
		into   *[]router.Filter
	}{{"send", "/topic/", c.Send, &r.Send}, {"receive", "/topic/", c.Receive, &r.Receive}, {"queues", "/queue/", c.Queues, &r.Queues}} {
		for _, text := range list.texts {
			if !strings.HasPrefix(text, "/topic/") && !strings.HasPrefix(text, "/queue/") {
				text = list.prefix + text
			}
			f, _, err := router.ParseFilter("", text)
			if err != nil {
				return r, fmt.Errorf("%s: %w", list.key, err)
			}
			*list.into = append(*list.into, f)
		}
	}
	return r, nil
}
