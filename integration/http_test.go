package integration

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// curl runs the curl that users have, and returns what it printed.
func curl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("curl", append([]string{"-sS", "--max-time", "60"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl %q (Debian: apt-get install curl): %v\n%s", args, err, out)
	}
	return string(out)
}

// TestCurl does what ws/HTTP.md says, as a script would, against STOMP clients.
func TestCurl(t *testing.T) {
	b := harness.Start(t, "topics=[{pattern: rooms.*, history: 10}]")
	mq := "http://" + b.ListenerAddr("http")
	w := harness.MustLogin(t, b.Addr())

	// Publish: stored when it is answered.
	var published struct {
		OK bool
		ID string
	}
	answer := curl(t, "-d", "hello", mq+"/api/publish/queue/orders")
	if err := json.Unmarshal([]byte(answer), &published); err != nil || !published.OK || b.AllDepths()["orders"].Depth != 1 {
		t.Fatalf("%s %v", answer, err)
	}
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/topic/plant.7.temp")
	curl(t, "-H", "Content-Type: application/json", "-H", "Mqgate-Header: unit: °C", "-d", `{"t":21.5}`, mq+"/api/publish/topic/plant/7/temp")
	if f := w.Expect(t, "MESSAGE"); string(f.Body) != `{"t":21.5}` || f.Headers["content-type"] != "application/json" || f.Headers["unit"] != "°C" {
		t.Fatalf("%s", f)
	}

	// Take, and say nothing: it comes again. Then acknowledge: it does not.
	take := func(query string) (lease struct {
		Lease, Ack, Nack string
		Message          struct {
			Body        string
			Redelivered bool
		}
	}) {
		t.Helper()
		answer := curl(t, mq+"/api/queues/orders/next?"+query)
		if err := json.Unmarshal([]byte(answer), &lease); err != nil || lease.Message.Body != "hello" {
			t.Fatalf("%q %v", answer, err)
		}
		return lease
	}
	if take("wait=30s&lease=1s").Message.Redelivered {
		t.Error("the first delivery is marked")
	}
	again := take("wait=30s")
	if !again.Message.Redelivered {
		t.Error("the second delivery is not marked")
	}
	if answer := curl(t, "-X", "POST", mq+again.Ack); !strings.Contains(answer, `"ok":true`) {
		t.Fatal(answer)
	}
	if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", mq+"/api/queues/orders/next"); got != "204" || b.AllDepths()["orders"].Depth != 0 {
		t.Errorf("%s, %+v", got, b.AllDepths()["orders"])
	}

	// Follow a room, with what was said before.
	w.MustConfirm(t, "SEND", []byte("earlier"), "destination:/topic/rooms.x", "persistent:true")
	events, _ := exec.Command("curl", "-sS", "-N", "--max-time", "1", mq+"/api/topics/rooms/x?last=5").Output() // ended by the time
	if !strings.Contains(string(events), "event: ready\n") || !strings.Contains(string(events), `"body":"earlier"`) || !strings.Contains(string(events), "\nid: ") {
		t.Errorf("%s", events)
	}
}

// TestTokens has an application let its visitors in: in a browser's protocol and by curl.
func TestTokens(t *testing.T) {
	dir := harness.TempDir(t)
	const secret = "a secret of more than thirty-two bytes"
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := harness.New(t)
	b.Config = filepath.Join(dir, "mqgate.yaml")
	err := os.WriteFile(b.Config, []byte(`
tokens: {secret_file: secret, as: visitors}
users:
  - {name: visitors, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FtcGxlLXNhbHQtMTY$uNpV3TWnPDQyRyT3mqlE4fCAHALwGkGRFbgpzqVTmmY", allow: {write: [/queue/from.%u]}}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	b.Start()
	e := base64.RawURLEncoding.EncodeToString
	token := e([]byte(`{"alg":"HS256"}`)) + "." + e(fmt.Appendf(nil, `{"sub":"v7","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(token))
	token += "." + e(mac.Sum(nil))

	mq := "http://" + b.ListenerAddr("http")
	for queue, want := range map[string]string{"from.v7": `"ok":true`, "from.v8": `"denied"`} {
		if got := curl(t, "-H", "Authorization: Bearer "+token, "-d", "x", mq+"/api/publish/queue/"+queue); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", queue, got, want)
		}
	}
	p := dialJSON(t, b.ListenerAddr("http"))
	if m := p.call(t, `{"id":1,"op":"connect","token":"`+token+`"}`); m["user"] != "v7" {
		t.Errorf("%v", m)
	}
}
