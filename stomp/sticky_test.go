package stomp

import (
	"testing"

	"github.com/mqgate/mqgate/stomp/frame"
)

// TestExclusiveConsumer: in either spelling, the first that asks has the queue, and the next one after it.
func TestExclusiveConsumer(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	ordinary := fx.login(t, ActiveMQ, frame.V12)
	ordinary.do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client", "activemq.prefetchSize:10")
	first := fx.login(t, ActiveMQ, frame.V12)
	first.do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client", "activemq.exclusive:true", "activemq.prefetchSize:10")
	second := fx.login(t, ActiveMQ, frame.V12)
	second.do("SUBSCRIBE", "id:1", "destination:/queue/a?consumer.exclusive=true", "ack:client", "activemq.prefetchSize:10")
	for _, body := range []string{"1", "2"} {
		c.frame("SEND", body, "destination:/queue/a", "receipt:do")
		c.want(frame.RECEIPT)
	}
	first.message("1")
	first.message("2")
	second.nothing()
	ordinary.nothing()
	first.conn.Close()
	second.message("1")
	second.message("2")
	second.do("UNSUBSCRIBE", "id:1")
	ordinary.message("1")
	ordinary.message("2")
}

// TestMessageGroups: what has the same JMSXGroupID goes to one consumer, also while another one is idle.
func TestMessageGroups(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	var workers [2]*client
	for i := range workers {
		workers[i] = fx.login(t, ActiveMQ, frame.V12)
		workers[i].do("SUBSCRIBE", "id:1", "destination:/queue/a", "ack:client")
	}
	for _, m := range [][2]string{{"g1", "g"}, {"h1", "h"}, {"g2", "g"}, {"h2", "h"}} {
		c.frame("SEND", m[0], "destination:/queue/a", "JMSXGroupID:"+m[1], "JMSXGroupSeq:"+m[0][1:], "receipt:do")
		c.want(frame.RECEIPT)
	}
	m := workers[0].message("g1")
	if m.header("JMSXGroupID") != "g" || m.header("JMSXGroupSeq") != "1" {
		t.Errorf("headers %v", m.headers)
	}
	n := workers[1].message("h1")
	workers[1].frame("ACK", "", "id:"+n.header("ack"))
	workers[1].message("h2")
	workers[0].frame("ACK", "", "id:"+m.header("ack"))
	workers[0].message("g2")
	workers[0].conn.Close()
	// The other one takes the group over, once it has room.
	workers[1].do("SUBSCRIBE", "id:2", "destination:/queue/a", "ack:client")
	workers[1].message("g2")
}
