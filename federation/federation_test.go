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
	return newSiteOn(t, router.NewMemoryStore(), name, listen, dial, remotes...)
}

func newSiteOn(t *testing.T, store router.Store, name, listen string, dial []string, remotes ...Remote) *site {
	t.Helper()
	s := &site{t: t, name: name}
	var err error
	if s.router, err = router.New(context.Background(), router.Options{Store: store, Authorize: router.AllowAll{}, Log: quiet}); err != nil {
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

// await waits for a message, and returns how often each has come.
func (g *got) await(t *testing.T, body string) map[string]int {
	t.Helper()
	eventually(t, func() error {
		if a := g.all(); !slices.Contains(a, body) {
			return fmt.Errorf("%q is not among %d messages", body, len(a))
		}
		return nil
	})
	count := map[string]int{}
	for _, b := range g.all() {
		count[b]++
	}
	return count
}

// untilLinked publishes on a site until a message has come to a subscriber of another, and returns when all have that crossed.
func (s *site) untilLinked(to string, there *got) {
	s.t.Helper()
	n := 0
	eventually(s.t, func() error {
		n++
		s.publish(to, fmt.Sprint("first ", n))
		if len(there.all()) == 0 {
			return fmt.Errorf("nothing crossed; %d links", s.link.Links())
		}
		return nil
	})
	there.await(s.t, fmt.Sprint("first ", n))
}

// A site sends what its filters for the other let through, once, although two of them match it; the other would take anything,
// and sends it back to nobody.
func TestTopicsAreSentByTheSendersFilters(t *testing.T) {
	all, some := filters(t, "/topic/>"), filters(t, "/topic/plant.>", "/topic/plant.7.temp")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Send: all, Receive: all})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Send: some, Receive: all})
	here, there := oslo.subscribe("/topic/>"), berlin.subscribe("/topic/>")
	oslo.untilLinked("/topic/plant.7.temp", there)
	before := oslo.bridge.Stats.Sent.Load()
	oslo.publish("/topic/office.x", "forbidden office")
	oslo.publish("/topic/plants.7.temp", "forbidden plants")
	for i := range 100 {
		oslo.publish("/topic/plant.7.temp", fmt.Sprint("m", i))
	}
	oslo.publish("/topic/plant.8.temp", "last")
	count := there.await(t, "last")
	for body, n := range count {
		if n != 1 || strings.HasPrefix(body, "forbidden") {
			t.Errorf("%q arrived %d times", body, n)
		}
	}
	if sent := oslo.bridge.Stats.Sent.Load() - before; sent != 101 || count["m99"] != 1 {
		t.Errorf("%d messages were sent, not 101", sent)
	}
	berlin.publish("/topic/office.x", "back")
	for body, n := range here.await(t, "back") {
		if n != 1 {
			t.Errorf("%q came %d times to where it was sent", body, n)
		}
	}
	if n := berlin.bridge.Stats.Sent.Load(); n != 1 {
		t.Errorf("the other site sent %d messages, not one", n)
	}
}

// A site takes of what another sends it that which its filters name, and counts the rest.
func TestTopicsAreTakenByTheReceiversFilters(t *testing.T) {
	all := filters(t, "/topic/>")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: filters(t, "/topic/plant.7.>")})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Send: all})
	there := berlin.subscribe("/topic/>")
	oslo.untilLinked("/topic/plant.7.temp", there)
	oslo.publish("/topic/plant.8.temp", "forbidden")
	oslo.publish("/topic/office.x", "forbidden")
	oslo.publish("/topic/plant.7.temp", "last")
	if n := there.await(t, "last")["forbidden"]; n != 0 {
		t.Errorf("%d messages arrived that are not to be taken", n)
	}
	if n := berlin.bridge.Stats.NotTaken.Load(); n != 2 {
		t.Errorf("%d messages are counted as not taken, not 2", n)
	}
}

// What cannot be sent for want of a link is counted.
func TestTopicsWithoutALinkAreCounted(t *testing.T) {
	lone := newSite(t, "bergen", "127.0.0.1:0", nil, Remote{Site: "oslo", Send: filters(t, "/topic/>")})
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

// What another site sends and what it asks come at the same time, and the bridge has one session.
func TestTopicsAndQueuesCrossAtOnce(t *testing.T) {
	topics, queues := filters(t, "/topic/plant.>"), filters(t, "/queue/jobs")
	berlin := newSite(t, "berlin", "127.0.0.1:0", nil, Remote{Site: "oslo", Receive: slices.Concat(topics, queues)})
	oslo := newSite(t, "oslo", "", []string{berlin.link.Addr().String()}, Remote{Site: "berlin", Send: topics, Queues: queues})
	live, jobs := berlin.subscribe("/topic/plant.>"), berlin.subscribe("/queue/jobs")
	eventually(t, func() error {
		oslo.publish("/topic/plant.first", "first")
		if len(live.all()) == 0 {
			return errors.New("no link yet")
		}
		return nil
	})
	const n = 300
	for i := range n {
		oslo.publish("/queue/jobs", fmt.Sprint(i))
		oslo.publish(fmt.Sprint("/topic/plant.", i), fmt.Sprint(i))
	}
	eventually(t, func() error {
		if a, b := len(live.all()), len(jobs.all()); a < n || b != n {
			return fmt.Errorf("%d and %d of %d came", a, b, n)
		}
		return nil
	})
}
