package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/gateway/auth"
)

func TestShedSlice(t *testing.T) {
	for _, c := range []struct {
		n      int
		spread time.Duration
		want   int
	}{
		{1, 10 * time.Second, shedLeast}, {1000, 10 * time.Second, 5}, {1001, 10 * time.Second, 6}, {10_000, 10 * time.Second, 50},
		{10_000, shedTick, 10_000}, {3, shedTick, shedLeast},
	} {
		if got := shedSlice(c.n, c.spread); got != c.want {
			t.Errorf("%d connections over %s: %d at a time, want %d", c.n, c.spread, got, c.want)
		}
	}
}

// readyz returns the status and text of /readyz.
func readyz(t *testing.T, g *Gateway) (int, string) {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.Get("http://" + g.Addr("admin").String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// In the grace the node is not ready, and serves as ever, new clients too. Then it
// has its clients leave and ends.
func TestDrainHasAGrace(t *testing.T) {
	g := open(t, load(t, "drain.grace=3s", "drain.spread=100ms"))
	ended := make(chan error, 1)
	go func() { ended <- g.Run(context.Background()) }()
	for !g.serving.Load() {
		time.Sleep(time.Millisecond)
	}
	old := dial(t, g)
	talk(t, old, "CONNECT\n\n\x00")
	if code, text := readyz(t, g); code != 200 || !strings.Contains(text, "[+] accepting") {
		t.Errorf("readyz %d %q", code, text)
	}
	g.Drain()
	g.Drain()
	if code, text := readyz(t, g); code != 503 || !strings.Contains(text, "[-] accepting: draining") {
		t.Errorf("readyz %d %q", code, text)
	}
	late := dial(t, g)
	talk(t, late, "CONNECT\n\n\x00")
	for _, c := range []net.Conn{old, late} {
		if got := talk(t, c, "SEND\ndestination:/queue/a\nreceipt:1\n\nhello\x00"); !strings.HasPrefix(got, "RECEIPT\n") {
			t.Errorf("in the grace: %q", got)
		}
	}
	for _, c := range []net.Conn{old, late} {
		if got := hear(t, c); !strings.HasPrefix(got, "ERROR\n") || !strings.Contains(got, "shutting down") {
			t.Errorf("after the grace: %q", got)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A node whose disk is nearly full takes nothing to store and is not ready; the process lives, and says so.
func TestANodeWithoutRoomIsNotReady(t *testing.T) {
	g := open(t, load(t, "storage.min_free_bytes=1000000 GiB"))
	run(t, g)
	awaitReady(t, g, "the disk is nearly full")
	if code, text := readyz(t, g); code != 503 || !strings.Contains(text, "[-] disk: the disk is nearly full") || !strings.Contains(text, "[+] store") {
		t.Errorf("readyz %d %q", code, text)
	}
	if got := talk(t, client(t, g), "SEND\ndestination:/queue/a\nreceipt:1\npersistent:true\n\nx\x00"); !strings.HasPrefix(got, "ERROR\n") {
		t.Errorf("the answer is %q", got)
	}
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.Get("http://" + g.Addr("admin").String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("livez %s", resp.Status)
	}
}

// Shed ends as many connections as it is told to, and no more.
func TestShedEndsSomeConnections(t *testing.T) {
	g := open(t, load(t))
	run(t, g)
	for range 5 {
		talk(t, dial(t, g), "CONNECT\n\n\x00")
	}
	if n := g.stomp.Shed(2); n != 2 {
		t.Errorf("told %d", n)
	}
	deadline := time.Now().Add(time.Minute)
	for g.stomp.Connections() != 3 {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left", g.stomp.Connections())
		}
		time.Sleep(time.Millisecond)
	}
	if n := g.stomp.Shed(10); n != 3 {
		t.Errorf("told %d", n)
	}
	if n := g.stomp.Shed(10); n != 0 {
		t.Errorf("told %d again", n)
	}
}

// systemd hears when the service is ready and when it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	stop := run(t, open(t, load(t)))
	expect := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := l.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("heard %q, %v; want %s", b[:n], err, want)
		}
	}
	expect("READY=1")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
}

// Behind a load balancer the client's own address is what sessions have; who comes
// past it is refused.
func TestProxyProtocol(t *testing.T) {
	hash, err := auth.Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	g := open(t, load(t, "stomp.proxy_protocol=[127.0.0.0/8]", `users=[{name: u, password_hash: "`+hash+`", allow: {write: [">"]}}]`))
	run(t, g)
	c := dial(t, g)
	if got := talk(t, c, "PROXY TCP4 192.0.2.77 192.0.2.1 4711 61613\r\nCONNECT\nlogin:u\npasscode:secret\n\n\x00"); !strings.HasPrefix(got, "CONNECTED\n") {
		t.Fatalf("answer %q", got)
	}
	sessions := g.router.Sessions()
	if len(sessions) != 1 || sessions[0].Remote != "192.0.2.77:4711" {
		t.Errorf("sessions %+v", sessions)
	}
	direct := dial(t, g)
	if _, err := io.WriteString(direct, "CONNECT\nlogin:u\npasscode:secret\n\n\x00"); err != nil {
		t.Fatal(err)
	}
	if err := direct.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(direct); len(b) > 0 {
		t.Errorf("without a header the client read %q, %v", b, err)
	}
	if e := g.events()["stomp"]; e["no_proxy_header"] != 1 || e["accepted"] != 1 {
		t.Errorf("events %v", e)
	}
}
