package config

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Cluster makes the node one of several that keep everything stored together. The
// zero Cluster is a node that stands alone.
type Cluster struct {
	Name       string   `key:"name"`
	Listen     string   `key:"listen"`
	Advertise  string   `key:"advertise"`
	Join       []string `key:"join"`
	SecretFile string   `key:"secret_file" relative:"file"`
	TLS        TLS      `key:"tls"`
	Insecure   bool     `key:"insecure"`
	Replicas   int      `key:"replicas" min:"3" max:"5" zero:"3"`
	Storage    bool     `key:"storage"`
}

// Enabled reports whether the node is one of several.
func (c Cluster) Enabled() bool { return c.Name != "" }

// Secret reads the secret that all nodes share.
func (c Cluster) Secret() (string, error) { return readSecret("cluster.secret_file", c.SecretFile) }

// Nats names an external NATS that stores instead of the embedded one.
type Nats struct {
	URL             string  `key:"url" secret:"true"`
	CredentialsFile string  `key:"credentials_file" relative:"file"`
	TLS             NatsTLS `key:"tls"`
	Replicas        int     `key:"replicas" min:"1" max:"5" zero:"3 if it is a cluster, else 1"`
}

// NatsTLS is how the gateway speaks TLS as a client of NATS.
type NatsTLS struct {
	CAFile   string `key:"ca_file" relative:"file"`
	CertFile string `key:"cert_file" relative:"file"`
	KeyFile  string `key:"key_file" relative:"file"`
}

// Federation links this site with others. The zero Federation is none.
type Federation struct {
	Site       string             `key:"site"`
	Listen     string             `key:"listen"`
	SecretFile string             `key:"secret_file" relative:"file"`
	TLS        TLS                `key:"tls"`
	Insecure   bool               `key:"insecure"`
	Remotes    []FederationRemote `key:"remotes"`
}

// FederationRemote is another site, and what goes there and comes from there.
type FederationRemote struct {
	Site      string   `key:"site"`
	Addresses []string `key:"addresses"`
	Send      []string `key:"send"`
	Receive   []string `key:"receive"`
	Queues    []string `key:"queues"`
}

// Enabled reports whether the site is linked with others.
func (f Federation) Enabled() bool { return f.Site != "" }

// Secret reads the secret that all sites share.
func (f Federation) Secret() (string, error) {
	return readSecret("federation.secret_file", f.SecretFile)
}

// checkCluster looks at the keys of cluster and nats together.
func (c *Config) checkCluster() Errors {
	k := c.Cluster
	var found Errors
	add := func(key, hint, format string, args ...any) {
		found = append(found, problem(key, hint, format, args...))
	}
	if c.Nats.URL == "" && (c.Nats.CredentialsFile != "" || c.Nats.TLS != (NatsTLS{})) {
		add("nats.url", "set it, or remove the other keys of nats", "is missing")
	}
	if strings.ContainsAny(c.NodeName, " \t") {
		add("node_name", "use letters, digits and hyphens", "%s has spaces", quote(c.NodeName))
	}
	if !k.Enabled() {
		if k.Listen != "" || len(k.Join) > 0 || k.SecretFile != "" {
			add("cluster.name", "give the cluster a name, the same on all nodes", "is missing, and other keys of cluster are set")
		}
		return found
	}
	if c.Nats.URL != "" {
		add("nats.url", "keep nats.url to use that NATS, or cluster to have the nodes store by themselves", "cannot stand beside cluster.name")
	}
	if strings.ContainsAny(k.Name, " \t.*>") {
		add("cluster.name", "use letters, digits and hyphens", "%s has spaces or one of .*>", quote(k.Name))
	}
	if k.Listen == "" {
		add("cluster.listen", `set it, such as "10.0.0.1:6222"`, "nodes of a cluster need an address for each other")
		return found
	}
	if k.SecretFile == "" {
		add("cluster.secret_file", "name a file with a secret that all nodes share", "without a secret anybody could join the cluster and read everything")
	}
	found = append(found, k.checkNodes()...)
	return append(found, checkPeerTLS("cluster", k.Listen, k.TLS, k.Insecure)...)
}

// checkNodes refuses what cannot form a majority.
func (k Cluster) checkNodes() Errors {
	seen := map[string]bool{}
	for i, addr := range k.Join {
		e, p := parseEndpoint("cluster.join["+strconv.Itoa(i)+"]", addr)
		switch {
		case p != nil:
			return Errors{p}
		case e.host == "":
			return Errors{problem(e.key, "write the node's name or address", "%s has no host", quote(addr))}
		case seen[net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))]:
			return Errors{problem(e.key, "keep one of them", "%s is listed twice", quote(addr))}
		}
		seen[net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))] = true
	}
	const all = "list the addresses of all nodes, this one too: the list can be the same on every node"
	replicas := max(k.Replicas, 3)
	switch n := len(k.Join); {
	case n < 2:
		return Errors{problem("cluster.join", all, "names %d nodes, and a cluster has three or more; one alone needs no cluster keys", n)}
	case n == 2:
		return Errors{problem("cluster.join", all+"; add a third, which may be small",
			"names 2 nodes, which cannot be a cluster that survives anything: with one gone the other is no majority, and could not know whether it is alone or cut off")}
	case n < replicas:
		return Errors{problem("cluster.replicas", "lower it, or add nodes", "%d replicas need as many nodes; cluster.join names %d", replicas, n)}
	}
	return nil
}

// checkPeerTLS looks at the TLS between nodes or sites, which proves both sides.
func checkPeerTLS(section, listen string, t TLS, insecure bool) Errors {
	if found := checkTLSFiles(section+".tls", listen, t); len(found) > 0 {
		return found
	}
	if t.Enabled() {
		if t.ClientCAFile == "" {
			return Errors{problem(section+".tls.client_ca_file", "name the authority that signed the certificates", "both sides prove who they are, and nothing says by which authority")}
		}
		return nil
	}
	e, p := parseEndpoint(section+".listen", listen)
	switch {
	case p != nil:
		return Errors{p}
	case !e.loopback() && !insecure:
		return Errors{problem(section+".tls", "set cert_file, key_file and client_ca_file, or "+section+".insecure: true in a network that nobody else can read",
			"%s %s can be reached from the network, and messages would cross it in the clear", e.key, quote(listen))}
	}
	return nil
}

func (n Nats) check() Errors {
	if n.URL == "" {
		return nil
	}
	for _, part := range strings.Split(n.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Host == "" || (u.Scheme != "nats" && u.Scheme != "tls") {
			return Errors{problem("nats.url", `write "tls://HOST:4222" or "nats://HOST:4222", several with commas between`, "is not the address of a NATS server")}
		}
	}
	if (n.TLS.CertFile == "") != (n.TLS.KeyFile == "") {
		return Errors{problem("nats.tls", "set both, or neither", "cert_file and key_file belong together")}
	}
	return nil
}

func (f Federation) check() Errors {
	var found Errors
	add := func(key, hint, format string, args ...any) {
		found = append(found, problem(key, hint, format, args...))
	}
	if !f.Enabled() {
		if f.Listen != "" || len(f.Remotes) > 0 {
			add("federation.site", "give this site a name that no other site has", "is missing, and other keys of federation are set")
		}
		return found
	}
	badName := func(s string) bool { return s == "" || strings.ContainsAny(s, " \t.*>~,") }
	if badName(f.Site) {
		add("federation.site", "use letters, digits and hyphens", "%s is not a name for a site", quote(f.Site))
	}
	if f.SecretFile == "" {
		add("federation.secret_file", "name a file with a secret that the sites share", "without a secret anybody could link to this site")
	}
	if f.Listen == "" && !f.dials() {
		add("federation.listen", "set it, or the addresses of a remote", "nobody could make the link")
	}
	first := map[string]bool{f.Site: true}
	for i, r := range f.Remotes {
		key := fmt.Sprintf("federation.remotes[%d]", i)
		switch {
		case badName(r.Site):
			add(key+".site", "use letters, digits and hyphens", "%s is not a name for a site", quote(r.Site))
		case first[r.Site]:
			add(key+".site", "give each site a name of its own", "%s is named twice", quote(r.Site))
		}
		first[r.Site] = true
		for j, a := range r.Addresses {
			e, p := parseEndpoint(fmt.Sprintf("%s.addresses[%d]", key, j), a)
			switch {
			case p != nil:
				found = append(found, p)
			case !f.TLS.Enabled() && !f.Insecure && !e.loopback():
				found = append(found, problem(e.key, "set federation.tls, or federation.insecure: true where nobody else can read",
					"messages would cross the network to %s in the clear", quote(a)))
			}
		}
	}
	if f.Listen != "" {
		found = append(found, checkPeerTLS("federation", f.Listen, f.TLS, f.Insecure)...)
	}
	return found
}

func (f Federation) dials() bool {
	for _, r := range f.Remotes {
		if len(r.Addresses) > 0 {
			return true
		}
	}
	return false
}
