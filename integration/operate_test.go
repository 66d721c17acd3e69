package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestStartRefused runs gateways that must not start, and reads why not.
func TestStartRefused(t *testing.T) {
	tests := []struct {
		name, config string
		set          []string
		want         []string
	}{
		{name: "open to the world without users", set: []string{"stomp.listen=0.0.0.0:0"}, want: []string{"stomp.listen", "users"}},
		{name: "unknown key", config: "stomp:\n  lissten: 127.0.0.1:0\n", want: []string{"mqgate.yaml:2", "lissten", "listen"}},
		{name: "unknown key in --set", set: []string{"storage.synch=always"}, want: []string{"storage.synch", "storage.sync"}},
		{name: "not YAML", config: "stomp:\n\tlisten: x\n", want: []string{"mqgate.yaml:2"}},
		{name: "value out of range", config: "limits:\n  headers: 1\n", want: []string{"mqgate.yaml:2", "limits.headers", "16"}},
		{name: "port in use", set: []string{"admin.listen=127.0.0.1:1"}, want: []string{"admin.listen"}},
		{name: "certificate missing", set: []string{"stomp.tls.cert_file=/nonexistent/c.pem", "stomp.tls.key_file=/nonexistent/k.pem"}, want: []string{"/nonexistent/c.pem"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			b := harness.New(t, tc.set...)
			b.AllowErrors = true
			if tc.config != "" {
				writeConfig(t, b, tc.config)
			}
			if tc.name == "port in use" {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				b.Set = []string{"admin.listen=" + l.Addr().String()}
			}
			expectRefusal(t, b, tc.want...)
		})
	}
}

func expectRefusal(t *testing.T, b *harness.Broker, want ...string) {
	t.Helper()
	code, text := b.Refused()
	if code <= 0 {
		t.Errorf("exit code %d", code)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("the refusal does not say %q:\n%s", w, text)
		}
	}
}

// TestSecondProcess starts a second gateway on a data directory in use: it refuses,
// and the first goes on.
func TestSecondProcess(t *testing.T) {
	b := harness.Start(t)
	second := harness.New(t, "data_dir="+b.DataDir())
	second.AllowErrors = true
	expectRefusal(t, second, b.DataDir())
	harness.MustLogin(t, b.Addr()).MustConfirm(t, "SEND", []byte("x"), "destination:/queue/q")
}

// TestDamagedStore damages what is stored, after an end in order and after a crash: the
// gateway says so and does not start, unless it is told to continue with what is
// readable. After a crash it knows of what was stored until about a second before.
func TestDamagedStore(t *testing.T) {
	truncate := func(t *testing.T, block string, size int64) {
		if err := os.Truncate(block, size/2); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, block string, _ int64) {
		if err := os.RemoveAll(filepath.Dir(filepath.Dir(block))); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, to string
		stop     func(*harness.Broker)
		harm     func(t *testing.T, block string, size int64)
	}{
		{"truncated after a stop", "/queue/precious", (*harness.Broker).Stop, truncate},
		{"truncated after a crash", "/queue/precious", (*harness.Broker).Kill, truncate},
		{"removed after a crash", "/queue/precious", (*harness.Broker).Kill, remove},
		{"of a durable subscription, after a crash", "/topic/precious", (*harness.Broker).Kill, truncate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := harness.New(t)
			b.AllowErrors = true
			b.Start()
			reader := harness.MustLogin(t, b.Addr(), "client-id:precious")
			if strings.HasPrefix(tc.to, "/topic/") {
				reader.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:"+tc.to, "activemq.subscriptionName:precious")
			}
			reader.MustConfirm(t, "DISCONNECT", nil)
			w := harness.MustLogin(t, b.Addr())
			for range 298 {
				w.Must(t, "SEND", bytes.Repeat([]byte("x"), 1000), "destination:"+tc.to)
			}
			for range 2 { // a record that is under way may be of before; the one after it is not
				before := recordsSaved(t, b)
				w.MustConfirm(t, "SEND", bytes.Repeat([]byte("x"), 1000), "destination:"+tc.to)
				harness.Eventually(t, 20*time.Second, func() error {
					if !recordsSaved(t, b).After(before) {
						return errorf("the record is not saved")
					}
					return nil
				})
			}
			tc.stop(b)
			block, size := largestBlock(t, b.DataDir())
			tc.harm(t, block, size)
			expectRefusal(t, b, "damage", "precious")
			b.Set = []string{"storage.on_damage=continue"}
			b.Start()
			left := 0
			for name, d := range b.AllDepths() {
				if strings.Contains(name, "precious") {
					left += d.Depth
				}
			}
			if left >= 300 {
				t.Errorf("of 300 messages %d are left: the test did not damage what it should", left)
			}
			harness.MustLogin(t, b.Addr()).MustConfirm(t, "SEND", []byte("new"), "destination:"+tc.to)
		})
	}
}

// recordsSaved is when the records of queues were last written.
func recordsSaved(t *testing.T, b *harness.Broker) (last time.Time) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.DataDir(), "jetstream", "*", "streams", "MQGATE_RECORDS", "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no records: %v", err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(last) { // else it was compacted
			last = info.ModTime()
		}
	}
	return last
}

// largestBlock finds the largest block of messages.
func largestBlock(t *testing.T, dir string) (largest string, size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".blk") {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil || size == 0 {
		t.Fatalf("no block of messages in %s: %v", dir, err)
	}
	return largest, size
}

// TestQueueVerbs uses the operator's verbs on a running gateway.
func TestQueueVerbs(t *testing.T) {
	b := harness.Start(t)
	if out := b.Queue("ls", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("without queues ls printed %q as JSON", out)
	}
	w := harness.MustLogin(t, b.Addr())
	for _, body := range []string{"first", "second", "third"} {
		w.MustConfirm(t, "SEND", []byte(body), "destination:/queue/mail", "x-key:v")
	}
	if out := b.Queue("ls"); !strings.Contains(out, "mail") || !strings.Contains(out, "READY") {
		t.Errorf("ls printed\n%s", out)
	}
	holder := harness.MustLogin(t, b.Addr())
	holder.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/mail", "ack:client")
	holder.Expect(t, "MESSAGE")
	if out := b.Queue("info", "mail"); !strings.Contains(out, "127.0.0.1:") || !strings.Contains(out, "holds 1 of 1") {
		t.Errorf("info does not say who holds what:\n%s", out)
	}
	if out := b.Queue("peek", "mail"); !strings.Contains(out, "first") || !strings.Contains(out, "third") {
		t.Errorf("peek printed\n%s", out)
	}
	var peeked []struct{ Body string }
	if err := json.Unmarshal([]byte(b.Queue("peek", "mail", "-o", "json", "-n", "1")), &peeked); err != nil || len(peeked) != 1 || peeked[0].Body != "first" {
		t.Errorf("peek -o json: %v, %+v", err, peeked)
	}
	if out := b.Queue("move", "mail", "other"); !strings.Contains(out, "moved 2 messages") {
		t.Errorf("move printed %q", out)
	}
	if d := b.Depths("other"); d.Depth != 2 {
		t.Errorf("the other queue has %+v", d)
	}
	if code, _, errs := b.Command("", "queue", "rm", "mail", "--set", "data_dir="+b.DataDir()); code == 0 || !strings.Contains(errs, "mail") {
		t.Errorf("a queue with a consumer was removed: %d %q", code, errs)
	}
	holder.Close()
	harness.Eventually(t, 20*time.Second, func() error {
		if d := b.Depths("mail"); d.Consumers != 0 || d.Unacked != 0 {
			return errorf("the holder is still there: %+v", d)
		}
		return nil
	})
	if out := b.Queue("purge", "mail"); !strings.Contains(out, "removed 1 messages") {
		t.Errorf("purge printed %q", out)
	}
	b.Queue("rm", "mail")
	if out := b.Queue("ls"); strings.Contains(out, "mail") {
		t.Errorf("after rm, ls printed\n%s", out)
	}
	if code, _, errs := b.Command("", "queue", "info", "nonesuch", "--set", "data_dir="+b.DataDir()); code == 0 || !strings.Contains(errs, "nonesuch") {
		t.Errorf("info of a missing queue: %d %q", code, errs)
	}
	if code, _, errs := b.Command("", "queue", "ls", "--set", "data_dir=/nonexistent"); code == 0 || !strings.Contains(errs, "is the gateway running?") {
		t.Errorf("ls without a gateway: %d %q", code, errs)
	}
}

// TestQueueVerbOptions: the verbs choose among messages, answer in JSON, and reach the
// gateway by its admin address, as a user with rights.
func TestQueueVerbOptions(t *testing.T) {
	b := harness.New(t)
	file := filepath.Join(b.Dir, "users.yaml")
	password := filepath.Join(b.Dir, "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for user, rights := range map[string][]string{"boss": {"--allow-all", "--admin"}, "worker": {"--allow-all"}} {
		if code, _, errs := b.Command("secret\n", append([]string{"passwd", "--stdin", "--file", file, "--user", user}, rights...)...); code != 0 {
			t.Fatalf("passwd: %s", errs)
		}
	}
	b.Set = []string{"users_file=" + file}
	b.Start()
	w := harness.MustLogin(t, b.Addr(), "login:boss", "passcode:secret", "client-id:c")
	w.MustConfirm(t, "SUBSCRIBE", nil, "id:d", "destination:/topic/news", "activemq.subscriptionName:reader")
	for _, body := range []string{"first", "second", "third"} {
		w.MustConfirm(t, "SEND", []byte(body), "destination:/queue/mail")
	}
	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/mail", "ack:client")
	w.Expect(t, "MESSAGE")

	// answer runs a verb by the admin address and reads what it answers.
	answer := func(v any, args ...string) {
		t.Helper()
		args = append(append([]string{"queue"}, args...), "-o", "json", "--url", "http://"+b.ListenerAddr("admin"), "--user", "boss", "--password-file", password)
		code, out, errs := b.Command("", args...)
		if code != 0 || json.Unmarshal([]byte(out), v) != nil {
			t.Fatalf("%v: %d %q %q", args, code, out, errs)
		}
	}
	var all []struct {
		Name, Kind string
		harness.Depths
	}
	answer(&all, "ls")
	kinds := map[string]string{}
	for _, q := range all {
		kinds[q.Kind] += q.Name
	}
	if kinds["queue"] != "mail" || !strings.Contains(kinds["durable"], "reader") {
		t.Errorf("ls lists %+v", all)
	}
	var info harness.Depths
	if answer(&info, "info", "mail"); info != (harness.Depths{Depth: 3, Ready: 2, Unacked: 1, Consumers: 1}) {
		t.Errorf("info says %+v", info)
	}
	var peeked []struct {
		Sequence    uint64
		State, Body string
	}
	if answer(&peeked, "peek", "mail"); len(peeked) != 3 || peeked[0].State == peeked[1].State {
		t.Fatalf("peek shows %+v", peeked)
	}
	if answer(&peeked, "peek", "mail", "--from", fmt.Sprint(peeked[1].Sequence), "-n", "1"); len(peeked) != 1 || peeked[0].Body != "second" {
		t.Errorf("peek from the second shows %+v", peeked)
	}
	var n map[string]int
	if answer(&n, "move", "mail", "archive", "-n", "1"); n["moved"] != 1 {
		t.Errorf("move -n 1 says %v", n)
	}
	if answer(&peeked, "peek", "archive"); len(peeked) != 1 || peeked[0].Body != "second" {
		t.Errorf("the other queue has %+v", peeked)
	}
	if answer(&n, "purge", "mail"); n["purged"] != 1 { // the one that the consumer holds stays
		t.Errorf("purge says %v", n)
	}
	if d := b.Depths("mail"); d.Depth != 1 || d.Unacked != 1 {
		t.Errorf("after purge the queue has %+v", d)
	}
	for _, who := range [][]string{nil, {"--user", "worker", "--password-file", password}} {
		args := append([]string{"queue", "purge", "mail", "--url", "http://" + b.ListenerAddr("admin")}, who...)
		if code, _, errs := b.Command("", args...); code == 0 || errs == "" {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
}

// TestDrain ends a gateway by SIGTERM: its clients read why, and what was confirmed
// is there after the next start.
func TestDrain(t *testing.T) {
	b := harness.Start(t)
	w, idle := harness.MustLogin(t, b.Addr()), harness.MustLogin(t, b.Addr())
	const messages = 50
	for range messages {
		w.MustConfirm(t, "SEND", []byte("kept"), "destination:/queue/kept")
	}
	idle.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/kept", "ack:client")
	idle.Expect(t, "MESSAGE")
	b.Terminate()
	for name, c := range map[string]*harness.Wire{"sender": w, "holder of a message": idle} {
		if last, err := c.ReadToEnd(); last == nil || last.Command != "ERROR" || !strings.Contains(last.Headers["message"], "shutting down") {
			t.Errorf("%s: last frame %v (%v)", name, last, err)
		}
	}
	if code := b.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	b.Start()
	if d := b.Depths("kept"); d.Depth != messages {
		t.Errorf("after the restart the queue has %+v", d)
	}
}

// TestDrainVerb has an operator send the clients away: the verb says how many, and returns when the gateway has ended.
func TestDrainVerb(t *testing.T) {
	b := harness.Start(t, "drain.grace=500ms", "drain.spread=500ms")
	ends := make(chan string, 5)
	for range cap(ends) {
		c := harness.MustLogin(t, b.Addr())
		go func() {
			last, err := c.ReadToEnd()
			c.Close()
			ends <- fmt.Sprint(last, err)
		}()
	}
	code, out, errs := b.Command("", "drain", "--set", "data_dir="+b.DataDir())
	if code != 0 || !strings.Contains(out, "draining: 500ms of grace, then 5 STOMP, 0 MQTT and 0 WebSocket connections are closed over 500ms") {
		t.Errorf("mqgate drain: %d %s %s", code, out, errs)
	}
	for range cap(ends) {
		if end := <-ends; !strings.Contains(end, "server is shutting down, reconnect") {
			t.Errorf("a client's last frame is %s", end)
		}
	}
	if code := b.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestSecondSignal interrupts a drain that waits: the process ends at once.
func TestSecondSignal(t *testing.T) {
	b := harness.Start(t, "drain_timeout=5m")
	b.AllowErrors = true
	// A client that does not read keeps the drain waiting: its outbound buffer
	// cannot be flushed.
	w := harness.MustLogin(t, b.Addr())
	if s, ok := w.Socket.(*net.TCPConn); !ok || s.SetReadBuffer(4096) != nil {
		t.Fatal("cannot shrink the socket's buffer")
	}
	w.Must(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/big", "ack:client", "activemq.prefetchSize:100")
	sender := harness.MustLogin(t, b.Addr())
	for range 12 {
		sender.MustConfirm(t, "SEND", bytes.Repeat([]byte("x"), 1<<20), "destination:/queue/big")
	}
	b.Terminate()
	harness.Eventually(t, 20*time.Second, func() error {
		if !strings.Contains(b.Log(), `"msg":"draining"`) {
			return errorf("not draining yet")
		}
		return nil
	})
	b.Terminate()
	if code := b.Wait(); code != 1 {
		t.Errorf("exit code %d after the second signal", code)
	}
	b.Start() // an end at once is like a crash: nothing is damaged
	if d := b.Depths("big"); d.Depth != 12 {
		t.Errorf("after the restart the queue has %+v", d)
	}
}

// TestIdleMemory holds an idle gateway, as users run it, to 60 MB; how soon it was
// ready is logged.
func TestIdleMemory(t *testing.T) {
	began := time.Now()
	b := harness.StartPlain(t)
	t.Logf("ready after %s (with the build, if this test ran first)", time.Since(began))
	b.Stop()
	began = time.Now()
	b.Start()
	rss := b.RSS()
	t.Logf("ready after %s on an empty store; RSS %.1f MiB", time.Since(began), float64(rss)/(1<<20))
	if rss > 60<<20 {
		t.Errorf("RSS of the idle gateway is %d MiB", rss>>20)
	}
}

// TestSIGINT ends a gateway as Ctrl-C does.
func TestSIGINT(t *testing.T) {
	b := harness.Start(t)
	if err := syscall.Kill(b.PID(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := b.Wait(); code != 0 {
		t.Errorf("exit code %d after SIGINT", code)
	}
}
