package router

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router/outbox"
)

// mover is a consumer that stores each message in another queue before it
// settles it.
type mover struct {
	src, dst *Mailbox
	limit    int
	last     uint64 // what is stored later stays
	progress chan struct{}

	mu             sync.Mutex
	taken          []*Delivery // to be stored next, at most the credit
	count          int
	moved, waiting int
	full           bool // took all it may
	err            error
}

var _ Receiver = (*mover)(nil)

// Live is not called: a mover consumes from a queue.
func (m *mover) Live(*Message, *outbox.Batch) bool { return false }

// Stored takes one message; run stores it, since the source's lock is held here.
func (m *mover) Stored(d *Delivery, _ *outbox.Batch) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil || d.Seq > m.last || (m.limit > 0 && m.count >= m.limit) {
		m.full = true
		return false
	}
	m.count++
	m.waiting++
	m.taken = append(m.taken, d)
	m.signal()
	return true
}

func (m *mover) signal() {
	select {
	case m.progress <- struct{}{}:
	default:
	}
}

// run stores what was taken, in order, until all is moved, and returns how many
// were and the first error.
func (m *mover) run(ctx context.Context) (int, error) {
	tick := time.NewTicker(20 * time.Millisecond) // the source may have become idle
	defer tick.Stop()
	for {
		idle := m.src.idle()
		m.mu.Lock()
		taken := m.taken
		m.taken = nil
		over := m.waiting == 0 && (m.full || m.err != nil || idle)
		moved, err := m.moved, m.err
		m.mu.Unlock()
		if over {
			return moved, err
		}
		for _, d := range taken {
			m.store(d)
		}
		select {
		case <-m.progress:
		case <-tick.C:
		case <-ctx.Done():
			return moved, storeError("move", context.Cause(ctx))
		}
	}
}

func (m *mover) store(d *Delivery) {
	c := d.Message.With(func(c *Message) {
		c.To = m.dst.address
		c.DedupID = "move\x00" + m.src.id.Name + "\x00" + strconv.FormatUint(d.Seq, 10) + "\x00" + c.ID.String()
	})
	err := m.dst.append(c, c.AppendEnvelope(nil), func(_ Stored, err error, w *outbox.Batch) { m.ended(d, err, w) })
	if err != nil {
		m.ended(d, err, nil)
	}
}

func (m *mover) ended(d *Delivery, err error, w *outbox.Batch) {
	if err == nil {
		err = d.Ack(w, nil)
	} else {
		_ = d.Undeliver(w) // it is still held: the session lives
	}
	m.mu.Lock()
	m.waiting--
	if err == nil {
		m.moved++
	} else if m.err == nil {
		m.err = err
	}
	m.signal()
	m.mu.Unlock()
}
