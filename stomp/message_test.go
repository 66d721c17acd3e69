package stomp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// TestMessageBytes gives the whole bytes of MESSAGE frames, by dialect, version and ack mode.
func TestMessageBytes(t *testing.T) {
	const standard = "timestamp:5\nexpires:99999999999999\npriority:7\npersistent:true\ncorrelation-id:c:1\n" +
		"reply-to:/queue/r\ntype:order.new\ncontent-type:text/plain\nx-my:hé\n"
	const back = "expires:99999999999999\npriority:7\ntimestamp:5\npersistent:true\ncorrelation-id:c:1\nreply-to:/queue/r\ncontent-type:text/plain\n"
	const back2 = "expires:99999999999999\npriority:7\ntimestamp:5\npersistent:true\ncorrelation-id:c\\c1\nreply-to:/queue/r\ncontent-type:text/plain\n"
	cases := []struct {
		name                        string
		d                           Dialect
		v                           frame.Version
		destination, mode           string
		send                        string // headers of SEND besides the destination, and the body
		want                        string
		sendTo, subscribeTo, header string
	}{
		{name: "1.0 queue text", v: frame.V10, destination: "/queue/q", mode: "client", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "1.2 queue text", v: frame.V12, destination: "/queue/q", mode: "client", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nack:ID\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "1.2 queue bytes auto", v: frame.V12, destination: "/queue/q", mode: "auto", send: "timestamp:5\ncontent-length:3\n\nh^@i",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\ncontent-length:3\n\nh^@i^@\n"},
		{name: "empty body", v: frame.V12, destination: "/queue/q", mode: "auto", send: "timestamp:5\n\n",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\n\n^@\n"},
		{name: "text type by amq-msg-type", v: frame.V12, destination: "/queue/q", mode: "auto", send: "timestamp:5\namq-msg-type:text\ncontent-length:2\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "bytes by amq-msg-type", v: frame.V12, destination: "/queue/q", mode: "auto", send: "timestamp:5\namq-msg-type:bytes\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\ncontent-length:2\n\nhi^@\n"},
		{name: "standard headers 1.0", v: frame.V10, destination: "/queue/q", mode: "auto", send: standard + "\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\n" + back + "type:order.new\nx-my:hé\n\nhi^@\n"},
		{name: "standard headers 1.1", v: frame.V11, destination: "/queue/q", mode: "auto", send: standard + "\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\n" + back2 + "type:order.new\nx-my:hé\n\nhi^@\n"},
		{name: "topic auto 1.2", v: frame.V12, destination: "/topic/a.b", mode: "auto", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/topic/a.b\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "topic client 1.2", v: frame.V12, destination: "/topic/a.b", mode: "client", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/topic/a.b\nmessage-id:ID\nack:ID\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "wildcard in dots", v: frame.V12, subscribeTo: "/topic/a.>", sendTo: "/topic/a/b/c", mode: "auto", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\nmessage-id:ID\ndestination:/topic/a.b.c\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "wildcard in slashes", v: frame.V12, subscribeTo: "/topic/a/+/c", sendTo: "/topic/a.b.c", mode: "auto", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\nmessage-id:ID\ndestination:/topic/a/b/c\nexpires:0\npriority:4\ntimestamp:5\n\nhi^@\n"},
		{name: "escapes 1.2", v: frame.V12, destination: "/queue/q", mode: "auto", send: "timestamp:5\nk\\cey:a\\nb\\\\c\\rd\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\nexpires:0\npriority:4\ntimestamp:5\nk\\cey:a\\nb\\\\c\\rd\n\nhi^@\n"},
		{name: "rabbit queue text", d: RabbitMQ, v: frame.V12, destination: "/queue/q", mode: "client", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/q\nack:ID\nredelivered:false\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\ntimestamp:5\ncontent-length:2\n\nhi^@\n"},
		{name: "rabbit topic", d: RabbitMQ, v: frame.V11, destination: "/topic/a.b", mode: "auto", send: "timestamp:5\npersistent:true\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/topic/a.b\nredelivered:false\nmessage-id:ID\ntimestamp:5\npersistent:true\ncontent-length:2\n\nhi^@\n"},
		{name: "rabbit exchange", d: RabbitMQ, v: frame.V12, subscribeTo: "/exchange/amq.topic/a.*", sendTo: "/topic/a.b", mode: "auto", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\nredelivered:false\nmessage-id:ID\ndestination:/topic/a.b\ntimestamp:5\ncontent-length:2\n\nhi^@\n"},
		{name: "rabbit slash in queue", d: RabbitMQ, v: frame.V12, subscribeTo: "/amq/queue/a%2Fb", sendTo: "/queue/a%2fb", mode: "auto", send: "timestamp:5\n\nhi",
			want: "MESSAGE\nsubscription:s\ndestination:/queue/a/b\nredelivered:false\nx-delivery-count:1\nJMSXDeliveryCount:1\nmessage-id:ID\ntimestamp:5\ncontent-length:2\n\nhi^@\n"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			fx := start(t)
			c := fx.login(t, tc.d, tc.v)
			from, to := tc.destination, tc.destination
			if from == "" {
				from, to = tc.subscribeTo, tc.sendTo
			}
			c.do("SUBSCRIBE", "id:s", "destination:"+from, "ack:"+tc.mode)
			c.raw()
			c.send("SEND\ndestination:" + to + "\n" + tc.send + "^@")
			c.want(frame.MESSAGE)
			if got := c.raw(); got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

// TestSendHeaders is the table of SEND: what comes back, and what does not.
func TestSendHeaders(t *testing.T) {
	const absent = "(absent)"
	cases := []struct {
		d            Dialect
		header, back string // "" for the same line; absent for nothing
		name         string
	}{
		{header: "persistent:true"},
		{header: "persistent:false", back: absent},
		{header: "priority:0"},
		{header: "priority:12", back: "priority:9"},
		{header: "priority:-3", back: "priority:0"},
		{header: "expires:0"},
		{header: "expires:-5", back: "expires:0"},
		{header: "expires: 99999999999999 ", back: "expires:99999999999999"},
		{header: "correlation-id:x"},
		{header: "type:order"},
		{header: "reply-to:/queue/back"},
		{header: "reply-to:not a destination"},
		{header: "timestamp:17"},
		{header: "content-type:application/json"},
		{header: "content-type:image/x-odd"},
		{header: "JMSXGroupID:g"},
		{header: "transformation:jms-map-json"},
		{header: "any:thing"},
		{header: "empty:"},
		{header: "original-destination:/queue/before"},
		{header: "x-dead-letter-reason:expired"},
		{header: "x-dedup-id:abc"},
		{header: "receipt-x:y"},
		{header: "subscription:fake", back: "subscription:s"},
		{header: "redelivered:true", back: absent},
		{header: "JMSXUserID:root", back: absent},
		{header: "login:root", back: absent},
		{header: "passcode:secret", back: absent},
		{header: "x-delivery-count:9", back: "x-delivery-count:1"},
		{header: "JMSXDeliveryCount:9", back: "JMSXDeliveryCount:1"},
		{header: "x-mqgate-secret:1", back: absent},
		{header: "X-MqGate-Secret:1", back: absent},
		{header: "Nats-Msg-Id:1", back: absent},
		{header: "nats-schedule:1", back: absent},
		{header: "ack:fake", back: absent},
		{header: "AMQ_OTHER:1"},
		{d: RabbitMQ, header: "AMQ_SCHEDULED_DELAY:5"},
		{d: RabbitMQ, header: "x-message-ttl:5000"},
		{d: RabbitMQ, header: "redelivered:true", back: "redelivered:false"},
	}
	fx := start(t)
	clients := map[Dialect]*client{}
	for _, d := range []Dialect{ActiveMQ, RabbitMQ} {
		clients[d] = fx.login(t, d, frame.V12)
		clients[d].do("SUBSCRIBE", "id:s", "destination:/queue/"+d.String(), "ack:auto")
	}
	for _, tc := range cases {
		c := clients[tc.d]
		c.frame("SEND", "x", "destination:/queue/"+tc.d.String(), tc.header)
		m := c.message("x")
		name, value, _ := strings.Cut(tc.header, ":")
		if tc.back != "" && tc.back != absent {
			name, value, _ = strings.Cut(tc.back, ":")
		}
		got, found := m.get(name)
		if found != (tc.back != absent) || found && got != value {
			t.Errorf("%s %q came back as %q (%v), want %q", tc.d, tc.header, got, found, tc.back)
		}
	}
	c := clients[ActiveMQ]
	c.frame("SEND", "x", "destination:/queue/activemq", "message-id:mine")
	if m := c.message("x"); m.header("message-id") == "mine" {
		t.Error("the client chose the message-id")
	}
	c = clients[RabbitMQ]
	c.frame("SEND", "x", "destination:/queue/rabbitmq", "message-id:mine")
	c.fails("message-id is not allowed")
	c.frame("SEND", "x", "destination:/queue/rabbitmq", "expiration:60000")
	m := c.message("x")
	var ms int64
	if _, err := fmt.Sscan(m.header("expires"), &ms); err != nil || ms < time.Now().UnixMilli() || ms > time.Now().UnixMilli()+60_000 {
		t.Errorf("expiration became expires:%s", m.header("expires"))
	}
	c.frame("SEND", "x", "destination:/queue/rabbitmq", "expiration:soon")
	c.fails("expiration")
}

func TestDedupIDStoresOnce(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	for range 3 {
		c.do("SEND", "destination:/queue/once", "x-dedup-id:job-1")
	}
	fx.depth(t, "once", 1, 0)
	c.frame("SEND", "", "destination:/queue/once", "x-dedup-id:"+strings.Repeat("x", 257))
	c.fails("x-dedup-id has 257 bytes")
}

// TestForeignHeadersCannotBreakFrames publishes as another protocol could: with user headers that mean something in STOMP.
func TestForeignHeadersCannotBreakFrames(t *testing.T) {
	for _, v := range []frame.Version{frame.V10, frame.V11, frame.V12} {
		fx := start(t)
		c := fx.login(t, ActiveMQ, v)
		c.do("SUBSCRIBE", "id:s", "destination:/topic/f")
		s, err := fx.router.Connect(router.SessionOptions{Principal: router.NewPrincipal("m", "", false, nil), Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		to, _, err := router.ParseDestination("/", "/topic/f")
		if err != nil {
			t.Fatal(err)
		}
		m := &router.Message{To: to, Body: []byte("body"), Flags: router.FlagText, Headers: []router.Header{
			{Name: "content-length", Value: "1"}, {Name: " content-length", Value: "1"}, {Name: "receipt", Value: "r"},
			{Name: "message-id", Value: "fake"}, {Name: "a\nSEND\n\n\x00", Value: "x\n\nMESSAGE\x00"}, {Name: "", Value: "x"}, {Name: "ok", Value: "yes"},
		}}
		if _, err := s.Publish(t.Context(), m, nil, nil); err != nil {
			t.Fatal(err)
		}
		got := c.message("body")
		if got.header("ok") != "yes" || got.header("message-id") == "fake" || got.header("receipt") != "" || got.header("content-length") != "" {
			t.Errorf("%s: headers %v", v, got.headers)
		}
		c.nothing()
	}
}

func TestBigAndMultibyteBodies(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SUBSCRIBE", "id:q", "destination:/queue/big", "ack:client")
	c.do("SUBSCRIBE", "id:t", "destination:/topic/big")
	for _, body := range []string{"𝄞 four bytes", strings.Repeat("0123456789abcdef", 1<<16), strings.Repeat("x", 16<<10), strings.Repeat("y", 16<<10-1)} {
		c.frame("SEND", body, "destination:/topic/big")
		if m := c.message(body); m.header("subscription") != "t" {
			t.Fatalf("subscription %q", m.header("subscription"))
		}
		c.frame("SEND", body, "destination:/queue/big")
		c.do("ACK", "id:"+c.message(body).header("ack"))
	}
}

func TestSelectors(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	for _, to := range []string{"/queue/sel", "/topic/sel"} {
		c.do("SUBSCRIBE", "id:1", "destination:"+to, "selector:region = 'eu' AND size > 3 AND JMSType LIKE 'order.%'")
		for body, headers := range map[string][]string{
			"wrong region": {"region:us", "size:5", "type:order.new"},
			"too small":    {"region:eu", "size:3", "type:order.new"},
			"wrong type":   {"region:eu", "size:5", "type:note"},
			"no size":      {"region:eu", "type:order.new"},
			"this one":     {"region:eu", "size:5", "type:order.new"},
		} {
			c.frame("SEND", body, append(headers, "destination:"+to)...)
		}
		c.message("this one")
		c.nothing()
		c.do("UNSUBSCRIBE", "id:1")
	}
	fx.depth(t, "sel", 4, 0) // the others stay in the queue
}

// TestLiveOrder: each subscriber of a topic gets one sender's messages in their order, and none is missing while it reads.
func TestLiveOrder(t *testing.T) {
	fx := start(t)
	const n = 2000
	var subscribers []*client
	for _, filter := range []string{"/topic/a", "/topic/*", "/topic/>"} {
		s := fx.login(t, ActiveMQ, frame.V12)
		s.do("SUBSCRIBE", "id:1", "destination:"+filter)
		subscribers = append(subscribers, s)
	}
	sender := fx.login(t, ActiveMQ, frame.V12)
	for i := range n {
		sender.frame("SEND", fmt.Sprint(i), "destination:/topic/a")
	}
	for _, s := range subscribers {
		for i := range n {
			s.message(fmt.Sprint(i))
		}
	}
}
