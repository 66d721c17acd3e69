package frame

import (
	"io"
	"os"
	"strings"
	"testing"
)

func TestDecodesWhatClientsSend(t *testing.T) {
	tests := []struct {
		name    string
		version Version
		wire    string
		want    []sent
	}{
		{"php-stomp connect", V10, "CONNECT\nlogin:system\npasscode:manager\n\n\x00",
			[]sent{{CONNECT, h("login", "system", "passcode", "manager"), ""}}},
		{"php-stomp send", V10,
			"SEND\npersistent:true\npriority:7\ncorrelation-id:c:1\nreply-to:/queue/replies\nx-my:héllo\n" +
				"destination:/queue/q\ncontent-length:10\n\nhello text\x00",
			[]sent{{SEND, h("persistent", "true", "priority", "7", "correlation-id", "c:1", "reply-to", "/queue/replies",
				"x-my", "héllo", "destination", "/queue/q", "content-length", "10"), "hello text"}}},
		{"php-stomp empty send", V10, "SEND\ndestination:/queue/q\n\n\x00",
			[]sent{{SEND, h("destination", "/queue/q"), ""}}},
		{"php-stomp ack in a transaction, one segment", V10,
			"BEGIN\ntransaction:t3\n\n\x00ACK\ntransaction:t3\nmessage-id:ID:vm-1:5:2\n\n\x00ABORT\ntransaction:t3\n\n\x00",
			[]sent{{BEGIN, h("transaction", "t3"), ""},
				{ACK, h("transaction", "t3", "message-id", "ID:vm-1:5:2"), ""},
				{ABORT, h("transaction", "t3"), ""}}},
		{"stomp-php connect", V10, "CONNECT\naccept-version:1.0,1.1,1.2\nhost:127.0.0.1\nheart-beat:0,0\n\n\x00",
			[]sent{{CONNECT, h("accept-version", "1.0,1.1,1.2", "host", "127.0.0.1", "heart-beat", "0,0"), ""}}},
		{"stompjs with heart-beats", V12, "\n\nSUBSCRIBE\nid:sub-0\ndestination:/topic/a\n\n\x00\n\n\nUNSUBSCRIBE\nid:sub-0\n\n\x00\n",
			[]sent{{SUBSCRIBE, h("id", "sub-0", "destination", "/topic/a"), ""}, {UNSUBSCRIBE, h("id", "sub-0"), ""}}},
		{"stomp.py escapes its STOMP frame", V10, "STOMP\naccept-version:1.2\npasscode:a\\cb\n\n\x00",
			[]sent{{STOMP, h("accept-version", "1.2", "passcode", "a:b"), ""}}},
		{"ruby: content-length 0 on frames without body", V11,
			"SUBSCRIBE\nid:1\ncontent-length:0\ncontent-type:text/plain\n\n\x00DISCONNECT\ncontent-length:0\n\n\x00",
			[]sent{{SUBSCRIBE, h("id", "1", "content-length", "0", "content-type", "text/plain"), ""},
				{DISCONNECT, h("content-length", "0"), ""}}},
		{"commit and nack", V12, "COMMIT\ntransaction:t\n\n\x00\nNACK\nid:7\n\n\x00\n",
			[]sent{{COMMIT, h("transaction", "t"), ""}, {NACK, h("id", "7"), ""}}},
		{"no headers", V12, "DISCONNECT\n\n\x00", []sent{{DISCONNECT, nil, ""}}},
		{"empty value", V12, "SEND\na:\n\n\x00", []sent{{SEND, h("a", ""), ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expect(t, tt.wire, version(tt.version), tt.want...) })
	}
}

func TestClientSide(t *testing.T) {
	wire := "CONNECTED\nversion:1.2\nsession:ID:a\\cb\n\n\x00\n" +
		"RECEIPT\nreceipt-id:1\ncontent-length:99\n\n\x00\n" +
		"MESSAGE\nmessage-id:ID\\c1\ncontent-length:3\n\na\x00b\x00\n" +
		"ERROR\nmessage:no\ncontent-length:2\n\n\x00\x00\x00\n"
	expect(t, wire, func(d *Decoder) { d.SetSide(ClientSide); d.SetVersion(V12) },
		sent{CONNECTED, h("version", "1.2", "session", `ID:a\cb`), ""},
		sent{RECEIPT, h("receipt-id", "1", "content-length", "99"), ""},
		sent{MESSAGE, h("message-id", "ID:1", "content-length", "3"), "a\x00b"},
		sent{ERROR, h("message", "no", "content-length", "2"), "\x00\x00"})
}

func TestTruncationIsToldFromTheEnd(t *testing.T) {
	const wire = "\n\x00SEND\na:b\ncontent-length:5\n\nhello\x00"
	for n := range len(wire) + 1 {
		want := io.ErrUnexpectedEOF
		if n <= 2 || n == len(wire) {
			want = io.EOF
		}
		for name, reader := range readers {
			if _, err := readAll(serverDecoder(reader(wire[:n]), V12)); err != want {
				t.Errorf("%s, %d bytes: error %v, want %v", name, n, err, want)
			}
		}
	}
}

// deadlines fails once before every read, as a connection does whose read deadline has passed.
type deadlines struct {
	r      io.Reader
	passed bool
}

func (d *deadlines) Read(b []byte) (int, error) {
	if d.passed = !d.passed; d.passed {
		return 0, os.ErrDeadlineExceeded
	}
	return d.r.Read(b)
}

func TestContinuesAfterADeadline(t *testing.T) {
	wire := "SEND\na:b\ncontent-length:3\n\nx\x00y\x00\nACK\nid:1\n\n\x00"
	d := serverDecoder(&deadlines{r: readers["sevens"](wire)}, V12)
	var got []sent
	for {
		f, err := d.Next()
		if err == os.ErrDeadlineExceeded {
			d.ReleaseIfEmpty()
			continue
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, copyOf(f))
	}
	compare(t, "deadlines", got, []sent{{SEND, h("a", "b", "content-length", "3"), "x\x00y"}, {ACK, h("id", "1"), ""}})
}

func TestSilentReaderIsAnError(t *testing.T) {
	d := serverDecoder(silent{}, V12)
	if _, err := d.Next(); err != io.ErrNoProgress {
		t.Errorf("error %v, want io.ErrNoProgress", err)
	}
}

// once gives bytes and an error in one read, and io.EOF afterwards.
type once struct {
	wire string
	err  error
}

func (o *once) Read(b []byte) (int, error) {
	n, err := copy(b, o.wire), o.err
	o.wire, o.err = "", io.EOF
	return n, err
}

func TestAnErrorBesideBytesComesAfterThem(t *testing.T) {
	d := serverDecoder(&once{"ACK\nid:1\n\n\x00", errStopped}, V12)
	for _, want := range []error{nil, errStopped, io.EOF} {
		if _, err := d.Next(); err != want {
			t.Errorf("error %v, want %v", err, want)
		}
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

// scripted gives one string per read, then fails the test.
type scripted struct {
	t     *testing.T
	reads []string
}

func (s *scripted) Read(b []byte) (int, error) {
	if len(s.reads) == 0 {
		s.t.Error("read although Buffered was true")
		return 0, io.EOF
	}
	n := copy(b, s.reads[0])
	if s.reads[0] = s.reads[0][n:]; s.reads[0] == "" {
		s.reads = s.reads[1:]
	}
	return n, nil
}

func TestBufferedMeansNextDoesNotRead(t *testing.T) {
	r := &scripted{t, []string{"ACK\nid:1\n\n\x00\nACK\nid:2\n\n\x00\nACK\nid", ":3\n\n\x00\n\n\n"}}
	d := serverDecoder(r, V12)
	if d.Buffered() {
		t.Error("Buffered before anything arrived")
	}
	for i, wantMore := range []bool{true, false, false} {
		f, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Value("id"); got != string(rune('1'+i)) {
			t.Errorf("frame %d has id %q", i, got)
		}
		for range 2 { // asking twice changes nothing
			if more := d.Buffered(); more != wantMore {
				t.Errorf("Buffered is %v after frame %d, want %v", more, i, wantMore)
			}
		}
	}
	if len(r.reads) != 0 {
		t.Errorf("not read: %q", r.reads)
	}
}

func TestBufferedIsTrueForAnError(t *testing.T) {
	d := serverDecoder(&scripted{t, []string{"ACK\nid:1\n\n\x00nonsense\n"}}, V12)
	if _, err := d.Next(); err != nil {
		t.Fatal(err)
	}
	if !d.Buffered() {
		t.Error("Buffered is false with an error at hand")
	}
	if _, err := d.Next(); err == nil {
		t.Error("no error")
	}
}

func TestVersionHoldsFromTheNextFrame(t *testing.T) {
	d := NewDecoder(strings.NewReader("CONNECT\naccept-version:1.2\np:a\\cb\n\n\x00SEND\na:b\\cc \n\nhi\x00"), ServerSide)
	f, err := d.Next()
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Value("p"); got != `a\cb` {
		t.Errorf("passcode is %q", got)
	}
	d.SetVersion(V12)
	d.SetLimits(DefaultLimits())
	if f, err = d.Next(); err != nil {
		t.Fatal(err)
	}
	if got := f.Value("a"); got != "b:c " {
		t.Errorf("header is %q", got)
	}
}

func TestCounts(t *testing.T) {
	const wire = "\n\nACK\nid:1\n\n\x00\n\r\n\n"
	d := serverDecoder(strings.NewReader(wire), V12)
	if _, err := readAll(d); err != io.EOF {
		t.Fatal(err)
	}
	if d.Bytes() != uint64(len(wire)) {
		t.Errorf("%d bytes, want %d", d.Bytes(), len(wire))
	}
	d.Reset(strings.NewReader("ACK\nid:2\n\n\x00"))
	if d.Bytes() != 0 {
		t.Error("Reset keeps the count")
	}
	if got, err := readAll(d); err != io.EOF || len(got) != 1 || got[0].headers[0].Value != "2" {
		t.Errorf("after Reset: %v, %v", got, err)
	}
}

func TestResetAfterAnError(t *testing.T) {
	d := serverDecoder(strings.NewReader("nonsense\n"), V12)
	if _, err := d.Next(); err == nil {
		t.Fatal("no error")
	}
	d.Reset(strings.NewReader("ACK\nid:2\n\n\x00"))
	if _, err := d.Next(); err != nil {
		t.Error(err)
	}
}

func TestZeroDecoderIsForStrangers(t *testing.T) {
	var d Decoder
	d.Reset(strings.NewReader("CONNECT\nlogin:a\n\n\x00SEND\n\nbody\x00"))
	if _, err := d.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Next(); err == nil {
		t.Error("a body before login is accepted")
	}
}

func TestFrameAccess(t *testing.T) {
	f, err := serverDecoder(strings.NewReader("SEND\na:1\nneg: -42 \nbad:4x\nempty:\na:2\n\n\x00"), V12).Next()
	if err != nil {
		t.Fatal(err)
	}
	if f.Len() != 4 {
		t.Errorf("%d headers, want 4", f.Len())
	}
	if name, value := f.Header(1); string(name) != "neg" || string(value) != " -42 " {
		t.Errorf("header 1 is %q:%q", name, value)
	}
	if value, found := f.Get("empty"); !found || len(value) != 0 {
		t.Errorf("empty is %q, %v", value, found)
	}
	if value, found := f.Get("A"); found {
		t.Errorf("names are not case-sensitive: %q", value)
	}
	if n, found, err := f.Int("neg"); n != -42 || !found || err != nil {
		t.Errorf("neg is %d, %v, %v", n, found, err)
	}
	if _, found, err := f.Int("none"); found || err != nil {
		t.Errorf("none is %v, %v", found, err)
	}
	if _, found, err := f.Int("bad"); !found || err == nil || !strings.Contains(err.Error(), `header bad: "4x"`) {
		t.Errorf("bad is %v, %v", found, err)
	}
	for name := range f.All() {
		if string(name) != "a" {
			t.Errorf("iteration goes on to %q after break", name)
		}
		break
	}
}

func TestParseInt(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "-0": 0, " 17\t": 17, "007": 7,
		"9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63} {
		if n, ok := parseInt([]byte(text)); !ok || n != want {
			t.Errorf("%q is %d, %v", text, n, ok)
		}
	}
	for _, text := range []string{"", " ", "-", "+1", "1 2", "0x1", "1.0", "--1", "١",
		"9223372036854775808", "-9223372036854775809", "99999999999999999999"} {
		if n, ok := parseInt([]byte(text)); ok {
			t.Errorf("%q is %d", text, n)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]Version{"": V10, "1.0": V10, "1.0,1.1,1.2": V12, "1.1,1.0": V11,
		" 1.2 , 2.0": V12, "1.0,1.1": V11} {
		if v, ok := Negotiate([]byte(accept)); !ok || v != want {
			t.Errorf("%q gives %v, %v; want %v", accept, v, ok, want)
		}
	}
	for _, accept := range []string{"2.0", "1", ",", "1.22"} {
		if v, ok := Negotiate([]byte(accept)); ok {
			t.Errorf("%q gives %v", accept, v)
		}
	}
}

func TestCommandNames(t *testing.T) {
	for c := CONNECT; c <= ERROR; c++ {
		if got, ok := ParseCommand([]byte(c.String())); !ok || got != c {
			t.Errorf("%v is parsed as %v, %v", c, got, ok)
		}
		if c.FromClient() == (c >= CONNECTED) {
			t.Errorf("%v: FromClient is %v", c, c.FromClient())
		}
	}
	if Command(200).String() != "?" || Command(0).String() != "" || Version(9).String() != "?" {
		t.Error("values out of range have names")
	}
}
