package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCleanRuns runs every scenario in many shapes against a broker that does nothing wrong.
func TestCleanRuns(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version string
		change  func(*Options)
		due     int64
	}{
		{"queue", "1.2", func(o *Options) {}, 500},
		{"queue, STOMP 1.1", "1.1", func(o *Options) {}, 500},
		{"queue, STOMP 1.0", "1.0", func(o *Options) {}, 500},
		{"queue, competing consumers", "1.2", func(o *Options) { o.Publishers, o.Subscribers = 3, 4 }, 500},
		{"queue, cumulative acks", "1.2", func(o *Options) { o.Ack = "client"; o.Prefetch = 20 }, 500},
		{"queue, cumulative acks, STOMP 1.0", "1.0", func(o *Options) { o.Ack = "client" }, 500},
		{"queue, auto", "1.2", func(o *Options) { o.Ack = "auto" }, 500},
		{"queue, no receipts", "1.2", func(o *Options) { o.Window = 0 }, 500},
		{"queue, window of one", "1.2", func(o *Options) { o.Window = 1; o.Count = 50 }, 50},
		{"queue, large bodies", "1.2", func(o *Options) { o.SizeBytes = 200_000; o.Count = 20 }, 20},
		{"queue, several destinations", "1.2", func(o *Options) { o.Publishers, o.Subscribers, o.Destinations = 5, 4, 3 }, 500},
		{"queue, fewer messages than publishers", "1.2", func(o *Options) { o.Publishers, o.Count = 4, 3 }, 3},
		{"topic", "1.2", func(o *Options) { o.Scenario = Topic }, 500},
		{"topic, fan-out", "1.2", func(o *Options) { o.Scenario, o.Publishers, o.Subscribers = Topic, 2, 5 }, 2500},
		{"topic, end-to-end loop", "1.2", func(o *Options) { o.Scenario, o.Window, o.Inflight, o.Subscribers = Topic, 0, 7, 2 }, 1000},
		{"topic, several destinations", "1.2", func(o *Options) {
			o.Scenario, o.Publishers, o.Subscribers, o.Destinations, o.Count = Topic, 2, 3, 2, 100
		}, 150},
		{"backlog", "1.2", func(o *Options) { o.Scenario, o.Publishers, o.Subscribers = Backlog, 2, 2 }, 500},
		{"backlog, no receipts", "1.2", func(o *Options) { o.Scenario, o.Window = Backlog, 0 }, 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, tc.version, misdeeds{})
			o := testOptions(b)
			tc.change(&o)
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Received != tc.due || r.Sent != o.Count || len(r.Faults()) > 0 {
				t.Errorf("want %d sent, %d received, no faults: %v\n%s", o.Count, tc.due, r.Faults(), describe(r))
			}
			if n := b.unacknowledged(); n > 0 {
				t.Errorf("%d deliveries were never acknowledged", n)
			}
			if r.P50US <= 0 || r.P99US < r.P50US || r.MaxUS < r.P99US {
				t.Errorf("latencies are not in order: %s", describe(r))
			}
			if o.Window > 0 && r.ConfirmP50US <= 0 {
				t.Error("no confirmation was timed")
			}
			if r.Server != "test/1, STOMP "+tc.version {
				t.Errorf("server is %q", r.Server)
			}
		})
	}
}

// TestVerdicts has the broker misbehave in one way at a time: exactly the verdict for it must come, with the right count.
func TestVerdicts(t *testing.T) {
	var held []delivery // for the broker that reorders; it has one caller at a time, under its lock
	for _, tc := range []struct {
		name  string
		bad   misdeeds
		fault string
		check func(*Report) bool
	}{
		{"lost", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				return nil
			}
			return []delivery{d}
		}}, "5 lost", func(r *Report) bool { return r.Lost == everyCount && r.Received == 500-everyCount }},

		{"duplicated without a mark", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				return []delivery{d, d}
			}
			return []delivery{d}
		}}, "5 delivered twice", func(r *Report) bool { return r.Duplicates == everyCount && r.Received == 500 && r.Redelivered == 0 }},

		{"redelivered with the mark", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				return []delivery{d, {d.body, true}}
			}
			return []delivery{d}
		}}, "", func(r *Report) bool { return r.Duplicates == 0 && r.Redelivered == everyCount && r.Received == 500 }},

		{"out of order", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				held = []delivery{d}
				return nil
			}
			out := append([]delivery{d}, held...)
			held = nil
			return out
		}}, "5 out of their sender's order", func(r *Report) bool { return r.OutOfOrder == everyCount && r.Received == 500 }},

		{"altered filler", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				d.body[60] ^= 1
			}
			return []delivery{d}
		}}, "5 altered", func(r *Report) bool { return r.Altered == everyCount && r.Lost == everyCount }},

		{"altered stamp", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				d.body[20] = 'Z'
			}
			return []delivery{d}
		}}, "5 altered", func(r *Report) bool { return r.Altered == everyCount }},

		{"number that was never sent", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				d.body[numberAt] = 'f'
			}
			return []delivery{d}
		}}, "5 altered", func(r *Report) bool { return r.Altered == everyCount }},

		{"cut short", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				d.body = d.body[:50]
			}
			return []delivery{d}
		}}, "5 altered", func(r *Report) bool { return r.Altered == everyCount }},

		{"of another run", misdeeds{deliver: func(n int, d delivery) []delivery {
			if every(n) {
				other := append([]byte(nil), d.body...)
				putHex(other[:senderAt], 1)
				return []delivery{d, {body: other}}
			}
			return []delivery{d}
		}}, "5 of another run", func(r *Report) bool { return r.Foreign == everyCount && r.Received == 500 }},

		{"refused", misdeeds{refuse: every}, "5 refused",
			func(r *Report) bool {
				return r.Refused == everyCount && r.Lost == 0 && r.Received == 500-everyCount && r.Unconfirmed == 0
			}},

		{"never confirmed", misdeeds{receipts: func(n int) int {
			if every(n) {
				return 0
			}
			return 1
		}}, "5 never confirmed", func(r *Report) bool { return r.Unconfirmed == everyCount && r.Lost == 0 }},

		{"confirmed twice", misdeeds{receipts: func(n int) int {
			if every(n) {
				return 2
			}
			return 1
		}}, "5 errors", func(r *Report) bool {
			return r.Errors == everyCount && r.Unconfirmed == 0 && strings.Contains(r.ErrorTexts[0], "second or unasked")
		}},

		{"connection lost", misdeeds{hangUpAt: 100}, "lost", func(r *Report) bool {
			return r.Sent < 500 && r.Received == 100 && strings.Contains(strings.Join(r.ErrorTexts, "\n"), "closed the connection")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, "1.2", tc.bad)
			o := testOptions(b)
			o.Drain = 2 * time.Second // these runs do wait for what never comes
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.check(r) {
				t.Errorf("wrong accounts: %s", describe(r))
			}
			faults := strings.Join(r.Faults(), "; ")
			if (tc.fault == "") != (faults == "") || !strings.Contains(faults, tc.fault) {
				t.Errorf("faults are %q, want %q among them", faults, tc.fault)
			}
		})
	}
}

// A topic's ledgers stand apart: what one subscriber got twice must not hide what another never got.
func TestLossIsCountedForEachSubscriber(t *testing.T) {
	ledgers := [2]ledger{}
	r := &run{}
	p := &publisher{}
	p.issued.Store(10)
	r.publishers = []*publisher{p}
	for i := range ledgers {
		r.subscribers = append(r.subscribers, &subscriber{ledgers: []*ledger{&ledgers[i]}})
	}
	for n := range uint64(10) {
		ledgers[0].seen.add(n)
	}
	for n := range uint64(7) {
		ledgers[1].seen.add(n)
	}
	if n := r.missing(); n != 3 {
		t.Errorf("missing %d deliveries, want 3", n)
	}
	// The consumers of a queue share a ledger; what none of them got is lost once.
	r.subscribers[0].ledgers[0] = &ledgers[1]
	if n := r.missing(); n != 3 {
		t.Errorf("missing %d messages of a queue, want 3", n)
	}
}

// A broker that neither reads nor confirms any more must not keep the run from ending, whatever the publisher is blocked in.
func TestDeafBrokerEndsTheRun(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"blocked in a write":   func(o *Options) { o.Window, o.SizeBytes, o.Count = 0, 1<<20, 100 },
		"waiting for receipts": func(o *Options) { o.Window = 5 },
		"waiting for delivery": func(o *Options) { o.Window, o.Inflight = 0, 5 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBroker(t, "1.2", misdeeds{deafAt: 20})
			o := testOptions(b)
			o.Drain, o.Timeout = 500*time.Millisecond, time.Second
			change(&o)
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Faults()) == 0 || r.Received > 20 {
				t.Errorf("a deaf broker is not faultless: %s", describe(r))
			}
		})
	}
}

func TestInterruptionReportsWhatWasMeasured(t *testing.T) {
	b := startBroker(t, "1.2", misdeeds{})
	o := testOptions(b)
	o.Count, o.Warmup, o.Duration = 0, 0, time.Hour
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() {
		for {
			b.mu.Lock()
			n := b.sent
			b.mu.Unlock()
			if n > 1000 {
				interrupt()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Received < 1000 || r.Received != r.Sent || len(r.Faults()) > 0 || r.P50US <= 0 {
		t.Errorf("interrupted run: %v %s", r.Faults(), describe(r))
	}
}

func TestRunsThatCannotBeMade(t *testing.T) {
	b := startBroker(t, "1.2", misdeeds{})
	gone := startBroker(t, "1.2", misdeeds{})
	gone.listener.Close()
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"login refused", func(o *Options) { o.User = "intruder" }, "Bad CONNECT: Access refused for user 'intruder'"},
		{"nobody listens", func(o *Options) { o.Addresses = []string{gone.address()} }, "refused"},
		{"no such process", func(o *Options) { o.BrokerPIDs = []int{1 << 30} }, "--pid 1073741824: no such process"},
		{"options", func(o *Options) { o.SizeBytes = 1 }, "--size 1 is out of range"},
		{"conns, login refused", func(o *Options) { o.Scenario, o.User = Conns, "intruder" }, "no connection could be opened"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := testOptions(b)
			tc.change(&o)
			r, err := Run(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n\tat") {
				t.Errorf("report %v, error %v; want an error with %q", r, err, tc.want)
			}
		})
	}
}

func TestIdleConnections(t *testing.T) {
	b := startBroker(t, "1.2", misdeeds{})
	o := testOptions(b)
	o.Scenario, o.Connections, o.Duration, o.Heartbeat = Conns, 50, 100*time.Millisecond, 10*time.Millisecond
	o.BrokerPIDs = []int{os.Getpid()}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Opened != 50 || r.OpenFailed != 0 || r.Dropped != 0 || len(r.Faults()) > 0 || r.OpensPerS <= 0 || r.P50US <= 0 {
		t.Errorf("conns: %v %s", r.Faults(), describe(r))
	}
	if r.RSSMiB <= 0 || r.RSSBeforeMiB <= 0 || r.RSSPeakMiB < r.RSSMiB {
		t.Errorf("memory of the broker was not read: %s", describe(r))
	}
	if got := b.framesReceived(); !slices.ContainsFunc(got, func(f string) bool { return strings.Contains(f, "heart-beat:10,10") }) {
		t.Errorf("the heart-beat was not offered: %q", got[0])
	}
}

func TestTLS(t *testing.T) {
	// The standard library's test server is only here for its certificate.
	s := httptest.NewTLSServer(http.NotFoundHandler())
	certificates, root := s.TLS.Certificates, s.Certificate()
	s.Close()
	b := startTLSBroker(t, &tls.Config{Certificates: certificates})
	o := testOptions(b)
	o.Count = 50
	pool := x509.NewCertPool()
	pool.AddCert(root)
	o.TLS = &tls.Config{RootCAs: pool}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Received != 50 || len(r.Faults()) > 0 {
		t.Errorf("over TLS: %v %s", r.Faults(), describe(r))
	}
	o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate gave %v", err)
	}
}
