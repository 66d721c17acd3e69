package jetstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

const (
	// publisherSlots bounds the publishes that JetStream has not answered.
	publisherSlots = 1 << 15
	// publishBacklog bounds those that wait for a slot: a message for every device of a fleet is as many publishes at once.
	publishBacklog = 1 << 18
	// answerTimeout is when a publish without an answer is given up. Its slot gets
	// another reply subject: a late answer must not be taken for another's.
	answerTimeout = 30 * time.Second
	// lookEvery is how often the publisher looks whether answers come, nudgeAfter
	// how many looks without any make it nudge the connection.
	lookEvery  = 100 * time.Millisecond
	nudgeAfter = 2
)

// publisher sends to streams without waiting and matches JetStream's answers to
// the publishes. Each has a slot; the slot's number is in the reply subject. What finds no slot free waits for one, and leaves in
// the order in which it came.
type publisher struct {
	conn    *nats.Conn
	sub     *nats.Subscription
	prefix  string
	shared  bool // the server is one of several
	answers chan *nats.Msg
	stop    chan struct{}
	group   *sync.WaitGroup
	nudging atomic.Bool
	nudges  atomic.Uint64

	mu      sync.Mutex
	most    int // slots
	slots   []slot
	free    []int32
	waiting int // publishes that wait for their answer
	backlog []queued
	sending bool // run sends from the backlog
	ended   bool
}

// queued is a publish that waits for a slot.
type queued struct {
	subject string
	header  nats.Header
	data    []byte
	done    func(router.Stored, error, *outbox.Batch)
}

type slot struct {
	reply  string
	done   func(router.Stored, error, *outbox.Batch)
	sentMs int64
	use    int // counts its reply subjects
}

// newPublisher makes a publisher. Where several servers are, two may take themselves for the leader of a stream for a moment, and
// both answer: then each publish has a reply subject of its own, or the second answer would be taken for the next one's.
func newPublisher(conn *nats.Conn, shared bool, group *sync.WaitGroup) (*publisher, error) {
	p := &publisher{conn: conn, shared: shared, most: publisherSlots, prefix: nats.NewInbox() + ".", answers: make(chan *nats.Msg, 2*publisherSlots), stop: make(chan struct{}), group: group}
	var err error
	if p.sub, err = conn.ChanSubscribe(p.prefix+"*", p.answers); err != nil {
		return nil, fmt.Errorf("subscribe to confirmations: %w", err)
	}
	group.Go(p.run)
	return p, nil
}

func (p *publisher) close() { close(p.stop) }

// run handles answers in the order in which they come, and gives up on those
// that do not.
func (p *publisher) run() {
	var w outbox.Batch
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	silent := 0 // looks since the last answer
	for {
		select {
		case m := <-p.answers:
			silent = 0
			p.answered(m, &w)
			for range len(p.answers) {
				p.answered(<-p.answers, &w)
			}
			p.sendBacklog(&w)
			w.Flush()
		case <-tick.C:
			if silent++; silent%nudgeAfter == 0 && p.pending() > 0 {
				p.nudge()
			}
			p.giveUp(time.Now().Add(-answerTimeout).UnixMilli(), errNoAnswer, &w)
			p.sendBacklog(&w)
			w.Flush()
		case <-p.stop:
			p.giveUp(time.Now().UnixMilli()+1, errClosed, &w)
			p.dropBacklog(errClosed, &w)
			w.Flush()
			return
		}
	}
}

func (p *publisher) pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// nudge asks the server for a sign of life, which flushes both directions of the
// connection. A run was seen in which every client waited for a confirmation and
// nothing moved; a message that stays in a buffer until the next one comes would
// explain it, and this is the next one. On a slow disk it does no harm.
func (p *publisher) nudge() {
	if !p.nudging.CompareAndSwap(false, true) {
		return
	}
	p.nudges.Add(1)
	p.group.Go(func() {
		defer p.nudging.Store(false)
		_ = p.conn.FlushTimeout(requestTimeout) // what it cannot help times out
	})
}

var (
	errNoAnswer = errors.New("no answer from the store")
	errNobody   = errors.New("nobody takes messages for the stream")
	errClosed   = errors.New("the store is closed")
	errBusy     = fmt.Errorf("%d publishes wait for the store", publisherSlots+publishBacklog)
)

// publish sends data and has done called with the answer.
func (p *publisher) publish(subject string, header nats.Header, data []byte, done func(router.Stored, error, *outbox.Batch)) error {
	q := queued{subject, header, data, done}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return unavailable(errClosed)
	}
	if p.sending || len(p.backlog) > 0 || p.waiting >= p.most {
		defer p.mu.Unlock()
		if len(p.backlog) >= publishBacklog {
			return unavailable(errBusy)
		}
		p.backlog = append(p.backlog, q)
		return nil
	}
	i, reply := p.occupy(done)
	p.mu.Unlock()
	return p.send(i, reply, q)
}

// occupy takes a slot, of which one must be free; with the lock held.
func (p *publisher) occupy(done func(router.Stored, error, *outbox.Batch)) (i int32, reply string) {
	if len(p.free) > 0 {
		i = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
	} else {
		i = int32(len(p.slots))
		p.slots = append(p.slots, slot{reply: p.prefix + strconv.Itoa(int(i))})
	}
	s := &p.slots[i]
	if p.shared {
		p.renew(i)
	}
	s.done, s.sentMs = done, time.Now().UnixMilli()
	p.waiting++
	return i, s.reply
}

func (p *publisher) send(i int32, reply string, q queued) error {
	var err error
	if q.header == nil {
		err = p.conn.PublishRequest(q.subject, reply, q.data)
	} else {
		err = p.conn.PublishMsg(&nats.Msg{Subject: q.subject, Reply: reply, Header: q.header, Data: q.data})
	}
	if err != nil {
		return p.unsent(i, err)
	}
	return nil
}

// sendBacklog sends what waits while slots are free. What is published meanwhile queues up behind it.
func (p *publisher) sendBacklog(w *outbox.Batch) {
	for {
		p.mu.Lock()
		batch := p.backlog[:min(len(p.backlog), p.most-p.waiting)]
		if p.sending = len(batch) > 0; !p.sending {
			if len(p.backlog) == 0 {
				p.backlog = nil
			}
			p.mu.Unlock()
			return
		}
		p.backlog = p.backlog[len(batch):]
		type place struct {
			slot  int32
			reply string
		}
		places := make([]place, len(batch))
		for k, q := range batch {
			places[k].slot, places[k].reply = p.occupy(q.done)
		}
		p.mu.Unlock()
		for k, q := range batch {
			if err := p.send(places[k].slot, places[k].reply, q); err != nil {
				q.done(router.Stored{}, err, w)
			}
			batch[k] = queued{}
		}
	}
}

// dropBacklog answers what waits with an error, and all that comes from now on.
func (p *publisher) dropBacklog(cause error, w *outbox.Batch) {
	p.mu.Lock()
	backlog := p.backlog
	p.backlog, p.ended = nil, true
	p.mu.Unlock()
	for _, q := range backlog {
		q.done(router.Stored{}, unavailable(cause), w)
	}
}

// unsent frees the slot of a publish that never left. If the publisher's end came
// between, that has answered it.
func (p *publisher) unsent(i int32, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[i].done == nil {
		return nil
	}
	p.waiting--
	p.slots[i].done = nil
	p.free = append(p.free, i)
	return unavailable(err)
}

func (p *publisher) answered(m *nats.Msg, w *outbox.Batch) {
	number, _, _ := strings.Cut(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], "-")
	i, err := strconv.Atoi(number)
	p.mu.Lock()
	if err != nil || i >= len(p.slots) || p.slots[i].reply != m.Subject {
		p.mu.Unlock()
		return
	}
	done := p.slots[i].done
	p.slots[i].done = nil
	if done != nil {
		p.waiting--
		p.free = append(p.free, int32(i))
	}
	p.mu.Unlock()
	if done == nil {
		return
	}
	if status := m.Header.Get("Status"); status != "" {
		// 503: nobody listens on the subject, since its stream is gone.
		done(router.Stored{}, unavailable(fmt.Errorf("%w: status %s", errNobody, status)), w)
		return
	}
	stored, err := parseAnswer(m.Data)
	done(stored, err, w)
}

// giveUp answers what was sent before a time with an error.
func (p *publisher) giveUp(sentBeforeMs int64, cause error, w *outbox.Batch) {
	var dones []func(router.Stored, error, *outbox.Batch)
	p.mu.Lock()
	for i := 0; i < len(p.slots) && p.waiting > 0; i++ {
		s := &p.slots[i]
		if s.done != nil && s.sentMs < sentBeforeMs {
			dones = append(dones, s.done)
			s.done = nil
			p.renew(int32(i))
			p.free = append(p.free, int32(i))
			p.waiting--
		}
	}
	p.mu.Unlock()
	for _, done := range dones {
		done(router.Stored{}, unavailable(cause), w)
	}
}

// renew gives a slot another reply subject: what still comes to the one before is nobody's. With the lock held.
func (p *publisher) renew(i int32) {
	s := &p.slots[i]
	s.use++
	b := strconv.AppendInt(append(make([]byte, 0, len(p.prefix)+24), p.prefix...), int64(i), 10)
	s.reply = string(strconv.AppendInt(append(b, '-'), int64(s.use), 10))
}

// parseAnswer reads JetStream's answer to a publish: {"stream":"Q","seq":7} or
// one with "error". An empty answer accepts a message of a batch.
func parseAnswer(b []byte) (router.Stored, error) {
	if len(b) == 0 {
		return router.Stored{}, nil
	}
	if !bytes.Contains(b, []byte(`"error"`)) && !bytes.Contains(b, []byte(`"duplicate"`)) {
		if _, rest, ok := bytes.Cut(b, []byte(`"seq":`)); ok {
			var seq uint64
			for len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
				seq = seq*10 + uint64(rest[0]-'0')
				rest = rest[1:]
			}
			return router.Stored{Seq: seq}, nil
		}
	}
	var a struct {
		Seq       uint64 `json:"seq"`
		Duplicate bool   `json:"duplicate"`
		Error     *struct {
			Code    int    `json:"err_code"`
			Message string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return router.Stored{}, unavailable(fmt.Errorf("unreadable answer from the store: %w", err))
	}
	if a.Error != nil {
		return router.Stored{}, storeRefused(a.Error.Code, a.Error.Message)
	}
	return router.Stored{Seq: a.Seq, Duplicate: a.Duplicate}, nil
}

// What JetStream answers above its limit for all streams.
const (
	codeNoSpace        = 10023 // "insufficient resources"
	codeNoStorage      = 10047 // "insufficient storage resources available"
	codeAccountStorage = 10002 // "resource limits exceeded for account"
)

// refusal is an error that JetStream answered.
type refusal struct {
	code    int
	message string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s (%d)", r.message, r.code) }

func storeRefused(code int, message string) error {
	err := &refusal{code, message}
	switch code {
	case codeNoSpace, codeNoStorage, codeAccountStorage:
		return storeFull(err)
	}
	return unavailable(err)
}

func storeFull(err error) error {
	return &router.Error{Op: "store", Class: router.Full, Text: "the store is full (storage.max_bytes): consume or purge, then try again", RetryAfter: 5 * time.Second, Err: err}
}
