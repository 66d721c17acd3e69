package stomp

import (
	"bytes"
	"math"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// schedule takes a header that puts a message off, and reports whether it is one: ActiveMQ's in its dialect, and in
// RabbitMQ's the one of its delayed message exchange. They are not passed on, as with ActiveMQ.
func (b *builder) schedule(name, value []byte) (known bool, err error) {
	if b.conn.dialect.rabbit() {
		if string(name) != "x-delay" {
			return false, nil
		}
		b.when.Delay, err = milliseconds(name, value)
		return true, err
	}
	if !hasPrefix(name, "AMQ_SCHEDULED_") {
		return false, nil
	}
	switch string(name) {
	case "AMQ_SCHEDULED_DELAY":
		b.when.Delay, err = milliseconds(name, value)
	case "AMQ_SCHEDULED_PERIOD":
		b.when.Period, err = milliseconds(name, value)
	case "AMQ_SCHEDULED_REPEAT":
		var n int64
		n, err = number(name, value)
		b.when.Repeat = int(min(max(n, -1), math.MaxInt32))
	case "AMQ_SCHEDULED_CRON":
		b.when.Cron = string(bytes.TrimSpace(value))
	default:
		err = mistake("Known are AMQ_SCHEDULED_DELAY, _PERIOD, _REPEAT and _CRON.", "header %.64s is not known", name)
	}
	return true, err
}

// milliseconds reads a duration; one that is too long for a clock is left for the router to refuse.
func milliseconds(name, value []byte) (time.Duration, error) {
	ms, err := number(name, value)
	if err == nil && ms < 0 {
		err = mistake("Write milliseconds.", "header %s: %d is less than 0", name, ms)
	}
	return time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond, err
}

// scheduled gives the messages that have those of the target published later.
func (t *target) scheduled(f *frame.Frame, m *router.Message, when router.Schedule) ([]*router.Message, error) {
	ms := t.messages(f, m)
	for i := range ms {
		var err error
		if ms[i], err = ms[i].Later(when); err != nil {
			return nil, err
		}
	}
	return ms, nil
}
