package stomp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// browsed reads to the end of a browse and returns the messages.
func (c *client) browsed() (out []received) {
	c.t.Helper()
	for {
		m := c.want(frame.MESSAGE)
		if m.header("browser") == "end" {
			if m.header("message-id") != "0" || m.body != "" {
				c.t.Errorf("the end is %v %q", m.headers, m.body)
			}
			return out
		}
		out = append(out, m)
	}
}

func bodiesOf(ms []received) string {
	var out []string
	for _, m := range ms {
		out = append(out, m.body)
	}
	return strings.Join(out, " ")
}

func TestBrowse(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	for i, region := range []string{"eu", "us", "eu", "us"} {
		c.frame("SEND", fmt.Sprint(i), "destination:/queue/a", "region:"+region, "receipt:do")
		c.want(frame.RECEIPT)
	}
	worker := fx.login(t, ActiveMQ, frame.V12)
	worker.do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client")
	worker.message("0")

	// Everything is shown, also what a worker has in hands, and the receipt comes first.
	c.do("SUBSCRIBE", "id:b", "destination:/queue/a", "browser:true", "ack:client")
	all := c.browsed()
	if got := bodiesOf(all); got != "0 1 2 3" {
		t.Fatalf("browsed %q", got)
	}
	if m := all[1]; m.header("subscription") != "b" || m.header("destination") != "/queue/a" || m.header("region") != "us" || m.header("x-delivery-count") != "0" {
		t.Errorf("headers %v", m.headers)
	}
	if all[0].header("x-delivery-count") != "1" {
		t.Errorf("headers of what a worker holds: %v", all[0].headers)
	}
	// A client that means well may acknowledge it: nothing is taken.
	c.do("ACK", "id:"+all[1].header("ack"))
	fx.depth(t, "a", 4, 1)

	c.frame("SUBSCRIBE", "", "id:b", "destination:/queue/a", "browser:true")
	c.fails("is in use on this connection")
	c.do("UNSUBSCRIBE", "id:b")
	c.do("SUBSCRIBE", "id:b", "destination:/queue/a", "browser:true", "selector:region = 'eu'")
	if got := bodiesOf(c.browsed()); got != "0 2" {
		t.Errorf("browsed with a selector: %q", got)
	}
	c.do("SUBSCRIBE", "id:none", "destination:/queue/missing", "browser:true")
	if got := c.browsed(); len(got) != 0 {
		t.Errorf("browsed %v in a queue that does not exist", got)
	}
	if _, err := fx.router.QueueInfo(router.NewPrincipal("op", "", true, nil), queueAddress(t, "missing")); router.ClassOf(err) != router.NotFound {
		t.Errorf("looking made the queue: %v", err)
	}
	c.frame("SUBSCRIBE", "", "id:x", "destination:/topic/a", "browser:true")
	c.fails("is for a queue")
	c.frame("SUBSCRIBE", "", "id:x", "destination:/queue/a,/queue/b", "browser:true")
	c.fails("not for a composite")
	c.frame("SUBSCRIBE", "", "id:x", "destination:/queue/a", "browser:perhaps")
	c.fails("neither true nor false")

	old := fx.login(t, ActiveMQ, frame.V10)
	old.do("SUBSCRIBE", "destination:/queue/a", "browser:true")
	if got := old.browsed(); bodiesOf(got) != "0 1 2 3" || got[0].header("subscription") != "" {
		t.Errorf("browsed by 1.0: %v", got)
	}
	old.do("UNSUBSCRIBE", "destination:/queue/a")
}

// TestBrowseFollowsTheReader: a queue that is larger than the outbound buffer and than what is in memory is shown as fast as
// the client reads, and its end is what it held at the beginning.
func TestBrowseFollowsTheReader(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.OutboundBytes = 64 << 10 })
	c := fx.login(t, ActiveMQ, frame.V12)
	const n = 400
	body := strings.Repeat("x", 4<<10)
	for range n - 1 {
		c.frame("SEND", body, "destination:/queue/a")
	}
	c.frame("SEND", body, "destination:/queue/a", "receipt:stored") // the last one of a queue is stored last
	c.want(frame.RECEIPT)
	reader := fx.pipe(t, ActiveMQ) // buffers nothing
	reader.login(frame.V12)
	reader.frame("SUBSCRIBE", "", "id:b", "destination:/queue/a", "browser:true")
	reader.message(body)
	c.do("SEND", "destination:/queue/a") // comes too late
	got := reader.browsed()
	if len(got) != n-1 {
		t.Errorf("browsed %d messages, want %d", len(got), n-1)
	}
	reader.nothing()
	fx.depth(t, "a", n+1, 0)
}

func TestBrowseNeedsTheRightToConsume(t *testing.T) {
	fx := start(t, func(s *settings) { s.router.Authorize = writersOnly{} })
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SEND", "destination:/queue/a")
	for _, q := range []string{"a", "missing"} {
		c.frame("SUBSCRIBE", "", "id:b", "destination:/queue/"+q, "browser:true", "receipt:r")
		c.fails("may not")
	}
}

// writersOnly lets everybody send and nothing else.
type writersOnly struct{}

func (writersOnly) Authorize(_ *router.Principal, a router.Action, _ router.Address) error {
	if a == router.ActionWrite {
		return nil
	}
	return &router.Error{Op: "subscribe", Class: router.Denied, Text: "you may not do this"}
}

func (w writersOnly) AuthorizeFilter(p *router.Principal, a router.Action, _ router.Filter) error {
	return w.Authorize(p, a, router.Address{})
}

func queueAddress(t *testing.T, name string) router.Address {
	t.Helper()
	a, err := router.QueueAddress("", name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
