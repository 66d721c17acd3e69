package mqtt

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// tool runs a client of another maker, or skips if it is not installed.
func tool(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, errs.String())
	}
	return string(out)
}

func (fx *fixture) port() (host, port string) {
	host, port, err := net.SplitHostPort(fx.addr)
	if err != nil {
		fx.t.Fatal(err)
	}
	return host, port
}

// It holds the gateway to MQTT-4.2.0-1.
func TestMosquittoClients(t *testing.T) {
	fx := start(t)
	host, port := fx.port()
	for version, name := range map[string]string{"mqttv31": "3.1", "mqttv311": "3.1.1", "mqttv5": "5"} {
		for _, qos := range []string{"0", "1", "2"} {
			topic := "mosquitto/" + name + "/" + qos
			tool(t, "", "mosquitto_pub", "-h", host, "-p", port, "-V", version, "-q", qos, "-r", "-t", topic, "-m", "hello")
			out := tool(t, "", "mosquitto_sub", "-h", host, "-p", port, "-V", version, "-q", qos, "-t", topic, "-C", "1", "-W", "10", "-F", "%t %p %q %r")
			if want := topic + " hello " + qos + " 1"; strings.TrimSpace(out) != want {
				t.Errorf("got %q, want %q", strings.TrimSpace(out), want)
			}
		}
	}
	tool(t, "", "mosquitto_sub", "-h", host, "-p", port, "-V", "mqttv311", "-i", "dur", "-c", "-q", "2", "-t", "off/#", "-E")
	lines := strings.Repeat("x\n", 50)
	tool(t, lines, "mosquitto_pub", "-h", host, "-p", port, "-q", "2", "-t", "off/1", "-l")
	out := tool(t, "", "mosquitto_sub", "-h", host, "-p", port, "-V", "mqttv311", "-i", "dur", "-c", "-q", "2", "-t", "off/#", "-C", "50", "-W", "10")
	if out != lines {
		t.Errorf("%d lines came from the session, want 50", strings.Count(out, "\n"))
	}
}

const pahoScript = `
import sys, threading, paho.mqtt.client as mqtt
host, port = sys.argv[1], int(sys.argv[2])
for version in (mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5):
    got, ready, done = [], threading.Event(), threading.Event()
    args = dict(client_id="paho%d" % version, protocol=version)
    if version != mqtt.MQTTv5: args["clean_session"] = True
    c = mqtt.Client(**args)
    c.on_subscribe = lambda *a: ready.set()
    def on_message(c, u, m):
        got.append((m.payload.decode(), m.qos))
        if len(got) == 300: done.set()
    c.on_message = on_message
    c.connect(host, port, keepalive=10)
    c.loop_start()
    c.subscribe("paho/#", qos=2)
    assert ready.wait(15), "no SUBACK"
    for i in range(300): c.publish("paho/%d" % (i % 3), str(i), qos=i % 3)
    assert done.wait(15), "%d of 300" % len(got)
    for q in range(3):
        want = [(str(i), q) for i in range(300) if i % 3 == q]
        assert [g for g in got if g[1] == q] == want, "QoS %d is out of order" % q
    c.disconnect(); c.loop_stop()
print("ok")
`

func TestPahoPython(t *testing.T) {
	fx := start(t)
	host, port := fx.port()
	begin := time.Now()
	if out := tool(t, pahoScript, "/usr/bin/python3", "-", host, port); strings.TrimSpace(out) != "ok" {
		t.Errorf("after %v: %s", time.Since(begin), out)
	}
}
