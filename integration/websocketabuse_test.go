package integration

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/integration/harness"
)

// wsAbuse is what a stranger does on a WebSocket, and the close code that it gets;
// 0: the connection just ends.
type wsAbuse struct {
	name, path, offered string
	send                func(net.Conn)
	code                int
}

// masked is a client's frame.
func masked(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...) // a mask of zeros
}

// zeros is a deflated message of so many MiB of zeros.
func zeros(mib int) []byte {
	var one bytes.Buffer
	w, err := flate.NewWriter(&one, flate.BestCompression)
	if err == nil {
		_, err = w.Write(make([]byte, 1<<20))
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		panic(err) // memory takes it
	}
	return bytes.TrimSuffix(bytes.Repeat(one.Bytes(), mib), []byte("\x00\x00\xff\xff"))
}

func wsAbuses() []wsAbuse {
	repeat := func(n int, frame []byte) func(net.Conn) {
		return func(c net.Conn) { writeAll(c, n*len(frame), bytes.Repeat(frame, 100)) }
	}
	once := func(frames ...[]byte) func(net.Conn) {
		return func(c net.Conn) { c.Write(bytes.Join(frames, nil)) }
	}
	huge := append([]byte{0x82, 0xff, 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0, 0, 0, 0, 'x')
	small, large := zeros(1), zeros(512)
	return []wsAbuse{
		{"no login", "/ws", "", func(net.Conn) {}, 4502},
		{"no login, pings", "/ws", "", func(c net.Conn) {
			for range 10 {
				if _, err := c.Write(masked(0x89, nil)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, 4502},
		{"fragment flood", "/ws", "", func(c net.Conn) { c.Write(masked(0x01, []byte("a"))); repeat(100_000, masked(0x00, []byte("a")))(c) }, 1008},
		{"fragment flood on STOMP", "/stomp", "v12.stomp", func(c net.Conn) { c.Write(masked(0x01, []byte("\n"))); repeat(100_000, masked(0x00, []byte("\n")))(c) }, 1008},
		{"control-frame flood", "/mqtt", "mqtt", repeat(100_000, masked(0x89, []byte("are you there"))), 1008},
		{"bad UTF-8", "/stomp", "v12.stomp", once(masked(0x81, []byte("CONNECT\n\xff\xfe"))), 1007},
		{"a frame of 4 EiB", "/mqtt", "mqtt", once(huge), 1009},
		{"a message without end", "/ws", "", repeat(1000, masked(0x00, bytes.Repeat([]byte(" "), 4000))), 1002},
		{"a bomb", "/ws", "", once(masked(0xc1, small)), 1009},
		{"a large bomb", "/ws", "", once(masked(0xc1, large)), 1009},
		{"a bomb on MQTT", "/mqtt", "mqtt", once(masked(0xc2, large)), 1009},
		{"a header of MQTT in a bomb", "/mqtt", "mqtt", once(masked(0xc2, small)), 0},
		{"JSON without end", "/ws", "", once(masked(0x81, bytes.Repeat([]byte(`{"data":[`), 700))), 4502},
		{"half a handshake", "", "", func(c net.Conn) { io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade") }, 0},
	}
}

// TestWebSocketAbuse has 700 strangers misbehave at once. Each is closed with the
// code that says why; the gateway's memory stays within 50 MB of what it was, and an
// honest client is served meanwhile.
func TestWebSocketAbuse(t *testing.T) {
	const most = int64(50 << 20)
	abuses := wsAbuses()
	sockets := 50 * len(abuses)
	b := harness.StartPlain(t, "limits.login_timeout=3s", "storage.sync=1s", "http.compression=true")
	at := b.ListenerAddr("http")
	honest := jsonClient(t, at)
	honest.call(t, `{"id":2,"op":"subscribe","sub":"s","to":"/queue/honest","ack":"client"}`)
	before := b.RSS()

	var closed sync.Map // by name and code, *atomic.Int64
	var group sync.WaitGroup
	var open atomic.Int64
	for i := range sockets {
		a := abuses[i%len(abuses)]
		open.Add(1)
		group.Go(func() {
			defer open.Add(-1)
			count(&closed, fmt.Sprintf("%s: %s", a.name, misbehaveWS(at, a))).Add(1)
		})
	}
	peak, rounds := before, 0
	for ; open.Load() > 0 || rounds < 100; rounds++ {
		honest.call(t, fmt.Sprintf(`{"id":3,"op":"publish","to":"/queue/honest","body":"%d"}`, rounds))
		m := honest.event(t)
		honest.call(t, fmt.Sprintf(`{"id":4,"op":"ack","sub":"s","delivery":%v}`, m["delivery"]))
		peak = max(peak, b.RSS())
		time.Sleep(5 * time.Millisecond) // leave the strangers some processor
	}
	group.Wait()
	t.Logf("RSS %d MiB before, %d MiB at most; the honest client had %d messages meanwhile", before>>20, peak>>20, rounds)
	if peak-before > most {
		t.Errorf("RSS grew by %d MiB", (peak-before)>>20)
	}
	for _, a := range abuses {
		got := func(how string) int64 { return count(&closed, a.name+": "+how).Load() }
		if a.code == 0 { // what the protocol within says to it
			t.Logf("%s: %d ended", a.name, 50-got("alive"))
			continue
		}
		// Who goes on sending may have the close frame destroyed by TCP's reset, and who is
		// kept waiting by the others may find its time for the login over.
		n, others := got(fmt.Sprint(a.code)), got("ended")
		if a.code != 4502 {
			others += got("4502")
		}
		t.Logf("%s: %d closed with %d", a.name, n, a.code)
		if n+others != 50 || n < 10 {
			t.Errorf("%s: only %d of 50 got the code %d, %d ended otherwise", a.name, n, a.code, others)
		}
	}
	closed.Range(func(k, v any) bool {
		if strings.HasSuffix(k.(string), "alive") && v.(*atomic.Int64).Load() > 0 {
			t.Errorf("%s: %d", k, v.(*atomic.Int64).Load())
		}
		if t.Failed() {
			t.Logf("%s: %d", k, v.(*atomic.Int64).Load())
		}
		return true
	})
}

// misbehaveWS returns the close code that came, "ended" if the connection ended
// without one, "alive" if it did not end.
func misbehaveWS(addr string, a wsAbuse) string {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	var group sync.WaitGroup
	defer group.Wait()
	defer c.Close() // ends the sender
	r := bufio.NewReader(c)
	if a.path == "" {
		group.Go(func() { a.send(c) })
		return outcome(c, r)
	}
	hello := "GET " + a.path + " HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
	if a.offered != "" {
		hello += "Sec-WebSocket-Protocol: " + a.offered + "\r\n"
	}
	if _, err := io.WriteString(c, hello+"\r\n"); err != nil {
		return err.Error()
	}
	// What comes before the answer would end the connection.
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Sprintf("handshake: %v, %v", resp, err)
	}
	group.Go(func() { a.send(c) })
	return outcome(c, r)
}

// outcome reads what comes behind the handshake: frames of the server, not masked.
func outcome(c net.Conn, r io.Reader) string {
	if c.SetReadDeadline(time.Now().Add(time.Minute)) != nil {
		return "ended"
	}
	frames, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return "alive"
	}
	for len(frames) >= 2 {
		n := int(frames[1])
		if n > 125 || len(frames) < 2+n {
			return "ended"
		}
		if frames[0] == 0x88 && n >= 2 {
			return fmt.Sprint(binary.BigEndian.Uint16(frames[2:]))
		}
		frames = frames[2+n:]
	}
	return "ended"
}

// jsonPeer is a client of the JSON protocol.
type jsonPeer struct {
	c      *websocket.Conn
	events []map[string]any
}

func jsonClient(t *testing.T, addr string) *jsonPeer {
	t.Helper()
	p := dialJSON(t, addr)
	p.call(t, `{"id":1,"op":"connect"}`)
	return p
}

func dialJSON(t *testing.T, addr string) *jsonPeer {
	t.Helper()
	c, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &jsonPeer{c: c}
}

func (p *jsonPeer) read(t *testing.T) map[string]any {
	t.Helper()
	if err := p.c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	_, b, err := p.c.ReadMessage()
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (p *jsonPeer) call(t *testing.T, request string) map[string]any {
	t.Helper()
	if err := p.c.WriteMessage(websocket.TextMessage, []byte(request)); err != nil {
		t.Fatal(err)
	}
	for {
		m := p.read(t)
		switch {
		case m["event"] != nil:
			p.events = append(p.events, m)
		case m["ok"] != true:
			t.Fatalf("%s: %v", request, m)
		default:
			return m
		}
	}
}

func (p *jsonPeer) event(t *testing.T) map[string]any {
	t.Helper()
	if len(p.events) == 0 {
		return p.read(t)
	}
	m := p.events[0]
	p.events = p.events[1:]
	return m
}
