package frame

import "testing"

// benchFrame is a SEND with 6 headers and a body of 200 bytes.
func benchFrame() string {
	return string(AppendFrame(nil, V12, SEND, []byte(filled(200)), benchHeaders()...))
}

func benchHeaders() []Header {
	return h("destination", "/queue/orders.new", "content-type", "application/json", "content-length", "200",
		"persistent", "true", "correlation-id", "3f2b8c1e-77aa-4a53-9f0e-0d5c2b1a9e44", "receipt", "r-1234567")
}

func BenchmarkDecode(b *testing.B) {
	for _, bb := range []struct {
		name, wire string
		version    Version
	}{
		{"SEND/6headers/200B", benchFrame(), V12},
		{"SEND/6headers/200B/1.0", benchFrame(), V10},
		{"ACK/1.2/escaped", "ACK\nid:ID\\cvm-37031-1795408704071-5\\c2\nreceipt:12\n\n\x00\n", V12},
		{"SEND/16KiB", string(AppendFrame(nil, V12, SEND, []byte(filled(16<<10)), benchHeaders()[:2]...)), V12},
		{"SEND/1MiB", string(AppendFrame(nil, V12, SEND, []byte(filled(1<<20)), benchHeaders()[:2]...)), V12},
		{"SEND/1000headers", "SEND\n" + differentHeaders(1000) + "\n\x00\n", V12},
	} {
		b.Run(bb.name, func(b *testing.B) {
			// Several frames in the pattern, so that the source's copies are not the measure.
			var many []byte
			for len(many) < 64<<10 {
				many = append(many, bb.wire...)
			}
			d := serverDecoder(&endless{pattern: many}, bb.version)
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.wire)))
			for b.Loop() {
				f, err := d.Next()
				if err != nil || f.Len() == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	dst := make([]byte, 0, 2048)
	body := []byte(filled(200))
	headers := benchHeaders()
	for v := V10; v <= V12; v++ {
		b.Run("MESSAGE/6headers/200B/"+v.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendFrame(dst[:0], v, MESSAGE, body, headers...)
			}
		})
	}
	b.Run("pieces/shared tail", func(b *testing.B) {
		tail := AppendBody(AppendHeader(nil, V12, "destination", "/topic/a"), body)
		b.ReportAllocs()
		for b.Loop() {
			dst = AppendCommand(dst[:0], MESSAGE)
			dst = AppendHeader(dst, V12, "subscription", "sub-0")
			dst = AppendHeader(dst, V12, "message-id", "01JD8S7QH4B7")
			dst = append(dst, tail...)
		}
	})
}
