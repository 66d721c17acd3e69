package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// column is one figure of the table.
type column struct{ head, value string }

// WriteTable writes the report for people: a line of headings, a line of figures, and, where there is something to say, a
// line for each fault, error and note.
func (rep *Report) WriteTable(w io.Writer) error {
	columns := rep.columns()
	heads, values := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		heads[i], values[i] = c.head, c.value
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(heads, "\t"))
	fmt.Fprintln(t, strings.Join(values, "\t"))
	if err := t.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	if rep.Interrupted {
		b.WriteString("interrupted: the figures are of the time before\n")
	}
	for _, f := range rep.Faults() {
		fmt.Fprintf(&b, "fault: %s\n", f)
	}
	for _, e := range rep.ErrorTexts {
		fmt.Fprintf(&b, "error: %s\n", e)
	}
	for _, n := range rep.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (rep *Report) columns() []column {
	var c []column
	switch rep.Scenario {
	case Conns:
		c = rep.connectionColumns()
	case Backlog:
		c = append(rep.shapeColumns(), rep.backlogColumns()...)
		c = append(c, rep.accountColumns()...)
	default:
		c = append(rep.shapeColumns(), rep.flowColumns()...)
		c = append(c, rep.accountColumns()...)
	}
	return c
}

func (rep *Report) shapeColumns() []column {
	return []column{
		{"SCENARIO", string(rep.Scenario)},
		{"PROTOCOL", rep.protocolText()},
		{"PUBxSUB", fmt.Sprintf("%dx%d", rep.Publishers, rep.Subscribers)},
		{"SIZE", fmt.Sprint(rep.SizeBytes)},
	}
}

// protocolText adds to the protocol what MQTT's cost depends on.
func (rep *Report) protocolText() string {
	text := rep.Protocol
	if rep.QoS > 0 {
		text += fmt.Sprintf(" QoS %d", rep.QoS)
	}
	if rep.Durable {
		text += " durable"
	}
	return text
}

func (rep *Report) flowColumns() []column {
	c := []column{
		{"SENT/s", perSecond(rep.SentPerS)},
		{"RECV/s", perSecond(rep.ReceivedPerS)},
		{"P50", duration(rep.P50US)},
		{"P99", duration(rep.P99US)},
		{"MAX", duration(rep.MaxUS)},
	}
	if rep.Window > 0 {
		c = append(c, column{"CONFIRM P50", duration(rep.ConfirmP50US)}, column{"P99", duration(rep.ConfirmP99US)})
	}
	if rep.brokerKnown {
		c = append(c, column{"CPU us/msg", fmt.Sprintf("%.1f", rep.CPUPerRecvUS)}, column{"RSS MiB", fmt.Sprintf("%.0f", rep.RSSPeakMiB)})
		if rep.ConnectionKiB != 0 {
			c = append(c, column{"KiB/CONN", fmt.Sprintf("%.1f", rep.ConnectionKiB)})
		}
	}
	return c
}

func (rep *Report) backlogColumns() []column {
	c := []column{
		{"FILL/s", perSecond(rep.FillPerS)},
		{"DRAIN/s", perSecond(rep.DrainPerS)},
		{"FIRST", duration(rep.FirstMS * 1e3)},
		{"CONFIRM P99", duration(rep.ConfirmP99US)},
	}
	if rep.brokerKnown {
		c = append(c, column{"FILL CPU us/msg", fmt.Sprintf("%.1f", rep.FillCPUUS)},
			column{"DRAIN", fmt.Sprintf("%.1f", rep.DrainCPUUS)},
			column{"RSS FILLED MiB", fmt.Sprintf("%.0f", rep.FilledMiB)}, column{"PEAK", fmt.Sprintf("%.0f", rep.RSSPeakMiB)})
	}
	return c
}

func (rep *Report) accountColumns() []column {
	return []column{
		{"SENT", fmt.Sprint(rep.Sent)},
		{"RECV", fmt.Sprint(rep.Received)},
		{"LOST", fmt.Sprint(rep.Lost)},
		{"DUP", fmt.Sprint(rep.Duplicates)},
		{"REDELIV", fmt.Sprint(rep.Redelivered)},
		{"DISORDER", fmt.Sprint(rep.OutOfOrder)},
		{"REFUSED", fmt.Sprint(rep.Refused)},
	}
}

func (rep *Report) connectionColumns() []column {
	c := []column{
		{"SCENARIO", string(rep.Scenario)},
		{"PROTOCOL", rep.protocolText()},
		{"OPEN", fmt.Sprint(rep.Opened)},
		{"FAILED", fmt.Sprint(rep.OpenFailed)},
		{"DROPPED", fmt.Sprint(rep.Dropped)},
		{"OPEN/s", perSecond(rep.OpensPerS)},
		{"P50", duration(rep.P50US)},
		{"P99", duration(rep.P99US)},
		{"MAX", duration(rep.MaxUS)},
	}
	if rep.brokerKnown {
		c = append(c, column{"KiB/CONN", fmt.Sprintf("%.1f", rep.ConnectionKiB)},
			column{"RSS MiB", fmt.Sprintf("%.0f", rep.RSSMiB)}, column{"IDLE CPU", fmt.Sprintf("%.1f%%", rep.HoldCPUPercent)})
	}
	return c
}

func perSecond(v float64) string { return fmt.Sprintf("%.0f", v) }

// duration writes microseconds with three digits or so and the unit that suits.
func duration(us float64) string {
	switch {
	case us == 0:
		return "-"
	case us < 1e3:
		return fmt.Sprintf("%.0fus", us)
	case us < 1e5:
		return fmt.Sprintf("%.1fms", us/1e3)
	case us < 1e6:
		return fmt.Sprintf("%.0fms", us/1e3)
	}
	return fmt.Sprintf("%.2fs", us/1e6)
}
