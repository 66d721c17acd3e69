package gateway

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mqgate/mqgate/gateway/admin"
	"github.com/mqgate/mqgate/router/jetstream"
)

// Drain has Run end as the end of its context does: /readyz says 503 at once, and
// after drain.grace the clients are sent away over drain.spread. It does not wait,
// and may be called more than once.
func (g *Gateway) Drain() {
	g.askDrain.Do(func() {
		g.log.Info("not ready any more: clients are sent away", "grace", g.cfg.Drain.Grace, "spread", g.cfg.Drain.Spread)
		close(g.drainAsked)
	})
}

// draining reports whether Drain was called.
func (g *Gateway) draining() bool {
	select {
	case <-g.drainAsked:
		return true
	default:
		return false
	}
}

// drainByOperator begins a drain, and says how it goes.
func (g *Gateway) drainByOperator() admin.DrainState {
	g.Drain()
	return admin.DrainState{
		Grace: g.cfg.Drain.Grace, Spread: g.cfg.Drain.Spread, Timeout: g.cfg.DrainTimeout, Connections: g.connections(),
	}
}

// grace serves on until a load balancer has seen that the node is not ready.
func (g *Gateway) grace(failed <-chan struct{}) {
	if g.cfg.Drain.Grace <= 0 {
		return
	}
	t := time.NewTimer(g.cfg.Drain.Grace)
	defer t.Stop()
	select {
	case <-t.C:
	case <-failed: // nothing to wait for: a listener is gone
	}
}

const (
	shedTick = 50 * time.Millisecond
	// shedLeast is how many go with each tick at least: few clients are no storm.
	shedLeast = 5
)

// shed has the connections end a few at a time, so that they do not all come to
// the other nodes at once. Each protocol takes drain.spread, or less if it has few.
func (g *Gateway) shed() {
	var all sync.WaitGroup
	for name, f := range g.frontEnds() {
		all.Go(func() {
			n := f.Connections()
			if n == 0 || g.cfg.Drain.Spread < shedTick {
				return // what comes next ends them all
			}
			g.log.Info("sending clients away", "protocol", name, "connections", n, "spread", g.cfg.Drain.Spread)
			tick := time.NewTicker(shedTick)
			defer tick.Stop()
			for each := shedSlice(n, g.cfg.Drain.Spread); f.Shed(each) == each; {
				<-tick.C
			}
		})
	}
	all.Wait()
}

// shedSlice is how many of n connections go with each tick to be through in time.
func shedSlice(n int, spread time.Duration) int {
	ticks := int(spread / shedTick)
	return max(shedLeast, (n+ticks-1)/ticks)
}

// drain tells the clients, and ends their connections. Streams over WebSocket
// belong to the STOMP and MQTT servers and end with those.
func (g *Gateway) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.DrainTimeout)
	defer cancel()
	var all sync.WaitGroup
	for name, f := range g.frontEnds() {
		all.Go(func() {
			g.log.Info("draining", "protocol", name, "connections", f.Connections())
			if err := f.Drain(ctx); err != nil {
				g.log.Warn("not every client could be told", "protocol", name, "error", err)
			}
		})
	}
	all.Wait()
}

// notify tells systemd (Type=notify) how far the service is, where it asks for
// that: one datagram to the socket that NOTIFY_SOCKET names, see sd_notify(3).
func (g *Gateway) notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // in the abstract namespace
	}
	c, err := net.Dial("unixgram", path)
	if err == nil {
		_, err = c.Write([]byte(state))
		c.Close()
	}
	if err != nil {
		g.log.Warn("cannot tell the service manager", "state", state, "error", err)
	}
}

// InUse reports whether a gateway has the data directory.
func InUse(dir string) bool { return jetstream.InUse(dir) }
