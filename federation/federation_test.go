package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
	"github.com/mqgate/mqgate/router/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire passes connections on until it is cut.
type wire struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	up       bool
	conns    []net.Conn
	group    sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, to: to, up: true}
	w.group.Go(w.run)
	t.Cleanup(func() {
		w.set(false)
		l.Close()
		w.group.Wait()
	})
	return w
}

func (w *wire) run() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.to)
		w.mu.Lock()
		if err != nil || !w.up {
			in.Close()
			if err == nil {
				out.Close()
			}
			w.mu.Unlock()
			continue
		}
		w.conns = append(w.conns, in, out)
		w.mu.Unlock()
		for _, p := range [][2]net.Conn{{in, out}, {out, in}} {
			w.group.Go(func() {
				_, _ = io.Copy(p[0], p[1])
				p[0].Close()
				p[1].Close()
			})
		}
	}
}

// set cuts the wire, or heals it.
func (w *wire) set(up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up = up
	if !up {
		for _, c := range w.conns {
			c.Close()
		}
		w.conns = nil
	}
}

// site is a site with a router of its own.
type site struct {
	t       *testing.T
	name    string
	router  *router.Router
	link    *jetstream.Site
	bridge  *Bridge
	session *router.Session
}

var quiet = slog.New(slog.DiscardHandler)

func newSite(t *testing.T, name, listen string, dial []string, remotes ...Remote) *site {
	t.Helper()
	s := &site{t: t, name: name}
	var err error
	if s.router, err = router.New(context.Background(), router.Options{Store: router.NewMemoryStore(), Authorize: router.AllowAll{}, Log: quiet}); err != nil {
		t.Fatal(err)
	}
	o := jetstream.SiteOptions{Site: name, Listen: listen, Secret: "a shared secret", Log: quiet}
	if dial != nil {
		o.Dial = [][]string{dial}
	}
	if s.link, err = jetstream.OpenSite(o); err != nil {
		t.Fatal(err)
	}
	principal := router.NewPrincipal("federation", "", true, nil)
	if s.bridge, err = Open(context.Background(), Options{Site: name, Remotes: remotes, Router: s.router, Principal: principal, Transport: s.link, Log: quiet}); err != nil {
		t.Fatal(err)
	}
	if s.session, err = s.router.Connect(router.SessionOptions{Principal: principal}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.link.Close()
		s.bridge.Close()
		if err := s.router.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func filters(t *testing.T, texts ...string) (out []router.Filter) {
	t.Helper()
	for _, x := range texts {
		f, _, err := router.ParseFilter("", x)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// got is what a subscriber received.
type got struct {
	mu     sync.Mutex
	bodies []string
	again  map[string]bool
	ch     chan *router.Delivery
}

func (g *got) add(m *router.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bodies = append(g.bodies, string(m.Body))
	if _, ok := m.Header(AgainHeader); ok {
		g.again[string(m.Body)] = true
	}
}

func (g *got) all() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.bodies)
}

func (g *got) Live(m *router.Message, _ *outbox.Batch) bool { g.add(m); return true }

func (g *got) Stored(d *router.Delivery, _ *outbox.Batch) bool { g.ch <- d; return true }

func (s *site) subscribe(from string) *got {
	s.t.Helper()
	g := &got{again: map[string]bool{}, ch: make(chan *router.Delivery, 100)}
	sub, err := s.session.Subscribe(context.Background(), router.SubscribeOptions{Filter: filters(s.t, from)[0], Receiver: g, Credit: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for d := range g.ch {
			g.add(d.Message)
			_ = d.Ack(nil, nil)
		}
	})
	s.t.Cleanup(func() {
		sub.Close(nil)
		close(g.ch)
		group.Wait()
	})
	sub.Start(nil)
	return g
}

func (s *site) publish(to, body string) {
	s.t.Helper()
	a, _, err := router.ParseDestination("", to)
	if err != nil {
		s.t.Fatal(err)
	}
	answered := make(chan error, 1)
	pending, err := s.session.Publish(context.Background(), &router.Message{To: a, Body: []byte(body)}, nil, func(_ router.Stored, err error, _ *outbox.Batch) { answered <- err })
	if err == nil && pending {
		err = <-answered
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// Topics cross by the filters of both sides, once, and do not come back.
func TestTopicsCross(t *testing.T) {
	all := filters(t, "/topic/plant.>", "/topic/plant.7.temp")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Send: all, Receive: filters(t, "/topic/plant.7.>")})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Send: all, Receive: all})
	here, there, other := oslo.subscribe("/topic/>"), berlin.subscribe("/topic/>"), berlin.subscribe("/topic/office.>")
	n := 0
	eventually(t, func() error { // until the link is up
		n++
		oslo.publish("/topic/plant.7.temp", fmt.Sprint("first ", n))
		if len(there.all()) == 0 {
			return fmt.Errorf("nothing crossed; %d links", oslo.link.Links())
		}
		return nil
	})
	for i := range 100 {
		oslo.publish("/topic/plant.7.temp", fmt.Sprint("m", i))
	}
	oslo.publish("/topic/plant.8.temp", "berlin does not receive this")
	oslo.publish("/topic/office.x", "oslo does not send this")
	berlin.publish("/topic/plant.7.temp", "back")
	eventually(t, func() error {
		if a := there.all(); !slices.Contains(a, "m99") {
			return fmt.Errorf("%d messages at the other site", len(a))
		}
		if a := here.all(); !slices.Contains(a, "back") {
			return fmt.Errorf("nothing came back")
		}
		return nil
	})
	count := map[string]int{}
	for _, b := range slices.Concat(there.all(), other.all()) {
		count[b]++
	}
	for b, n := range count {
		if n != 1 || strings.Contains(b, "does not") {
			t.Errorf("%q arrived %d times", b, n)
		}
	}
	count = map[string]int{}
	for _, b := range here.all() {
		if count[b]++; count[b] > 1 {
			t.Errorf("%q came round", b)
		}
	}
	eventually(t, func() error { // it came behind the last that was awaited
		if berlin.bridge.Stats.NotTaken.Load() == 0 {
			return errors.New("what was not taken is not counted")
		}
		return nil
	})
	lone := newSite(t, "bergen", "127.0.0.1:0", nil, Remote{Site: "oslo", Send: all})
	lone.publish("/topic/plant.7.temp", "to nobody")
	if n := lone.bridge.Stats.Counts(); n["not_sent"] != 1 || n["sent"] != 0 {
		t.Errorf("without a link: %v", n)
	}
}

// Three sites, each of which sends everything to the two others, and takes everything: a message reaches each of them once, and
// does not go round.
func TestTopicsDoNotGoRoundAMesh(t *testing.T) {
	all := filters(t, "/topic/>")
	to := func(sites ...string) (remotes []Remote) {
		for _, s := range sites {
			remotes = append(remotes, Remote{Site: s, Send: all, Receive: all})
		}
		return remotes
	}
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, to("oslo", "rome")...)
	hub := []string{berlin.link.Addr().String()}
	oslo, rome := newSite(t, "oslo", "", hub, to("berlin", "rome")...), newSite(t, "rome", "", hub, to("berlin", "oslo")...)
	sites := []*site{berlin, oslo, rome}
	received := map[*site]*got{}
	for _, s := range sites {
		received[s] = s.subscribe("/topic/>")
	}
	n := 0
	eventually(t, func() error { // until all links are up
		n++
		for _, from := range sites {
			from.publish("/topic/a", fmt.Sprint("first ", from.name, n))
		}
		for _, to := range sites {
			for _, from := range sites {
				if !slices.ContainsFunc(received[to].all(), func(b string) bool { return strings.HasPrefix(b, "first "+from.name) }) {
					return fmt.Errorf("nothing of %s at %s", from.name, to.name)
				}
			}
		}
		return nil
	})
	for i := range 20 {
		for _, from := range sites {
			from.publish("/topic/a", fmt.Sprint(from.name, " ", i))
		}
	}
	for _, s := range sites { // the last word of each, at all of them
		s.publish("/topic/end", "end "+s.name)
	}
	eventually(t, func() error {
		for _, s := range sites {
			for _, from := range sites {
				if !slices.Contains(received[s].all(), "end "+from.name) {
					return fmt.Errorf("the end of %s is not at %s", from.name, s.name)
				}
			}
		}
		return nil
	})
	for _, s := range sites {
		count := map[string]int{}
		for _, b := range received[s].all() {
			count[b]++
		}
		for b, n := range count {
			if n != 1 {
				t.Errorf("%q came to %s %d times", b, s.name, n)
			}
		}
		if len(count) < 3*21 {
			t.Errorf("%d messages came to %s", len(count), s.name)
		}
	}
	if berlin.bridge.Stats.Counts()["repeated"] == 0 {
		t.Error("what came twice is not counted")
	}
}

// The messages that are remembered are bounded: the oldest are forgotten.
func TestRecentMessagesAreForgotten(t *testing.T) {
	var r recent
	for i := range 2*recentIDs + 5 {
		if id := fmt.Sprint(i); r.has(id) || !r.has(id) {
			t.Fatalf("message %d", i)
		}
	}
	if len(r.ids) != recentIDs || len(r.ring) != recentIDs || r.has("3") || !r.has(fmt.Sprint(recentIDs+10)) {
		t.Errorf("%d are remembered", len(r.ids))
	}
}

// What is sent to a queue that is forwarded reaches the other site's, however often
// the link breaks meanwhile: all of it, in order, and twice only with a mark.
func TestQueuesAreStoredAndForwarded(t *testing.T) {
	queue := filters(t, "/queue/orders")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: queue})
	w := newWire(t, berlin.link.Addr().String())
	w.set(false)
	oslo := newSite(t, "oslo", "", []string{w.listener.Addr().String()}, Remote{Site: "berlin", Queues: queue})
	there := berlin.subscribe("/queue/orders")
	const n = 600
	for i := range n {
		oslo.publish("/queue/orders", fmt.Sprint(i))
		if i%100 == 50 {
			w.set(true)
		} else if i%100 == 99 {
			w.set(false)
		}
	}
	if got := len(there.all()); got == n {
		t.Log("the link was faster than its cuts")
	}
	w.set(true)
	eventually(t, func() error {
		if got := there.all(); len(got) < n {
			return fmt.Errorf("%d of %d", len(got), n)
		}
		return nil
	})
	seen := map[string]bool{}
	next := 0
	for _, b := range there.all() {
		if seen[b] {
			if !there.again[b] {
				t.Errorf("%s came twice without a mark", b)
			}
			continue
		}
		seen[b] = true
		if b != fmt.Sprint(next) {
			t.Fatalf("%s where %d was to come", b, next)
		}
		next++
	}
	if len(seen) != n {
		t.Errorf("%d of %d arrived", len(seen), n)
	}
}

// Two sites that forward the same queue to each other refuse, and keep theirs.
func TestQueuesDoNotGoRound(t *testing.T) {
	queue := filters(t, "/queue/orders")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: queue, Queues: queue})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Receive: queue, Queues: queue})
	oslo.publish("/queue/orders", "x")
	eventually(t, func() error {
		if berlin.bridge.Stats.Refused.Load() == 0 {
			return fmt.Errorf("not refused; %d links", oslo.link.Links())
		}
		return nil
	})
	if oslo.bridge.Stats.Forwarded.Load() != 0 {
		t.Error("it went round")
	}
}

// A site with another secret is not let in.
func TestSitesNeedTheSecret(t *testing.T) {
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil)
	stranger, err := jetstream.OpenSite(jetstream.SiteOptions{Site: "x", Secret: "guessed", Dial: [][]string{{berlin.link.Addr().String()}}, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	friend := newSite(t, "oslo", "", []string{berlin.link.Addr().String()})
	eventually(t, func() error {
		if friend.link.Links() == 0 {
			return fmt.Errorf("no link")
		}
		return nil
	})
	if stranger.Links() != 0 {
		t.Error("a site with another secret is linked")
	}
	if _, err := jetstream.OpenSite(jetstream.SiteOptions{Site: "x", Secret: "s", Listen: "0.0.0.0:0", Log: quiet}); err == nil {
		t.Error("plaintext over the network is not refused")
	}
}
