package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestTableGolden(t *testing.T) {
	for _, tc := range []struct {
		name string
		rep  Report
		want string
	}{
		{"queue", Report{Scenario: Queue, Protocol: "stomp", Publishers: 1, Subscribers: 2, SizeBytes: 256, Window: 100, SentPerS: 7958.4, ReceivedPerS: 7957.6,
			P50US: 312, P99US: 12_345, MaxUS: 2_500_000, ConfirmP50US: 999, ConfirmP99US: 250_000, CPUPerRecvUS: 171.04, RSSPeakMiB: 146.2,
			Sent: 10, Received: 10, brokerKnown: true},
			"SCENARIO  PROTOCOL  PUBxSUB  SIZE  SENT/s  RECV/s  P50    P99     MAX    CONFIRM P50  P99    CPU us/msg  RSS MiB  SENT  RECV  LOST  DUP  REDELIV  DISORDER  REFUSED\n" +
				"queue     stomp     1x2      256   7958    7958    312us  12.3ms  2.50s  999us        250ms  171.0       146      10    10    0     0    0        0         0\n"},
		{"faults", Report{Scenario: Topic, Protocol: "mqtt>json-ws", Publishers: 1, Subscribers: 1, SizeBytes: 40, Sent: 9, Received: 5, Lost: 3, OutOfOrder: 2, Redelivered: 1,
			Errors: 1, ErrorTexts: []string{"publisher 0: no"}, Notes: []string{"mind"}, Interrupted: true},
			"SCENARIO  PROTOCOL      PUBxSUB  SIZE  SENT/s  RECV/s  P50  P99  MAX  SENT  RECV  LOST  DUP  REDELIV  DISORDER  REFUSED\n" +
				"topic     mqtt>json-ws  1x1      40    0       0       -    -    -    9     5     3     0    1        2         0\n" +
				"interrupted: the figures are of the time before\n" +
				"fault: 3 lost\nfault: 2 out of their sender's order\nfault: 1 errors\nerror: publisher 0: no\nnote: mind\n"},
		{"backlog", Report{Scenario: Backlog, Protocol: "mqtt", QoS: 1, Durable: true, Publishers: 8, Subscribers: 1, SizeBytes: 256, FillPerS: 8100, DrainPerS: 8800, FirstMS: 12,
			ConfirmP99US: 5000, FillCPUUS: 90, DrainCPUUS: 40, FilledMiB: 1759, RSSPeakMiB: 1760, Sent: 200_000, Received: 200_000, brokerKnown: true},
			"SCENARIO  PROTOCOL            PUBxSUB  SIZE  FILL/s  DRAIN/s  FIRST   CONFIRM P99  FILL CPU us/msg  DRAIN  RSS FILLED MiB  PEAK  SENT    RECV    LOST  DUP  REDELIV  DISORDER  REFUSED\n" +
				"backlog   mqtt QoS 1 durable  8x1      256   8100    8800     12.0ms  5.0ms        90.0             40.0   1759            1760  200000  200000  0     0    0        0         0\n"},
		{"conns", Report{Scenario: Conns, Protocol: "mqtt5-ws", Opened: 10, Dropped: 1, OpensPerS: 1057, P50US: 50, P99US: 60, MaxUS: 70, ConnectionKiB: 138.4, RSSMiB: 300,
			HoldCPUPercent: 1.25, brokerKnown: true},
			"SCENARIO  PROTOCOL  OPEN  FAILED  DROPPED  OPEN/s  P50   P99   MAX   KiB/CONN  RSS MiB  IDLE CPU\n" +
				"conns     mqtt5-ws  10    0       1        1057    50us  60us  70us  138.4     300      1.2%\n" +
				"fault: 1 connections dropped by the broker\n"},
	} {
		var b bytes.Buffer
		if err := tc.rep.WriteTable(&b); err != nil {
			t.Fatal(err)
		}
		if b.String() != tc.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tc.name, b.String(), tc.want)
		}
	}
}

func TestJSON(t *testing.T) {
	rep := Report{Scenario: Queue, Protocol: "stomp", RunID: "0000beef", Sent: 3, Received: 2, Lost: 1, SentPerS: 1234.5678, P50US: 12.3456}
	rep.round()
	var b bytes.Buffer
	if err := rep.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "\n") != 1 || !strings.HasSuffix(b.String(), "}\n") {
		t.Errorf("not one line: %q", b.String())
	}
	var fields map[string]any
	if err := json.Unmarshal(b.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"scenario": "queue", "lost": 1.0, "duplicates": 0.0, "sent_per_s": 1235.0, "p50_us": 12.35, "run_id": "0000beef"} {
		if fields[key] != want {
			t.Errorf("%s is %v, want %v", key, fields[key], want)
		}
	}
}

func TestNotes(t *testing.T) {
	rep := Report{Seconds: 10, GeneratorCPUS: 9.5, GeneratorCores: 1, RatePerSecond: 1000, SentPerS: 900, Stalls: 2, Undelivered: 7}
	rep.addNotes()
	got := strings.Join(rep.Notes, "\n")
	for _, want := range []string{"raise --procs", "900/s of the 1000/s", "2 times no delivery", "7 deliveries"} {
		if !strings.Contains(got, want) {
			t.Errorf("no note about %q in\n%s", want, got)
		}
	}
	short := Report{Seconds: 0.01, GeneratorCPUS: 0.02, GeneratorCores: 1}
	if short.addNotes(); len(short.Notes) > 0 {
		t.Errorf("two clock ticks are no measurement: %v", short.Notes)
	}
	calm := Report{Seconds: 10, GeneratorCPUS: 5, GeneratorCores: 1, RatePerSecond: 1000, SentPerS: 999}
	if calm.addNotes(); len(calm.Notes) > 0 {
		t.Errorf("needless notes: %v", calm.Notes)
	}
}

// Window figures are differences, and CPU is only claimed when a broker process was watched.
func TestFillWindow(t *testing.T) {
	from := snapshot{sent: 100, received: 50, broker: 1, own: 1, machine: 10}
	to := snapshot{at: from.at.Add(2e9), sent: 300, received: 450, broker: 5, own: 2, machine: 18}
	rep := Report{brokerKnown: true}
	rep.fillWindow(from, to)
	if rep.SentPerS != 100 || rep.ReceivedPerS != 200 || rep.BrokerCPUS != 4 || rep.CPUPerRecvUS != 10_000 || rep.CPUPerSentUS != 20_000 ||
		rep.GeneratorCPUS != 1 || rep.OtherCPUS != 3 {
		t.Errorf("%+v", rep)
	}
	rep = Report{}
	rep.fillWindow(from, to)
	if rep.BrokerCPUS != 0 || rep.CPUPerRecvUS != 0 || rep.OtherCPUS != 0 {
		t.Errorf("CPU of a broker nobody named: %+v", rep)
	}
}
