package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/mqgate/mqgate/integration/harness"
)

// load is all clients of a run. Senders stop first, receivers when all has come.
type load struct {
	t       *testing.T
	c       *harness.Cluster
	ledgers []*ledger
	pace    time.Duration // between two messages of a sender

	sending, receiving, attached context.Context
	stopSending, stop, detach    context.CancelFunc // detach ends those receivers for whom their messages wait apart
	senders, receivers           sync.WaitGroup

	mu   sync.Mutex
	ends map[string]int // how connections ended, or could not be made
}

// ended notes the end of a connection by what the client was told.
func (l *load) ended(c client, err error) {
	text := strings.TrimPrefix(fmt.Sprintf("%T", c), "*cluster.") + ": " + theEnd(c, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends[text]++
}

// announced stands in the ends of connections that were told to go elsewhere.
const announced = "announced"

// theEnd tells an announced end from others.
func theEnd(c client, err error) string {
	var closing *websocket.CloseError
	var op *net.OpError
	switch r, old := c.(*mqttReceiver); {
	case strings.Contains(err.Error(), "shutting down"), strings.Contains(err.Error(), "connect again"):
		return announced
	case errors.As(err, &closing) && (closing.Code == websocket.CloseGoingAway || closing.Code == websocket.CloseServiceRestart):
		return announced
	case old && r.m != nil && errors.Is(err, io.EOF):
		return announced // MQTT 3.1.1 has no other word for it
	case errors.As(err, &op):
		return op.Op + ": " + op.Err.Error() // without addresses
	}
	return err.Error()
}

// unannounced returns how connections ended besides.
func (l *load) unannounced() (ends []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for text, n := range l.ends {
		if !strings.HasSuffix(text, announced) {
			ends = append(ends, fmt.Sprintf("%d times %s", n, text))
		}
	}
	slices.Sort(ends)
	return ends
}

// client is one connection after the other, until its context ends.
type client interface {
	// connect returns a socket that is logged in.
	connect() (net.Conn, error)
	// work uses it until it fails or the context ends.
	work(ctx context.Context) error
}

// between is the pause between two attempts to connect.
const between = 50 * time.Millisecond

// keepUp runs a client over all its connections. Its socket is closed when ctx ends.
func keepUp(ctx context.Context, c client, ended func(client, error)) {
	for ctx.Err() == nil {
		socket, err := c.connect()
		if err == nil {
			stop := context.AfterFunc(ctx, func() { socket.Close() })
			err = c.work(ctx) // whatever it was, the next connection goes on
			stop()
			socket.Close()
		}
		if ctx.Err() == nil {
			ended(c, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(between):
		}
	}
}

// start connects all clients and returns when the receivers are subscribed.
func start(t *testing.T, c *harness.Cluster, pace time.Duration) *load {
	t.Helper()
	l := &load{t: t, c: c, pace: pace, ends: map[string]int{}}
	l.receiving, l.stop = context.WithCancel(context.Background())
	l.attached, l.detach = context.WithCancel(l.receiving)
	l.sending, l.stopSending = context.WithCancel(l.receiving)
	t.Cleanup(func() { l.stop(); l.senders.Wait(); l.receivers.Wait() })
	everything = pulse{}

	queue, durable := l.ledger("STOMP queue", false, false), l.ledger("STOMP durable", false, true)
	one, two := l.ledger("MQTT QoS 1", false, true), l.ledger("MQTT QoS 2", true, true)
	j := l.ledger("JSON queue", false, false)
	l.receiveAll(false)
	for _, name := range []string{"s1", "s2"} {
		l.send(&stompSender{load: l, ledger: queue, name: name, destination: "/queue/load"})
	}
	l.send(&stompSender{load: l, ledger: durable, name: "sd", destination: "/topic/load.durable"})
	l.send(&mqttSender{load: l, ledger: one, qos: 1, topic: "load/one"})
	l.send(&mqttSender{load: l, ledger: two, qos: 2, topic: "load/two"})
	l.send(&jsonSender{load: l, ledger: j, name: "j", destination: "/queue/json"})
	return l
}

// receiveAll starts the receivers of all ledgers; known says that their MQTT sessions are there.
func (l *load) receiveAll(known bool) {
	l.t.Helper()
	queue, durable, one, two, j := l.ledgers[0], l.ledgers[1], l.ledgers[2], l.ledgers[3], l.ledgers[4]
	for range 2 {
		l.receive(l.receiving, &stompReceiver{load: l, ledger: queue, destination: "/queue/load"})
	}
	l.receive(l.attached, &stompReceiver{load: l, ledger: durable, destination: "/topic/load.durable", clientID: "durable", name: "d"})
	for _, r := range []*mqttReceiver{{qos: 1, topic: "load/one", ledger: one}, {qos: 2, topic: "load/two", ledger: two}} {
		r.load, r.known, r.received = l, known, map[uint16]bool{}
		l.receive(l.attached, r)
	}
	l.receive(l.receiving, &jsonReceiver{load: l, ledger: j, destination: "/queue/json"})
}

// pause ends all clients; resume has the receivers come back.
func (l *load) pause() {
	l.stopSending()
	l.senders.Wait()
	l.stop()
	l.receivers.Wait()
}

func (l *load) resume() {
	l.t.Helper()
	l.receiving, l.stop = context.WithCancel(context.Background())
	l.attached, l.detach = context.WithCancel(l.receiving)
	l.receiveAll(true)
}

func (l *load) ledger(name string, exact, ordered bool) *ledger {
	g := newLedger(name, exact, ordered)
	l.ledgers = append(l.ledgers, g)
	return g
}

// receive starts a receiver and waits until it has subscribed: what is published
// before is not for it.
func (l *load) receive(ctx context.Context, r interface {
	client
	subscribed() <-chan struct{}
}) {
	l.t.Helper()
	l.receivers.Go(func() { keepUp(ctx, r, l.ended) })
	select {
	case <-r.subscribed():
	case <-time.After(time.Minute):
		l.t.Fatal("a receiver could not subscribe for a minute")
	}
}

func (l *load) send(s client) { l.senders.Go(func() { keepUp(l.sending, s, l.ended) }) }

// progress waits until every kind of load has this many more confirmations.
func (l *load) progress(more int, limit time.Duration) {
	l.t.Helper()
	want := make([]int, len(l.ledgers))
	for i, g := range l.ledgers {
		n, _ := g.counts()
		want[i] = n + more
	}
	harness.Eventually(l.t, limit, func() error {
		for i, g := range l.ledgers {
			if n, _ := g.counts(); n < want[i] {
				return errorf("%s: %d confirmations, waiting for %d", g.name, n, want[i])
			}
		}
		return nil
	})
}

// finish ends the senders, waits until all that was confirmed has come, and judges.
func (l *load) finish() {
	l.t.Helper()
	l.stopSending()
	l.senders.Wait()
	end := time.Now().Add(2 * time.Minute)
	for time.Now().Before(end) && !l.complete() {
		time.Sleep(20 * time.Millisecond)
	}
	if !l.complete() {
		l.explain()
	}
	l.stop()
	l.receivers.Wait()
	l.mu.Lock()
	l.t.Logf("ends of connections: %v", l.ends)
	l.mu.Unlock()
	for _, g := range l.ledgers {
		g.judge(l.t)
	}
}

// explain logs what the nodes hold, where something that was confirmed does not come.
func (l *load) explain() {
	for _, g := range l.ledgers {
		if text := g.lostWhen(); text != "" {
			l.t.Logf("%s: confirmed and not here:%s", g.name, text)
		}
	}
	for _, n := range l.c.Nodes {
		code, out, errs := n.Command("", "queue", "ls", "--set", "data_dir="+n.DataDir())
		l.t.Logf("queues as %s has them (%d):\n%s%s", n.Name, code, out, errs)
	}
}

func (l *load) complete() bool {
	for _, g := range l.ledgers {
		if len(g.missing()) > 0 {
			return false
		}
	}
	return true
}

// await waits for the pace, or for the end.
func (l *load) await(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(l.pace):
	}
}

// window is how many messages a sender leaves unconfirmed.
const window = 20

// patience is how long a client waits for an answer before it tries another
// connection: that of a node that stands still stays open.
const patience = 10 * time.Second

// once closes a channel at the first call.
type once struct {
	do sync.Once
	ch chan struct{}
	mk sync.Once
}

func (o *once) subscribed() <-chan struct{} {
	o.mk.Do(func() { o.ch = make(chan struct{}) })
	return o.ch
}

func (o *once) happened() { o.subscribed(); o.do.Do(func() { close(o.ch) }) }
