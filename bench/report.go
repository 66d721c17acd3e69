package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
)

// Report is what a run found. Names carry the unit: us is microseconds, MiB 2^20 bytes. Rates, latencies and CPU are of the
// measured window; message counts are of the whole run.
type Report struct {
	Scenario    Scenario `json:"scenario"`
	Protocol    string   `json:"protocol"`         // of publishers to that of subscribers, if it is another
	Server      string   `json:"server,omitempty"` // what the broker calls itself
	RunID       string   `json:"run_id"`
	Interrupted bool     `json:"interrupted,omitempty"`

	Publishers    int     `json:"publishers,omitempty"`
	Subscribers   int     `json:"subscribers,omitempty"`
	Timed         int     `json:"timed,omitempty"` // subscribers whose latency was taken; 0: all
	Destinations  int     `json:"destinations,omitempty"`
	SizeBytes     int     `json:"size_bytes,omitempty"`
	Window        int     `json:"window"`
	Inflight      int     `json:"inflight,omitempty"`
	RatePerSecond float64 `json:"rate_per_s,omitempty"` // asked for
	QoS           int     `json:"qos,omitempty"`
	Durable       bool    `json:"durable,omitempty"`
	Persistent    bool    `json:"persistent,omitempty"`
	Ack           string  `json:"ack,omitempty"`
	Prefetch      int     `json:"prefetch,omitempty"`

	Seconds      float64 `json:"seconds"`
	Sent         int64   `json:"sent"`
	Received     int64   `json:"received"` // first deliveries
	SentPerS     float64 `json:"sent_per_s"`
	ReceivedPerS float64 `json:"received_per_s"`

	// Send to arrival, or to open a connection with conns.
	P50US float64 `json:"p50_us"`
	P99US float64 `json:"p99_us"`
	MaxUS float64 `json:"max_us"`
	// Send to the broker's confirmation.
	ConfirmP50US float64 `json:"confirm_p50_us,omitempty"`
	ConfirmP99US float64 `json:"confirm_p99_us,omitempty"`

	Lost        int64 `json:"lost"`                  // not refused and never delivered; for a topic, deliveries
	Undelivered int64 `json:"undelivered,omitempty"` // the same where an interruption cut the wait for them short
	Duplicates  int64 `json:"duplicates"`            // delivered again without the redelivered mark
	Redelivered int64 `json:"redelivered"`           // deliveries with the mark
	OutOfOrder  int64 `json:"out_of_order"`
	Altered     int64 `json:"altered,omitempty"` // not what was sent: body, size, destination
	Foreign     int64 `json:"foreign,omitempty"` // of another run
	Refused     int64 `json:"refused"`
	Unconfirmed int64 `json:"unconfirmed,omitempty"`
	Stalls      int64 `json:"stalls,omitempty"` // waits for --inflight deliveries that were given up

	Errors     int64    `json:"errors"`
	ErrorTexts []string `json:"error_texts,omitempty"` // the first few different ones

	// With --pid.
	BrokerCPUS     float64 `json:"broker_cpu_s,omitempty"`
	CPUPerRecvUS   float64 `json:"cpu_us_per_received,omitempty"`
	CPUPerSentUS   float64 `json:"cpu_us_per_sent,omitempty"`
	RSSMiB         float64 `json:"rss_mib,omitempty"` // at the end
	RSSPeakMiB     float64 `json:"rss_peak_mib,omitempty"`
	GeneratorCPUS  float64 `json:"generator_cpu_s"`
	OtherCPUS      float64 `json:"other_cpu_s,omitempty"` // the rest of the machine and its kernel
	GeneratorCores int     `json:"generator_cores"`

	// Backlog.
	FillPerS   float64 `json:"fill_per_s,omitempty"`
	FillCPUUS  float64 `json:"fill_cpu_us_per_message,omitempty"`
	FilledMiB  float64 `json:"rss_filled_mib,omitempty"`
	DrainPerS  float64 `json:"drain_per_s,omitempty"`
	DrainCPUUS float64 `json:"drain_cpu_us_per_message,omitempty"`
	FirstMS    float64 `json:"drain_first_ms,omitempty"` // from connecting the subscribers to the first message

	// Conns; memory also where publishers and subscribers are many.
	Opened         int     `json:"opened,omitempty"`
	OpenFailed     int     `json:"open_failed,omitempty"`
	Dropped        int     `json:"dropped,omitempty"` // by the broker, while held
	OpensPerS      float64 `json:"opens_per_s,omitempty"`
	RSSBeforeMiB   float64 `json:"rss_before_mib,omitempty"`
	ConnectionKiB  float64 `json:"rss_per_connection_kib,omitempty"`
	HoldCPUPercent float64 `json:"hold_cpu_percent,omitempty"` // of one core

	Notes []string `json:"notes,omitempty"` // what to know before trusting the figures

	brokerKnown bool // there was a --pid, so zeros are measured
}

func (r *run) newReport() *Report {
	o := r.options
	rep := &Report{Scenario: o.Scenario, Protocol: r.protocolName(), RunID: fmt.Sprintf("%08x", r.id),
		GeneratorCores: o.Cores, brokerKnown: r.broker != nil}
	if o.Scenario == Conns {
		return rep
	}
	rep.Server = r.publishers[0].link.server()
	rep.Publishers, rep.Subscribers, rep.Timed, rep.Destinations = o.Publishers, o.Subscribers, o.Timed, o.Destinations
	rep.SizeBytes, rep.Inflight, rep.RatePerSecond, rep.QoS, rep.Durable = o.SizeBytes, o.Inflight, o.RatePerSecond, o.QoS, o.Durable
	if r.publishing.confirms() {
		rep.Window = o.Window
	}
	rep.Persistent, rep.Ack, rep.Prefetch = o.Persistent, o.ackMode(), o.Prefetch
	return rep
}

// protocolName says what the two sides speak, and over what.
func (r *run) protocolName() string {
	name := func(p protocol, t target) string {
		if t.websocket {
			return p.name() + "-ws"
		}
		return p.name()
	}
	from := name(r.publishing, r.targets[0])
	if to := name(r.consuming, r.sources[0]); to != from && r.options.Scenario != Conns {
		return from + ">" + to
	}
	return from
}

// fillWindow takes the rates and CPU between two snapshots.
func (rep *Report) fillWindow(from, to snapshot) {
	rep.Seconds = to.at.Sub(from.at).Seconds()
	sent, received := to.sent-from.sent, to.received-from.received
	rep.SentPerS, rep.ReceivedPerS = per(float64(sent), rep.Seconds), per(float64(received), rep.Seconds)
	rep.GeneratorCPUS = to.own - from.own
	if !rep.brokerKnown {
		return
	}
	rep.BrokerCPUS = to.broker - from.broker
	rep.OtherCPUS = max(0, to.machine-from.machine-rep.BrokerCPUS-rep.GeneratorCPUS)
	rep.CPUPerRecvUS, rep.CPUPerSentUS = per(rep.BrokerCPUS*1e6, float64(received)), per(rep.BrokerCPUS*1e6, float64(sent))
}

func (rep *Report) fillBacklog(from, filled snapshot, residentBytes int64) {
	n := float64(filled.sent - from.sent)
	rep.FillPerS = per(n, filled.at.Sub(from.at).Seconds())
	rep.FillCPUUS = per((filled.broker-from.broker)*1e6, n)
	rep.FilledMiB = float64(residentBytes) / mib
}

func (rep *Report) fillDrain(begin, drained snapshot) {
	n := float64(drained.received - begin.received)
	rep.DrainPerS = per(n, drained.at.Sub(begin.at).Seconds())
	rep.DrainCPUUS = per((drained.broker-begin.broker)*1e6, n)
}

func (rep *Report) fillLatency(h *histogram) {
	rep.P50US, rep.P99US, rep.MaxUS = h.quantileUS(.5), h.quantileUS(.99), h.maxUS()
}

// fillConnectionMemory takes what connections cost the broker, at work or idle.
func (rep *Report) fillConnectionMemory(before, after int64, connections int) {
	if !rep.brokerKnown {
		return
	}
	rep.RSSBeforeMiB = float64(before) / mib
	rep.ConnectionKiB = per(float64(after-before)/1024, float64(connections))
}

// per is a quotient that is 0 where there is nothing to divide by.
func per(n, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return n / of
}

// fillTotals takes the accounts of the whole run; all readers have ended.
func (r *run) fillTotals(rep *Report, how outcome) {
	var latency, confirm histogram
	var t tally
	for i := range r.latencies {
		latency.merge(&r.latencies[i].h)
	}
	for _, s := range r.subscribers {
		t.add(s.tally)
	}
	for _, p := range r.publishers {
		rep.Sent += int64(p.issued.Load())
		rep.Refused += p.refusal.Load()
		rep.Stalls += p.stalls
		if p.window != nil {
			rep.Unconfirmed += p.window.outstanding.Load()
			confirm.merge(&p.window.confirmTimes)
		}
	}
	rep.Received = r.received()
	rep.Redelivered, rep.Duplicates, rep.OutOfOrder, rep.Altered, rep.Foreign = t.redelivered, t.duplicates, t.outOfOrder, t.altered, t.foreign
	if missing := r.missing(); how == cut {
		rep.Undelivered = missing
	} else {
		rep.Lost = missing
	}
	if r.options.Scenario != Conns {
		rep.fillLatency(&latency)
		rep.ConfirmP50US, rep.ConfirmP99US = confirm.quantileUS(.5), confirm.quantileUS(.99)
	}
	rep.RSSMiB, rep.RSSPeakMiB = float64(r.broker.residentBytes())/mib, r.broker.peakMiB()
	rep.Errors, rep.ErrorTexts = r.complaints.all()
	rep.addNotes()
	rep.round()
}

// missing counts deliveries that were due and did not come. Each ledger stands for itself: what one subscriber got too much
// does not make up for what another lacks.
func (r *run) missing() (n int64) {
	counted := map[*ledger]bool{} // a queue's are shared by its consumers
	for _, s := range r.subscribers {
		for i, l := range s.ledgers {
			if l == nil || counted[l] {
				continue
			}
			counted[l] = true
			p := r.publishers[i]
			n += max(0, int64(p.issued.Load())-p.refusal.Load()-int64(l.seen.count()))
		}
	}
	return n
}

func (rep *Report) addNotes() {
	note := func(format string, args ...any) { rep.Notes = append(rep.Notes, fmt.Sprintf(format, args...)) }
	// CPU time comes in hundredths of a second, which say little about less than a second.
	if used := per(rep.GeneratorCPUS, rep.Seconds); rep.Seconds >= 1 && used > 0.9*float64(rep.GeneratorCores) {
		note("the generator used %.2f cores of the %d it may use and was probably the limit: raise --procs", used, rep.GeneratorCores)
	}
	if rep.RatePerSecond > 0 && rep.SentPerS < 0.95*rep.RatePerSecond && !rep.Interrupted {
		note("sent %.0f/s of the %.0f/s asked for", rep.SentPerS, rep.RatePerSecond)
	}
	if rep.Stalls > 0 {
		note("%d times no delivery came for %v and --inflight was disregarded", rep.Stalls, stallAfter)
	}
	if rep.Undelivered > 0 {
		note("%d deliveries were still to come when the run was interrupted", rep.Undelivered)
	}
}

// Faults says in words what was not as it should be; none means the broker delivered exactly what was sent.
func (rep *Report) Faults() (faults []string) {
	for _, f := range []struct {
		n    int64
		what string
	}{
		{rep.Lost, "lost"},
		{rep.Duplicates, "delivered twice without the redelivered mark"},
		{rep.OutOfOrder, "out of their sender's order"},
		{rep.Refused, "refused"},
		{rep.Altered, "altered or astray"},
		{rep.Foreign, "of another run"},
		{rep.unconfirmedFault(), "never confirmed"},
		{rep.Errors, "errors"},
		{int64(rep.OpenFailed), "connections failed to open"},
		{int64(rep.Dropped), "connections dropped by the broker"},
	} {
		if f.n > 0 {
			faults = append(faults, fmt.Sprintf("%d %s", f.n, f.what))
		}
	}
	return faults
}

// unconfirmedFault is no fault of a broker that an interruption left no time to confirm.
func (rep *Report) unconfirmedFault() int64 {
	if rep.Interrupted {
		return 0
	}
	return rep.Unconfirmed
}

// round keeps digits that mean something.
func (rep *Report) round() {
	for _, f := range []*float64{&rep.SentPerS, &rep.ReceivedPerS, &rep.P50US, &rep.P99US, &rep.MaxUS, &rep.ConfirmP50US,
		&rep.ConfirmP99US, &rep.FillPerS, &rep.DrainPerS, &rep.OpensPerS} {
		if *f >= 100 {
			*f = math.Round(*f)
		}
	}
	for _, f := range []*float64{&rep.SentPerS, &rep.ReceivedPerS, &rep.P50US, &rep.P99US, &rep.MaxUS, &rep.ConfirmP50US,
		&rep.ConfirmP99US, &rep.FillPerS, &rep.DrainPerS, &rep.OpensPerS, &rep.Seconds, &rep.BrokerCPUS, &rep.CPUPerRecvUS,
		&rep.CPUPerSentUS, &rep.RSSMiB, &rep.RSSPeakMiB, &rep.GeneratorCPUS, &rep.OtherCPUS, &rep.FillCPUUS, &rep.FilledMiB,
		&rep.DrainCPUUS, &rep.FirstMS, &rep.RSSBeforeMiB, &rep.ConnectionKiB, &rep.HoldCPUPercent} {
		*f = math.Round(*f*100) / 100
	}
}

// WriteJSON writes the report as one line.
func (rep *Report) WriteJSON(w io.Writer) error {
	b, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
