package frame

import (
	"strings"
	"testing"
)

// Real clients and the two common brokers agree on these, whatever the specification says.
func TestTolerates(t *testing.T) {
	send := func(pairs ...string) sent { return sent{SEND, h(pairs...), ""} }
	tests := []struct {
		name    string
		version Version
		wire    string
		want    []sent
	}{
		{"CR LF in 1.0", V10, "SEND\r\na:b\r\n\r\nx\r\n\x00\r\n", []sent{{SEND, h("a", "b"), "x\r\n"}}},
		{"CR LF in 1.1", V11, "SEND\r\na:b\r\n\r\n\x00\r\n", []sent{send("a", "b")}},
		{"CR LF in 1.2", V12, "SEND\r\na:b\r\n\r\n\x00\r\n", []sent{send("a", "b")}},
		{"only one CR belongs to the end of line", V12, "SEND\na:b\r\r\n\n\x00", []sent{send("a", "b\r")}},
		{"NULs and blank lines between frames", V12, "\x00\n\r\nSEND\n\n\x00\x00\n\x00\nSEND\n\n\x00\x00\x00",
			[]sent{send(), send()}},
		{"spaces and CR after the command", V12, "SEND \t\n\n\x00SEND \r\n\n\x00SEND\r\r\n\n\x00",
			[]sent{send(), send(), send()}},
		{"undefined escapes stay", V12, "SEND\na:x\\ty\\\nb:\\\\t\\x\\c\n\n\x00", []sent{send("a", `x\ty\`, "b", `\t\x:`)}},
		{"no \\r in 1.1", V11, "SEND\na:x\\ry\\n\n\n\x00", []sent{send("a", "x\\ry\n")}},
		{"escapes in 1.2", V12, "SEND\na\\cb:\\r\\n\\c\\\\\n\n\x00", []sent{send("a:b", "\r\n:\\")}},
		{"escapes in 1.1", V11, "SEND\na\\cb:\\n\\c\\\\\n\n\x00", []sent{send("a:b", "\n:\\")}},
		{"an escaped backslash does not begin an escape", V12, "SEND\na:\\\\n\n\n\x00", []sent{send("a", `\n`)}},
		{"no escapes in 1.0", V10, "SEND\nfile:C:\\new\\red\n\n\x00", []sent{send("file", `C:\new\red`)}},
		{"1.0 is trimmed", V10, "SEND\n destination : /queue/a \t\n\n\x00", []sent{send("destination", "/queue/a")}},
		{"later versions are not", V11, "SEND\na : b \n\n\x00", []sent{send("a ", " b ")}},
		{"CONNECT is never unescaped", V12, "CONNECT\naccept-version:1.2\nlogin:DOMAIN\\nick\npasscode: a\\cb \n\n\x00",
			[]sent{{CONNECT, h("accept-version", "1.2", "login", `DOMAIN\nick`, "passcode", ` a\cb `), ""}}},
		{"CONNECT of 1.0 is trimmed", V10, "CONNECT\nlogin: a\\cb \n\n\x00", []sent{{CONNECT, h("login", `a\cb`), ""}}},
		{"the first of repeated headers counts", V12, "SEND\na:1\nb:x\na:2\na:3\n\n\x00", []sent{send("a", "1", "b", "x")}},
		{"repeated after unescaping", V12, "SEND\na\\cb:1\na\\cb:2\n\n\x00", []sent{send("a:b", "1")}},
		{"the first of two content-lengths", V12, "SEND\ncontent-length:3\ncontent-length:1\n\na\x00b\x00",
			[]sent{{SEND, h("content-length", "3"), "a\x00b"}}},
		{"spaces in content-length", V12, "SEND\ncontent-length: 3 \n\na\x00b\x00",
			[]sent{{SEND, h("content-length", " 3 "), "a\x00b"}}},
		{"content-length of an ACK means nothing", V12, "ACK\nid:1\ncontent-length:10\n\n\x00SEND\n\n\x00",
			[]sent{{ACK, h("id", "1", "content-length", "10"), ""}, send()}},
		{"nor does a wrong one", V12, "ACK\nid:1\ncontent-length:-x\n\n\x00", []sent{{ACK, h("id", "1", "content-length", "-x"), ""}}},
		{"a body with NULs", V12, "SEND\ncontent-length:4\n\n\x00\n\x00\n\x00", []sent{{SEND, h("content-length", "4"), "\x00\n\x00\n"}}},
		{"bytes that are not UTF-8", V12, "SEND\n\xff:\xfe\n\n\xfd\x00", []sent{{SEND, h("\xff", "\xfe"), "\xfd"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expect(t, tt.wire, version(tt.version), tt.want...) })
	}
}

func TestStrictRefusesUndefinedEscapes(t *testing.T) {
	for _, tt := range []struct {
		version Version
		value   string
		refused bool
	}{
		{V12, `a\tb`, true}, {V12, `a\`, true}, {V12, `\r\n\c\\`, false}, {V12, `\\t`, false},
		{V11, `\r`, true}, {V11, `\n\c\\`, false}, {V10, `a\tb`, false},
	} {
		d := serverDecoder(strings.NewReader("SEND\nreceipt:r\\c1\nx:"+tt.value+"\n\n\x00"), tt.version)
		d.SetStrict(true)
		_, err := d.Next()
		e, _ := err.(*Error)
		if (e != nil) != tt.refused {
			t.Errorf("%v %s: error %v", tt.version, tt.value, err)
		}
		if e != nil && (e.Kind != KindEscape || e.Receipt != "r:1" || !strings.Contains(e.Text, `"x"`)) {
			t.Errorf("%v %s: error %+v", tt.version, tt.value, e)
		}
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct {
		name, wire string
		kind       Kind
		text       string // a part of it
		receipt    string
	}{
		{"unknown command", "FOO\n\n\x00", KindCommand, `unknown command "FOO"`, ""},
		{"lower case", "send\n\n\x00", KindCommand, "unknown command", ""},
		{"a prefix of a command", "SUB\n\n\x00", KindCommand, `"SUB"`, ""},
		{"a server's command", "MESSAGE\n\n\x00", KindCommand, "MESSAGE is a command that only servers send", ""},
		{"bytes of control", "\x01\x02\x1b[2J\n", KindCommand, `unknown command`, ""},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + filled(200), KindCommand, "TLS", ""},
		{"HTTP", "GET /console/index.html HTTP/1.1\r\nHost: a\r\n\r\n", KindCommand, "HTTP", ""},
		{"HTTP, long", "GET /" + filled(100) + " HTTP/1.1\r\n", KindCommand, "HTTP", ""},
		{"no blank line", "DISCONNECT\n\x00", KindSyntax, "blank line", ""},
		{"no end of line", "DISCONNECT\x00", KindSyntax, "blank line", ""},
		{"NUL in a header", "SEND\na:b\x00c\n\nhi\x00", KindSyntax, "NUL among the headers", ""},
		{"a frame hidden in a header", "SEND\na:b\x00SEND\nb:c\n\n\x00", KindSyntax, "NUL among the headers", ""},
		{"no colon", "SEND\na:b\nhello\n\n\x00", KindSyntax, "header line 2 of SEND", ""},
		{"no name", "SEND\n:b\n\n\x00", KindSyntax, "header line 1 of SEND", ""},
		{"negative", "SEND\nreceipt:r1\ncontent-length:-1\n\n\x00", KindContentLength, `"-1"`, "r1"},
		{"negative zero point", "SEND\ncontent-length:-0.5\n\n\x00", KindContentLength, `"-0.5"`, ""},
		{"no number", "SEND\ncontent-length:ten\n\n\x00", KindContentLength, `"ten"`, ""},
		{"empty", "SEND\ncontent-length:\n\n\x00", KindContentLength, `""`, ""},
		{"plus", "SEND\ncontent-length:+1\n\na\x00", KindContentLength, `"+1"`, ""},
		{"overflow of 64 bits", "SEND\ncontent-length:18446744073709551617\n\na\x00", KindContentLength, "18446744073709551617", ""},
		{"too short", "SEND\nreceipt:r2\ncontent-length:2\n\nhello\x00", KindContentLength, "content-length", "r2"},
		{"escape codes in a length", "SEND\ncontent-length:\x1b[2J\n\n\x00", KindContentLength, `"\x1b[2J"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := refusal(t, tt.wire, func(*Decoder) {})
			if e.Kind != tt.kind || !strings.Contains(e.Text, tt.text) || e.Receipt != tt.receipt {
				t.Errorf("error %+v", e)
			}
			if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("text is not safe: %q", e)
			}
			if e.Kind.String() == "unknown" {
				t.Error("the kind has no name")
			}
		})
	}
}

func TestRefusesANameOfSpacesIn10(t *testing.T) {
	if e := refusal(t, "SEND\n :b\n\n\x00", version(V10)); e.Kind != KindSyntax {
		t.Errorf("error %+v", e)
	}
}

// A passcode must not get into a log through an error.
func TestErrorsDoNotShowHeaders(t *testing.T) {
	for _, wire := range []string{"CONNECT\npasscode\\csecret\n\n\x00", "CONNECT\npasscode:secret\x00\n\n", "CONNECT\n:secret\n\n\x00"} {
		if e := refusal(t, wire, func(*Decoder) {}); strings.Contains(e.Error(), "secret") {
			t.Errorf("%q gives %q", wire, e)
		}
	}
}

func TestRawColons(t *testing.T) {
	for _, v := range []Version{V10, V11, V12} {
		expect(t, "SEND\na:b:k\nu:http://x\n\n\x00", version(v), sent{SEND, h("a", "b:k", "u", "http://x"), ""})
	}
}
