package jetstream_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router/jetstream"
)

// A node whose server gives up at its start ends with the reason, at once: it is not waited for.
func TestNodeSaysWhyItDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil { // where a directory is to be
		t.Fatal(err)
	}
	n, err := jetstream.StartNode(jetstream.Options{Dir: dir, NodeName: "n1", Log: quiet()})
	if err == nil {
		n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "does not start: Can't start JetStream") {
		t.Errorf("error %v", err)
	}
}

// A port for other nodes or sites that another process has is an error that says so, not a node that waits for the others for ever.
func TestPortInUseIsAnError(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := newCluster(t, func(_ int, o *jetstream.Options) { o.Cluster.Listen = taken.Addr().String() })
	n, err := jetstream.StartNode(c.opts[0])
	if err == nil {
		n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a node: %v", err)
	}
	site, err := jetstream.OpenSite(jetstream.SiteOptions{Site: "oslo", Listen: taken.Addr().String(), Secret: "a shared secret", Log: quiet()})
	if err == nil {
		site.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a site: %v", err)
	}
}
