package frame

import (
	"bytes"
	"strings"
	"testing"
)

// seeds are frames as real clients and brokers send them, and those that broke parsers elsewhere.
var seeds = []string{
	"CONNECT\nlogin:system\npasscode:manager\n\n\x00",
	"CONNECTED\nserver:ActiveMQ/5.17.2\nheart-beat:0,0\nsession:ID:vm-37031-1795408704071-5:2\nversion:1.0\n\n\x00\n",
	"SEND\npersistent:true\npriority:7\ncorrelation-id:c:1\nreply-to:/queue/replies\nexpires:0\ntype:order.new\n" +
		"x-my:héllo\nJMSXGroupID:g1\ndestination:/queue/q\ncontent-length:10\n\nhello text\x00",
	"SEND\nreceipt:r-1\ndestination:/queue/q\ncontent-length:12\n\nwith receipt\x00",
	"RECEIPT\nreceipt-id:r-1\n\n\x00\n",
	"SEND\ndestination:/queue/q\n\n\x00",
	"SUBSCRIBE\nactivemq.prefetchSize:1\nack:client\ndestination:/queue/q\n\n\x00",
	"MESSAGE\ncontent-length:10\nexpires:0\ncorrelation-id:c:1\ndestination:/queue/q\npriority:7\ntype:order.new\n" +
		"x-my:héllo\nmessage-id:ID:vm-37031-5:2:-1:1:1\npersistent:true\ntimestamp:1795408875583\n\nhello text\x00\n",
	"ACK\nexpires:0\ncorrelation-id:c:1\ndestination:/queue/q\npriority:7\nmessage-id:ID:vm-37031-5:2:-1:1:1\n\n\x00",
	"BEGIN\ntransaction:t3\n\n\x00ACK\ntransaction:t3\nmessage-id:1\n\n\x00ABORT\ntransaction:t3\n\n\x00",
	"UNSUBSCRIBE\ndestination:/queue/q\n\n\x00DISCONNECT\n\n\x00",
	"SUBSCRIBE\nactivemq.subscriptionName:cid-1\nid:d1\nreceipt:r-sub\nack:client\ndestination:/topic/dur\n\n\x00",
	"ACK\nreceipt:ra\nack:ID\\cvm-37031-6\\c7\nmessage-id:ID\\cvm-37031\n\n\x00",
	"ERROR\ncontent-type:text/plain\nreceipt-id:ra\nmessage:ACK received without a ack id for acknowledge!\n\n\x00\n",
	"CONNECT\naccept-version:1.0,1.1,1.2\nhost:127.0.0.1\nheart-beat:0,0\n\n\x00",
	"DISCONNECT\nreceipt:0cc175b9c0f1b6a831c399e269772661\n\n\x00",
	"STOMP\naccept-version:1.2\nhost:a\npasscode:a\\cb\n\n\x00\n\n\n",
	"SUBSCRIBE\r\nid:1\r\ncontent-length:0\r\n\r\n\x00\x00\n",
	"SEND\ncontent-length:4294967295\n\n",
	"SEND\ncontent-length:-1\n\n\x00",
	"SEND\ncontent-length: 3 \ncontent-length:1\n\na\x00b\x00",
	"SEND\na\\cb:\\r\\n\\c\\\\\\t\\\n a : b \na:2\na:3\n\n\x00",
	"COMMIT\ntransaction:t4\n\n\x00NACK\nid:1\n\n\x00",
	"SEND \r\n\n\x00DISCONNECT\n\x00",
}

// FuzzDecode looks for panics, for memory beyond the limits, for answers that depend on how the bytes arrive, and for
// frames that do not survive being encoded and decoded again.
func FuzzDecode(f *testing.F) {
	for i, s := range seeds {
		f.Add([]byte(s), byte(i%12), byte(i))
		f.Add([]byte(s), byte((i+5)%12), byte(0))
	}
	limits := Limits{Command: 20, HeaderLine: 400, HeaderBytes: 2000, Headers: 30, Body: 30_000}
	f.Fuzz(func(t *testing.T, wire []byte, settings, size byte) {
		open := func(wire []byte, size int) *Decoder {
			d := NewDecoder(&pieces{rest: wire, size: size}, Side(settings/3%2))
			d.SetVersion(Version(settings % 3))
			d.SetStrict(settings/6%2 == 1)
			d.SetLimits(limits)
			return d
		}
		whole, cut := open(wire, len(wire)+1), open(wire, int(size)+1)
		for {
			frame, err := whole.Next()
			same, sameErr := cut.Next()
			if (err == nil) != (sameErr == nil) {
				t.Fatalf("whole gives %v, cut gives %v", err, sameErr)
			}
			for _, d := range []*Decoder{whole, cut} {
				if most := 2 * (limits.HeaderBytes + limits.Body + blockBytes); len(d.in.bytes) > most {
					t.Fatalf("holds %d bytes", len(d.in.bytes))
				}
			}
			if err != nil {
				return
			}
			got := copyOf(frame)
			if other := copyOf(same); !got.equal(other) {
				t.Fatalf("whole gives\n %v, cut gives\n %v", got, other)
			}
			checkAgain(t, frame, got, open)
		}
	})
}

// checkAgain encodes a frame and decodes it again.
func checkAgain(t *testing.T, f *Frame, want sent, open func([]byte, int) *Decoder) {
	v := open(nil, 1).version
	if f.Command.escaping(v) < V12 && bytes.IndexByte(f.head, '\r') >= 0 {
		return // a CR in the middle of a line: taken, but not sent
	}
	wire := f.Append(nil, v)
	d := open(wire, len(wire))
	d.SetLimits(DefaultLimits()) // escaping makes lines longer
	again, err := d.Next()
	if err != nil {
		t.Fatalf("%v: encoded as %q, which is refused: %v", want, wire, err)
	}
	if !want.command.HasBody() {
		want.body = ""
	}
	if got := copyOf(again); !got.equal(want) {
		t.Fatalf("%v: encoded as %q, which is %v", want, wire, got)
	}
	if _, err := d.Next(); err == nil {
		t.Fatalf("%v: encoded as %q, which is two frames", want, wire)
	}
}

// FuzzEncode looks for strings that come out of a frame as something else than one header and the body.
func FuzzEncode(f *testing.F) {
	f.Add("message", "no\nsuch:queue\\", "hi", byte(2))
	f.Add("a:b", "\r", "\x00", byte(1))
	f.Add("x\n", "\r\n\r\n\x00\nSEND\n\n\x00", "", byte(0))
	f.Fuzz(func(t *testing.T, name, value, body string, v byte) {
		version := Version(v % 3)
		if strings.Trim(name, " \t\r\n\x00") == "" || name == "content-length" {
			return
		}
		wire := AppendFrame(nil, version, SEND, []byte(body), Header{name, value})
		d := serverDecoder(bytes.NewReader(wire), version)
		limits := DefaultLimits()
		limits.HeaderLine, limits.HeaderBytes = maxLimit, maxLimit
		d.SetLimits(limits)
		d.SetStrict(true)
		got, err := d.Next()
		if err != nil {
			t.Fatalf("%q: %v", wire, err)
		}
		headers := 1
		if NeedsContentLength([]byte(body)) {
			headers = 2
		}
		if string(got.Body) != body || got.Len() != headers {
			t.Fatalf("%q: body %q, %d headers", wire, got.Body, got.Len())
		}
		n, val := got.Header(0)
		if version == V12 && (string(n) != strings.ReplaceAll(name, "\x00", " ") || string(val) != strings.ReplaceAll(value, "\x00", " ")) {
			t.Fatalf("%q: header %q:%q", wire, n, val)
		}
		if _, err := d.Next(); err == nil {
			t.Fatalf("%q: two frames", wire)
		}
	})
}
