package frame_test

import (
	"fmt"
	"strings"

	"github.com/mqgate/mqgate/stomp/frame"
)

// A server's read loop: stricter limits until CONNECT, replies flushed before the loop may wait for the peer.
func ExampleDecoder() {
	peer := strings.NewReader("CONNECT\naccept-version:1.1,1.2\n\n\x00\nSEND\ndestination:/queue/a\nreceipt:r\\c1\n\nhello\x00\n")
	d := frame.NewDecoder(peer, frame.ServerSide)
	v := frame.V10
	var replies []byte
	for {
		f, err := d.Next()
		if err != nil {
			break // io.EOF here; an *frame.Error would be answered with an ERROR frame
		}
		switch f.Command {
		case frame.CONNECT, frame.STOMP:
			accept, _ := f.Get("accept-version")
			v, _ = frame.Negotiate(accept)
			d.SetVersion(v)
			d.SetLimits(frame.DefaultLimits())
			replies = frame.AppendFrame(replies, v, frame.CONNECTED, nil, frame.Header{Name: "version", Value: v.String()})
		case frame.SEND:
			replies = frame.AppendFrame(replies, v, frame.RECEIPT, nil, frame.Header{Name: "receipt-id", Value: f.Value("receipt")})
		}
		if !d.Buffered() {
			fmt.Printf("%q\n", replies)
			replies = replies[:0]
		}
	}
	// Output: "CONNECTED\nversion:1.2\n\n\x00\nRECEIPT\nreceipt-id:r\\c1\n\n\x00\n"
}
