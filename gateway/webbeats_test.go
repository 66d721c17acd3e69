package gateway

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// beating opens STOMP over WebSocket with a heart-beat header, and returns what
// CONNECTED says about it. The frame goes byte by byte: messages have no meaning.
func beating(t *testing.T, g *Gateway, kind int, asked string) (*websocket.Conn, string) {
	t.Helper()
	c := onWeb(t, g, "/stomp", "v12.stomp", nil)
	for _, b := range []byte("CONNECT\naccept-version:1.2\nhost:/\nheart-beat:" + asked + "\n\n\x00") {
		if err := c.WriteMessage(kind, []byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	_, connected, ok := strings.Cut(hearOn(t, c, "\x00"), "\nheart-beat:")
	if !ok {
		t.Fatal("CONNECTED has no heart-beat")
	}
	agreed, _, _ := strings.Cut(connected, "\n")
	return c, agreed
}

// The server beats as often as it was asked to, in the kind of message that the
// client sends, and not at all to a client that asked for none.
func TestServerBeatsOverWebSocket(t *testing.T) {
	g := open(t, load(t, "stomp.heartbeat.send_min=100ms"))
	run(t, g)
	quiet, agreed := beating(t, g, websocket.TextMessage, "0,0")
	if agreed != "0,0" {
		t.Errorf("agreed on %s", agreed)
	}
	for _, kind := range []int{websocket.TextMessage, websocket.BinaryMessage} {
		c, agreed := beating(t, g, kind, "0,150")
		if agreed != "150,0" {
			t.Errorf("agreed on %s", agreed)
		}
		for range 4 {
			got, b, err := c.ReadMessage()
			if err != nil || got != kind || string(b) != "\n" {
				t.Fatalf("kind %d, %q, %v; want a line feed of kind %d", got, b, err, kind)
			}
		}
	}
	say(t, quiet, "BEGIN\ntransaction:t\nreceipt:r\n\n\x00")
	if _, b, err := quiet.ReadMessage(); err != nil || !bytes.HasPrefix(b, []byte("RECEIPT\n")) {
		t.Errorf("a client that asked for no beats got %q, %v", b, err)
	}
}

// A client that promised to beat and does not is told so and closed, even if its
// WebSocket answers pings and sends some; one that beats stays.
func TestSilentClientOverWebSocketIsClosed(t *testing.T) {
	g := open(t, load(t, "stomp.heartbeat.receive_min=100ms", "stomp.heartbeat.grace_percent=400"))
	run(t, g)
	alive, agreed := beating(t, g, websocket.TextMessage, "500,0")
	if agreed != "0,500" {
		t.Errorf("agreed on %s", agreed)
	}
	silent, _ := beating(t, g, websocket.BinaryMessage, "500,0")
	ended := make(chan struct{})
	beats := make(chan error, 1)
	go func() {
		for {
			select {
			case <-ended:
				beats <- nil
				return
			case <-time.After(50 * time.Millisecond):
			}
			if err := alive.WriteMessage(websocket.TextMessage, []byte("\n")); err != nil {
				beats <- err
				return
			}
			_ = silent.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)) // it is closed in the end
		}
	}()
	if said := hearOn(t, silent, "\x00"); !strings.HasPrefix(said, "ERROR\n") || !strings.Contains(said, "no heart-beat") {
		t.Errorf("the silent client was told %q", said)
	}
	for {
		if _, _, err := silent.ReadMessage(); err != nil {
			if _, closed := err.(*websocket.CloseError); !closed {
				t.Errorf("it ended with %v", err)
			}
			break
		}
	}
	close(ended)
	if err := <-beats; err != nil {
		t.Fatalf("the client that beats: %v", err)
	}
	say(t, alive, "BEGIN\ntransaction:t\nreceipt:r\n\n\x00")
	hearOn(t, alive, "receipt-id:r")
	if n := g.stomp.Stats.Silent.Load(); n != 1 {
		t.Errorf("%d silent clients were counted", n)
	}
}
