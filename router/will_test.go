package router

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// endings are all ways in which a client's will comes to be published.
var endings = map[string]struct {
	delay time.Duration // of the will
	claim ClaimOptions
	end   func(t *testing.T, h *harness, s *Session, x *DurableSession, w *Will)
}{
	"the connection, and the session with it": {0, ClaimOptions{Clean: true}, func(t *testing.T, _ *harness, s *Session, _ *DurableSession, w *Will) {
		if err := s.PublishWill(context.Background(), w); err != nil {
			t.Log(err)
		}
		s.Close()
	}},
	"the connection, and the session is to end with it": {time.Hour, ClaimOptions{Expiry: time.Hour}, func(t *testing.T, _ *harness, s *Session, x *DurableSession, _ *Will) {
		leave(t, s, x, 0)
	}},
	"the connection, and the session stays": {0, ClaimOptions{Expiry: time.Hour}, func(t *testing.T, _ *harness, s *Session, x *DurableSession, _ *Will) {
		leave(t, s, x, time.Hour)
	}},
	"the delay": {time.Minute, ClaimOptions{Expiry: time.Hour}, func(t *testing.T, _ *harness, s *Session, x *DurableSession, _ *Will) {
		leave(t, s, x, time.Hour)
		time.Sleep(time.Minute)
	}},
	"the session, by expiry": {time.Hour, ClaimOptions{Expiry: time.Hour}, func(t *testing.T, _ *harness, s *Session, x *DurableSession, _ *Will) {
		leave(t, s, x, time.Minute)
		time.Sleep(time.Minute)
	}},
	"the session, by a clean start": {time.Hour, ClaimOptions{Expiry: time.Hour}, func(t *testing.T, h *harness, s *Session, x *DurableSession, _ *Will) {
		leave(t, s, x, time.Hour)
		for {
			s := h.client("c")
			_, _, err := s.Claim(context.Background(), ClaimOptions{Clean: true})
			s.Close()
			if err == nil {
				return
			}
			if ClassOf(err) != Unavailable {
				t.Error(err)
				return
			}
			time.Sleep(retryMs * time.Millisecond)
		}
	}},
}

func leave(t *testing.T, s *Session, x *DurableSession, expiry time.Duration) {
	s.Close()
	if err := x.Leave(context.Background(), LeaveOptions{Expiry: expiry, Will: true}); err != nil {
		t.Log(err)
	}
}

// eachEnding runs f for each of them, on a store that f may tamper with before the end.
func eachEnding(t *testing.T, f func(t *testing.T, h *harness, store *tampered, end func())) {
	for name, e := range endings {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, store := startTampered(t, nil)
				s := h.client("c")
				if err := h.session().BindQueue(context.Background(), filter(t, "/topic/wills"), dest(t, "/queue/wills")); err != nil {
					t.Fatal(err)
				}
				w := &Will{Message: &Message{To: dest(t, "/topic/wills"), Body: []byte("gone")}, Delay: e.delay}
				o := e.claim
				o.Will = w
				x, _ := claim(t, s, o)
				f(t, h, store, func() { e.end(t, h, s, x, w) })
			})
		})
	}
}

// Nobody asks again for a will to be published, so the record that it is due is not changed before the will is stored: a crash
// between loses nothing, and does not store it twice either.
func TestWillIsStoredBeforeItsRecordIsForgotten(t *testing.T) {
	for _, written := range []bool{false, true} {
		t.Run(fmt.Sprint("written=", written), func(t *testing.T) {
			eachEnding(t, func(t *testing.T, h *harness, store *tampered, end func()) {
				release := make(chan struct{})
				store.set(func() {
					store.append = func(l Log, _ MailboxID, envelope []byte, dedup string, done Done) {
						if written {
							l.Append(envelope, dedup, func(st Stored, err error, w *outbox.Batch) {
								<-release
								done(st, err, w)
							})
							return
						}
						go func() { // ends with the test
							<-release
							l.Append(envelope, dedup, done)
						}()
					}
				})
				ended := make(chan struct{})
				go func() { end(); close(ended) }()
				for range 100 {
					time.Sleep(time.Second) // more than the end waits for the store
					synctest.Wait()
				}
				h.crash()
				close(release)
				<-ended
				time.Sleep(2 * time.Hour) // the one whose client did not come back for a clean start waits for its delay
				synctest.Wait()
				if n := h.depth("/queue/wills"); n != 1 {
					t.Errorf("%d wills are stored after the crash, want 1", n)
				}
			})
		})
	}
}

// A will that the store cannot confirm is tried again, and comes to those who are there once.
func TestWillIsTriedAgain(t *testing.T) {
	eachEnding(t, func(t *testing.T, h *harness, store *tampered, end func()) {
		_, in := consume(t, h.session(), "/topic/wills", 1)
		tried := 0
		store.set(func() {
			store.append = func(l Log, _ MailboxID, envelope []byte, dedup string, done Done) {
				if tried++; tried <= 3 {
					answer(done, Stored{}, errBroken)
					return
				}
				l.Append(envelope, dedup, done)
			}
		})
		end()
		time.Sleep(10 * retryMs * time.Millisecond)
		synctest.Wait()
		if n := h.depth("/queue/wills"); n != 1 || tried != 4 {
			t.Errorf("%d wills are stored after %d tries, want 1 after 4", n, tried)
		}
		in.wait(t, "gone")
		if n := len(h.Stats.Dropped()); n != 0 {
			t.Errorf("dropped: %v", h.Stats.Dropped())
		}
	})
}

// A will that its queue refuses is dropped as a publish is refused, and counted.
func TestWillThatIsRefusedIsCounted(t *testing.T) {
	eachEnding(t, func(t *testing.T, h *harness, store *tampered, end func()) {
		store.set(func() {
			store.append = func(_ Log, _ MailboxID, _ []byte, _ string, done Done) {
				answer(done, Stored{}, &Error{Op: "store", Class: Full, Text: "full for the test"})
			}
		})
		end()
		time.Sleep(10 * retryMs * time.Millisecond)
		synctest.Wait()
		if n := h.Stats.Dropped()[DropUnpublishable]; n != 1 {
			t.Errorf("%d are counted, want 1", n)
		}
	})
}

// A session that a client could not take over is as it was: its will and its end come when they are due.
func TestWillOutlivesAClaimThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := startTampered(t, nil)
		s := h.client("c")
		x, _ := claim(t, s, ClaimOptions{Expiry: 2 * time.Minute, Will: &Will{Message: &Message{To: dest(t, "/queue/wills"), Body: []byte("gone")}, Delay: time.Minute}})
		leave(t, s, x, 2*time.Minute)
		store.set(func() {
			store.put = func(_ ValueClass, _ string, _ []byte, done Done) { answer(done, Stored{}, errBroken) }
		})
		s = h.client("c")
		o := ClaimOptions{Expiry: time.Hour, Will: &Will{Message: &Message{To: dest(t, "/queue/others")}}}
		if _, _, err := s.Claim(context.Background(), o); ClassOf(err) != Unavailable {
			t.Fatalf("the claim says %v", err)
		}
		s.Close()
		store.set(func() { store.put = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := h.depth("/queue/wills"); n != 1 {
			t.Errorf("%d wills are stored, want 1", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if all, _ := h.DurableSessions(); all != 0 {
			t.Errorf("%d sessions are left", all)
		}
	})
}

// The session of a will alone ended with its connection: whoever comes next under that id finds none, whether it asks for a clean start
// or not, and the will is published then.
func TestWillAloneIsPublishedWhenItsClientIsBack(t *testing.T) {
	for _, clean := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := start(t, nil)
			claim(t, h.client("c"), ClaimOptions{Clean: true, Will: &Will{Message: &Message{To: dest(t, "/queue/wills")}, Delay: time.Hour}})
			h.crash()
			time.Sleep(time.Millisecond) // no two connections begin at the same time
			if _, present := claim(t, h.client("c"), ClaimOptions{Clean: clean, Expiry: time.Hour}); present {
				t.Error("a session is present")
			}
			if n := h.depth("/queue/wills"); n != 1 {
				t.Errorf("clean start %v: %d wills are published, want 1", clean, n)
			}
		})
	}
}

// lastWill is a client's will, of which the cluster tests count how often it is published.
func lastWill(t *testing.T) *Will {
	return &Will{Message: &Message{To: dest(t, "/queue/wills"), Body: []byte("gone")}}
}

// willsOf returns how many wills the present leader has stored.
func (c *testCluster) willsOf() int {
	info, err := c.core.QueueInfo(anyone, dest(c.t, "/queue/wills"))
	if err != nil {
		return 0
	}
	return info.Depth
}

func (c *testCluster) expectWills(want int) {
	c.t.Helper()
	time.Sleep(2 * gatherWills) // of the test's clock
	synctest.Wait()
	if got := c.willsOf(); got != want {
		c.t.Errorf("%d wills are published, want %d", got, want)
	}
}

func (c *testCluster) storedSessions() (n int) {
	c.t.Helper()
	if err := c.core.store.Values(context.Background(), ValueSession, func(string, []byte) error { n++; return nil }); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// The will of a client without a session that lasts, and the leader of the cluster is lost: what becomes of the client meanwhile,
// or of its node, decides whether it is published, and that is once.
func TestClusterWillOutlivesTheLeader(t *testing.T) {
	for _, x := range []struct {
		name    string
		before  func(c *testCluster, s *Session, w *Will) // the leader is lost
		between func(c *testCluster, s *Session, w *Will) // while there is none
		after   func(c *testCluster, s *Session, w *Will) // with another one
		wills   int
		left    int // records
	}{
		{name: "it stays connected", left: 1},
		{name: "it is lost later", wills: 1, after: lose},
		{name: "it parts later", after: part},
		{name: "it is lost meanwhile", wills: 1, between: lose},
		{name: "it parts meanwhile", between: part},
		{name: "its node is lost meanwhile", wills: 1, between: func(c *testCluster, _ *Session, _ *Will) { c.wires.setCut("n0", true) }},
		{name: "its node is lost before", wills: 1, before: func(c *testCluster, _ *Session, _ *Will) { c.wires.setCut("n0", true) }},
		{name: "its node is lost later", wills: 1, after: func(c *testCluster, _ *Session, _ *Will) { c.wires.setCut("n0", true) }},
	} {
		for _, graceful := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, graceful=%v", x.name, graceful), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startCluster(t, 2, nil)
					s := c.edges[0].client("dev")
					w := lastWill(t)
					claim(t, s, ClaimOptions{Clean: true, Will: w})
					step := func(f func(*testCluster, *Session, *Will)) {
						if f != nil {
							f(c, s, w)
						}
					}
					step(x.before)
					if graceful {
						c.stepDown()
					} else {
						c.crash()
					}
					step(x.between)
					c.succeed()
					step(x.after)
					c.expectWills(x.wills)
					if n := c.storedSessions(); n != x.left {
						t.Errorf("%d records are stored, want %d", n, x.left)
					}
				})
			})
		}
	}
}

// lose ends a connection as a front-end does where the client broke it, part where it said goodbye.
func lose(c *testCluster, s *Session, w *Will) {
	if err := s.PublishWill(context.Background(), w); err != nil {
		c.t.Log(err)
	}
	s.Close()
}

func part(_ *testCluster, s *Session, _ *Will) { s.Close() }

// A node is lost, and the leader with it while it publishes the wills of that node's clients.
func TestClusterWillOfALostNodeOutlivesTheLeader(t *testing.T) {
	for _, expiry := range []time.Duration{0, time.Hour} {
		t.Run(fmt.Sprint("expiry=", expiry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var store *tampered
				c := startCluster(t, 2, func(o *Options) {
					store = &tampered{MemoryStore: o.Store.(*MemoryStore)}
					o.Store = store
				})
				claim(t, c.edges[0].client("dev"), ClaimOptions{Clean: expiry == 0, Expiry: expiry, Will: lastWill(t)})
				began := false
				store.set(func() {
					store.append = func(Log, MailboxID, []byte, string, Done) { began = true } // and is never heard of again
				})
				c.wires.setCut("n0", true)
				time.Sleep(leaderPatience + 2*beatEvery)
				synctest.Wait()
				if !began {
					t.Fatal("the leader did not publish the will")
				}
				c.crash()
				store.set(func() { store.append = nil })
				c.succeed()
				c.expectWills(1)
			})
		})
	}
}

// The leader's store cannot take the will of a client of a node for a while.
func TestClusterWillIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store *tampered
		c := startCluster(t, 1, func(o *Options) {
			store = &tampered{MemoryStore: o.Store.(*MemoryStore)}
			o.Store = store
		})
		s, w := c.edges[0].client("dev"), lastWill(t)
		claim(t, s, ClaimOptions{Clean: true, Will: w})
		store.set(func() {
			store.append = func(_ Log, _ MailboxID, _ []byte, _ string, done Done) { answer(done, Stored{}, errBroken) }
		})
		if err := s.PublishWill(context.Background(), w); ClassOf(err) != Unavailable {
			t.Errorf("the will is said to be published: %v", err)
		}
		s.Close()
		store.set(func() { store.append = nil })
		c.expectWills(1)
		if n := c.storedSessions(); n != 0 {
			t.Errorf("%d records are stored", n)
		}
	})
}

// A link breaks, and the node makes another: that says nothing of its clients. Whoever is still connected has no will published, nor has
// who parted just then; the will of who was lost just then is published once.
func TestClusterWillOutlivesTheLink(t *testing.T) {
	breaks := map[string]func(c *testCluster, f func()){
		"what the node says is lost": func(c *testCluster, f func()) {
			c.wires.setCut("n0", true)
			f()
			c.wires.setCut("n0", false)
		},
		"the node begins another link": func(c *testCluster, f func()) {
			e := c.edges[0].edge
			c.wires.setCut("n0", true)
			f()
			c.wires.setCut("n0", false)
			e.mu.Lock()
			e.disconnect(errLinkGap)
			e.connect()
			e.mu.Unlock()
		},
	}
	clients := []struct {
		name  string
		will  bool // it did not say goodbye
		ends  bool
		wills int
	}{
		{name: "stays"},
		{name: "parts", ends: true},
		{name: "is lost", ends: true, will: true, wills: 1},
	}
	for how, breaks := range breaks {
		for _, x := range clients {
			for _, expiry := range []time.Duration{0, time.Hour} {
				t.Run(fmt.Sprintf("%s, its client %s, expiry=%v", how, x.name, expiry), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c := startCluster(t, 2, nil)
						s, w := c.edges[0].client("dev"), lastWill(t)
						d, _ := claim(t, s, ClaimOptions{Clean: expiry == 0, Expiry: expiry, Will: w})
						ended := make(chan struct{})
						breaks(c, func() {
							go func() { // ends with the answers
								defer close(ended)
								if !x.ends {
									return
								}
								if x.will && d == nil {
									if err := s.PublishWill(context.Background(), w); err != nil {
										t.Log(err)
									}
								}
								s.Close()
								if d != nil {
									if err := d.Leave(context.Background(), LeaveOptions{Expiry: expiry, Will: x.will}); err != nil {
										t.Log(err)
									}
								}
							}()
							time.Sleep(2 * beatEvery)
						})
						<-ended
						c.expectWills(x.wills)
						left := 0
						if !x.ends || expiry > 0 {
							left = 1
						}
						if n := c.storedSessions(); n != left {
							t.Errorf("%d records are stored, want %d", n, left)
						}
						if e := c.edges[0].edge; x.ends {
							e.mu.Lock()
							if len(e.sessions) != 0 || e.held != 0 {
								t.Errorf("%d sessions and %d bytes are left at the edge", len(e.sessions), e.held)
							}
							e.mu.Unlock()
						}
					})
				})
			}
		}
	}
}
