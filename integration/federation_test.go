package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestFederationExample runs the two sites of examples/federation: orders that are
// sent while the other site is killed and started again all reach it.
func TestFederationExample(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(harness.TempDir(t), "secret")
	if err := os.WriteFile(secret, []byte("a secret of both sites"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := "127.0.0.1:" + freePort(t)
	examples, err := filepath.Abs(filepath.Join("..", "examples", "federation"))
	if err != nil {
		t.Fatal(err)
	}
	site := func(name string, set ...string) *harness.Broker {
		b := harness.New(t, append(set, "federation.secret_file="+secret, "node_name="+name)...)
		b.Config = filepath.Join(examples, name+".yaml")
		b.Start()
		return b
	}
	berlin := site("berlin", "federation.listen="+link)
	oslo := site("oslo", "admin.listen=127.0.0.1:0", `federation.remotes=[{"site":"berlin","addresses":["`+link+`"],"send":["plant.>"],"receive":["news.>"],"queues":["orders"]}]`)

	out, err := stomp.Dial("tcp", oslo.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Disconnect()
	const n = 100
	for i := range n {
		if i == n/3 {
			berlin.Kill()
		}
		if err := out.Send("/queue/orders", "text/plain", fmt.Append(nil, i), stomp.SendOpt.Receipt); err != nil {
			t.Fatal(err)
		}
	}
	berlin.Start()
	in, err := stomp.Dial("tcp", berlin.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Disconnect()
	sub, err := in.Subscribe("/queue/orders", stomp.AckClientIndividual)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for limit := time.After(60 * time.Second); len(seen) < n; {
		select {
		case m := <-sub.C:
			if m.Err != nil {
				t.Fatal(m.Err)
			}
			_, again := m.Header.Contains("x-federated-again")
			if seen[string(m.Body)] && !again && m.Header.Get("redelivered") != "true" {
				t.Errorf("%s came twice without a mark", m.Body)
			}
			seen[string(m.Body)] = true
			if err := in.Ack(m); err != nil {
				t.Fatal(err)
			}
		case <-limit:
			t.Fatalf("%d of %d orders arrived", len(seen), n)
		}
	}
	// The last ones are counted when the other site's answer is here.
	forwarded := regexp.MustCompile(`mqgate_federation_messages_total\{event="forwarded"\} (\d{3})`)
	harness.Eventually(t, time.Minute, func() error {
		text, err := oslo.Metrics()
		if err != nil {
			return err
		}
		if !strings.Contains(text, "mqgate_federation_links 1\n") || !forwarded.MatchString(text) {
			return fmt.Errorf("the link or what was forwarded is not in the metrics: %s", text)
		}
		return nil
	})
}
