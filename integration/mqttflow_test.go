package integration

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/mqgate/mqgate/integration/harness"
)

// flow is what MQTT publishers and subscribers saw, over all their connections. The
// messages of a publisher are numbered.
type flow struct {
	mu        sync.Mutex
	confirmed map[string]map[int]bool        // by publisher: PUBACK or PUBREC came
	resent    map[string]map[int]bool        // by publisher: sent again
	got       map[string]map[string]*numbers // by subscriber and publisher
	sends     int
	problems  []string
}

// numbers is what a subscriber got of a publisher.
type numbers struct {
	count    map[int]int
	unmarked map[int]int // without DUP
	next     int         // above all so far
	skipped  int         // first seen behind a higher one
}

func newFlow() *flow {
	return &flow{confirmed: map[string]map[int]bool{}, resent: map[string]map[int]bool{}, got: map[string]map[string]*numbers{}}
}

func (l *flow) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

func note(m map[string]map[int]bool, id string, n int) {
	if m[id] == nil {
		m[id] = map[int]bool{}
	}
	m[id][n] = true
}

func (l *flow) sent(publisher string, n int, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sends++
	if again {
		note(l.resent, publisher, n)
	}
}

func (l *flow) confirm(publisher string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	note(l.confirmed, publisher, n)
}

func (l *flow) deliver(subscriber, payload string, dup bool) {
	publisher, text, _ := strings.Cut(payload, " ")
	var n int
	if _, err := fmt.Sscanf(text, "%d", &n); err != nil {
		l.problem("%s got %q", subscriber, payload)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.got[subscriber] == nil {
		l.got[subscriber] = map[string]*numbers{}
	}
	x := l.got[subscriber][publisher]
	if x == nil {
		x = &numbers{count: map[int]int{}, unmarked: map[int]int{}}
		l.got[subscriber][publisher] = x
	}
	if x.count[n] == 0 && n < x.next {
		x.skipped++
	}
	x.next = max(x.next, n+1)
	x.count[n]++
	if !dup {
		x.unmarked[n]++
	}
}

// progress is the number of confirmations, and the least number of messages that a
// subscriber got.
func (l *flow) progress(subscribers int) (confirmed, delivered int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.confirmed {
		confirmed += len(m)
	}
	if len(l.got) < subscribers {
		return confirmed, 0
	}
	delivered = 1 << 30
	for _, by := range l.got {
		n := 0
		for _, x := range by {
			n += len(x.count)
		}
		delivered = min(delivered, n)
	}
	return confirmed, delivered
}

// String is how far each subscriber has come with each publisher.
func (l *flow) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for publisher, m := range l.confirmed {
		fmt.Fprintf(&b, "%s: %d confirmed", publisher, len(m))
		for s, by := range l.got {
			if x := by[publisher]; x != nil {
				fmt.Fprintf(&b, ", %s got %d to number %d", s, len(x.count), x.next-1)
			}
		}
		b.WriteString("; ")
	}
	return b.String() + strings.Join(l.problems, "; ")
}

// backlog is how far the slowest subscriber is behind the confirmations.
func (l *flow) backlog(subscribers int) int {
	confirmed, delivered := l.progress(subscribers)
	return confirmed - delivered
}

// missing are the confirmed messages that some subscriber has not got.
func (l *flow) missing(subscribers ...string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for publisher, m := range l.confirmed {
		for _, s := range subscribers {
			for n := range m {
				if x := l.got[s][publisher]; x == nil || x.count[n] == 0 {
					out = append(out, fmt.Sprintf("%s of %s for %s", fmt.Sprint(n), publisher, s))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// duplicates counts, for one pair, the messages that came more than once, and those of
// them that no DUP and no repetition by the publisher explains.
func (l *flow) duplicates(subscriber, publisher string) (all, unexplained int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.got[subscriber][publisher]
	if x == nil {
		return 0, 0
	}
	for n, c := range x.count {
		all += c - 1
		if x.unmarked[n] > 1 && !l.resent[publisher][n] {
			unexplained += x.unmarked[n] - 1
		}
	}
	return all, unexplained
}

// skipped counts the messages that first came behind a later one.
func (l *flow) skipped() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, by := range l.got {
		for _, x := range by {
			n += x.skipped
		}
	}
	return n
}

// mqttPublisher publishes numbered messages in a session that outlives its
// connections, as the specification says: what is not completed when a connection
// ends is sent again on the next one, in order, with the identifiers that it had.
type mqttPublisher struct {
	addr    func() string
	flow    *flow
	name    string
	topic   string
	version byte
	qos     byte
	window  int
	limit   int           // how many messages; 0: until stop
	stop    chan struct{} // no new messages
	ahead   func() bool   // wait with new messages, if set

	next   int
	lastID uint16
	open   []*sending
	began  bool
}

type sending struct {
	n        int
	id       uint16
	released bool // PUBREC came
}

// run returns when everything that was begun is completed.
func (p *mqttPublisher) run() {
	for {
		m, err := harness.DialMQTT(p.addr(), harness.MQTTOptions{Version: p.version, ClientID: p.name, Durable: true})
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if p.began && !m.Present {
			p.flow.problem("the session of publisher %s is gone", p.name)
		}
		p.began = true
		err = p.connected(m)
		m.Close()
		if err == nil {
			return
		}
	}
}

func (p *mqttPublisher) waits() bool { return p.ahead != nil && p.ahead() }

func (p *mqttPublisher) ended() bool {
	return p.limit > 0 && p.next >= p.limit || closed(p.stop)
}

// connected returns nil when all is done, else why the connection ended.
func (p *mqttPublisher) connected(m *harness.MQTT) error {
	for _, s := range p.open {
		if err := p.send(m, s, true); err != nil {
			return err
		}
	}
	for {
		for len(p.open) < p.window && !p.ended() && !p.waits() {
			p.lastID = p.lastID%65535 + 1
			s := &sending{n: p.next, id: p.lastID}
			p.next++
			p.open = append(p.open, s)
			if err := p.send(m, s, false); err != nil {
				return err
			}
		}
		if err := m.Flush(); err != nil {
			return err
		}
		switch {
		case len(p.open) > 0:
		case p.ended():
			return nil
		default:
			if err := m.Ping(); err != nil { // is the gateway still there?
				return err
			}
			pause(p.stop)
			continue
		}
		pk, err := m.Read(30 * time.Second)
		if err != nil {
			return err
		}
		if err := p.answered(m, pk); err != nil {
			return err
		}
	}
}

func (p *mqttPublisher) send(m *harness.MQTT, s *sending, again bool) error {
	if s.released {
		return m.Queue(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel}, PacketID: s.id})
	}
	p.flow.sent(p.name, s.n, again)
	pk := harness.PublishPacket(p.topic, fmt.Appendf(nil, "%s %d", p.name, s.n), p.qos)
	pk.PacketID, pk.FixedHeader.Dup = s.id, again && p.qos > 0
	if p.qos > 0 {
		return m.Queue(pk)
	}
	p.open = p.open[:len(p.open)-1] // nothing will come for it
	return m.Write(pk)
}

func (p *mqttPublisher) answered(m *harness.MQTT, pk *packets.Packet) error {
	at := slices.IndexFunc(p.open, func(s *sending) bool { return s.id == pk.PacketID })
	kind := pk.FixedHeader.Type
	unknown := kind == packets.Pubcomp && pk.ReasonCode == 0x92 // it was completed before the connection ended
	if at < 0 || pk.ReasonCode >= 0x80 && !unknown {
		p.flow.problem("publisher %s got packet type %d for id %d with reason %#x", p.name, kind, pk.PacketID, pk.ReasonCode)
		return fmt.Errorf("packet type %d", kind)
	}
	s := p.open[at]
	switch {
	case kind == packets.Puback && p.qos == 1, kind == packets.Pubcomp && s.released:
		p.flow.confirm(p.name, s.n)
		p.open = slices.Delete(p.open, at, at+1)
		return nil
	case kind == packets.Pubrec && p.qos == 2:
		p.flow.confirm(p.name, s.n)
		s.released = true
		return m.Queue(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel}, PacketID: s.id})
	}
	p.flow.problem("publisher %s got packet type %d for number %d", p.name, kind, s.n)
	return fmt.Errorf("packet type %d", kind)
}

// mqttSubscriber receives in a session that outlives its connections. Of QoS 2 it
// keeps, as it must, which identifiers it has received and not released.
type mqttSubscriber struct {
	addr    func() string
	flow    *flow
	name    string
	filter  string
	version byte
	qos     byte
	maximum uint16        // receive maximum, MQTT 5
	stop    chan struct{} // leave
	pace    func()        // called before each acknowledgement, if set
	ready   func()        // called once it has subscribed

	began    bool
	received map[uint16]bool
}

func (c *mqttSubscriber) run() {
	c.received = map[uint16]bool{}
	for !closed(c.stop) {
		m, err := harness.DialMQTT(c.addr(), harness.MQTTOptions{Version: c.version, ClientID: c.name, Durable: true, ReceiveMaximum: c.maximum})
		if err != nil {
			pause(c.stop)
			continue
		}
		c.connected(m)
		m.Close()
	}
}

func (c *mqttSubscriber) connected(m *harness.MQTT) {
	if c.began && !m.Present {
		c.flow.problem("the session of subscriber %s is gone", c.name)
	}
	if !c.began {
		if m.Subscribe(c.qos, c.filter) != nil {
			return
		}
		c.began = true
		c.ready()
	}
	for {
		if !m.Waits(50 * time.Millisecond) {
			if closed(c.stop) {
				return
			}
			continue
		}
		pk, err := m.Read(30 * time.Second)
		if err == nil {
			err = c.take(m, pk)
		}
		if err != nil {
			return
		}
	}
}

func (c *mqttSubscriber) take(m *harness.MQTT, pk *packets.Packet) error {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if !c.received[pk.PacketID] {
			c.flow.deliver(c.name, string(pk.Payload), pk.FixedHeader.Dup)
		}
		if c.pace != nil {
			c.pace()
		}
		switch pk.FixedHeader.Qos {
		case 1:
			return m.Answer(packets.Puback, pk.PacketID)
		case 2:
			c.received[pk.PacketID] = true
			return m.Answer(packets.Pubrec, pk.PacketID)
		}
		return nil
	case packets.Pubrel:
		delete(c.received, pk.PacketID)
		return m.Answer(packets.Pubcomp, pk.PacketID)
	}
	return fmt.Errorf("packet type %d", pk.FixedHeader.Type)
}
