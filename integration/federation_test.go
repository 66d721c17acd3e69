package integration

import (
	"bytes"
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
// sent while the other site is killed and started again all reach it, and topics cross in
// the direction that the files give them, and in no other.
func TestFederationExample(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(harness.TempDir(t), "secret")
	if err := os.WriteFile(secret, []byte("a secret of both sites"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := "127.0.0.1:" + freePort(t)
	site := func(name string, set ...string) *harness.Broker {
		b := harness.New(t, append(set, "federation.secret_file="+secret, "node_name="+name)...)
		b.Config = linkedAt(t, name, link)
		b.Start()
		return b
	}
	berlin := site("berlin", "federation.listen="+link)
	oslo := site("oslo", "admin.listen=127.0.0.1:0")

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
	here, there := harness.MustLogin(t, oslo.Addr()), harness.MustLogin(t, berlin.Addr())
	crossesOneWay(t, here, there, "/topic/plant.7.temp", "/topic/news.local")
	crossesOneWay(t, there, here, "/topic/news.all", "/topic/plant.7.set")
}

// linkedAt copies a file of examples/federation whose other site is at another address than there, and returns the copy.
func linkedAt(t *testing.T, name, link string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "examples", "federation", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(harness.TempDir(t), name+".yaml")
	if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte("127.0.0.1:7422"), []byte(link)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// crossesOneWay sends to a topic that crosses until a message has come to the other site, each time after one to a topic that is
// not to cross in this direction.
func crossesOneWay(t *testing.T, from, to *harness.Wire, crossing, staying string) {
	t.Helper()
	to.MustConfirm(t, "SUBSCRIBE", nil, "id:all", "destination:/topic/>")
	harness.Eventually(t, time.Minute, func() error {
		from.MustConfirm(t, "SEND", []byte("stays"), "destination:"+staying)
		from.MustConfirm(t, "SEND", []byte("crosses"), "destination:"+crossing)
		m, err := to.Read(time.Second)
		if err != nil {
			return err
		}
		if m.Command != "MESSAGE" || m.Headers["destination"] != crossing || string(m.Body) != "crosses" {
			t.Fatalf("waiting for a message of %s, got %s", crossing, m)
		}
		return nil
	})
	to.MustConfirm(t, "UNSUBSCRIBE", nil, "id:all")
}
