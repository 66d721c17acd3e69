package router

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/mqgate/mqgate/router/cron"
	"github.com/mqgate/mqgate/router/outbox"
)

// ScheduledQueue is the name of the queue, in each vhost, that keeps the messages
// which are to be published later. Operators look into it and purge it as any other;
// nobody consumes from it. Like an expiry, what is due is known by 16 bytes in
// memory for each message; the message stays in the store.
const ScheduledQueue = "mqgate.scheduled"

const (
	// headerSchedule holds the schedule of a message in that queue.
	headerSchedule = "x-mqgate-schedule"
	// HeaderScheduledJob is a header of what was published by a schedule: the id of
	// the message that asked for it.
	HeaderScheduledJob = "scheduledJobId"
	// maxScheduleDelay bounds the delay and the period of a schedule.
	maxScheduleDelay = 10 * 366 * 24 * time.Hour
	// minPeriod is how often one message may be published again.
	minPeriod = 100 * time.Millisecond
)

// Schedule says when a message is to be published. The zero Schedule is at once.
type Schedule struct {
	Delay  time.Duration // until the first time; with Cron, after each time it names
	Period time.Duration // between repetitions
	Repeat int           // repetitions after the first time; negative: without end
	Cron   string        // crontab line in the gateway's local time: again and again
}

// IsZero reports whether the message is published at once.
func (s Schedule) IsZero() bool { return s == Schedule{} }

func (s Schedule) check() error {
	text := ""
	switch {
	case s.Delay < 0 || s.Delay > maxScheduleDelay:
		text = fmt.Sprintf("a delay of %s is not between 0 and %d days", s.Delay, maxScheduleDelay/(24*time.Hour))
	case s.Repeat == 0:
	case s.Period < minPeriod || s.Period > maxScheduleDelay:
		text = fmt.Sprintf("a message that is repeated needs a period between %s and %d days, not %s", minPeriod, maxScheduleDelay/(24*time.Hour), s.Period)
	}
	if text == "" && s.Cron != "" {
		l, err := cron.Parse(s.Cron)
		switch {
		case err != nil:
			text = "bad crontab line: " + err.Error()
		case l.Next(time.Now()).IsZero():
			text = fmt.Sprintf("the crontab line %q names no day that exists", s.Cron)
		}
	}
	if text != "" {
		return &Error{Op: "publish", Class: Invalid, Text: text}
	}
	return nil
}

// Later returns the message whose publication has m published when s says.
func (m *Message) Later(s Schedule) (*Message, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if m.To.Temporary() {
		return nil, &Error{Op: "publish", Class: Invalid, Text: "a temporary queue may be gone by then: nothing is scheduled for it"}
	}
	now := time.Now()
	j := job{to: m.To, Schedule: s, dueMs: now.Add(s.Delay).UnixMilli()}
	if m.ExpiresUnixMs > 0 { // not counted from the message's timestamp, which may be the publisher's
		j.lifeMs = max(m.ExpiresUnixMs-now.UnixMilli(), 1)
	}
	if s.Cron != "" {
		j.dueMs = nextOfCron(s.Cron)
	}
	return j.wrap(m), nil
}

// nextOfCron returns when a line that was checked before is due next.
func nextOfCron(line string) int64 {
	l, err := cron.Parse(line)
	if err != nil {
		return 0
	}
	return l.Next(time.Now()).UnixMilli()
}

// job is what the queue of scheduled messages knows of one of them.
type job struct {
	Schedule
	to     Address
	id     string // of the message that asked for it; "" in that message itself
	n      int    // publications so far
	dueMs  int64
	lifeMs int64 // from its publication to its expiry; 0: it does not expire
}

// wrap returns the message that stands for the job in the queue of scheduled ones.
func (j job) wrap(m *Message) *Message {
	v := url.Values{"to": {j.to.Text(StyleSlash)}, "due": {strconv.FormatInt(j.dueMs, 10)}}
	set := func(name string, n int64) {
		if n != 0 {
			v.Set(name, strconv.FormatInt(n, 10))
		}
	}
	set("n", int64(j.n))
	set("delay", j.Delay.Milliseconds())
	set("period", j.Period.Milliseconds())
	set("repeat", int64(j.Repeat))
	set("life", j.lifeMs)
	if j.Cron != "" {
		v.Set("cron", j.Cron)
	}
	if j.id != "" {
		v.Set("id", j.id)
	}
	return m.With(func(m *Message) {
		m.To = Address{vhost: j.to.vhost, kind: KindQueue, name: ScheduledQueue}
		m.set(headerSchedule, v.Encode())
	})
}

// jobOf reads the job of a message of that queue.
func jobOf(m *Message) (j job, err error) {
	text, _ := m.Header(headerSchedule)
	v, err := url.ParseQuery(text)
	if err == nil {
		j.to, _, err = ParseDestination(m.To.vhost, v.Get("to"))
	}
	get := func(name string) int64 {
		if !v.Has(name) {
			return 0
		}
		n, e := strconv.ParseInt(v.Get(name), 10, 64)
		if e != nil {
			err = e
		}
		return n
	}
	j.dueMs, j.n, j.Repeat, j.Cron, j.id = get("due"), int(get("n")), int(get("repeat")), v.Get("cron"), v.Get("id")
	j.lifeMs = get("life")
	j.Delay, j.Period = time.Duration(get("delay"))*time.Millisecond, time.Duration(get("period"))*time.Millisecond
	if err == nil && j.dueMs <= 0 {
		err = fmt.Errorf("it is never due")
	}
	if err != nil {
		return job{}, &Error{Op: "publish", Class: Invalid, Text: "queue " + ScheduledQueue + " takes only what the gateway puts there", Err: err}
	}
	return j, j.check()
}

// destination is where a message is published to in the end, for who decides
// whether it may be.
func (m *Message) destination() (Address, error) {
	if m.To.kind != KindQueue || m.To.name != ScheduledQueue {
		return m.To, nil
	}
	j, err := jobOf(m)
	return j.to, err
}

// keepsSchedules reports whether a mailbox is the queue of scheduled messages.
func (id MailboxID) keepsSchedules() bool {
	return id.Kind == KindQueueBox && id.Name == ScheduledQueue
}

// deadline returns when something is to be done with a message though nobody
// settles it: its publication is due, or it expires. 0: never.
func (b *Mailbox) deadline(m *Message) int64 {
	if !b.id.keepsSchedules() {
		return expiry(m)
	}
	j, err := jobOf(m)
	if err != nil {
		return 0 // only damage makes such: it is for the operator to look at
	}
	return j.dueMs
}

// published is the message as it is published at its time: its life begins then.
func (j job) published(m *Message, nowMs int64) *Message {
	return m.With(func(c *Message) {
		c.To = j.to
		c.DedupID = fmt.Sprintf("due\x00%s\x00%d", j.id, j.n)
		c.unset(headerSchedule)
		c.set(HeaderScheduledJob, j.id)
		if m.ExpiresUnixMs > 0 {
			c.ExpiresUnixMs = nowMs + j.lifeMs
		}
		c.TimestampMs = nowMs
		c.Flags &^= FlagTimed
	})
}

// after returns what is to be scheduled once the job was due at a time: nothing, the
// next repetition, or with a crontab line that has repetitions of its own both.
func (j job) after(nowMs int64) (jobs []job) {
	if j.Cron != "" {
		next := j
		next.n++
		if next.dueMs = nextOfCron(j.Cron); next.dueMs > 0 {
			jobs = append(jobs, next)
		}
		if j.Delay > 0 || j.Repeat != 0 {
			one := j
			one.Cron, one.dueMs = "", nowMs+j.Delay.Milliseconds()
			one.id = fmt.Sprintf("%s.%d", j.id, j.n)
			jobs = append(jobs, one)
		}
		return jobs
	}
	if j.Repeat == 0 {
		return nil
	}
	next := j
	next.n++
	next.Repeat = max(j.Repeat-1, -1)
	period := j.Period.Milliseconds()
	next.dueMs = j.dueMs + period
	if late := nowMs - next.dueMs; late > 0 { // the gateway was down: what was missed is not made up for
		next.dueMs += (late/period + 1) * period
	}
	return []job{next}
}

// publishes reports whether the job has the message published when it is due, rather
// than some time after.
func (j job) publishes() bool { return j.Cron == "" || j.Delay == 0 && j.Repeat == 0 }

// release publishes what is due and then schedules what follows from it; done hears
// when both are stored, if no error is returned. Only then is the message settled: a
// crash before has it released again, with ids that make copies known as such.
func (r *Router) release(ctx context.Context, m *Message, done Done) error {
	j, err := jobOf(m)
	if err != nil {
		return err
	}
	if j.id == "" {
		j.id = m.ID.String()
	}
	now := time.Now().UnixMilli()
	var ms []*Message
	if j.publishes() {
		ms = append(ms, j.published(m, now))
	}
	for _, next := range j.after(now) {
		w := next.wrap(m)
		w.DedupID = fmt.Sprintf("next\x00%s\x00%d", next.id, next.n)
		ms = append(ms, w)
	}
	return r.publishInTurn(ctx, ms, done)
}

// publishInTurn publishes each message once the one before it is stored: what the
// store forgets to be a copy must not be tried again while another one cannot be
// stored.
func (r *Router) publishInTurn(ctx context.Context, ms []*Message, done Done) error {
	if len(ms) == 0 {
		done(Stored{}, nil, nil)
		return nil
	}
	return r.publishHeard(ctx, ms[0], func(s Stored, err error, w *outbox.Batch) {
		if err == nil {
			err = r.publishInTurn(ctx, ms[1:], done)
		}
		if err != nil {
			done(s, err, w)
		}
	})
}

// publishHeard publishes for nobody what was authorised before; done hears in any
// case but that of an error.
func (r *Router) publishHeard(ctx context.Context, m *Message, done Done) error {
	r.mu.Lock()
	r.nextID++
	s := &Session{ID: SessionID{Boot: r.boot, N: r.nextID}, Vhost: m.To.vhost, router: r, routes: map[Address]*route{}}
	r.mu.Unlock()
	rt, err := s.route(ctx, m.To)
	if err != nil {
		return err
	}
	s.stamp(m)
	var w outbox.Batch
	defer w.Flush()
	pending, err := s.storeAll(rt, m, done)
	if err != nil {
		return err
	}
	r.Stats.Published.Add(1)
	s.deliverLive(rt, m, &w)
	if !pending {
		done(Stored{}, nil, &w)
	}
	return nil
}

// release hands a due message to be published; its end is heard in the store's
// answer.
func (g *morgue) release(ctx context.Context, l deadLetter) error {
	err := g.router.release(ctx, l.d.Message, func(_ Stored, err error, w *outbox.Batch) {
		switch {
		case err == nil:
			l.box.buried(l, w)
		case hopeless(err):
			g.giveUp(l, err)
		default:
			g.retry(l, err)
		}
	})
	if hopeless(err) {
		g.giveUp(l, err)
		return nil
	}
	return err
}

// hopeless reports whether trying again cannot help.
func hopeless(err error) bool {
	if err == nil {
		return false
	}
	switch ClassOf(err) {
	case Invalid, NotFound, Denied, TooLarge:
		return true
	}
	return false
}

func (g *morgue) giveUp(l deadLetter, err error) {
	g.router.log.Error("a scheduled message cannot be published and is dropped", "message", l.d.Message.ID.String(), "error", err)
	g.router.Stats.Drop(DropUnpublishable, 1)
	var w outbox.Batch
	l.box.buried(l, &w)
	w.Flush()
}

const (
	// renewSettled is how many messages may be settled out of order before the oldest
	// that is not is stored anew: the record names each of them.
	renewSettled = 4096
	renewBatch   = 256
)

// renewOldest stores the oldest scheduled messages again, behind the others, when
// many that came later are gone: one that waits for a month would keep the place of
// all that were published meanwhile. With the lock held.
func (b *Mailbox) renewOldest() {
	if !b.id.keepsSchedules() || b.renewing || len(b.ledger.skip) < renewSettled+2*b.ledger.count {
		return
	}
	b.renewing = b.router.goFunc(func(ctx context.Context) {
		err := b.renewFrom(ctx, b.firstWanted())
		b.mu.Lock()
		b.renewing = false
		b.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			b.router.log.Warn("cannot store scheduled messages anew, will retry", "mailbox", b.id.Name, "error", err)
		}
	})
}

func (b *Mailbox) firstWanted() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ledger.wanted()
}

func (b *Mailbox) renewFrom(ctx context.Context, from uint64) error {
	entries, err := b.log.Read(ctx, from, renewBatch, windowBytes/4)
	if err != nil {
		return err
	}
	for _, e := range entries {
		m, err := ParseEnvelope(e.Envelope)
		if err != nil || !b.unsettledAhead(e.Seq) {
			continue
		}
		old := &Delivery{Message: m, Seq: e.Seq}
		m = m.With(func(c *Message) { c.DedupID = fmt.Sprintf("anew\x00%d", e.Seq) })
		err = b.append(m, m.AppendEnvelope(nil), func(_ Stored, err error, _ *outbox.Batch) {
			if err != nil {
				return // it is where it was
			}
			b.mu.Lock()
			b.buriedAhead(old)
			b.mu.Unlock()
		})
		if err != nil {
			return err
		}
		b.mu.Lock()
		enough := len(b.ledger.skip) < renewSettled
		b.mu.Unlock()
		if enough {
			return nil
		}
	}
	return nil
}
