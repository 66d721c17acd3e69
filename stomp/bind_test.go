package stomp

import (
	"testing"

	"github.com/mqgate/mqgate/stomp/frame"
)

func TestQueueBoundToTopics(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	send := func(topic string) { c.do("SEND", "destination:/topic/"+topic) }
	send("plant.7.temp") // too early
	c.do("SUBSCRIBE", "id:1", "destination:/queue/temps", "ack:client-individual", "x-bind-topic:/topic/plant.*.temp")
	c.do("UNSUBSCRIBE", "id:1")
	send("plant.7.temp") // nobody consumes, and it is kept
	send("plant.7.pressure")
	fx.depth(t, "temps", 1, 0)
	c.do("SUBSCRIBE", "id:2", "destination:/queue/temps", "ack:client-individual", "x-bind-topic:/topic/plant.*.temp")
	m := c.want(frame.MESSAGE)
	if m.header("destination") != "/queue/temps" || m.header("original-destination") != "/topic/plant.7.temp" {
		t.Errorf("the message does not say where it came from: %v", m.headers)
	}
	c.do("ACK", "id:"+m.header("ack"))
	c.do("UNSUBSCRIBE", "id:2", "x-bind-topic:/topic/plant.*.temp")
	send("plant.8.temp")
	fx.depth(t, "temps", 0, 0)

	c.frame("SUBSCRIBE", "", "id:3", "destination:/topic/a", "x-bind-topic:/topic/plant.*.temp")
	c.fails("is for queues")
	c.frame("SUBSCRIBE", "", "id:4", "destination:/queue/a", "x-bind-topic:/queue/b")
	c.fails("is not a topic")
	c.frame("SUBSCRIBE", "", "id:5", "destination:/queue/a")
	c.frame("UNSUBSCRIBE", "", "id:5", "x-bind-topic:/topic/plant.*.temp")
	c.fails("not bound")
}

// TestBoundQueueBelongsToItsUser: only who bound a queue ends that.
func TestBoundQueueBelongsToItsUser(t *testing.T) {
	fx := start(t)
	owner := fx.login(t, ActiveMQ, frame.V12, "login:owner", "passcode:x")
	other := fx.login(t, ActiveMQ, frame.V12, "login:other", "passcode:x")
	owner.do("SUBSCRIBE", "id:1", "destination:/queue/q", "ack:client", "x-bind-topic:/topic/t")
	other.do("SUBSCRIBE", "id:1", "destination:/queue/q", "ack:client")
	other.frame("UNSUBSCRIBE", "", "id:1", "x-bind-topic:/topic/t")
	other.fails("another user")
}
