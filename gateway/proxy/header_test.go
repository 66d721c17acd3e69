package proxy

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// v2 builds a header of version 2.
func v2(versionCommand, family byte, body string) string {
	return signature + string([]byte{versionCommand, family, byte(len(body) >> 8), byte(len(body))}) + body
}

const (
	ports = "\xdc\x04\x01\xbb" // 56324, 443
	four  = "\xc0\x00\x02\x01\xc0\x00\x02\x02" + ports
	six   = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + ports
)

var good = []struct{ name, header, source string }{
	{"v1 IPv4", "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1:56324"},
	{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", "[2001:db8::1]:56324"},
	{"v1 longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	{"v1 unknown", "PROXY UNKNOWN\r\n", ""},
	{"v1 unknown with words", "PROXY UNKNOWN ffff:f...f:ffff whatever 65535 65535\r\n", ""},
	{"v2 IPv4", v2(0x21, 0x11, four), "192.0.2.1:56324"},
	{"v2 IPv6", v2(0x21, 0x21, six), "[2001:db8::1]:56324"},
	{"v2 with TLVs", v2(0x21, 0x11, four+"\x04\x00\x03abc"+"\x05\x00\x01x"), "192.0.2.1:56324"},
	{"v2 with the longest tail", v2(0x21, 0x11, four+strings.Repeat("\x04", 65535-len(four))), "192.0.2.1:56324"},
	{"v2 local", v2(0x20, 0x00, ""), ""},
	{"v2 local with addresses", v2(0x20, 0x11, four), ""},
	{"v2 unspecified", v2(0x21, 0x00, ""), ""},
	{"v2 unix", v2(0x21, 0x31, strings.Repeat("/", 216)), ""},
}

var bad = []struct{ name, header string }{
	{"STOMP", "CONNECT\naccept-version:1.2\nhost:/\n\n\x00"},
	{"MQTT", "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04abcd"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00"},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 107)},
	{"v1 without addresses", "PROXY TCP4\r\n"},
	{"v1 wrong family", "PROXY TCP6 192.0.2.1 192.0.2.2 56324 443\r\n"},
	{"v1 mixed families", "PROXY TCP4 192.0.2.1 2001:db8::2 56324 443\r\n"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 fe80::2 56324 443\r\n"},
	{"v1 port too high", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n"},
	{"v1 port with zeroes", "PROXY TCP4 192.0.2.1 192.0.2.2 056 443\r\n"},
	{"v1 port with sign", "PROXY TCP4 192.0.2.1 192.0.2.2 +56 443\r\n"},
	{"v1 two spaces", "PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n"},
	{"v1 UDP", "PROXY UDP4 192.0.2.1 192.0.2.2 56324 443\r\n"},
	{"v1 small letters", "proxy TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"},
	{"v2 of version 1", v2(0x11, 0x11, four)},
	{"v2 unknown command", v2(0x22, 0x11, four)},
	{"v2 too few addresses", v2(0x21, 0x21, four)},
	{"v2 no addresses", v2(0x21, 0x11, "")},
	{"v2 datagrams", v2(0x21, 0x12, four)},
	{"v2 unknown family", v2(0x21, 0x41, four)},
}

func TestHeaders(t *testing.T) {
	for _, c := range good {
		t.Run(c.name, func(t *testing.T) {
			for _, slow := range []bool{false, true} {
				var r io.Reader = strings.NewReader(c.header + "rest")
				if slow {
					r = iotest.OneByteReader(r)
				}
				h, err := Read(r)
				if err != nil {
					t.Fatal(err)
				}
				source := ""
				if h.Source.IsValid() {
					source = h.Source.String()
				}
				if source != c.source {
					t.Errorf("source %q, want %q", source, c.source)
				}
				if rest, _ := io.ReadAll(r); string(rest) != "rest" {
					t.Errorf("what follows is %q", rest)
				}
			}
			for n := range min(len(c.header), 300) { // a part of it is no header
				if _, err := Read(strings.NewReader(c.header[:n])); !errors.Is(err, errNoHeader) {
					t.Fatalf("the first %d bytes: %v", n, err)
				}
			}
		})
	}
}

func TestBadHeaders(t *testing.T) {
	for _, c := range bad {
		if h, err := Read(strings.NewReader(c.header)); !errors.Is(err, errHeader) && !errors.Is(err, errNoHeader) {
			t.Errorf("%s: %+v, %v", c.name, h, err)
		}
	}
}

// FuzzHeader: no input makes Read panic, read further than a header may be long,
// or name an address without having read one.
func FuzzHeader(f *testing.F) {
	for _, c := range good {
		f.Add([]byte(c.header))
	}
	for _, c := range bad {
		f.Add([]byte(c.header))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := Read(r)
		read := len(in) - r.Len()
		if read > len(signature)+4+65535 {
			t.Errorf("%d bytes were read", read)
		}
		if err != nil && h.Source.IsValid() {
			t.Errorf("a refused header has the address %v", h.Source)
		}
		if bytes.HasPrefix(in, []byte("PROXY ")) && read > maxV1 {
			t.Errorf("%d bytes were read of a line", read)
		}
		if err != nil {
			return
		}
		// What was read is the header: alone it means the same.
		if again, err := Read(bytes.NewReader(in[:read])); err != nil || again != h {
			t.Errorf("read again: %+v, %v; was %+v", again, err, h)
		}
	})
}
