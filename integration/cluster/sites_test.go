package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestLinkFollowsTheLeader links a site of one node with one of three, whose leader has the link. When the leader is killed the
// next one has it: what was sent to the queues of both sites reaches the other, and live messages cross again, both ways.
func TestLinkFollowsTheLeader(t *testing.T) {
	dir := harness.TempDir(t)
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("a secret of both sites"), 0o600); err != nil {
		t.Fatal(err)
	}
	var links []string
	berlin := harness.NewCluster(t, harness.ClusterOptions{Nodes: nodeCount, Data: func(node string) (string, []string) {
		links = append(links, harness.FreeAddress(t))
		return filepath.Join(dir, node), []string{"federation.site=berlin", "federation.secret_file=" + secret, "federation.listen=" + links[len(links)-1],
			`federation.remotes=[{"site":"oslo","send":["news.>"],"receive":["plant.>","/queue/orders"],"queues":["reports"]}]`}
	}})
	oslo := harness.New(t, "federation.site=oslo", "federation.secret_file="+secret, "admin.listen=127.0.0.1:0",
		`federation.remotes=[{"site":"berlin","addresses":["`+strings.Join(links, `","`)+`"],"send":["plant.>"],"receive":["news.>","/queue/reports"],"queues":["orders"]}]`)
	oslo.Start()
	awaitLink(t, oslo)

	leader, other := leaderAndOther(t, berlin)
	const half = 50
	here, there := harness.MustLogin(t, oslo.Addr()), login(t, other)
	send := func(w *harness.Wire, to string, from int) {
		t.Helper()
		for i := range half {
			w.MustConfirm(t, "SEND", fmt.Append(nil, from+i), "destination:"+to, "persistent:true")
		}
	}
	send(here, "/queue/orders", 0)
	send(there, "/queue/reports", 0)
	leader.Kill()
	send(here, "/queue/orders", half) // they wait at oslo
	harness.Eventually(t, harness.StartTimeout, func() error {
		if name := berlin.Leader(t); name == leader.Name {
			return errors.New("the node that was killed still leads")
		}
		return nil
	})
	there = login(t, other)
	send(there, "/queue/reports", half)
	twice := arrive(t, harness.MustLogin(t, oslo.Addr()), "/queue/reports", 2*half)
	twice += arrive(t, there, "/queue/orders", 2*half)

	awaitLink(t, oslo)
	tries := crosses(t, here, login(t, other), "/topic/plant.7")
	tries += crosses(t, there, harness.MustLogin(t, oslo.Addr()), "/topic/news.all")
	t.Logf("ledger of sites: the leader killed once; sent to queues of both %d, came %d, lost 0, twice (marked) %d; live messages crossed both ways after %d sends", 4*half, 4*half, twice, tries)
}

// awaitLink waits until the metrics of a site of one node tell of its link.
func awaitLink(t *testing.T, b *harness.Broker) {
	t.Helper()
	harness.Eventually(t, harness.StartTimeout, func() error {
		text, err := b.Metrics()
		if err == nil && !strings.Contains(text, "mqgate_federation_links 1\n") {
			err = errors.New("no link with the other site")
		}
		return err
	})
}

// arrive has the numbers 0 to n-1 come from a queue, and returns how many came again. One that does is marked.
func arrive(t *testing.T, w *harness.Wire, queue string, n int) (twice int) {
	t.Helper()
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:"+queue, "destination:"+queue)
	seen := map[string]bool{}
	for len(seen) < n {
		m := w.Expect(t, "MESSAGE")
		body := string(m.Body)
		if seen[body] {
			twice++
		}
		if seen[body] && m.Headers["x-federated-again"] == "" && m.Headers["redelivered"] != "true" {
			t.Errorf("%s of %s came twice without a mark", body, queue)
		}
		seen[body] = true
	}
	for i := range n {
		if !seen[fmt.Sprint(i)] {
			t.Errorf("%d of %s did not come", i, queue)
		}
	}
	return twice
}

// crosses sends to a topic until one message has come to the other site, and returns how many that took: live messages cross
// while the link is up and the other side's interest is known.
func crosses(t *testing.T, from, to *harness.Wire, topic string) (tries int) {
	t.Helper()
	to.MustConfirm(t, "SUBSCRIBE", nil, "id:"+topic, "destination:"+topic)
	harness.Eventually(t, harness.StartTimeout, func() error {
		tries++
		from.MustConfirm(t, "SEND", []byte("x"), "destination:"+topic)
		m, err := to.Read(100 * time.Millisecond)
		if err == nil && m.Command != "MESSAGE" {
			err = fmt.Errorf("%s", m)
		}
		return err
	})
	return tries
}
