package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/mqgate/mqgate/bench"
)

func parseBench(t *testing.T, args ...string) (*BenchCmd, error) {
	t.Helper()
	var c BenchCmd
	k, err := kong.New(&c, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.Parse(args)
	return &c, err
}

// The defaults alone are a run that can be made, for every scenario.
func TestBenchDefaultsAreValid(t *testing.T) {
	for _, scenario := range []string{"queue", "topic", "backlog", "conns"} {
		c, err := parseBench(t, scenario)
		if err != nil {
			t.Fatal(err)
		}
		o, err := c.options()
		if err == nil {
			err = o.Validate()
		}
		if err != nil || o.SizeBytes != 256 || o.Window != 100 || o.Cores != 1 || o.Addresses[0] != "127.0.0.1:61613" {
			t.Errorf("%s: %v %+v", scenario, err, o)
		}
	}
}

// A protocol brings its address with it, for either side.
func TestBenchAddresses(t *testing.T) {
	for _, tc := range []struct {
		args          []string
		publish, take string
	}{
		{[]string{"--proto", "mqtt"}, "127.0.0.1:1883", ""},
		{[]string{"--proto", "mqtt5", "--ws"}, "ws://127.0.0.1:8080", ""},
		{[]string{"--proto", "json"}, "ws://127.0.0.1:8080", ""},
		{[]string{"--proto", "mqtt", "--sub-proto", "stomp"}, "127.0.0.1:1883", "127.0.0.1:61613"},
		{[]string{"--sub-proto", "json"}, "127.0.0.1:61613", "ws://127.0.0.1:8080"},
		{[]string{"--proto", "mqtt", "--sub-proto", "stomp", "--ws"}, "ws://127.0.0.1:8080", "ws://127.0.0.1:8080"},
		{[]string{"--proto", "mqtt", "--sub-proto", "mqtt5", "--addr", "a:1", "--sub-addr", "b:1"}, "a:1", "b:1"},
		{[]string{"--proto", "stomp", "--addr", "ws://a:1/ws"}, "ws://a:1/ws", ""},
	} {
		c, err := parseBench(t, append([]string{"topic"}, tc.args...)...)
		if err != nil {
			t.Fatal(err)
		}
		o, err := c.options()
		if err == nil {
			err = o.Validate()
		}
		if err != nil || o.Addresses[0] != tc.publish || strings.Join(o.SubscriberAddresses, ",") != tc.take {
			t.Errorf("%v: %v %v, %v", tc.args, err, o.Addresses, o.SubscriberAddresses)
		}
	}
	if c, err := parseBench(t, "topic", "--proto", "mqtt", "--addr", "wss://a:1/mqtt", "--tls-insecure"); err != nil {
		t.Error(err)
	} else if o, err := c.options(); err != nil || o.TLS == nil || o.Validate() != nil {
		t.Errorf("wss:// is TLS: %v %+v", err, o)
	}
}

func TestBenchFlags(t *testing.T) {
	c, err := parseBench(t, "topic", "--addr", "a:1,b:2", "-p", "3", "-s", "4", "--dests", "2", "--size", "100", "--window", "0", "--inflight", "9",
		"--rate", "1.5", "--duration", "2s", "--warmup", "0s", "--prefetch", "7", "--ack", "client", "--persistent", "--user", "u", "--password", "p",
		"--host", "v", "--destination", "/topic/%r.%d", "--pid", "1,2", "--procs", "2", "-o", "json", "--send-header", "a:1,2", "--tls")
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.options()
	if err != nil {
		t.Fatal(err)
	}
	if o.Scenario != bench.Topic || len(o.Addresses) != 2 || o.Publishers != 3 || o.Subscribers != 4 || o.Destinations != 2 || o.SizeBytes != 100 ||
		o.Window != 0 || o.Inflight != 9 || o.RatePerSecond != 1.5 || o.Duration != 2*time.Second || o.Warmup != 0 || o.Prefetch != 7 ||
		o.Ack != "client" || !o.Persistent || o.User != "u" || o.Password != "p" || o.Host != "v" || o.Destination != "/topic/%r.%d" ||
		len(o.BrokerPIDs) != 2 || o.Cores != 2 || c.Output != "json" || o.TLS == nil || len(o.SendHeaders) != 1 || o.SendHeaders[0] != "a:1,2" {
		t.Errorf("%+v", o)
	}
}

func TestBenchFlagMistakes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"flood"}, "must be one of"},
		{[]string{"--ack", "never"}, "must be one of"},
		{[]string{"--tls-insecure"}, "need --tls"},
		{[]string{"--tls", "--tls-ca", empty}, "holds no certificate"},
	} {
		c, err := parseBench(t, tc.args...)
		if err == nil {
			_, err = c.options()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", tc.args, err, tc.want)
		}
	}
}

func TestBenchFaultsExitWithThree(t *testing.T) {
	err := error(benchFaults{"5 lost", "1 refused"})
	var coder kong.ExitCoder
	if !errors.As(err, &coder) || coder.ExitCode() != 3 || err.Error() != "not delivered as sent: 5 lost, 1 refused" {
		t.Errorf("%v", err)
	}
}

// TestReadmeBenchCommands: the commands beside the README's figures are such.
func TestReadmeBenchCommands(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("`mqgate bench ([^`]+)`").FindAllStringSubmatch(string(text), -1)
	if len(commands) < 3 {
		t.Fatalf("only %d commands were found", len(commands))
	}
	for _, m := range commands {
		c, err := parseBench(t, strings.Fields(m[1])...)
		if err == nil {
			var o bench.Options
			if o, err = c.options(); err == nil {
				err = o.Validate()
			}
		}
		if err != nil {
			t.Errorf("%s: %v", m[0], err)
		}
	}
}
