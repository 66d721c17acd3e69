package config

import (
	"strings"
	"testing"
)

func TestProxyProtocolNetworks(t *testing.T) {
	got, err := Networks([]string{"10.1.0.0/16", "127.0.0.1", "::1", "fd00::/8", "::ffff:192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	want := "10.1.0.0/16 127.0.0.1/32 ::1/128 fd00::/8 192.0.2.1/32"
	var text []string
	for _, p := range got {
		text = append(text, p.String())
	}
	if s := strings.Join(text, " "); s != want {
		t.Errorf("networks %q, want %q", s, want)
	}
	for _, bad := range []string{"", "lb.example", "10.0.0.1/8", "10.0.0.0/33", "fe80::1%eth0", "::ffff:10.0.0.0/104"} {
		if _, err := Networks([]string{bad}); err == nil {
			t.Errorf("%q is taken for a network", bad)
		}
	}
}

func TestProxyProtocolIsChecked(t *testing.T) {
	for _, key := range []string{"stomp", "mqtt", "http"} {
		_, err := Load(Sources{Set: []string{key + ".proxy_protocol=[10.0.0.1/8]"}})
		if err == nil || !strings.Contains(err.Error(), key+".proxy_protocol") || !strings.Contains(err.Error(), "10.0.0.0/8") {
			t.Errorf("%s: error %v", key, err)
		}
	}
	_, err := Load(Sources{Set: []string{`stomp.listeners=[{listen: "127.0.0.1:0", proxy_protocol: [nonsense]}]`}})
	if err == nil || !strings.Contains(err.Error(), "stomp.listeners[0].proxy_protocol") {
		t.Errorf("error %v", err)
	}
}

// A proxy lets clients in from wherever it listens: the loopback address of the
// listener behind it says nothing about them.
func TestAProxiedListenerIsExposed(t *testing.T) {
	c := Default()
	if !c.AnonymousAllowed() {
		t.Fatal("the defaults let nobody in")
	}
	c.Mqtt.ProxyProtocol = []string{"127.0.0.1"}
	if c.AnonymousAllowed() {
		t.Error("clients without a login are let in through a proxy")
	}
}
