package frame

import (
	"strings"
	"testing"
)

func TestGoldenBytes(t *testing.T) {
	tests := []struct {
		name    string
		version Version
		command Command
		body    string
		headers []Header
		want    string
	}{
		{"CONNECTED is not escaped", V12, CONNECTED, "", h("version", "1.2", "session", `ID:a\b`),
			"CONNECTED\nversion:1.2\nsession:ID:a\\b\n\n\x00\n"},
		{"nor is CONNECT", V12, CONNECT, "", h("passcode", `a:b\c`), "CONNECT\npasscode:a:b\\c\n\n\x00\n"},
		{"STOMP is", V10, STOMP, "", h("passcode", "a:b\r"), "STOMP\npasscode:a\\cb\\r\n\n\x00\n"},
		{"1.0 has no escapes", V10, MESSAGE, "hi", h("message-id", `ID:vm-1\n`), "MESSAGE\nmessage-id:ID:vm-1\\n\n\nhi\x00\n"},
		{"1.1 has three", V11, MESSAGE, "hi", h("a:b", "\n:\\"), "MESSAGE\na\\cb:\\n\\c\\\\\n\nhi\x00\n"},
		{"1.2 has four", V12, MESSAGE, "hi", h("a:b", "\r\n:\\"), "MESSAGE\na\\cb:\\r\\n\\c\\\\\n\nhi\x00\n"},
		{"a receipt", V12, RECEIPT, "", h("receipt-id", "r:1"), "RECEIPT\nreceipt-id:r\\c1\n\n\x00\n"},
		{"an error", V11, ERROR, "detail", h("message", "no such queue", "receipt-id", "1"),
			"ERROR\nmessage:no such queue\nreceipt-id:1\n\ndetail\x00\n"},
		{"a body with NUL gets its length", V10, SEND, "a\x00b", h("destination", "/queue/a"),
			"SEND\ndestination:/queue/a\ncontent-length:3\n\na\x00b\x00\n"},
		{"but not twice", V10, SEND, "a\x00b", h("content-length", "3"), "SEND\ncontent-length:3\n\na\x00b\x00\n"},
		{"no body where none may be", V12, RECEIPT, "x\x00y", nil, "RECEIPT\n\n\x00\n"},
		{"UTF-8", V12, SEND, "é", h("x-my", "héllo"), "SEND\nx-my:héllo\n\né\x00\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(AppendFrame(nil, tt.version, tt.command, []byte(tt.body), tt.headers...))
			if got != tt.want {
				t.Errorf("got\n %q, want\n %q", got, tt.want)
			}
		})
	}
}

// Rule 1 of the PHP client: the byte after NUL belongs to the frame.
func TestEveryFrameEndsWithNULAndLF(t *testing.T) {
	for c := CONNECT; c <= ERROR; c++ {
		for v := V10; v <= V12; v++ {
			for _, body := range []string{"", "x", "x\x00", "\n"} {
				if got := string(AppendFrame(nil, v, c, []byte(body))); !strings.HasSuffix(got, "\x00\n") {
					t.Errorf("%v %v: %q", v, c, got)
				}
			}
		}
	}
}

// Whatever a name or value holds, one header comes out of one header.
func TestNothingCanBeInjected(t *testing.T) {
	const attack = "x\nadmin:true\r\n\r\nbody\x00\nSEND\n\n\x00:\\"
	for _, tt := range []struct {
		version Version
		name    string
		value   string
	}{
		{V10, "x admin_true    body  SEND   _\\", "x admin:true    body  SEND   :\\"},
		{V11, "x\nadmin:true \n \nbody \nSEND\n\n :\\", "x\nadmin:true \n \nbody \nSEND\n\n :\\"},
		{V12, "x\nadmin:true\r\n\r\nbody \nSEND\n\n :\\", "x\nadmin:true\r\n\r\nbody \nSEND\n\n :\\"},
	} {
		wire := string(AppendFrame(nil, tt.version, ABORT, nil, Header{attack, attack}))
		expect(t, wire, version(tt.version), sent{ABORT, h(tt.name, tt.value), ""})
	}
	wire := string(AppendFrame(nil, V12, CONNECTED, nil, Header{"version", attack}))
	if strings.Count(wire, "\n") != 4 || strings.Count(wire, "\x00") != 1 {
		t.Errorf("CONNECTED is %q", wire)
	}
}

// A fan-out encodes what all receivers share once.
func TestPiecesMakeAFrame(t *testing.T) {
	shared := AppendHeader(nil, V12, "destination", []byte("/topic/a:b"))
	shared = AppendIntHeader(shared, "content-length", 2)
	shared = AppendBody(shared, "hi")
	for _, id := range []string{"1", "2"} {
		got := AppendCommand(nil, MESSAGE)
		got = AppendHeader(got, V12, "subscription", id)
		got = append(got, shared...)
		want := AppendFrame(nil, V12, MESSAGE, []byte("hi"),
			h("subscription", id, "destination", "/topic/a:b", "content-length", "2")...)
		if string(got) != string(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAppendLeavesWhatIsThere(t *testing.T) {
	got := string(AppendFrame([]byte("before"), V12, RECEIPT, nil, Header{"receipt-id", "1"}))
	if got != "beforeRECEIPT\nreceipt-id:1\n\n\x00\n" {
		t.Errorf("got %q", got)
	}
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	dst := make([]byte, 0, 4096)
	body := []byte("hello")
	id := []byte("ID:vm-1")
	if got := testing.AllocsPerRun(100, func() {
		dst = AppendFrame(dst[:0], V12, MESSAGE, body, Header{"destination", "/queue/a"}, Header{"subscription", "a:b"})
		dst = AppendCommand(dst[:0], MESSAGE)
		dst = AppendHeader(dst, V12, "message-id", id)
		dst = AppendIntHeader(dst, "timestamp", 1795408875583)
		dst = AppendBody(dst, body)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
