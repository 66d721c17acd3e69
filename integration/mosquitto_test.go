package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/integration/harness"
)

// mosquitto runs the command-line clients of Mosquitto on one gateway.
type mosquitto struct {
	t *testing.T
	b *harness.Broker
}

// command prepares one of them; it ends when the test does.
func (m *mosquitto) command(name, stdin string, args ...string) *exec.Cmd {
	m.t.Helper()
	host, port, err := net.SplitHostPort(m.b.MQTTAddr())
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	m.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, append([]string{"-h", host, "-p", port}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

// run returns what it writes.
func (m *mosquitto) run(name, stdin string, args ...string) string {
	m.t.Helper()
	cmd := m.command(name, stdin, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("%s %q: %v: %s", name, args, err, errs.String())
	}
	return string(out)
}

func startMosquitto(t *testing.T) (*harness.Broker, *mosquitto) {
	t.Helper()
	harness.Language{Name: "mosquitto", Probe: []string{"sh", "-c", "command -v mosquitto_rr"}, Package: "mosquitto-clients"}.Require(t)
	b := harness.StartPlain(t)
	return b, &mosquitto{t, b}
}

var mosquittoVersions = map[string]string{"mqttv31": "3.1", "mqttv311": "3.1.1", "mqttv5": "5"}

// TestMosquittoClients: mosquitto_pub and mosquitto_sub with every version and QoS, retained messages and a session that is away.
func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	b, m := startMosquitto(t)
	for version, name := range mosquittoVersions {
		for _, qos := range []string{"0", "1", "2"} {
			topic := "mosquitto/" + name + "/" + qos
			m.run("mosquitto_pub", "", "-V", version, "-q", qos, "-r", "-t", topic, "-m", "hello")
			out := m.run("mosquitto_sub", "", "-V", version, "-q", qos, "-t", topic, "-C", "1", "-W", "30", "-F", "%t %p %q %r")
			if want := topic + " hello " + qos + " 1"; strings.TrimSpace(out) != want {
				t.Errorf("got %q, want %q", strings.TrimSpace(out), want)
			}
		}
		id, topic := "dur-"+name, "off/"+name
		durable := []string{"-V", version, "-i", id, "-c", "-q", "2", "-t", topic}
		m.run("mosquitto_sub", "", append(durable, "-E")...)
		lines := strings.Repeat("x\n", 50)
		m.run("mosquitto_pub", lines, "-V", version, "-q", "2", "-t", topic, "-l")
		if version == "mqttv311" {
			b.Kill()
			b.Start()
		}
		if out := m.run("mosquitto_sub", "", append(durable, "-C", "50", "-W", "30")...); out != lines {
			t.Errorf("version %s: %d lines came from the session, want 50", name, strings.Count(out, "\n"))
		}
	}
}

// TestMosquittoRequestAndResponse: mosquitto_rr asks, and who answers finds the response topic and the correlation data; the
// answer comes to it, from MQTT and from STOMP.
func TestMosquittoRequestAndResponse(t *testing.T) {
	t.Parallel()
	b, m := startMosquitto(t)
	device := harness.MustMQTT(t, b.MQTTAddr(), harness.MQTTOptions{Version: harness.MQTT5, ClientID: "device"})
	if err := device.Subscribe(1, "device/ask"); err != nil {
		t.Fatal(err)
	}
	worker := harness.MustLogin(t, b.Addr())
	worker.MustConfirm(t, "SUBSCRIBE", nil, "id:1", "destination:/queue/ask", "ack:auto")
	for topic, answer := range map[string]func() error{
		"device/ask": func() error {
			pk, err := device.Message(time.Minute)
			if err != nil {
				return err
			}
			reply := harness.PublishPacket(pk.Properties.ResponseTopic, append([]byte("re: "), pk.Payload...), 1)
			reply.Properties.CorrelationData = pk.Properties.CorrelationData
			return device.Publish(reply)
		},
		"$queue/ask": func() error {
			f, err := worker.Read(time.Minute)
			if err != nil {
				return err
			}
			worker.MustConfirm(t, "SEND", append([]byte("re: "), f.Body...), "destination:"+f.Headers["reply-to"], "correlation-id:"+f.Headers["correlation-id"])
			return nil
		},
	} {
		ask := m.command("mosquitto_rr", "", "-V", "mqttv5", "-q", "1", "-t", topic, "-e", "answers/1", "-m", "how are you?", "-D", "PUBLISH", "correlation-data", "number 7",
			"-W", "30", "-F", "%t %p %D")
		var out, errs bytes.Buffer
		ask.Stdout, ask.Stderr = &out, &errs
		if err := ask.Start(); err != nil {
			t.Fatal(err)
		}
		if err := answer(); err != nil {
			t.Error(fmt.Errorf("%s: %w", topic, err))
		}
		if err := ask.Wait(); err != nil {
			t.Errorf("mosquitto_rr: %v: %s", err, errs.String())
		}
		if got, want := strings.TrimSpace(out.String()), "answers/1 re: how are you? number 7"; got != want {
			t.Errorf("%s: got %q, want %q", topic, got, want)
		}
	}
}
