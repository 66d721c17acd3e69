package bench

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/stomp/frame"
)

// TestWireFrames pins what leaves for the broker, octet by octet.
func TestWireFrames(t *testing.T) {
	for _, tc := range []struct {
		version string
		want    []string
	}{
		{"1.2", []string{
			"CONNECT\naccept-version:1.0,1.1,1.2\nhost:v\nlogin:a:b\npasscode:c\\d\nheart-beat:0,0\n\n\x00\n",
			"SUBSCRIBE\nid:0\ndestination:/queue/a\\cb\nack:client-individual\nreceipt:subscribed\n" +
				"activemq.prefetchSize:7\nprefetch-count:7\nx-extra:1\\c2\n\n\x00\n",
			"ACK\nid:T\\c1\n\n\x00\n",
		}},
		{"1.1", []string{"ACK\nsubscription:0\nmessage-id:T\\c1\n\n\x00\n"}},
		{"1.0", []string{"ACK\nmessage-id:T:1\n\n\x00\n"}},
	} {
		t.Run(tc.version, func(t *testing.T) {
			b := startBroker(t, tc.version, misdeeds{})
			o := testOptions(b)
			o.Count, o.User, o.Password, o.Host, o.Destination, o.Prefetch = 1, "a:b", `c\d`, "v", "/queue/a:b", 7
			o.SubscribeHeaders = []string{"x-extra:1:2"}
			if r, err := Run(t.Context(), o); err != nil || len(r.Faults()) > 0 {
				t.Fatal(r, err)
			}
			got := strings.Join(b.framesReceived(), "")
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("missing %q in\n%q", want, got)
				}
			}
		})
	}
}

func TestSendFrame(t *testing.T) {
	c := &stompConnection{protocol: &stompProtocol{receipts: true, persistent: true,
		sendHeaders: splitHeaders([]string{"priority:7", "note:a:b"})}, version: frame.V12, wire: &wire{}}
	c.prepare("/queue/x:y", 3)
	if err := c.send(42, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	want := "SEND\ndestination:/queue/x\\cy\ncontent-length:3\ncontent-type:text/plain\npersistent:true\npriority:7\nnote:a\\cb\n" +
		"receipt:42\n\nabc\x00\n"
	if got := string(c.wire.out); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestMessageReceipt(t *testing.T) {
	for text, want := range map[string]uint64{"7": 7, "9999999999999999999": 9999999999999999999} {
		if id, ok := messageReceipt([]byte(text)); !ok || id != want {
			t.Errorf("%q gave %d, %v", text, id, ok)
		}
	}
	for _, text := range []string{"", "subscribed", "-1", "1 ", "99999999999999999999"} {
		if id, ok := messageReceipt([]byte(text)); ok {
			t.Errorf("%q gave %d", text, id)
		}
	}
}

func FuzzMessageReceipt(f *testing.F) {
	for _, s := range []string{"", "0", "12", "goodbye", "18446744073709551615", "1e3"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, ok := messageReceipt(b)
		if again := frame.AppendIntHeader(nil, "r", int64(id)); ok && id < 1<<63 && strings.TrimLeft(string(b), "0") != strings.TrimLeft(strings.TrimSpace(string(again[2:])), "0") {
			t.Errorf("%q became %d", b, id)
		}
	})
}

func TestBrokerErrorTexts(t *testing.T) {
	for _, tc := range []struct{ message, body, want string }{
		{"full", "", "the broker says: full"},
		{"", "java.lang.SecurityException: no\n\tat x", "the broker says: java.lang.SecurityException: no"},
		{"no", "SecurityException: no\r\n\tat x", "the broker says: SecurityException: no"},
		{"a\x1b[31mb", "", "the broker says: a [31mb"},
		{"Bad CONNECT", "Access refused", "the broker says: Bad CONNECT: Access refused"},
		{"a and b", "b", "the broker says: a and b"},
	} {
		b := frame.AppendFrame(nil, frame.V12, frame.ERROR, []byte(tc.body), frame.Header{Name: "message", Value: tc.message})
		d := frame.NewDecoder(strings.NewReader(string(b)), frame.ClientSide)
		d.SetLimits(frame.DefaultLimits())
		f, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := brokerError(f).Error(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

// A closed run must not wait for a broker that ignores the goodbye longer than the timeout says.
func TestGoodbyeIsBounded(t *testing.T) {
	b := startBroker(t, "1.2", misdeeds{deafAt: 1})
	o := testOptions(b)
	o.Count, o.Window, o.Drain, o.Timeout = 2, 0, 300*time.Millisecond, 300*time.Millisecond
	r, err := Run(t.Context(), o)
	if err != nil || r.Lost != 1 {
		t.Fatal(r, err)
	}
}

// spy is a listener made of functions.
type spy struct {
	onMessage   func()
	onConfirmed func(id uint64)
}

func (s *spy) message([]byte, bool, int64)  { s.onMessage() }
func (s *spy) confirmed(id uint64, _ int64) { s.onConfirmed(id) }
func (s *spy) refused(uint64, error)        {}
func (s *spy) caughtUp()                    {}
func (s *spy) failed(error)                 {}

// pipeConnection is a logged-in connection whose other end is returned; the pipe has no buffer, so every write waits for
// its reader.
func pipeConnection(t *testing.T, p *stompProtocol, l listener) (*stompConnection, net.Conn) {
	t.Helper()
	client, server := net.Pipe()
	p.timeout = time.Second
	c := &stompConnection{protocol: p, listener: l, version: frame.V12, wire: &wire{conn: client, clock: clock{time.Now()}},
		answers: make(chan answer, 4), finished: make(chan struct{})}
	c.decoder = frame.NewDecoder(c.wire, frame.ClientSide)
	c.decoder.SetLimits(frame.DefaultLimits())
	c.wire.beforeRead = c.beforeRead
	t.Cleanup(func() {
		c.abort()
		server.Close()
		c.reader.Wait()
	})
	if err := server.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c, server
}

// A broker may stop reading until its receipts are read: the reader must go on while the publisher is blocked in a write.
func TestReceiptsAreReadWhileAWriteBlocks(t *testing.T) {
	confirmed := make(chan uint64, 10)
	c, server := pipeConnection(t, &stompProtocol{receipts: true}, &spy{onConfirmed: func(id uint64) { confirmed <- id }})
	c.prepare("/queue/x", 3)
	c.reader.Go(c.readAll)
	blocked := make(chan error, 1)
	go func() {
		_ = c.send(1, []byte("abc"))
		blocked <- c.flush()
	}()
	if _, err := server.Read(make([]byte, 1)); err != nil { // the write has begun and cannot end
		t.Fatal(err)
	}
	for id := range uint64(5) {
		receipt := frame.AppendFrame(nil, frame.V12, frame.RECEIPT, nil, frame.Header{Name: "receipt-id", Value: string(rune('0' + id))})
		if _, err := server.Write(receipt); err != nil {
			t.Fatalf("receipt %d was not read: %v", id, err)
		}
		if got := <-confirmed; got != id {
			t.Errorf("confirmed %d, want %d", got, id)
		}
	}
	server.Close()
	if <-blocked == nil {
		t.Error("the write was to be blocked")
	}
}

// Whoever hears of a message may say goodbye at once; its acknowledgement has to be in the buffer before.
func TestAcknowledgementIsBufferedBeforeTheMessageCounts(t *testing.T) {
	for _, mode := range []string{"client-individual", "client"} {
		t.Run(mode, func(t *testing.T) {
			var c *stompConnection
			pending := make(chan string, 1)
			c, server := pipeConnection(t, &stompProtocol{ack: mode}, &spy{onMessage: func() {
				c.wire.mu.Lock()
				defer c.wire.mu.Unlock()
				pending <- string(c.appendCumulativeAck(append([]byte(nil), c.wire.out...)))
			}})
			c.reader.Go(c.readAll)
			message := frame.AppendFrame(nil, frame.V12, frame.MESSAGE, []byte("x"), frame.Header{Name: "ack", Value: "a1"})
			if _, err := server.Write(message); err != nil {
				t.Fatal(err)
			}
			if got, want := <-pending, "ACK\nid:a1\n\n\x00\n"; got != want {
				t.Errorf("buffered %q, want %q", got, want)
			}
		})
	}
}
