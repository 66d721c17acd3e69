package stomp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/stomp/frame"
)

// TestDestinations sends to one spelling and consumes from another.
func TestDestinations(t *testing.T) {
	cases := []struct {
		d        Dialect
		send     string
		consume  string
		says     string // the ERROR for the SUBSCRIBE, or
		sendSays string // for the SEND
	}{
		{ActiveMQ, "/queue/x", "x", "", ""},
		{ActiveMQ, "queue://x", "/queue/x", "", ""},
		{ActiveMQ, "/queue/x?consumer.prefetchSize=1", "/queue/x?a=b&c", "", ""},
		{ActiveMQ, "/queue/a b", "/queue/a b", "", ""},
		{ActiveMQ, "topic://a.b", "/topic/a.b", "", ""},
		{ActiveMQ, "/topic/a/b", "/topic/a.b", "", ""},
		{ActiveMQ, "/topic/a.b", "/topic/a.*", "", ""},
		{ActiveMQ, "/topic/a.b", "/topic/>", "", ""},
		{ActiveMQ, "/topic/a.b", "/topic/a.#", "", ""},
		{ActiveMQ, "/queue/x", "/queue/*", "has a wildcard", ""},
		{ActiveMQ, "/queue/x.>", "/queue/x", "", "has a wildcard"},
		{ActiveMQ, "/queue/", "/queue/x", "", "empty"},
		{ActiveMQ, "/exchange/amq.topic/x", "/topic/x", "", "unknown destination"},
		{ActiveMQ, "/topic/$SYS/x", "/topic/x", "", "belongs to the gateway"},
		{ActiveMQ, "/queue/x", "/queue/x?consumer.selector=a%3D1", "consumer.selector is not supported", ""},
		{ActiveMQ, "/queue/x", "/queue/x?consumer.exclusive=true", "", ""},
		{ActiveMQ, "/queue/x", "/queue/x?consumer.prefetchSize=many", "consumer.prefetchSize", ""},
		{ActiveMQ, "/remote-temp-queue/orders", "/queue/x", "", "not the name of a temporary queue"},
		{ActiveMQ, "/remote-temp-queue/temp.gone.q", "/queue/x", "", "does not exist"},
		{ActiveMQ, "/remote-temp-topic/orders", "/queue/x", "", "not the name of a temporary topic"},
		{RabbitMQ, "/queue/x", "/amq/queue/x", "", ""},
		{RabbitMQ, "x", "/queue/x", "", ""},
		{RabbitMQ, "/exchange/amq.topic/a.b", "/topic/a.#", "", ""},
		{RabbitMQ, "/exchange/amq.direct/q", "/queue/x", "", "no exchange"},
		{RabbitMQ, "/exchange/amq.topic", "/queue/x", "", "no exchange"},
		{RabbitMQ, "/queue/a,b", "/queue/x", "", "','"},
		{RabbitMQ, "/temp-queue/x", "/queue/x", "", "reply-to only"},
		{RabbitMQ, "/queue/x", "/temp-queue/x", "reply-to only", ""},
		{RabbitMQ, "/reply-queue/orders", "/queue/x", "", "not the name of a temporary queue"},
		{RabbitMQ, "/queue/x.*", "/queue/x.*", "", ""},
	}
	for _, tc := range cases {
		t.Run(fmt.Sprintf("%s %s %s", tc.d, tc.send, tc.consume), func(t *testing.T) {
			fx := start(t)
			c := fx.login(t, tc.d, frame.V12)
			c.frame("SUBSCRIBE", "", "id:1", "destination:"+tc.consume, "receipt:s")
			if tc.says != "" {
				c.fails(tc.says)
				return
			}
			c.want(frame.RECEIPT)
			c.frame("SEND", "x", "destination:"+tc.send)
			if tc.sendSays != "" {
				c.fails(tc.sendSays)
				return
			}
			m := c.message("x")
			// What a MESSAGE says can be sent to.
			c.frame("SEND", "y", "destination:"+m.header("destination"))
			c.message("y")
		})
	}
}

func TestComposite(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SUBSCRIBE", "id:both", "destination:/queue/a,/topic/t", "ack:client", "activemq.prefetchSize:5")
	c.frame("SEND", "x", "destination:/queue/a,topic://t,b", "k:v")
	got := map[string]received{}
	for range 2 {
		m := c.message("x")
		if m.header("original-destination") != "/queue/a,topic://t,b" || m.header("subscription") != "both" || m.header("k") != "v" {
			t.Errorf("headers %v", m.headers)
		}
		got[m.header("destination")] = m
	}
	for d, m := range got {
		c.do("ACK", "id:"+m.header("ack"))
		if d != "/queue/a" && d != "/topic/t" {
			t.Errorf("destination %q", d)
		}
	}
	fx.depth(t, "a", 0, 0)
	fx.depth(t, "b", 1, 0)
	c.frame("SEND", "x", "destination:/topic/t,u", "receipt:r") // u is a topic as well
	c.message("x")
	c.want(frame.RECEIPT)
	c.do("UNSUBSCRIBE", "id:both")
	c.frame("SEND", "x", "destination:/queue/a,/queue/", "receipt:r")
	c.fails("empty")
	fx.depth(t, "a", 0, 0) // all or none
	c.frame("SEND", "x", "destination:"+strings.Repeat("q,", 64)+"q")
	c.fails("65 elements")
	c.do("BEGIN", "transaction:t")
	c.do("SEND", "destination:/queue/a,/queue/c", "transaction:t")
	c.do("COMMIT", "transaction:t")
	fx.depth(t, "a", 1, 0)
	fx.depth(t, "c", 1, 0)
	c.frame("SUBSCRIBE", "", "id:1", "destination:/topic/a,/queue/", "receipt:r")
	c.fails("empty")
}

func TestVirtualTopic(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SEND", "destination:/topic/VirtualTopic.Orders") // before anybody asked: for nobody
	for _, q := range []string{"Consumer.A.VirtualTopic.Orders", "Consumer.B.VirtualTopic.Orders"} {
		w := fx.login(t, ActiveMQ, frame.V12)
		w.do("SUBSCRIBE", "id:1", "destination:/queue/"+q, "ack:client")
		w.do("DISCONNECT")
	}
	c.frame("SEND", "x", "destination:/topic/VirtualTopic.Orders", "receipt:r")
	c.want(frame.RECEIPT)
	for _, q := range []string{"Consumer.A.VirtualTopic.Orders", "Consumer.B.VirtualTopic.Orders"} {
		w := fx.login(t, ActiveMQ, frame.V12)
		w.do("SUBSCRIBE", "id:1", "destination:/queue/"+q, "ack:client")
		m := w.message("x")
		if m.header("destination") != "/queue/"+q || m.header("original-destination") != "/topic/VirtualTopic.Orders" {
			t.Errorf("headers %v", m.headers)
		}
		w.do("ACK", "id:"+m.header("ack"))
		w.nothing()
	}
	// In the RabbitMQ dialect the name means nothing.
	r := fx.login(t, RabbitMQ, frame.V12)
	r.do("SUBSCRIBE", "id:1", "destination:/queue/Consumer.C.VirtualTopic.Orders", "ack:client")
	c.do("SEND", "destination:/topic/VirtualTopic.Orders")
	r.nothing()
}

func TestTemporaryQueue(t *testing.T) {
	fx := start(t)
	asker, worker := fx.login(t, ActiveMQ, frame.V12), fx.login(t, ActiveMQ, frame.V12)
	worker.do("SUBSCRIBE", "id:w", "destination:/queue/work", "ack:auto")
	asker.do("SUBSCRIBE", "id:r", "destination:/temp-queue/replies", "ack:auto")
	asker.frame("SEND", "question", "destination:/queue/work", "reply-to:/temp-queue/replies")
	m := worker.message("question")
	replyTo := m.header("reply-to")
	if !strings.HasPrefix(replyTo, "/remote-temp-queue/") {
		t.Fatalf("reply-to %q", replyTo)
	}
	worker.do("SEND", "destination:"+replyTo)
	if m := asker.want(frame.MESSAGE); m.header("destination") != "/temp-queue/replies" || m.header("subscription") != "r" {
		t.Errorf("headers %v", m.headers)
	}
	asker.frame("SEND", "self", "destination:/temp-queue/replies")
	asker.message("self")
	worker.frame("SUBSCRIBE", "", "id:thief", "destination:"+replyTo)
	worker.fails("only the connection that made")
	asker.do("DISCONNECT")
	eventually(t, func() error {
		worker.frame("SEND", "late", "destination:"+replyTo, "receipt:late")
		if r, err := worker.read(); err != nil || r.command != frame.ERROR {
			return fmt.Errorf("got %v %v", r, err)
		}
		return nil
	})
}

func TestTemporaryTopic(t *testing.T) {
	fx := start(t)
	asker, worker := fx.login(t, ActiveMQ, frame.V11), fx.login(t, ActiveMQ, frame.V11)
	worker.do("SUBSCRIBE", "id:w", "destination:/queue/work", "ack:auto")
	asker.do("SUBSCRIBE", "id:r", "destination:/temp-topic/replies", "ack:auto")
	asker.frame("SEND", "question", "destination:/queue/work", "reply-to:temp-queue://other")
	if m := worker.message("question"); !strings.HasPrefix(m.header("reply-to"), "/remote-temp-queue/") {
		t.Fatalf("reply-to %q", m.header("reply-to"))
	}
	asker.frame("SEND", "question", "destination:/queue/work", "reply-to:/temp-topic/replies")
	replyTo := worker.message("question").header("reply-to")
	if !strings.HasPrefix(replyTo, "/remote-temp-topic/") {
		t.Fatalf("reply-to %q", replyTo)
	}
	worker.do("SEND", "destination:"+replyTo)
	if m := asker.want(frame.MESSAGE); m.header("destination") != "/temp-topic/replies" {
		t.Errorf("headers %v", m.headers)
	}
	asker.frame("SEND", "self", "destination:temp-topic://replies") // ActiveMQ's other spelling
	asker.message("self")
}

// TestReplyQueue is RabbitMQ's form: reply-to subscribes by itself.
func TestReplyQueue(t *testing.T) {
	fx := start(t)
	asker, worker := fx.login(t, RabbitMQ, frame.V12), fx.login(t, RabbitMQ, frame.V12)
	worker.do("SUBSCRIBE", "id:w", "destination:/queue/work", "ack:auto")
	for range 2 { // the second time the subscription exists
		asker.frame("SEND", "question", "destination:/queue/work", "reply-to:/temp-queue/foo")
		replyTo := worker.message("question").header("reply-to")
		if !strings.HasPrefix(replyTo, "/reply-queue/") {
			t.Fatalf("reply-to %q", replyTo)
		}
		worker.do("SEND", "destination:"+replyTo)
		if m := asker.want(frame.MESSAGE); m.header("subscription") != "/temp-queue/foo" {
			t.Errorf("headers %v", m.headers)
		}
	}
}

func TestTemporaryQueuesAreBounded(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.MaxSubscriptions = 3 })
	c := fx.login(t, ActiveMQ, frame.V12)
	for i := range 3 {
		c.do("SEND", "destination:/queue/x", fmt.Sprint("reply-to:/temp-queue/", i))
	}
	c.frame("SEND", "", "destination:/queue/x", "reply-to:/temp-queue/more")
	c.fails("temporary queues, which is the limit")
}

func TestSubscriptionsAreBounded(t *testing.T) {
	fx := start(t, func(s *settings) { s.options.MaxSubscriptions = 3 })
	c := fx.login(t, ActiveMQ, frame.V12)
	for i := range 3 {
		c.do("SUBSCRIBE", fmt.Sprint("id:", i), "destination:/topic/x")
	}
	c.frame("SUBSCRIBE", "", "id:more", "destination:/topic/x")
	c.fails("3 subscriptions, which is the limit")
	c.do("UNSUBSCRIBE", "id:1")
	c.do("SUBSCRIBE", "id:more", "destination:/topic/x")
}

func TestSubscriptionIDs(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12)
	c.do("SUBSCRIBE", "id:1", "destination:/topic/a")
	c.do("SUBSCRIBE", "id:1", "destination:/topic/a") // a client that repeats itself
	c.frame("SEND", "x", "destination:/topic/a")
	c.message("x")
	c.nothing()
	c.frame("SUBSCRIBE", "", "id:1", "destination:/topic/b", "receipt:r")
	c.fails("is in use on this connection")
	c.frame("SUBSCRIBE", "", "id:1", "destination:/topic/a", "ack:client", "receipt:r")
	c.fails("is in use on this connection")

	// In 1.0 the destination names it, and MESSAGE has no subscription header.
	old := fx.login(t, ActiveMQ, frame.V10)
	old.do("SUBSCRIBE", "destination:/topic/a")
	old.do("SUBSCRIBE", "destination:/topic/b", "id:named")
	c.frame("SEND", "y", "destination:/topic/a")
	if m := old.message("y"); len(m.header("subscription")) > 0 {
		t.Errorf("headers %v", m.headers)
	}
	old.do("UNSUBSCRIBE", "destination:/topic/a")
	old.do("UNSUBSCRIBE", "destination:/topic/b")
	old.frame("UNSUBSCRIBE", "", "destination:/topic/b")
	old.fails("No subscription matched")

	rabbit := fx.login(t, RabbitMQ, frame.V12) // the id is optional in any version
	rabbit.do("SUBSCRIBE", "destination:/topic/a")
	rabbit.frame("SEND", "z", "destination:/topic/a")
	rabbit.message("z")
	rabbit.do("UNSUBSCRIBE", "destination:/topic/a")
}

func TestNoLocal(t *testing.T) {
	fx := start(t)
	a, b := fx.login(t, ActiveMQ, frame.V12), fx.login(t, ActiveMQ, frame.V12)
	a.do("SUBSCRIBE", "id:1", "destination:/topic/n", "activemq.noLocal:true")
	a.frame("SEND", "mine", "destination:/topic/n")
	a.nothing()
	b.frame("SEND", "theirs", "destination:/topic/n")
	a.message("theirs")
}

func TestDurable(t *testing.T) {
	// Each names its subscription as its clients do.
	cases := []struct {
		name        string
		d           Dialect
		subscribe   []string
		unsubscribe []string
	}{
		{"ActiveMQ", ActiveMQ, []string{"id:d", "activemq.subscriptionName:sub"}, []string{"id:d", "activemq.subscriptionName:sub"}},
		{"stomp-php", ActiveMQ, []string{"id:d", "activemq.subscriptionName:sub", "durable-subscriber-name:d"}, []string{"id:d", "activemq.subscriptionName:sub"}},
		{"Artemis", ActiveMQ, []string{"id:d", "durable-subscription-name:sub"}, []string{"id:other", "durable-subscriber-name:sub"}},
		{"RabbitMQ", RabbitMQ, []string{"id:d", "durable:true", "auto-delete:false"}, []string{"id:d", "durable:true", "destination:/topic/dur.*"}},
		{"RabbitMQ persistent", RabbitMQ, []string{"id:d", "persistent:true"}, []string{"id:d", "persistent:true", "destination:/topic/dur.*"}},
		{"RabbitMQ named", RabbitMQ, []string{"id:d", "durable:true", "x-queue-name:mine"}, []string{"id:d", "durable:true", "x-queue-name:mine", "destination:/topic/dur.*"}},
	}
	for _, tc := range cases {
		for _, active := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s active %v", tc.name, active), func(t *testing.T) {
				fx := start(t)
				sender := fx.login(t, ActiveMQ, frame.V12)
				subscribe := append(tc.subscribe, "destination:/topic/dur.*", "ack:client")
				c := fx.login(t, tc.d, frame.V12, "client-id:worker")
				c.do("SUBSCRIBE", subscribe...)
				sender.do("SEND", "destination:/topic/dur.1")
				m := c.want(frame.MESSAGE)
				if m.header("destination") != "/topic/dur.1" || m.header("subscription") != "d" {
					t.Errorf("headers %v", m.headers)
				}
				c.do("UNSUBSCRIBE", "id:d") // it stays, and keeps what comes
				c.do("DISCONNECT")
				sender.frame("SEND", "away", "destination:/topic/dur.2", "receipt:r")
				sender.want(frame.RECEIPT)
				c = fx.login(t, tc.d, frame.V12, "client-id:worker")
				c.do("SUBSCRIBE", subscribe...)
				if m = c.want(frame.MESSAGE); m.header("x-delivery-count") != "2" {
					t.Errorf("headers %v", m.headers)
				}
				m = c.message("away")
				c.do("ACK", "id:"+m.header("ack"))
				if !active {
					c.do("UNSUBSCRIBE", "id:d")
				}
				c.do("UNSUBSCRIBE", tc.unsubscribe...)
				c.frame("UNSUBSCRIBE", "", append(tc.unsubscribe, "receipt:r")...)
				if e := c.fails(""); e.header("receipt-id") != "r" {
					t.Errorf("ERROR %v", e.headers)
				}
				sender.do("SEND", "destination:/topic/dur.3")
				c.do("SUBSCRIBE", subscribe...)
				c.nothing()
			})
		}
	}
}

func TestDurableErrors(t *testing.T) {
	fx := start(t)
	c := fx.login(t, ActiveMQ, frame.V12, "client-id:worker")
	c.frame("SUBSCRIBE", "", "id:1", "destination:/queue/q", "activemq.subscriptionName:n", "receipt:r")
	c.fails("durable subscriptions are for topics")
	c.frame("SUBSCRIBE", "", "id:1", "destination:/topic/a,/topic/b", "activemq.subscriptionName:n", "receipt:r")
	c.fails("not for a composite")
	c.do("SUBSCRIBE", "id:q", "destination:/queue/q")
	c.frame("UNSUBSCRIBE", "", "id:q", "activemq.subscriptionName:n", "receipt:r")
	c.fails("is not durable")
	c.do("UNSUBSCRIBE", "id:q") // it is still there

	r := fx.login(t, RabbitMQ, frame.V12)
	r.frame("SUBSCRIBE", "", "destination:/topic/a", "durable:true", "receipt:r")
	r.fails("needs an id")
	r.frame("SUBSCRIBE", "", "id:1", "destination:/topic/a", "x-queue-name:n", "receipt:r")
	r.fails("x-queue-name is for durable")
	r.do("SUBSCRIBE", "id:q", "destination:/queue/q", "durable:true", "auto-delete:false")
	r.frame("UNSUBSCRIBE", "", "id:q", "durable:true", "receipt:r")
	r.fails("is not durable")

	// Another user may neither take nor delete it.
	a := fx.login(t, ActiveMQ, frame.V12, "client-id:a", "login:alice")
	a.do("SUBSCRIBE", "id:1", "destination:/topic/a", "activemq.subscriptionName:n")
	a.do("DISCONNECT")
	eventually(t, func() error {
		b := fx.dial(t, ActiveMQ)
		b.send("CONNECT\naccept-version:1.2\nclient-id:a\nlogin:bob\n\n^@")
		if _, err := b.read(); err != nil {
			return err
		}
		b.frame("UNSUBSCRIBE", "", "id:1", "activemq.subscriptionName:n")
		if r, err := b.read(); err != nil || !strings.Contains(r.header("message"), "belongs to another user") {
			return fmt.Errorf("got %v %v", r, err)
		}
		return nil
	})
}

// TestDestinationOfMessageAlwaysParses, whatever the topic's levels hold.
func FuzzDestination(f *testing.F) {
	f.Add("/topic/a.b", true)
	f.Add("/queue/x?consumer.prefetchSize=3", false)
	f.Add("temp-queue://x", false)
	f.Add("/exchange/amq.topic/a,b", true)
	f.Add("a,/topic/b,c", false)
	f.Fuzz(func(t *testing.T, text string, rabbit bool) {
		r, err := router.New(t.Context(), router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: discard})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close(t.Context())
		s, err := r.Connect(router.SessionOptions{Principal: router.NewPrincipal("", "", false, nil), Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		c := &conn{server: &Server{opt: Options{Router: r}.withDefaults()}, session: s}
		if rabbit {
			c.dialect = RabbitMQ
		}
		places, err := c.places(text)
		if err != nil {
			if explain(err).message == "" {
				t.Fatalf("%q is refused without a word", text)
			}
			return
		}
		for _, p := range places {
			shown := p.shown
			if shown == "" {
				shown = p.filter.Text(p.style)
			}
			again, err := c.places(shown)
			if err != nil || len(again) != 1 || again[0].filter != p.filter {
				t.Fatalf("%q is shown as %q, which is read as %v, %v", text, shown, again, err)
			}
		}
	})
}
