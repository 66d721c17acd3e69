package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHistogramQuantiles(t *testing.T) {
	var h, other histogram
	for i := int64(1); i <= 1000; i++ {
		into := &h
		if i%2 == 0 {
			into = &other
		}
		into.record(i * 1000)
	}
	h.merge(&other)
	for q, wantUS := range map[float64]float64{0: 1, .5: 500, .99: 990, 1: 1000} {
		if got := h.quantileUS(q); got < wantUS*.992 || got > wantUS*1.008 {
			t.Errorf("quantile %v is %v us, want %v", q, got, wantUS)
		}
	}
	if h.maxUS() != 1000 || h.count != 1000 {
		t.Errorf("max %v, count %v", h.maxUS(), h.count)
	}
	if (&histogram{}).quantileUS(.5) != 0 {
		t.Error("an empty histogram has no median")
	}
	h.record(-5)
	if h.quantileUS(0) != 0 {
		t.Error("a negative time counts as zero")
	}
}

// Buckets are ordered, cover everything, and stand for their values to within 0.8 %.
func TestHistogramBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "v") >> rapid.IntRange(0, 63).Draw(t, "shift")
		i := bucketOf(v)
		if i < 0 || i >= buckets {
			t.Fatalf("%d falls into bucket %d of %d", v, i, buckets)
		}
		if v > 0 && bucketOf(v-1) > i {
			t.Fatalf("%d falls below %d", v, v-1)
		}
		if v >= 1<<topBits {
			return // the last bucket; only the maximum is exact there
		}
		if middle := bucketMiddle(i); float64(middle) < float64(v)*.992 || float64(middle) > float64(v)*1.008 {
			t.Fatalf("%d is shown as %d", v, middle)
		}
	})
}

func TestStampGolden(t *testing.T) {
	b := newBody(0xbeef, 7, 48)
	restamp(b, 0x123, 0xabc)
	const want = "0000beef" + "000007" + "000000000123" + "00000000000abc" + "ijklmnop"
	if string(b) != want {
		t.Errorf("got  %q\nwant %q", b, want)
	}
	if s, ok := readStamp(b); !ok || s != (stamp{0xbeef, 7, 0x123, 0xabc}) {
		t.Errorf("read %+v, %v", s, ok)
	}
	if len(newBody(1, 1, 3)) != stampBytes {
		t.Error("a body has room for its stamp whatever its size")
	}
	for _, bad := range []string{"", want[:39], "g" + want[1:], strings.ToUpper(want[:40]), want[:39] + "\x00"} {
		if _, ok := readStamp([]byte(bad)); ok {
			t.Errorf("%q passed for a stamp", bad)
		}
	}
}

func FuzzReadStamp(f *testing.F) {
	f.Add(newBody(1, 2, 40))
	f.Add([]byte("0000beef00000700000000012300000000000abcijklmnop"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := readStamp(b)
		if !ok {
			return
		}
		again := newBody(s.run, int(s.sender), len(b))
		restamp(again, s.number, s.sentNS)
		if string(again[:stampBytes]) != string(b[:stampBytes]) {
			t.Errorf("%q became %q", b[:stampBytes], again[:stampBytes])
		}
	})
}

// TestArrivals compares with a plain set.
func TestArrivals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a arrivals
		model := map[uint64]bool{}
		near := rapid.Custom(func(t *rapid.T) uint64 { // mostly just ahead, as brokers deliver
			return a.next + uint64(rapid.IntRange(0, 300).Draw(t, "ahead")) - min(a.next, uint64(rapid.IntRange(0, 90).Draw(t, "behind")))
		})
		for range rapid.IntRange(0, 400).Draw(t, "steps") {
			n := near.Draw(t, "number")
			if rapid.Bool().Draw(t, "in order") {
				n = a.next
			}
			if got := a.add(n); got == model[n] {
				t.Fatalf("add(%d) said %v", n, got)
			}
			model[n] = true
			if a.count() != uint64(len(model)) {
				t.Fatalf("count %d, want %d", a.count(), len(model))
			}
			if model[a.next] || a.next > 0 && !model[a.next-1] {
				t.Fatalf("next is %d", a.next)
			}
		}
	})
}

// Competing consumers finish messages slightly out of order for ever; the memory must not grow with the run.
func TestArrivalsStaySmall(t *testing.T) {
	var a arrivals
	for n := uint64(0); n < 1_000_000; n += 2 {
		a.add(n + 1)
		a.add(n)
	}
	if a.count() != 1_000_000 || cap(a.ahead) > 64 {
		t.Errorf("%d numbers, %d words", a.count(), cap(a.ahead))
	}
}

// TestWindow drives a window as publisher and reader do, and keeps the books itself.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 20).Draw(t, "size")
		w := newWindow(size)
		outstanding, settled := []uint64{}, 0
		used := map[uint64]bool{0: true}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				if w.room() != (len(outstanding)+settled < size) {
					t.Fatalf("room is %v with %d outstanding, %d not handed back, of %d", w.room(), len(outstanding), settled, size)
				}
				if !w.room() {
					t.Skip()
				}
				id := w.reserve(int64(len(used)))
				if used[id] {
					t.Fatalf("id %d was used before", id)
				}
				used[id] = true
				outstanding = append(outstanding, id)
			},
			"settle": func(t *rapid.T) {
				if len(outstanding) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(outstanding)-1).Draw(t, "which")
				if _, ok := w.settle(outstanding[i]); !ok {
					t.Fatalf("%d is not outstanding", outstanding[i])
				}
				if _, ok := w.settle(outstanding[i]); ok {
					t.Fatalf("%d settled twice", outstanding[i])
				}
				outstanding = slices.Delete(outstanding, i, i+1)
				settled++
			},
			"settle a stranger": func(t *rapid.T) {
				id := rapid.Uint64().Draw(t, "id")
				if _, ok := w.settle(id); ok && !slices.Contains(outstanding, id) {
					t.Fatalf("%d was never outstanding", id)
				} else if ok {
					outstanding = slices.Delete(outstanding, slices.Index(outstanding, id), slices.Index(outstanding, id)+1)
					settled++
				}
			},
			"hand back": func(t *rapid.T) {
				w.handBack()
				settled = 0
			},
			"": func(t *rapid.T) {
				if got := int(w.outstanding.Load()); got != len(outstanding)+settled {
					t.Fatalf("outstanding %d, want %d", got, len(outstanding)+settled)
				}
			},
		})
	})
}

func TestWindowWakesThePublisher(t *testing.T) {
	w := newWindow(1)
	id := w.reserve(1)
	w.handBack()
	if len(w.wake) != 0 {
		t.Error("nothing was settled, yet the publisher is woken")
	}
	w.settle(id)
	w.handBack()
	if len(w.wake) != 1 || !w.room() {
		t.Error("a confirmation did not wake the publisher")
	}
}

func TestPacer(t *testing.T) {
	p := newPacer(1000, 1, 2, 0) // the second of two: every 2 ms, from 1 ms on
	for _, step := range []struct {
		n           uint64
		now, wokeNS int64
		wait        time.Duration
		from        int64
	}{
		{0, 0, 0, time.Millisecond, 0},            // early: sleep
		{0, 1_000_000, 1_000_000, 0, 0},           // woken in time: from the send
		{1, 3_500_000, 3_500_000, 0, 0},           // overslept: from the send
		{2, 6_000_000, 3_500_000, 0, 5_000_000},   // due while busy: from then
		{9, 6_000_000, 3_500_000, 13_000_000, 0},  // early again
		{2, 90_000_000, 4_999_999, 0, 5_000_000},  // long blocked
		{40, 90_000_000, 4_999_999, 0, 81000_000}, // and what was due meanwhile
	} {
		p.wokeNS = step.wokeNS
		if wait, from := p.due(step.n, step.now); wait != step.wait || from != step.from {
			t.Errorf("message %d at %d: wait %v from %d, want %v from %d", step.n, step.now, wait, from, step.wait, step.from)
		}
	}
}

func TestValidate(t *testing.T) {
	good := Options{Scenario: Queue, Addresses: []string{"127.0.0.1:61613"}, Destinations: 1, Publishers: 1, Subscribers: 1,
		SizeBytes: 256, Window: 100, Duration: time.Second, Drain: time.Second, Timeout: time.Second, Connections: 1, Dialers: 1, Cores: 1}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Scenario = "pub" }, `scenario "pub"`},
		{func(o *Options) { o.Addresses = nil }, "--addr"},
		{func(o *Options) { o.Addresses = []string{"localhost"} }, "--addr"},
		{func(o *Options) { o.Addresses = []string{"http://a:1/"} }, "ws://"},
		{func(o *Options) { o.Addresses = []string{"wss://a:1/"} }, "wss:// goes with TLS"},
		{func(o *Options) { o.SubscriberAddresses = []string{"b"} }, "--sub-addr"},
		{func(o *Options) { o.Protocol = "amqp" }, `unknown protocol "amqp"`},
		{func(o *Options) { o.Protocol = JSON }, "json goes over WebSocket"},
		{func(o *Options) { o.QoS = 3 }, "--qos 3"},
		{func(o *Options) { o.QoS = 1 }, "--qos and --durable"},
		{func(o *Options) { o.Durable = true }, "--qos and --durable"},
		{func(o *Options) { o.Protocol, o.QoS, o.Window = MQTT, 1, 0 }, "--window 0"},
		{func(o *Options) { o.Protocol, o.QoS, o.Window = MQTT, 1, 70_000 }, "--window 70000"},
		{func(o *Options) { o.Protocol, o.Persistent = MQTT, true }, "--persistent"},
		{func(o *Options) { o.SubscriberProtocol, o.Destination = MQTT, "/topic/x" }, "--sub-dest"},
		{func(o *Options) { o.Protocol, o.SendHeaders = MQTT, []string{"a:b"} }, "--send-header"},
		{func(o *Options) { o.SubscriberProtocol, o.SubscribeHeaders = MQTT, []string{"a:b"} }, "--subscribe-header"},
		{func(o *Options) { o.Sources = []string{"here"} }, "--source"},
		{func(o *Options) { o.User = "a\nb" }, "--user"},
		{func(o *Options) { o.SizeBytes = 39 }, "--size 39"},
		{func(o *Options) { o.SizeBytes = 17 << 20 }, "--size"},
		{func(o *Options) { o.Window = -1 }, "--window"},
		{func(o *Options) { o.Publishers = 0 }, "--publishers"},
		{func(o *Options) { o.Cores = 0 }, "--procs"},
		{func(o *Options) { o.Scenario, o.Timed, o.RatePerSecond = Topic, 2, 1 }, "--timed 2"},
		{func(o *Options) { o.Scenario, o.Timed = Topic, 1 }, "--timed is for"},
		{func(o *Options) { o.Timed, o.RatePerSecond = 1, 1 }, "--timed is for"},
		{func(o *Options) { o.BrokerPIDs = []int{-3} }, "--pid -3"},
		{func(o *Options) { o.RatePerSecond = -1 }, "--rate"},
		{func(o *Options) { o.RatePerSecond = nan() }, "--rate"},
		{func(o *Options) { o.Count = -1 }, "--count"},
		{func(o *Options) { o.Scenario = Backlog }, "backlog needs --count"},
		{func(o *Options) { o.Scenario, o.Count, o.Inflight = Backlog, 5, 5 }, "--inflight"},
		{func(o *Options) { o.Destinations = 2 }, "--dests 2"},
		{func(o *Options) { o.Destinations, o.Publishers, o.Subscribers, o.Destination = 2, 2, 2, "/queue/x" }, "%d"},
		{func(o *Options) { o.Duration = 0 }, "--duration"},
		{func(o *Options) { o.Warmup = -1 }, "--warmup"},
		{func(o *Options) { o.Heartbeat = time.Microsecond }, "--heartbeat"},
		{func(o *Options) { o.Drain = 0 }, "--drain"},
		{func(o *Options) { o.Ack = "maybe" }, "--ack"},
		{func(o *Options) { o.SendHeaders = []string{"x"} }, `header "x"`},
		{func(o *Options) { o.SubscribeHeaders = []string{"a:b\nc:d"} }, "header"},
	} {
		o := good
		tc.change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want an error that names %s", err, tc.want)
		}
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func TestDestinations(t *testing.T) {
	r := newRun(Options{Scenario: Topic, Destinations: 2, Publishers: 2, Subscribers: 2, SizeBytes: 40}, &stompProtocol{}, &mqttProtocol{}, nil)
	r.id = 0xab
	if to, from := r.publishTo(3), r.consumeFrom(3); to != "/topic/bench.000000ab.1" || from != "bench/000000ab/1" {
		t.Error(to, from)
	}
	r.options.Destination = "/queue/%d/of/%r/%d"
	if got := r.publishTo(4); got != "/queue/0/of/000000ab/0" {
		t.Error(got)
	}
}

func TestSpreadSource(t *testing.T) {
	for _, tc := range []struct {
		address string
		share   int
		want    string
	}{
		{"127.0.0.1:1", 0, ""}, {"127.0.0.1:1", 1, "127.0.0.2"}, {"127.0.0.1:1", 255, "127.0.1.0"}, {"10.0.0.1:1", 3, ""},
	} {
		if got := spreadSource(tc.address, tc.share); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// writeProc lays out a process as procfs shows it.
func writeProc(t *testing.T, proc string, pid, parent int, name string, ticks [4]int, pages int) {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	stat := fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194560 1 2 3 4 %d %d %d %d 20 0 1 0 5 6 7\n", pid, name, parent, ticks[0], ticks[1], ticks[2], ticks[3])
	for file, text := range map[string]string{"stat": stat, "statm": fmt.Sprintf("999 %d 1 1 0 1 0\n", pages)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProcessTree(t *testing.T) {
	proc := t.TempDir()
	writeProc(t, proc, 10, 1, "sh", [4]int{1, 2, 3, 4}, 10)
	writeProc(t, proc, 11, 10, "beam) S 99 (x", [4]int{100, 0, 0, 0}, 20) // a name made to confuse
	writeProc(t, proc, 12, 11, "child", [4]int{0, 1000, 0, 0}, 40)
	writeProc(t, proc, 13, 1, "stranger", [4]int{7777, 7777, 0, 0}, 8000)
	p, err := watchProcesses(proc, []int{10, 11})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.cpuSeconds(); got != 11.10 {
		t.Errorf("CPU %v s, want 11.10: each of the tree once, with the children it has waited for", got)
	}
	if got, want := p.residentBytes(), int64(70*os.Getpagesize()); got != want {
		t.Errorf("resident %d, want %d", got, want)
	}
	if err := os.RemoveAll(filepath.Join(proc, "12")); err != nil {
		t.Fatal(err)
	}
	if got, want := p.residentBytes(), int64(30*os.Getpagesize()); got != want || p.peakMiB() != float64(70*os.Getpagesize())/mib {
		t.Errorf("resident %d, want %d; peak %v MiB", got, want, p.peakMiB())
	}
	if _, err := watchProcesses(proc, []int{10, 99}); err == nil {
		t.Error("a process that is not there was accepted")
	}
}

func TestMachineCPU(t *testing.T) {
	proc := t.TempDir()
	stat := "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 1 1 1\n"
	if err := os.WriteFile(filepath.Join(proc, "stat"), []byte(stat), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := machineCPUSeconds(proc); got != 1.71 {
		t.Errorf("%v s, want user, nice, system, interrupts and stolen time: 1.71", got)
	}
	if ownCPUSeconds(proc) != 0 {
		t.Error("without a record of this process its CPU is 0")
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0")
	f.Add("1 (a) b) S x")
	f.Add(")")
	f.Fuzz(func(t *testing.T, text string) {
		if s, ok := parseStat(text); !ok && s != (processStat{}) {
			t.Errorf("%q failed but gave %+v", text, s)
		}
	})
}

func TestCredit(t *testing.T) {
	c := newCredit(10)
	if c.exhausted(9) || !c.exhausted(10) {
		t.Error("ten deliveries may be on their way, no more")
	}
	if c.enough(10) {
		t.Error("nothing has arrived, yet it is enough")
	}
	c.arrive(4)
	if len(c.wake) != 0 {
		t.Error("woken before half of the limit was free")
	}
	c.arrive(1)
	if len(c.wake) != 1 || !c.enough(10) {
		t.Error("half of the limit is free, and the publisher sleeps on")
	}
	<-c.wake
	c.arrive(1)
	if len(c.wake) != 0 {
		t.Error("woken although nobody waits")
	}
	c.forgive(16)
	if c.exhausted(25) || !c.exhausted(26) {
		t.Error("what is given up must not count as on its way")
	}
}
