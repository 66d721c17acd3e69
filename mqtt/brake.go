package mqtt

import (
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// brake holds back the confirmations of publishes for a client whose QoS 1 and 2 messages have to wait, so that its
// publishers go as fast as it does and nothing is dropped. A client that is slow beyond a moment's lag is not waited for:
// it must slow nobody, and its queue fills.
type brake struct {
	held     []func(*outbox.Batch)
	progress uint64 // messages that left the queue
	seen     uint64 // progress at the last look
	looked   time.Time
	lagging  bool // nobody waits
	timer    *time.Timer
}

const (
	// brakePeriod is the longest that a publisher waits for a client that does not keep up, each time it falls behind.
	brakePeriod = 100 * time.Millisecond
	// brakeProgress is what must have left the queue in that time for the client to be worth waiting for: 5,000 a second.
	brakeProgress = 500
)

var _ outbox.Brake = (*conn)(nil)

// Hold keeps the confirmation of a publish until the queue is short.
func (c *conn) Hold(done func(*outbox.Batch)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &c.window.brake
	if c.closed || c.window.queue.short(&c.server.opt) {
		return false
	}
	if b.lagging && (time.Since(b.looked) < brakePeriod || !b.keepsUp()) {
		return false
	}
	if b.timer == nil {
		b.seen, b.looked = b.progress, time.Now()
		b.timer = time.AfterFunc(brakePeriod, c.reviewBrake)
	}
	b.held = append(b.held, done)
	return true
}

// keepsUp looks whether enough has left the queue since the last look; with mu held.
func (b *brake) keepsUp() bool {
	b.lagging = b.progress-b.seen < brakeProgress
	b.seen, b.looked = b.progress, time.Now()
	return !b.lagging
}

// release returns what was held; with mu held.
func (b *brake) release() []func(*outbox.Batch) {
	held := b.held
	b.held = nil
	return held
}

// reviewBrake lets publishers go whose subscriber does not keep up. The timer calls it while anything is held.
func (c *conn) reviewBrake() {
	c.mu.Lock()
	b := &c.window.brake
	if len(b.held) > 0 && b.keepsUp() {
		b.timer.Reset(brakePeriod)
		c.mu.Unlock()
		return
	}
	held := b.release()
	b.timer = nil
	c.mu.Unlock()
	var w outbox.Batch
	resume(next{held: held}, &w)
	w.Flush()
}
