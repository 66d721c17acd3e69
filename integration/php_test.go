package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestUnchangedActiveMQScripts runs PHP programs written for ActiveMQ, login and
// all, against a gateway with the default configuration.
func TestUnchangedActiveMQScripts(t *testing.T) {
	harness.PHP.Require(t)
	b := harness.Start(t)
	t.Run("the manual's example", func(t *testing.T) {
		out := runPHP(t, b, "classic")
		expectField(t, out[0], "body", "bar")
		expectField(t, out[0], "destination", "/queue/foo")
		last := out[len(out)-1]
		expectField(t, last, "body", "one")
		expectField(t, last, "priority", "7")
		expectField(t, last, "x-my", "héllo")
		expectField(t, last, "group", "g")
	})
	t.Run("virtual topics", func(t *testing.T) {
		out := runPHP(t, b, "virtual_topics")
		if len(out) != 6 {
			t.Fatalf("two groups got %d messages in all", len(out))
		}
		for i, want := range []string{"order 1", "order 2", "order 3"} {
			for g, group := range []string{"Billing", "Shipping"} {
				expectField(t, out[3*g+i], "group", group)
				expectField(t, out[3*g+i], "body", want)
				expectField(t, out[3*g+i], "destination", "/queue/Consumer."+group+".VirtualTopic.Orders")
			}
		}
	})
	t.Run("reply to a temporary queue", func(t *testing.T) {
		out := runPHP(t, b, "reply_to")
		expectField(t, out[0], "question", "what is 6 x 7?")
		if to := out[0]["reply-to"]; !strings.HasPrefix(to, "/remote-temp-queue/") {
			t.Errorf("reply-to is %q: no name that works on another connection", to)
		}
		expectField(t, out[1], "answer", "42")
		expectField(t, out[1], "correlation-id", "c1")
		expectField(t, out[1], "destination", "/temp-queue/answers")
	})
	t.Run("durable subscriber", func(t *testing.T) {
		out := runPHP(t, b, "durable")
		expectField(t, out[0], "session", "worker-1")
		expectField(t, out[1], "body", "1.17")
	})
	t.Run("scheduled delivery", func(t *testing.T) {
		out := runPHP(t, b, "scheduled")
		for i, want := range []string{"later", "often", "often", "often"} {
			expectField(t, out[i], "body", want)
			expectField(t, out[i], "job", "true")
			expectField(t, out[i], "early", "false")
		}
	})
	t.Run("browsing", func(t *testing.T) {
		out := runPHP(t, b, "browse")
		if len(out) != 6 {
			t.Fatalf("two looks at three messages saw %v", out)
		}
		for i, o := range out {
			expectField(t, o, "body", fmt.Sprintf("item %d", i%3+1))
		}
		if d := b.Depths("Stock"); d.Depth != 3 {
			t.Errorf("the queue has %+v", d)
		}
	})
	t.Run("message groups and an exclusive consumer", func(t *testing.T) {
		out := runPHP(t, b, "groups")
		for i, want := range []string{"alice 0", "alice 2", "bob 1", "bob 3", "single 0", "single 1"} {
			expectField(t, out[i], "body", want)
		}
	})
	t.Run("errors are readable and leave the connection", func(t *testing.T) {
		out := runPHP(t, b, "errors")
		expectField(t, out[0], "ok", "false")
		if !strings.Contains(out[0]["error"], "wildcard") {
			t.Errorf("the error is %q", out[0]["error"])
		}
		expectField(t, out[1], "ok", "true")
	})
}

// runPHP runs a program of activemq.php and returns the objects that it printed.
func runPHP(t *testing.T, b *harness.Broker, program string) (out []map[string]string) {
	t.Helper()
	cmd := exec.Command("php", harness.Script("activemq.php"), program, "tcp://"+b.Addr())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, text, errs.String())
	}
	for line := range bytes.Lines(text) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		o := map[string]string{}
		for k, v := range fields {
			if s, ok := v.(string); ok {
				o[k] = s
			} else {
				v, _ := json.Marshal(v) // it was JSON just now
				o[k] = string(v)
			}
		}
		out = append(out, o)
	}
	if len(out) < 2 {
		t.Fatalf("the program printed only %s", text)
	}
	return out
}

func expectField(t *testing.T, o map[string]string, name, want string) {
	t.Helper()
	if o[name] != want {
		t.Errorf("%s is %q, want %q", name, o[name], want)
	}
}
