package stomp

import (
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// TestScheduledDelivery: the headers of ActiveMQ and RabbitMQ put a message off, and are not passed on.
func TestScheduledDelivery(t *testing.T) {
	const delay = 300 * time.Millisecond
	for d, header := range map[Dialect]string{ActiveMQ: "AMQ_SCHEDULED_DELAY:300", RabbitMQ: "x-delay:300"} {
		t.Run(d.String(), func(t *testing.T) {
			fx := start(t)
			c := fx.login(t, d, frame.V12)
			c.do("SUBSCRIBE", "id:1", "destination:/queue/a")
			c.frame("SEND", "later", "destination:/queue/a", header, "k:v", "receipt:do")
			c.want(frame.RECEIPT)
			sent := time.Now()
			c.frame("SEND", "now", "destination:/queue/a")
			c.message("now")
			m := c.message("later")
			if waited := time.Since(sent); waited < delay-50*time.Millisecond { // the receipt took a moment itself
				t.Errorf("it came after %s", waited)
			}
			name, _, _ := strings.Cut(header, ":")
			_, passedOn := m.get(name)
			if passedOn || m.header("k") != "v" || m.header("scheduledJobId") == "" || m.header("destination") != "/queue/a" {
				t.Errorf("headers %v", m.headers)
			}
		})
	}
}

func TestScheduledRepetitions(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SUBSCRIBE", "id:1", "destination:/topic/a")
	c.frame("SEND", "x", "destination:/topic/a", "AMQ_SCHEDULED_DELAY:10", "AMQ_SCHEDULED_PERIOD:100", "AMQ_SCHEDULED_REPEAT:2")
	for range 3 {
		c.message("x")
	}
	fx.depth(t, router.ScheduledQueue, 0, 0)
}

// TestScheduledComposite: to several destinations, and in a transaction, as at once.
func TestScheduledComposite(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SEND", "destination:/queue/a,/queue/b", "AMQ_SCHEDULED_DELAY:1")
	c.do("BEGIN", "transaction:t")
	c.do("SEND", "destination:/queue/a", "AMQ_SCHEDULED_DELAY:1", "transaction:t")
	c.do("SEND", "destination:/queue/c", "transaction:t")
	c.do("COMMIT", "transaction:t")
	fx.depth(t, "a", 2, 0)
	fx.depth(t, "b", 1, 0)
	fx.depth(t, "c", 1, 0)
	c.do("BEGIN", "transaction:t")
	c.do("SEND", "destination:/queue/gone", "AMQ_SCHEDULED_DELAY:1", "transaction:t")
	c.do("ABORT", "transaction:t")
	fx.depth(t, router.ScheduledQueue, 0, 0)
}

func TestScheduleMistakes(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	for header, says := range map[string]string{
		"AMQ_SCHEDULED_DELAY:soon":                       "not a whole number",
		"AMQ_SCHEDULED_DELAY:-1":                         "less than 0",
		"AMQ_SCHEDULED_DELAY:9223372036854775807":        "is not between",
		"AMQ_SCHEDULED_CRON:* * * *":                     "bad crontab line",
		"AMQ_SCHEDULED_REPEAT:3":                         "needs a period",
		"AMQ_SCHEDULED_PERIOD:1\nAMQ_SCHEDULED_REPEAT:3": "needs a period",
		"AMQ_SCHEDULED_SOMETIMES:1":                      "not known",
	} {
		c.frame("SEND", "x", "destination:/queue/a", header, "receipt:r")
		if e := c.fails(says); e.header("receipt-id") != "r" {
			t.Errorf("%s: headers %v", header, e.headers)
		}
	}
	c.frame("SEND", "x", "destination:/temp-queue/a", "AMQ_SCHEDULED_DELAY:1")
	c.fails("temporary queue")
	c.frame("SEND", "x", "destination:/queue/"+router.ScheduledQueue)
	c.fails("only what the gateway puts there")
	c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/"+router.ScheduledQueue)
	c.fails("is the gateway's")
	// Zero is at once.
	c.do("SUBSCRIBE", "id:2", "destination:/queue/a")
	c.frame("SEND", "x", "destination:/queue/a", "AMQ_SCHEDULED_DELAY:0")
	c.message("x")
}
