package router

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/mqgate/mqgate/router/selector"
)

func selecting(t testing.TB, text string) *selector.Selector {
	t.Helper()
	s, err := selector.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publishWith(t testing.TB, s *Session, to, body string, headers ...Header) {
	t.Helper()
	if err := publish(t, s, &Message{To: dest(t, to), Body: []byte(body), Headers: headers, Priority: DefaultPriority}); err != nil {
		t.Fatal(err)
	}
}

func region(v string) Header { return Header{"region", v} }

func TestSelectorTakesItsMessagesFromAQueueAndLeavesTheOthers(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	sub, eu := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 2, Selector: selecting(t, "region = 'eu'")})
	for i, r := range []string{"us", "eu", "us", "eu", "eu"} {
		publishWith(t, s, "/queue/a", fmt.Sprint(i), region(r))
	}
	got := eu.wait(t, "1", "3")
	ack(t, got[0])
	got = eu.wait(t, "1", "3", "4")
	h.waitDepth("/queue/a", 4)
	// What goes back is found again, in its place, and by others too.
	if err := got[1].Nack(0, "", nil, nil); err != nil {
		t.Fatal(err)
	}
	got = eu.wait(t, "1", "3", "4", "3")
	if !got[3].Redelivered() {
		t.Error("not marked")
	}
	sub.Close(nil)
	_, all := consume(t, s, "/queue/a", 10)
	all.wait(t, "0", "2", "3", "4")
}

func TestSelectorsAndOthersShareAQueue(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, eu := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 100, Selector: selecting(t, "region = 'eu'")})
	_, us := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 100, Selector: selecting(t, "region = 'us'")})
	for i := range 20 {
		publishWith(t, s, "/queue/a", fmt.Sprint(i), region([]string{"us", "eu"}[i%2]))
	}
	eventually(t, func() error {
		if len(eu.got()) != 10 || len(us.got()) != 10 {
			return fmt.Errorf("%d and %d, want 10 each", len(eu.got()), len(us.got()))
		}
		return nil
	})
}

func TestSelectorLooksThroughABacklog(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	for i := range windowEntries/4 + 500 { // more than is loaded for consumers without one
		publishWith(t, s, "/queue/a", fmt.Sprint(i), region("us"))
	}
	publishWith(t, s, "/queue/a", "wanted", region("eu"))
	_, eu := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/a"), Credit: 1, Selector: selecting(t, "region = 'eu'")})
	eu.wait(t, "wanted")
}

func TestSelectorOfTopicsAndDurables(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	_, live := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a"), Selector: selecting(t, "size > 3")})
	durable := SubscribeOptions{Filter: filter(t, "/topic/a"), Credit: 10, Durable: "d", Selector: selecting(t, "size <= 3")}
	sub, _ := subscribe(t, s, durable)
	sub.Close(nil)
	for i := 1; i <= 5; i++ {
		publishWith(t, s, "/topic/a", fmt.Sprint(i), Header{"size", fmt.Sprint(i)})
	}
	live.wait(t, "4", "5")
	h.restart()
	s = h.session()
	sub, in := subscribe(t, s, durable)
	in.wait(t, "1", "2", "3")
	sub.Close(nil)
	// Another selector is another subscription.
	durable.Selector = selecting(t, "size > 100")
	_, in = subscribe(t, s, durable)
	publishWith(t, s, "/topic/a", "big", Header{"size", "101"})
	in.wait(t, "big")
}

func TestSelectorInATransaction(t *testing.T) {
	h := start(t, nil)
	s := h.session()
	sub, in := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a"), Credit: 10, Durable: "d", Selector: selecting(t, "n = 1")})
	defer sub.Close(nil)
	var ms []*Message
	for i := range 3 {
		ms = append(ms, &Message{To: dest(t, "/topic/a"), Body: fmt.Append(nil, i), Headers: []Header{{"n", fmt.Sprint(i)}}})
	}
	if err := commitAll(t, s, ms); err != nil {
		t.Fatal(err)
	}
	in.wait(t, "1")
}

// Selectors cross nodes: each consumer gets what it selects, wherever it and the sender are, also from the next leader.
func TestClusterSelectors(t *testing.T) {
	c := startCluster(t, 2, nil)
	a, b := c.edges[0].session(), c.edges[1].session()
	selected := func(to string, s *Session, text string) *inbox {
		t.Helper()
		_, in := subscribe(t, s, SubscribeOptions{Filter: filter(t, to), Credit: 2, Selector: selecting(t, text)})
		return in
	}
	eu, us := selected("/queue/q", a, "region = 'eu'"), selected("/queue/q", b, "region = 'us'")
	live := selected("/topic/t", b, "region = 'eu'")
	sub, durable := subscribe(t, b, SubscribeOptions{Filter: filter(t, "/topic/t"), Credit: 10, Durable: "d", Selector: selecting(t, "region = 'us'")})
	for i, r := range []string{"us", "eu", "asia", "eu", "us", "eu"} {
		publishWith(t, a, "/queue/q", fmt.Sprint(i), region(r))
		m := &Message{To: dest(t, "/topic/t"), Body: fmt.Append(nil, i), Headers: []Header{region(r)}, Flags: FlagPersistent}
		if err := publish(t, a, m); err != nil {
			t.Fatal(err)
		}
	}
	ack(t, eu.wait(t, "1", "3")[0])
	eu.wait(t, "1", "3", "5")
	us.wait(t, "0", "4")
	live.wait(t, "1", "3", "5")
	durable.wait(t, "0", "4")
	sub.Close(nil) // what it holds goes back
	c.stepDown()
	c.succeed()
	publishWith(t, b, "/queue/q", "6", region("eu"))
	ack(t, eu.got()[1])
	eu.wait(t, "1", "3", "5", "6")
	_, durable = subscribe(t, a, SubscribeOptions{Filter: filter(t, "/topic/t"), Credit: 10, Durable: "d", Selector: selecting(t, "region = 'us'")})
	durable.wait(t, "0", "4")
	us.wait(t, "0", "4")
	_, all := consume(t, b, "/queue/q", 10)
	all.wait(t, "2") // nobody selected it
}

func TestPropertiesOfMessages(t *testing.T) {
	m := &Message{To: dest(t, "/queue/a"), Priority: 7, CorrelationID: "c", ReplyTo: "/queue/r", ContentType: "text/plain",
		TimestampMs: 5, ExpiresUnixMs: 9, Flags: FlagPersistent, Headers: []Header{{"type", "order"}, {"x", "1"}}}
	for text, want := range map[string]bool{
		"JMSPriority > 6 AND priority = 7":                              true,
		"JMSCorrelationID = 'c' AND JMSReplyTo = '/queue/r'":            true,
		"JMSType = 'order' AND type = 'order' AND x = 1":                true,
		"JMSTimestamp = 5 AND JMSExpiration = 9":                        true,
		"JMSDeliveryMode = 'PERSISTENT' AND content-type LIKE 'text/%'": true,
		"JMSDestination = '/queue/a' AND missing IS NULL":               true,
		"priority < 7": false,
	} {
		if got := selecting(t, text).Matches(m.property); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// TestSelectorsLoseNothing: whatever consumers with and without selectors do, each
// message is settled once, and each consumer saw only what it selects.
func TestSelectorsLoseNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := start(t, nil)
		defer h.stop()
		s := h.session()
		n := rapid.IntRange(1, 40).Draw(rt, "messages")
		kinds := []string{"a", "b", "c"}
		var ins []*inbox
		for _, k := range kinds {
			_, in := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/queue/q"), Credit: rapid.IntRange(1, 3).Draw(rt, "credit"), Selector: selecting(t, "k = '"+k+"'")})
			ins = append(ins, in)
		}
		for i := range n {
			publishWith(t, s, "/queue/q", fmt.Sprint(i), Header{"k", rapid.SampledFrom(kinds).Draw(rt, "kind")})
		}
		done := make([]int, len(ins)) // settled of each
		settled := map[string]int{}
		eventually(t, func() error {
			for i, in := range ins {
				got := in.got()
				for ; done[i] < len(got); done[i]++ {
					d := got[done[i]]
					if k, _ := d.Message.Header("k"); k != kinds[i] {
						rt.Fatalf("consumer %s got %s", kinds[i], k)
					}
					if d.Count == 1 && rapid.IntRange(0, 3).Draw(rt, "return") == 0 {
						_ = d.Nack(0, "", nil, nil)
						continue
					}
					if err := d.Ack(nil, nil); err != nil {
						rt.Fatal(err)
					}
					settled[string(d.Message.Body)]++
				}
			}
			if len(settled) != n {
				return fmt.Errorf("%d of %d settled", len(settled), n)
			}
			return nil
		})
		for body, times := range settled {
			if times != 1 {
				rt.Fatalf("message %s was settled %d times", body, times)
			}
		}
		if info, err := h.QueueInfo(anyone, dest(t, "/queue/q")); err != nil || info.Depth != 0 {
			rt.Fatalf("depth %d, %v", info.Depth, err)
		}
	})
}
