package gateway

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
)

// TestQueuePolicies: each key of a rule for queues reaches the router, and a queue
// without a rule has the defaults that the reference names.
func TestQueuePolicies(t *testing.T) {
	g := &Gateway{cfg: load(t, `queues={"sale.*": {max_length: 10, max_bytes: 1MiB, expiry: 1h, max_deliveries: 3, dead_letter: failed,`+
		` redelivery_delay: 2s, redelivery_backoff_max: 1m, on_expire: drop}, steady: {redelivery_delay: 5s, dead_letter: none}}`)}
	for queue, want := range map[string]router.Policy{
		"sale.eu": {MaxLength: 10, MaxBytes: 1 << 20, Expiry: time.Hour, MaxDeliveries: 3, DeadLetter: "failed", DropExpired: true,
			RedeliveryDelay: 2 * time.Second, RedeliveryMax: time.Minute},
		"steady": {MaxDeliveries: 6, DropExpired: true, RedeliveryDelay: 5 * time.Second, RedeliveryMax: 5 * time.Second},
		"mail":   {MaxDeliveries: 6, DeadLetter: "DLQ.mail"},
	} {
		a, err := router.QueueAddress("", queue)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.queuePolicy(a); got != want {
			t.Errorf("%s: %+v, want %+v", queue, got, want)
		}
	}
}

// TestLimitsReachClients: what the configuration limits is limited.
func TestLimitsReachClients(t *testing.T) {
	g := open(t, load(t, "limits.frame_bytes=4KiB", "limits.header_bytes=2KiB", "limits.headers=16", "limits.transaction_messages=2",
		"limits.transaction_bytes=5KiB", "limits.queues=2", "limits.subscriptions_per_connection=2", "limits.unconfirmed_messages=7",
		"limits.outbound_bytes=128KiB", "stomp.default_prefetch=3", "stomp.heartbeat.send_min=2s", "stomp.heartbeat.receive_min=3s",
		"stomp.heartbeat.grace_percent=300"))
	run(t, g)
	// What a client can hardly see:
	if o := g.stompOptions(); o.MaxUnconfirmed != 7 || o.OutboundBytes != 128<<10 || o.HeartbeatGracePercent != 300 {
		t.Errorf("%d unconfirmed messages, %d outbound bytes, %d %% of grace", o.MaxUnconfirmed, o.OutboundBytes, o.HeartbeatGracePercent)
	}
	const a, b = "SEND\ndestination:/queue/a\nreceipt:r\n", "SEND\ndestination:/queue/b\nreceipt:r\ntransaction:t\n"
	for _, tc := range []struct {
		name  string
		sends []string // frames, of which all but the last are confirmed
		want  string
	}{
		{"body", []string{a + "\n" + strings.Repeat("x", 4097)}, "4096"},
		{"header bytes", []string{a + "x:" + strings.Repeat("x", 1100) + "\ny:" + strings.Repeat("y", 1100) + "\n\n"}, "2048"},
		{"headers", []string{a + strings.Repeat("x:y\n", 16) + "\n"}, "16 headers"},
		{"messages of a transaction", []string{"BEGIN\ntransaction:t\nreceipt:r\n\n", b + "\n", b + "\n", b + "\n"}, "more than 2 messages"},
		{"bytes of a transaction", []string{"BEGIN\ntransaction:t\nreceipt:r\n\n", b + "\n" + strings.Repeat("x", 4000), b + "\n" + strings.Repeat("x", 2000)}, "more than 5120 bytes"},
		{"queues", []string{a + "\n", strings.ReplaceAll(a, "/a", "/b") + "\n", strings.ReplaceAll(a, "/a", "/c") + "\n"}, "2 queues"},
		{"subscriptions", []string{"SUBSCRIBE\nid:1\ndestination:/topic/x\nreceipt:r\n\n", "SUBSCRIBE\nid:2\ndestination:/topic/x\nreceipt:r\n\n",
			"SUBSCRIBE\nid:3\ndestination:/topic/x\nreceipt:r\n\n"}, "2 subscriptions"},
	} {
		c := dial(t, g)
		if got := talk(t, c, "CONNECT\naccept-version:1.2\nhost:h\nheart-beat:1000,1000\n\n\x00"); !strings.Contains(got, "\nheart-beat:2000,3000\n") {
			t.Fatalf("CONNECTED is %q", got)
		}
		for i, f := range tc.sends {
			got := talk(t, c, f+"\x00")
			switch last := i == len(tc.sends)-1; {
			case !last && !strings.HasPrefix(got, "RECEIPT"):
				t.Errorf("%s: frame %d is answered by %q", tc.name, i, got)
			case last && (!strings.HasPrefix(got, "ERROR") || !strings.Contains(got, tc.want)):
				t.Errorf("%s: the answer beyond the limit is %q", tc.name, got)
			}
		}
		c.Close()
	}
	c := dial(t, g)
	talk(t, c, "CONNECT\n\n\x00")
	for range 5 {
		talk(t, c, a+"\n\x00")
	}
	got := talk(t, c, "SUBSCRIBE\ndestination:/queue/a\nack:client\n\n\x00")
	for range 2 {
		got += hear(t, c)
	}
	if next := talk(t, c, "BEGIN\ntransaction:t\nreceipt:r\n\n\x00"); strings.Count(got, "MESSAGE\n") != 3 || !strings.HasPrefix(next, "RECEIPT") {
		t.Errorf("with a default prefetch of 3 came %q and %q", got, next)
	}
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestEveryListenerMayHaveTLS, and the start has a line for each, and then one that
// says ready.
func TestEveryListenerMayHaveTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	cert, key := ca.issue(t, dir, "server", 1)
	files := fmt.Sprintf("{cert_file: %s, key_file: %s}", cert, key)
	set := []string{`stomp.listeners=[{listen: "127.0.0.1:0", tls: ` + files + `}]`, `http.listeners=[{listen: "127.0.0.1:0", carries: mqtt, tls: ` + files + `}]`}
	for _, section := range []string{"stomp", "mqtt", "http", "admin"} {
		set = append(set, section+".tls.cert_file="+cert, section+".tls.key_file="+key)
	}
	var log lockedBuffer
	g, err := New(load(t, set...), Deps{Log: slog.New(slog.NewTextHandler(&log, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, g)
	for _, name := range []string{"stomp (tls)", "stomp.listeners[0] (tls)", "mqtt (tls)", "http (tls)", "http.listeners[0] (tls)", "admin (tls)"} {
		a := g.Addr(name)
		if a == nil {
			t.Errorf("there is no listener %s", name)
			continue
		}
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{RootCAs: ca.pool, ServerName: "localhost"}}
		c, err := d.DialContext(t.Context(), "tcp", a.String())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
		if line := fmt.Sprintf("msg=listening listener=%q address=%s", name, a); !strings.Contains(log.String(), line) {
			t.Errorf("the log has no line %s", line)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	text := log.String()
	ready := strings.Index(text, "msg=ready")
	if ready < 0 || strings.LastIndex(text, "msg=listening") > ready || strings.Count(text, "msg=ready") != 1 {
		t.Errorf("the log does not end its start with one line that says ready:\n%s", text)
	}
}
