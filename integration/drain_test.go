package integration

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// leaver is a client that is told to go elsewhere, or sees its connection end.
type leaver struct {
	ask      func() error  // for an answer
	answered chan struct{} // has room for one
	ended    chan struct{} // closed at the end
	told     string        // last, once it has ended
	busy     bool          // it asked at the end, and what it was told may be lost with that
}

func (c *leaver) open() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// listen reads until the end; next returns what the client is told, "" for an answer.
func (c *leaver) listen(next func() (told string, err error)) {
	defer close(c.ended)
	for {
		told, err := next()
		switch {
		case err == nil && told == "":
			c.answered <- struct{}{}
		case err == nil:
			c.told = told
		default:
			if c.told == "" {
				c.told = err.Error()
			}
			return
		}
	}
}

func stompLeaver(t *testing.T, address string) *leaver {
	w := harness.MustLogin(t, address)
	c := &leaver{answered: make(chan struct{}, 1), ended: make(chan struct{})}
	c.ask = func() error {
		return w.Write("SEND", []byte("x"), "destination:/topic/drained", "receipt:r")
	}
	go c.listen(func() (string, error) {
		f, err := w.Read(harness.StopTimeout)
		if err != nil || f.Command == "RECEIPT" {
			return "", err
		}
		return f.Command + " " + f.Headers["message"], nil
	})
	return c
}

func mqttLeaver(t *testing.T, address string) *leaver {
	m := harness.MustMQTT(t, address, harness.MQTTOptions{Version: harness.MQTT311})
	c := &leaver{answered: make(chan struct{}, 1), ended: make(chan struct{})}
	c.ask = func() error {
		return m.Write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	}
	go c.listen(func() (string, error) {
		_, err := m.Read(harness.StopTimeout)
		if errors.Is(err, io.EOF) {
			return "", errors.New("EOF")
		}
		return "", err
	})
	return c
}

// leavers are the clients of one protocol.
type leavers []*leaver

func (all leavers) gone() (n int) {
	for _, c := range all {
		if !c.open() {
			n++
		}
	}
	return n
}

// serves has one that is still open ask, and reports whether it was answered; it returns false, too, if none is open.
func (all leavers) serves() bool {
	for _, c := range all {
		if !c.open() {
			continue
		}
		c.busy = true
		if c.ask() == nil {
			select {
			case <-c.answered:
				c.busy = false
				return true
			case <-c.ended:
			}
		}
		<-c.ended
	}
	return false
}

// TestDrainIsSpread drains a gateway with many clients: it tells load balancers first, while it serves all of them; then they leave a few
// at a time, and those that are left are served on. STOMP clients are told why. MQTT 3.1.1 has no words for it, and sees an end, but
// not before the load balancer could know.
func TestDrainIsSpread(t *testing.T) {
	b := harness.Start(t, "drain.grace=10s", "drain.spread=60s")
	all := map[string]leavers{}
	for range 150 {
		all["stomp"] = append(all["stomp"], stompLeaver(t, b.Addr()))
		all["mqtt"] = append(all["mqtt"], mqttLeaver(t, b.MQTTAddr()))
	}
	if code, _, errs := b.Command("", "drain", "--no-wait", "--set", "data_dir="+b.DataDir()); code != 0 {
		t.Fatalf("mqgate drain: %d %s", code, errs)
	}
	harness.Eventually(t, time.Minute, func() error {
		resp, err := http.Get("http://" + b.ListenerAddr("admin") + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "[-] accepting: draining")) {
			err = errors.New("the gateway still takes clients")
		}
		return err
	})
	http.DefaultClient.CloseIdleConnections()
	for protocol, l := range all {
		if n := l.gone(); n > 0 {
			t.Errorf("%d %s clients were gone before /readyz said that the gateway drains", n, protocol)
		}
		if !l.serves() {
			t.Errorf("the gateway drains, and does not serve %s clients any more", protocol)
		}
	}
	partly := map[string]map[int]bool{"stomp": {}, "mqtt": {}} // how many were gone when another was served
	for left := true; left; {
		left = false
		for protocol, l := range all {
			n := l.gone()
			if n < len(l) {
				left = true
			}
			if l.serves() && n > 0 {
				partly[protocol][n] = true
			}
		}
	}
	for protocol, last := range map[string]string{"stomp": "ERROR server is shutting down, reconnect", "mqtt": "EOF"} {
		t.Logf("%s: another client was served at %d times when some were gone", protocol, len(partly[protocol]))
		if len(partly[protocol]) < 3 {
			t.Errorf("%s clients leave all at once", protocol)
		}
		for _, c := range all[protocol] {
			if !c.busy && c.told != last {
				t.Errorf("a %s client saw %q", protocol, c.told)
			}
		}
	}
	if code := b.Wait(); code != 0 {
		t.Errorf("the gateway ended with %d", code)
	}
}
