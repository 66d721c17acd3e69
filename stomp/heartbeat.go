package stomp

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mqgate/mqgate/stomp/frame"
)

// beats is what was agreed on.
type beats struct {
	sendEvery   time.Duration // 0: never
	silentAfter time.Duration // the client is given up after so long; 0: never
	header      string        // of CONNECTED
}

// negotiateBeats reads the heart-beat header "cx,cy" in milliseconds: the client can send every cx, and wants something
// every cy; 0 for none (STOMP 1.2 "Heart-beating"). The answer is "cy,cx", as ActiveMQ gives it, raised to what the server
// allows, or in whole seconds, as RabbitMQ does. Nothing is ever sent to a client that did not ask: to php-stomp a
// heart-beat is a broken frame.
func (c *conn) negotiateBeats(f *frame.Frame) (beats, error) {
	value, found := f.Get("heart-beat")
	if !found {
		return beats{header: "0,0"}, nil
	}
	cx, cy, ok := parseBeats(string(value))
	if !ok {
		return beats{}, fatal("Write heart-beat:0,0 or two numbers of milliseconds.", "the heart-beat header %.32q is not two numbers", value)
	}
	o := &c.server.opt
	send, receive := c.round(cy, o.HeartbeatSendMin), c.round(cx, o.HeartbeatReceiveMin)
	b := beats{
		sendEvery: max(send, cy), // the larger of both words holds
		header:    fmt.Sprintf("%d,%d", send.Milliseconds(), receive.Milliseconds()),
	}
	if every := max(receive, cx); every > 0 {
		b.silentAfter = every*time.Duration(o.HeartbeatGracePercent)/100 + time.Second
	}
	return b, nil
}

func (c *conn) round(d, least time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	if c.dialect.rabbit() {
		d = d.Truncate(time.Second)
		least = max(least, time.Second)
	}
	return max(d, least)
}

func parseBeats(s string) (cx, cy time.Duration, ok bool) {
	first, second, ok := strings.Cut(s, ",")
	if !ok {
		return 0, 0, false
	}
	var out [2]time.Duration
	for i, part := range [...]string{first, second} {
		ms, err := strconv.ParseUint(strings.TrimSpace(part), 10, 63)
		if err != nil {
			return 0, 0, false
		}
		out[i] = time.Duration(min(ms, uint64(maxHeartbeat.Milliseconds()))) * time.Millisecond
	}
	return out[0], out[1], true
}

// heartbeat sends line feeds to a client that asked for them and watches for those that it promised. One timer serves both.
type heartbeat struct {
	conn *conn
	beats

	waitingSinceMs atomic.Int64 // since when the reader waits for bytes, 0 while it works
	writtenMs      atomic.Int64 // when bytes were last written

	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

func newHeartbeat(c *conn, b beats) *heartbeat {
	h := &heartbeat{conn: c, beats: b}
	h.writtenMs.Store(time.Now().UnixMilli())
	return h
}

func (h *heartbeat) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(h.shortest(), h.tick)
}

func (h *heartbeat) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.timer.Stop()
}

func (h *heartbeat) shortest() time.Duration {
	switch {
	case h.sendEvery == 0:
		return h.silentAfter
	case h.silentAfter == 0:
		return h.sendEvery
	}
	return min(h.sendEvery, h.silentAfter)
}

// tick does what is due and sets the timer to what is due next.
func (h *heartbeat) tick() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	nowMs := time.Now().UnixMilli()
	next := maxHeartbeat
	if h.sendEvery > 0 {
		next = h.sendDue(nowMs)
	}
	if h.silentAfter > 0 {
		due, silent := h.silenceDue(nowMs)
		if silent {
			h.over = true
			h.conn.server.Stats.Silent.Add(1)
			h.conn.stop(errSilent)
			return
		}
		next = min(next, due)
	}
	h.timer.Reset(max(next, time.Millisecond))
}

// sendDue sends a line feed if nothing was written for the interval, and returns when to look again.
func (h *heartbeat) sendDue(nowMs int64) time.Duration {
	if left := time.Duration(h.writtenMs.Load()-nowMs)*time.Millisecond + h.sendEvery; left > 0 {
		return left
	}
	h.writtenMs.Store(nowMs)
	if h.conn.out.Backlog() == 0 { // otherwise bytes are on their way, or the peer takes none
		if buf, ok := h.conn.out.BeginControl(1); ok {
			h.conn.out.End(nil, append(buf, '\n'))
		} else {
			h.conn.out.End(nil, buf)
		}
	}
	return h.sendEvery
}

// silenceDue tells whether the client is silent for too long, and when to look again. One that holds unsettled messages is
// busy with them, and not silent: the libraries of languages with one thread send heart-beats only when they are called.
func (h *heartbeat) silenceDue(nowMs int64) (time.Duration, bool) {
	since := h.waitingSinceMs.Load()
	if since == 0 {
		return h.silentAfter, false
	}
	if left := time.Duration(since-nowMs)*time.Millisecond + h.silentAfter; left > 0 {
		return left, false
	}
	if h.conn.holds() {
		return h.silentAfter, false
	}
	return 0, true
}

// holds reports whether the client has messages that it has not settled.
func (c *conn) holds() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holding > 0
}
