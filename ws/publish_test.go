package ws

import (
	"testing"
	"time"
)

// What a publish may ask for besides its destination and its body.
func TestPublishOptions(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	b.call(`{"id":2,"op":"subscribe","sub":"t","to":"/topic/t"}`)
	for name, c := range map[string]struct {
		members string
		want    map[string]any
	}{
		"nothing":           {``, map[string]any{"body": "", "priority": nil, "persistent": nil, "expiresMs": nil}},
		"null":              {`,"data":null`, map[string]any{"contentType": "application/json", "data": nil, "body": nil, "base64": nil}},
		"a number":          {`,"data":7`, map[string]any{"data": 7.0}},
		"JSON of a kind":    {`,"data":{"a":1},"contentType":"application/ld+json"`, map[string]any{"body": `{"a":1}`, "contentType": "application/ld+json"}},
		"a priority":        {`,"body":"x","priority":0`, map[string]any{"priority": 0.0}},
		"not persistent":    {`,"body":"x","persistent":false`, map[string]any{"persistent": false}},
		"text in base64":    {`,"base64":"aGk="`, map[string]any{"body": "hi", "base64": nil}},
		"text with a NUL":   {`,"body":"a\u0000b"`, map[string]any{"body": "a\x00b"}},
		"reply to anywhere": {`,"body":"x","replyTo":"/temp-queue/y","correlationId":"7"`, map[string]any{"replyTo": "/temp-queue/y", "correlationId": "7"}},
	} {
		t.Run(name, func(t *testing.T) {
			a.t, b.t = t, t
			a.call(`{"id":2,"op":"publish","to":"/topic/t"` + c.members + `}`)
			m := b.event("message")
			for k, v := range c.want {
				if m[k] != v {
					t.Errorf("%s: %v, want %v", k, m[k], v)
				}
			}
		})
	}
	a.t, b.t = t, t

	// A life: told, and ended also in a queue.
	before := time.Now().UnixMilli()
	a.call(`{"id":3,"op":"publish","to":"/topic/t","body":"x","ttlMs":60000}`)
	if until := int64(b.event("message")["expiresMs"].(float64)); until < before+60_000 || until > time.Now().UnixMilli()+60_000 {
		t.Errorf("it expires at %d", until)
	}
	a.call(`{"id":4,"op":"publish","to":"/queue/q","body":"short","ttlMs":1}`)
	a.call(`{"id":5,"op":"publish","to":"/queue/q","body":"once","dedupId":"d"}`)
	a.call(`{"id":6,"op":"publish","to":"/queue/q","body":"twice","dedupId":"d"}`)
	a.call(`{"id":7,"op":"publish","to":"/queue/q","body":"last"}`)
	for deadline := time.Now().UnixMilli() + 2; time.Now().UnixMilli() < deadline; time.Sleep(time.Millisecond) {
	}
	b.call(`{"id":3,"op":"subscribe","sub":"q","to":"/queue/q"}`)
	for _, want := range []string{"once", "last"} {
		if m := b.event("message"); m["body"] != want {
			t.Errorf("%v, want %s", m, want)
		}
	}
}

func TestNoLocal(t *testing.T) {
	g := newRig(t, nil)
	a, b := g.login("ann"), g.login("bob")
	a.call(`{"id":2,"op":"subscribe","sub":"s","to":"/topic/t","noLocal":true}`)
	a.call(`{"id":3,"op":"publish","to":"/topic/t","body":"mine"}`)
	b.call(`{"id":2,"op":"publish","to":"/topic/t","body":"yours"}`)
	if m := a.event("message"); m["body"] != "yours" {
		t.Errorf("%v", m)
	}
}

// A message that is refused goes to the dead-letter queue, with the cause.
func TestRejectIsADeadLetter(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann")
	a.call(`{"id":2,"op":"publish","to":"/queue/orders","body":"odd","headers":{"mine":"1"}}`)
	a.call(`{"id":3,"op":"subscribe","sub":"s","to":"/queue/orders","ack":"client"}`)
	m := a.event("message")
	a.call(`{"id":4,"op":"nack","sub":"s","delivery":1,"reject":true,"cause":"no such article"}`)
	a.call(`{"id":5,"op":"subscribe","sub":"d","to":"/queue/dead"}`)
	dead := a.event("message")
	h, _ := dead["headers"].(map[string]any)
	if dead["body"] != "odd" || h["mine"] != "1" || h["x-dead-letter-reason"] != "rejected" || dead["sub"] != "d" {
		t.Errorf("%v, of %v", dead, m)
	}
	found := false
	for _, v := range h {
		found = found || v == "no such article"
	}
	if !found {
		t.Errorf("the cause is not told: %v", h)
	}
}

// Credit 0 pauses: nothing is delivered until there is some again.
func TestNoCreditPauses(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann")
	a.call(`{"id":2,"op":"subscribe","sub":"s","to":"/queue/q","ack":"client"}`)
	a.call(`{"id":3,"op":"publish","to":"/queue/q","body":"1"}`)
	m := a.event("message")
	a.call(`{"id":4,"op":"credit","sub":"s","credit":0}`)
	a.call(`{"id":5,"op":"publish","to":"/queue/q","body":"2"}`)
	a.call(`{"id":6,"op":"ack","sub":"s","delivery":1}`)
	a.call(`{"id":7,"op":"ping"}`)
	if len(a.events) != 0 {
		t.Fatalf("after %v, without credit: %v", m, a.events)
	}
	// Another takes what the paused one does not.
	b := g.login("bob")
	b.call(`{"id":2,"op":"subscribe","sub":"s","to":"/queue/q"}`)
	if m := b.event("message"); m["body"] != "2" {
		t.Fatalf("%v", m)
	}
	b.call(`{"id":3,"op":"unsubscribe","sub":"s"}`)
	a.call(`{"id":8,"op":"publish","to":"/queue/q","body":"3"}`)
	a.call(`{"id":9,"op":"credit","sub":"s","credit":1}`)
	if m := a.event("message"); m["body"] != "3" || m["delivery"] != 2.0 {
		t.Fatalf("%v", m)
	}
	a.refused("bad-request", `{"id":10,"op":"credit","sub":"s","credit":10001}`)
	a.call(`{"id":11,"op":"subscribe","sub":"t","to":"/topic/t"}`)
	a.refused("bad-request", `{"id":12,"op":"credit","sub":"t","credit":1}`)
}

// A mistake in unsubscribe leaves the subscription as it was.
func TestForgetNeedsItsName(t *testing.T) {
	g := newRig(t, nil)
	a := g.login("ann", `,"clientId":"c"`)
	a.call(`{"id":2,"op":"subscribe","sub":"d","to":"/topic/t","durable":"d"}`)
	a.refused("bad-request", `{"id":3,"op":"unsubscribe","sub":"d","forget":true}`)
	a.call(`{"id":4,"op":"publish","to":"/topic/t","body":"still here"}`)
	if m := a.event("message"); m["body"] != "still here" {
		t.Errorf("%v", m)
	}
}
