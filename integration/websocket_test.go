package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/integration/harness"
)

// TestCrossProtocolOverWebSocket has stompjs, mqtt.js and the WebSocket of a browser
// send to each other over WebSocket, and to and from clients on plain sockets.
func TestCrossProtocolOverWebSocket(t *testing.T) {
	b := harness.Start(t)
	s := harness.StartSpeaker(t, "cross.mjs")
	at := "ws://" + b.ListenerAddr("http")
	stomp := func(version string, binary bool) harness.Peer {
		name := "stompjs " + version
		if binary {
			name += " in binary frames"
		}
		p := harness.Peer{Name: name, Metadata: version != "1.1", Lines: version == "1.2", First: true}
		if version == "1.2" { // stompjs decodes one escape after the other, the backslash last
			p.Misreads = func(value string) string { return strings.ReplaceAll(value, `\c`, `\:`) }
		}
		return s.Peer(harness.SpeakerPeer{Kind: "stomp", URL: at + "/stomp", Version: version, Binary: binary}, p)
	}
	mqtt := func(version string, v5 bool) harness.Peer {
		return s.Peer(harness.SpeakerPeer{Kind: "mqtt", URL: at + "/mqtt", Version: version},
			harness.Peer{Name: "mqtt.js " + version, Metadata: v5, Lines: true, Bytes: v5, Repeats: v5})
	}
	browser := s.Peer(harness.SpeakerPeer{Kind: "browser", URL: at + "/ws"}, harness.Peer{Name: "browser JSON", Metadata: true, Lines: true, First: true})
	bare := harness.BarePeers(b)
	peers := []harness.Peer{stomp("1.2", false), mqtt("3.1.1", false), mqtt("5", true)}
	old := []harness.Peer{stomp("1.0", false), stomp("1.1", true)}
	harness.Cross(t, "ws", peers, peers)
	harness.Cross(t, "old", old, peers[:1])
	harness.Cross(t, "toold", peers[2:], old)
	harness.Cross(t, "browser", []harness.Peer{browser}, []harness.Peer{peers[0], peers[2], browser})
	harness.Cross(t, "tobrowser", []harness.Peer{peers[2], bare[2]}, []harness.Peer{browser})
	if !t.Failed() {
		nothingLeft(t, b)
	}
}

// TestHeartbeatsOfStompjs has stompjs and the gateway beat over WebSocket, for longer
// than either waits for the other.
func TestHeartbeatsOfStompjs(t *testing.T) {
	b := harness.StartPlain(t, "stomp.heartbeat.send_min=100ms", "stomp.heartbeat.receive_min=100ms")
	dir := harness.NodeScripts(t, filepath.Join(harness.NodeDir(), "beats.mjs"))
	out, err := exec.Command("node", filepath.Join(dir, "beats.mjs"), "ws://"+b.ListenerAddr("http")+"/stomp").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
