package router

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// A leader that dies: publishers that wait hear from the next one, and a client keeps what it has in hands, though others
// consume from the same queue.
func TestClusterLeaderLoss(t *testing.T) {
	for _, graceful := range []bool{false, true} {
		t.Run(fmt.Sprint("graceful=", graceful), func(t *testing.T) { testLeaderLoss(t, graceful) })
	}
}

func testLeaderLoss(t *testing.T, graceful bool) {
	c := startCluster(t, 2, nil)
	unkicked := func(e *harness, id string) *Session {
		s, err := e.Connect(SessionOptions{Principal: anyone, ClientID: id, Kick: func(cause error) { t.Errorf("%q was kicked: %v", id, cause) }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, p := unkicked(c.edges[0], ""), unkicked(c.edges[1], "pub")
	other := unkicked(c.edges[1], "other")
	_, in := consume(t, s, "/queue/q", 2)
	for i := range 3 {
		mustPublish(t, p, "/queue/q", fmt.Sprint(i))
	}
	ds := in.wait(t, "0", "1")
	_, late := consume(t, other, "/queue/q", 1)
	late.wait(t, "2")

	dev := unkicked(c.edges[1], "dev")
	x, _ := claim(t, dev, ClaimOptions{Expiry: time.Hour, Will: &Will{Message: &Message{To: dest(t, "/queue/wills"), Body: []byte("gone")}}})
	if err := x.Bind(context.Background(), mqttFilter(t, "a/#"), BindOptions{}); err != nil {
		t.Fatal(err)
	}
	inbox1 := &inbox{}
	sub, err := x.Receive(inbox1, 1)
	if err != nil {
		t.Fatal(err)
	}
	sub.Start(nil)
	mustPublish(t, p, "/topic/a/b", "d0")
	mustPublish(t, p, "/topic/a/b", "d1")
	held := inbox1.wait(t, "d0")[0]

	if graceful {
		c.stepDown()
	} else {
		c.crash()
	}
	answers := make(chan error, 10)
	for i := 3; i <= 5; i++ {
		m := &Message{To: dest(t, "/queue/q"), Body: []byte(fmt.Sprint(i)), Flags: FlagPersistent}
		if _, err := p.Publish(context.Background(), m, nil, func(_ Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
			t.Fatal(err)
		}
	}
	c.succeed()
	for range 3 {
		if err := <-answers; err != nil {
			t.Errorf("not held until there was a leader: %v", err)
		}
	}
	ack(t, ds[1])
	in.wait(t, "0", "1", "3")
	ack(t, late.wait(t, "2")[0])
	late.wait(t, "2", "4")
	if got := late.got()[1]; got.Redelivered() {
		t.Error("what nobody had is marked")
	}
	s.Close()
	eventually(t, func() error {
		if info, err := c.core.QueueInfo(anyone, dest(t, "/queue/q")); err != nil || info.Consumers != 1 {
			return fmt.Errorf("%d consumers, %v", info.Consumers, err)
		}
		return nil
	})
	ds = late.got()
	ack(t, ds[1])
	ds = late.wait(t, "2", "4", "0")
	if !ds[2].Redelivered() || ds[2].Count != 2 {
		t.Errorf("count %d", ds[2].Count)
	}

	ack(t, held)
	d1 := inbox1.wait(t, "d0", "d1")[1]
	if graceful && d1.Redelivered() { // after a crash anything up to what was reserved is suspect
		t.Error("what the session never had is marked")
	}
	if info, err := c.core.QueueInfo(anyone, dest(t, "/queue/wills")); err == nil {
		t.Errorf("the will of a client that is connected was published: %+v", info)
	}
	if s2, err := c.edges[0].Connect(SessionOptions{Principal: NewPrincipal("stranger", "", false, nil), ClientID: "pub", Kick: func(error) {}}); ClassOf(err) != Conflict {
		t.Errorf("the new leader does not know who is connected: %v %v", s2, err)
	}
}

// A connection whose node was cut off while its client connected elsewhere does not get the session back: neither from the leader
// that gave it to another, nor from the next one when that other is gone.
func TestClusterOldOwnerStaysOut(t *testing.T) {
	for _, leaderLost := range []bool{false, true} {
		t.Run(fmt.Sprint("leaderLost=", leaderLost), func(t *testing.T) {
			c := startCluster(t, 2, nil)
			kicked := make(chan error, 4)
			connect := func(e *harness, kick func(error)) *Session {
				s, err := e.Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: kick})
				if err != nil {
					t.Fatal(err)
				}
				claim(t, s, ClaimOptions{Expiry: time.Hour})
				return s
			}
			connect(c.edges[0], func(cause error) { kicked <- cause })
			c.wires.setCut("n0", true)
			c.waitLinked(c.edges[0], false)
			now := connect(c.edges[1], func(cause error) { t.Errorf("the new owner was kicked: %v", cause) })
			if leaderLost {
				c.crash()
				now.Close()
			}
			c.wires.setCut("n0", false)
			if leaderLost {
				c.succeed()
			} else {
				c.waitLinked(c.edges[0], true)
			}
			select {
			case <-kicked:
			case <-time.After(10 * time.Second):
				t.Error("the old owner was not kicked")
			}
		})
	}
}

// A claim that the leader grants when its node waits no more locks nobody out.
func TestClusterClaimInVain(t *testing.T) {
	c := startCluster(t, 2, nil)
	owner, err := c.edges[0].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(error) {}}) // it does not go when it is told
	if err != nil {
		t.Fatal(err)
	}
	d, _ := claim(t, owner, ClaimOptions{Expiry: time.Hour})
	saved := make(chan error, 1)
	d.Save([]byte("state"), func(_ Stored, err error, _ *outbox.Batch) { saved <- err })
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	again := func(patience time.Duration) (*Session, *DurableSession, error) {
		s, err := c.edges[1].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		d, _, err := s.Claim(ctx, ClaimOptions{Expiry: time.Hour, Will: &Will{Message: &Message{To: dest(t, "/topic/will"), Body: []byte("in vain")}}})
		return s, d, err
	}
	_, in := consume(t, c.edges[0].session(), "/topic/will", 9)
	s, _, err := again(20 * time.Millisecond)
	if ClassOf(err) != Unavailable {
		t.Fatalf("claimed while another owns it: %v", err)
	}
	s.Close()
	owner.Close()
	if err := d.Leave(t.Context(), LeaveOptions{Expiry: time.Hour, State: []byte("state")}); err != nil {
		t.Fatal(err)
	}
	s, d, err = again(8 * time.Second)
	if err != nil {
		t.Fatalf("locked out: %v", err)
	}
	if string(d.State()) != "state" {
		t.Errorf("the state is %q", d.State())
	}
	s.Close()
	if err := d.Leave(t.Context(), LeaveOptions{Expiry: time.Hour}); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, c.edges[0].session(), "/topic/will", "the only one")
	in.wait(t, "the only one")
}

// What a client settled, and waits to hear that it is stored, is not given to it again by the next leader, whether or not the one
// that died had stored it.
func TestClusterSettlementOutlivesTheLeader(t *testing.T) {
	for _, upTo := range []bool{false, true} {
		t.Run(fmt.Sprint("upTo=", upTo), func(t *testing.T) {
			c := startCluster(t, 1, nil)
			s := c.edges[0].session()
			_, in := consume(t, s, "/queue/q", 2)
			for i := range 3 {
				mustPublish(t, s, "/queue/q", fmt.Sprint(i))
			}
			ds := in.wait(t, "0", "1")
			c.crash()
			answers := make(chan error, 2)
			done := func(_ Stored, err error, _ *outbox.Batch) { answers <- err }
			var err error
			if upTo {
				err = ds[1].AckUpTo(nil, done)
			} else {
				err = errors.Join(ds[0].Ack(nil, nil), ds[1].Ack(nil, done))
			}
			if err != nil {
				t.Fatal(err)
			}
			c.succeed()
			if err := <-answers; err != nil {
				t.Error(err)
			}
			in.wait(t, "0", "1", "2")
		})
	}
}

// What a leader stored without living to say so is asked of the next one again: it is confirmed, and there once. A transaction that was
// on its way then is refused, and is there as a whole or not at all; one that comes while there is no leader waits for the next.
func TestClusterRepeatsAreStoredOnce(t *testing.T) {
	c := startCluster(t, 2, nil)
	s := c.edges[0].session()
	sub, _ := subscribe(t, c.edges[1].session(), SubscribeOptions{Filter: filter(t, "/topic/t"), Credit: 1, Durable: "d"})
	sub.Close(nil)
	for _, q := range []string{"/queue/q", "/queue/a", "/queue/b"} {
		mustPublish(t, s, q, "0")
	}
	c.edges[0].Hold(time.Minute)
	c.wires.setCut("core", true) // the leader hears, and nobody hears it
	answers := make(chan error, 2)
	for _, to := range []string{"/queue/q", "/topic/t"} {
		m := &Message{To: dest(t, to), Body: []byte("1"), Flags: FlagPersistent}
		if _, err := s.Publish(context.Background(), m, nil, func(_ Stored, err error, _ *outbox.Batch) { answers <- err }); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(body string) chan error {
		t.Helper()
		out := make(chan error, 1)
		ms := []*Message{{To: dest(t, "/queue/a"), Body: []byte(body)}, {To: dest(t, "/queue/b"), Body: []byte(body)}}
		if err := s.Commit(context.Background(), ms, nil, nil, func(_ Stored, err error, _ *outbox.Batch) { out <- err }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	doubtful := commit("in doubt")
	c.core.waitDepth("/queue/q", 2)
	c.core.waitDepth("/queue/b", 2)
	c.crash()
	c.wires.setCut("core", false)
	waiting := commit("waits")
	if err := <-doubtful; ClassOf(err) != Unavailable {
		t.Errorf("a transaction whose leader died: %v", err)
	}
	c.succeed()
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	for q, want := range map[string]int{"/queue/q": 2, "/queue/a": 3, "/queue/b": 3} {
		if got := c.core.depth(q); got != want {
			t.Errorf("%s has %d messages, not %d", q, got, want)
		}
	}
	_, durable := subscribe(t, c.edges[0].session(), SubscribeOptions{Filter: filter(t, "/topic/t"), Credit: 9, Durable: "d"})
	mustPublish(t, s, "/topic/t", "live too")
	durable.wait(t, "1", "live too")
}

// A client that connects, claims its session and subscribes while the leader has died and nobody knows it yet, waits for the next one.
func TestClusterNewcomersAwaitTheNextLeader(t *testing.T) {
	c := startCluster(t, 1, nil)
	c.edges[0].Hold(time.Minute)
	consumer, named := c.edges[0].session(), c.edges[0].client("")
	c.wires.setCut("core", true) // it hears, and nobody hears it
	connected, subscribed, bound := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		s, err := c.edges[0].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(cause error) { t.Errorf("kicked: %v", cause) }})
		if err == nil {
			_, _, err = s.Claim(t.Context(), ClaimOptions{Expiry: time.Hour})
		}
		connected <- err
	}()
	in := &inbox{}
	go func() {
		sub, err := consumer.Subscribe(t.Context(), SubscribeOptions{Filter: filter(t, "/queue/q"), Credit: 1, Receiver: in})
		if err == nil {
			sub.Start(nil)
		}
		subscribed <- err
	}()
	go func() { bound <- named.BindQueue(t.Context(), filter(t, "/topic/a.b"), dest(t, "/queue/q")) }()
	eventually(t, func() error {
		e := c.edges[0].edge
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.calls) < 3 {
			return fmt.Errorf("%d calls wait", len(e.calls))
		}
		return nil
	})
	c.crash()
	c.wires.setCut("core", false)
	c.succeed()
	for what, answer := range map[string]chan error{"a claim": connected, "a subscription": subscribed, "a binding": bound} {
		if err := <-answer; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustPublish(t, c.edges[0].session(), "/topic/a.b", "hello")
	in.wait(t, "hello")
}

// A leader whose lease has ended says nothing more: neither confirmations nor deliveries.
func TestClusterLeaderWithoutLeaseIsSilent(t *testing.T) {
	c := startCluster(t, 1, nil)
	s := c.edges[0].session()
	_, in := consume(t, s, "/queue/q", 10)
	mustPublish(t, s, "/queue/q", "0")
	in.wait(t, "0")
	c.valid.Store(false)
	m := &Message{To: dest(t, "/queue/q"), Body: []byte("1"), Flags: FlagPersistent}
	if err := publish(t, s, m); ClassOf(err) != Unavailable {
		t.Errorf("it confirmed: %v", err)
	}
	if got := in.bodies(); len(got) != 1 {
		t.Errorf("it delivered %v", got)
	}
}

// What a client said when it left while there was no leader, the next one does: its will is not published, its session ends or is kept
// as it is then. Only if the client has come back by then, elsewhere, nobody wants to know any more.
func TestClusterLastWordsAwaitALeader(t *testing.T) {
	for _, x := range []struct {
		name    string
		cut     bool          // the node has no leader for longer
		back    bool          // the client is back by then
		expiry  time.Duration // said when it left
		late    bool          // so is the answer
		present bool
		state   string
	}{
		{name: "the session is kept", expiry: time.Hour, present: true, state: "last"},
		{name: "the session ends"},
		{name: "the session is kept, late", cut: true, expiry: time.Hour, late: true, present: true, state: "last"},
		{name: "the session ends, late", cut: true, late: true},
		{name: "it is back", cut: true, back: true, expiry: time.Hour, late: true, present: true, state: "back"},
		{name: "it is back, and the session was to end", cut: true, back: true, late: true, present: true, state: "back"},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startCluster(t, 2, nil)
				s := c.edges[0].client("dev")
				d, _ := claim(t, s, ClaimOptions{Expiry: time.Hour, Will: &Will{Message: &Message{To: dest(t, "/queue/wills")}, Delay: time.Minute}})
				c.crash()
				c.wires.setCut("n0", x.cut)
				left := make(chan error, 1)
				go func() { // ends with the answer
					s.Close()
					left <- d.Leave(context.Background(), LeaveOptions{Expiry: x.expiry, State: []byte("last")})
				}()
				time.Sleep(10 * time.Millisecond)
				c.succeed()
				if err := <-left; (err != nil) != x.late {
					t.Errorf("Leave says %v", err)
				}
				var now *Session
				var back *DurableSession
				if x.back {
					var present bool
					now, _ = c.edges[1].Connect(SessionOptions{Principal: anyone, ClientID: "dev", Kick: func(cause error) { t.Errorf("the client that is back was kicked: %v", cause) }})
					if back, present = claim(t, now, ClaimOptions{Expiry: time.Hour}); !present {
						t.Error("the client that is back finds no session")
					}
				}
				c.wires.setCut("n0", false)
				c.waitLinked(c.edges[0], true)
				time.Sleep(time.Second)
				c.edges[0].edge.mu.Lock()
				if n, held := len(c.edges[0].edge.sessions), c.edges[0].edge.held; n != 0 || held != 0 {
					t.Errorf("%d sessions and %d bytes are left at the edge", n, held)
				}
				c.edges[0].edge.mu.Unlock()
				if all, online := c.core.DurableSessions(); x.present != (all == 1) || x.back != (online == 1) {
					t.Errorf("%d sessions, %d online", all, online)
				}
				if now != nil {
					now.Close()
					if err := back.Leave(context.Background(), LeaveOptions{Expiry: time.Hour, State: []byte("back")}); err != nil {
						t.Error(err)
					}
				}
				s2 := c.edges[1].client("dev")
				again, present := claim(t, s2, ClaimOptions{Expiry: time.Hour})
				if present != x.present || string(again.State()) != x.state {
					t.Errorf("present %v, state %q; want %v, %q", present, again.State(), x.present, x.state)
				}
				time.Sleep(2 * time.Minute) // the delay and more
				if n := c.willsOf(); n != 0 {
					t.Errorf("%d wills were published", n)
				}
			})
		})
	}
}

// What a client published while there was no leader is given up together: it sends all of it again, and what was stored of the
// rest meanwhile would come before that.
func TestClusterPublishesAreGivenUpTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, 1, nil)
		p, other := c.edges[0].session(), c.edges[0].session()
		_, in := consume(t, c.edges[0].session(), "/queue/q", 10)
		c.crash()
		answers := make(chan string, 10)
		publish := func(s *Session, body string) {
			m := &Message{To: dest(t, "/queue/q"), Body: []byte(body), Flags: FlagPersistent}
			pending, err := s.Publish(t.Context(), m, nil, func(_ Stored, err error, _ *outbox.Batch) { answers <- fmt.Sprint(body, " ", err == nil) })
			if err != nil || !pending {
				t.Fatal(pending, err)
			}
		}
		publish(p, "0")
		publish(p, "1")
		time.Sleep(300 * time.Millisecond) // of the bubble; they are held for 500
		publish(p, "2")
		publish(other, "another's")
		for _, want := range []string{"0 false", "1 false", "2 false"} {
			if got := <-answers; got != want {
				t.Errorf("answered %q, want %q", got, want)
			}
		}
		c.succeed()
		if got := <-answers; got != "another's true" {
			t.Errorf("answered %q", got)
		}
		publish(p, "0")
		in.wait(t, "another's", "0")
	})
}
