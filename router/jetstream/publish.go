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
	"unsafe"

	"github.com/nats-io/nats.go"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

const (
	// publisherSlots bounds the publishes that JetStream has not answered.
	publisherSlots = 1 << 15
	// publisherBytes bounds what is in them: half of what the server lets wait for one stream.
	publisherBytes = 1 << 29
	// publishBacklog and backlogBytes bound those that wait for a slot: a message for every device of a fleet is as many publishes
	// at once. They share its bytes, which count once.
	publishBacklog = 1 << 18
	backlogBytes   = 1 << 29
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
	bytes   int // of those
	backlog []queued
	held    int  // bytes of the backlog
	sending bool // run sends from the backlog
	ended   bool
}

// queued is a publish that waits for a slot.
type queued struct {
	subject string
	header  nats.Header
	data    []byte
	done    func(router.Stored, error, *outbox.Batch)
	held    int // bytes that wait since it does
}

type slot struct {
	bytes  int
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
	errBusy     = errors.New("too much waits for the store")
)

// publish sends data and has done called with the answer.
func (p *publisher) publish(subject string, header nats.Header, data []byte, done func(router.Stored, error, *outbox.Batch)) error {
	q := queued{subject: subject, header: header, data: data, done: done}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return unavailable(errClosed)
	}
	if p.sending || len(p.backlog) > 0 || !p.vacant() {
		defer p.mu.Unlock()
		return p.enqueue(q)
	}
	i, reply := p.occupy(q)
	p.mu.Unlock()
	return p.send(i, reply, q)
}

// vacant reports whether another publish may be sent; with the lock held.
func (p *publisher) vacant() bool { return p.waiting < p.most && p.bytes < publisherBytes }

// enqueue has a publish wait for a slot; with the lock held.
func (p *publisher) enqueue(q queued) error {
	q.held = len(q.data)
	if n := len(p.backlog); n > 0 && q.held > 0 && unsafe.SliceData(p.backlog[n-1].data) == unsafe.SliceData(q.data) {
		q.held = 0
	}
	if len(p.backlog) >= publishBacklog || p.held+q.held > backlogBytes {
		return unavailable(errBusy)
	}
	p.held += q.held
	p.backlog = append(p.backlog, q)
	return nil
}

// occupy takes a slot, of which one must be free; with the lock held.
func (p *publisher) occupy(q queued) (i int32, reply string) {
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
	s.done, s.sentMs, s.bytes = q.done, time.Now().UnixMilli(), len(q.data)
	p.waiting++
	p.bytes += s.bytes
	return i, s.reply
}

// vacate gives a slot back; with the lock held.
func (p *publisher) vacate(i int32) {
	s := &p.slots[i]
	s.done = nil
	p.waiting--
	p.bytes -= s.bytes
	p.free = append(p.free, i)
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
		type place struct {
			slot  int32
			reply string
		}
		var places []place
		for len(places) < len(p.backlog) && p.vacant() {
			q := p.backlog[len(places)]
			i, reply := p.occupy(q)
			p.held -= q.held
			places = append(places, place{i, reply})
		}
		if p.sending = len(places) > 0; !p.sending {
			if len(p.backlog) == 0 {
				p.backlog = nil
			}
			p.mu.Unlock()
			return
		}
		batch := p.backlog[:len(places)]
		p.backlog = p.backlog[len(places):]
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
	p.backlog, p.held, p.ended = nil, 0, true
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
	p.vacate(i)
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
	if done != nil {
		p.vacate(int32(i))
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
			p.renew(int32(i))
			p.vacate(int32(i))
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
