package config

import (
	"strings"
	"testing"
)

// set returns the keys of a good cluster, with changes; a change to "" removes.
func set(changes ...string) Sources {
	keys := map[string]string{
		"cluster.name": "prod", "cluster.listen": "127.0.0.1:6222",
		"cluster.join": `["127.0.0.1:6222", "127.0.0.1:6223", "127.0.0.1:6224"]`, "cluster.secret_file": "secret",
	}
	for _, c := range changes {
		k, v, _ := strings.Cut(c, "=")
		keys[k] = v
		if v == "" {
			delete(keys, k)
		}
	}
	var s Sources
	for k, v := range keys {
		s.Set = append(s.Set, k+"="+v)
	}
	return s
}

func TestClusterKeys(t *testing.T) {
	network := "cluster.listen=10.0.0.1:6222"
	for _, tt := range []struct {
		changes []string
		want    string // in the error; "" is none
	}{
		{nil, ""},
		{[]string{"cluster.name="}, "cluster.name: is missing"},
		{[]string{"cluster.name=a b"}, "cluster.name"},
		{[]string{"node_name=a b"}, "node_name"},
		{[]string{"cluster.listen="}, "need an address"},
		{[]string{"cluster.listen=x"}, "not an address"},
		{[]string{"cluster.secret_file="}, "anybody could join"},
		{[]string{`cluster.join=[]`}, "three or more"},
		{[]string{`cluster.join=["a:1","b:1"]`}, "no majority"},
		{[]string{`cluster.join=["a:1","b:1","A:1"]`}, "listed twice"},
		{[]string{`cluster.join=["a:1","b:1",":1"]`}, "has no host"},
		{[]string{`cluster.join=["a:1","b:1","c:1"]`}, ""},
		{[]string{"cluster.replicas=5"}, "need as many nodes"},
		{[]string{"cluster.replicas=2"}, "cluster.replicas"},
		{[]string{network}, "in the clear"},
		{[]string{network, "cluster.insecure=true"}, ""},
		{[]string{network, "cluster.tls.cert_file=c", "cluster.tls.key_file=k"}, "by which authority"},
		{[]string{network, "cluster.tls.cert_file=c", "cluster.tls.key_file=k", "cluster.tls.client_ca_file=ca"}, ""},
		{[]string{"cluster.tls.cert_file=c"}, "belong together"},
		{[]string{"cluster.listen=127.0.0.1:61613"}, "collides"},
		{[]string{"nats.url=nats://n:4222"}, "cannot stand beside"},
		{[]string{"cluster.name=", "cluster.listen=", "cluster.join=", "cluster.secret_file=", "nats.url=tls://n:4222, tls://m:4222"}, ""},
		{[]string{"cluster.name=", "cluster.listen=", "cluster.join=", "cluster.secret_file=", "nats.url=http://n"}, "not the address of a NATS"},
		{[]string{"nats.credentials_file=x"}, "nats.url: is missing"},
	} {
		_, err := Load(set(tt.changes...))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %v, want %q", tt.changes, err, tt.want)
		}
	}
}

func TestFederationKeys(t *testing.T) {
	remote := `federation.remotes=[{"site":"berlin","addresses":["b:7422"],"send":["plant.>"],"queues":["orders"]}]`
	base := []string{"federation.site=here", "federation.secret_file=s", remote, "federation.insecure=true"}
	for _, tt := range []struct {
		set  []string
		want string
	}{
		{base, ""},
		{append(base[1:], ""), "federation.site: is missing"},
		{append([]string{"federation.site=a.b"}, base[1:]...), "not a name for a site"},
		{[]string{base[0], remote}, "anybody could link"},
		{base[:2], "nobody could make the link"},
		{append([]string{"federation.site=berlin"}, base[1:]...), "named twice"},
		{base[:3], "in the clear"},
		{append([]string{"federation.listen=0.0.0.0:7422"}, base[:2]...), "in the clear"},
		{append([]string{"federation.listen=0.0.0.0:7422", "federation.insecure=true"}, base...), ""},
	} {
		var s Sources
		for _, kv := range tt.set {
			if kv != "" {
				s.Set = append(s.Set, kv)
			}
		}
		_, err := Load(s)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %v, want %q", tt.set, err, tt.want)
		}
	}
}

func TestClusterKeysOfTheEnvironment(t *testing.T) {
	c := mustLoad(t, Sources{Environ: []string{
		"MQGATE_CLUSTER_NAME=prod", "MQGATE_CLUSTER_LISTEN=127.0.0.1:6222", `MQGATE_CLUSTER_JOIN=[a:1, b:1, c:1]`,
		"MQGATE_CLUSTER_SECRET_FILE=/run/secret", "MQGATE_CLUSTER_STORAGE=false",
	}})
	if k := c.Cluster; !k.Enabled() || len(k.Join) != 3 || k.Storage || k.SecretFile != "/run/secret" {
		t.Errorf("%+v", k)
	}
}
