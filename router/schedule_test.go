package router

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// later publishes to be published later.
func later(t testing.TB, s *Session, to, body string, when Schedule, headers ...Header) {
	t.Helper()
	m, err := (&Message{To: dest(t, to), Body: []byte(body), Headers: headers, Priority: 7}).Later(when)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t, s, m); err != nil {
		t.Fatal(err)
	}
}

// sleep lets the time of the test's bubble pass, and all that follows from it happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// settleAll acknowledges what in has got since the last call, and returns the bodies of all so far.
func (i *inbox) settleAll(t testing.TB) string {
	t.Helper()
	for _, d := range i.got() {
		_ = d.Ack(nil, nil) // an error means that it was before
	}
	return strings.Join(i.bodies(), " ")
}

func TestAScheduledMessageIsPublishedWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		_, in := consume(t, s, "/queue/a", 10)
		expires := time.Now().Add(time.Minute)
		m := &Message{To: dest(t, "/queue/a"), Body: []byte("x"), Headers: []Header{{"k", "v"}}, Priority: 7, ExpiresUnixMs: expires.UnixMilli(),
			TimestampMs: 5, Flags: FlagTimed} // a time that its sender chose
		m, err := m.Later(Schedule{Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if err := publish(t, s, m); err != nil {
			t.Fatal(err)
		}
		sleep(time.Hour - time.Millisecond)
		if n := len(in.got()); n != 0 || h.depth("/queue/"+ScheduledQueue) != 1 {
			t.Fatalf("delivered %d times before it was due", n)
		}
		sleep(2 * time.Millisecond)
		got := in.wait(t, "x")[0].Message
		job, _ := got.Header(HeaderScheduledJob)
		if v, _ := got.Header("k"); v != "v" || got.Priority != 7 || job == "" || got.To != dest(t, "/queue/a") {
			t.Errorf("message %+v", got)
		}
		if time.Since(time.UnixMilli(got.TimestampMs)) > time.Second || got.Has(FlagTimed) {
			t.Errorf("it says that it was published at %d", got.TimestampMs)
		}
		if _, inside := got.Header(headerSchedule); inside {
			t.Error("the schedule is shown to consumers")
		}
		// Its life begins when it is published.
		if left := time.Until(time.UnixMilli(got.ExpiresUnixMs)); left < 50*time.Second || left > time.Minute {
			t.Errorf("it expires in %s", left)
		}
		if n := h.depth("/queue/" + ScheduledQueue); n != 0 {
			t.Errorf("%d messages are still scheduled", n)
		}
		h.stop()
	})
}

func TestSchedulesOutlastStopsAndCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		later(t, s, "/queue/a", "soon", Schedule{Delay: time.Minute})
		later(t, s, "/queue/a", "late", Schedule{Delay: 3 * time.Hour})
		h.restart()
		h.crash()
		h.stop()
		sleep(time.Hour)
		h.open()
		_, in := consume(t, h.session(), "/queue/a", 10)
		sleep(time.Second)
		in.wait(t, "soon") // at once: it was due while nobody ran
		sleep(3 * time.Hour)
		in.wait(t, "soon", "late")
		h.stop()
	})
}

func TestWhatIsDueTogetherKeepsItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		var want []string
		for i := range 100 {
			later(t, s, "/queue/a", fmt.Sprint(i), Schedule{Delay: time.Second})
			want = append(want, fmt.Sprint(i))
		}
		_, in := consume(t, s, "/queue/a", 1000)
		sleep(2 * time.Second)
		in.wait(t, want...)
		h.stop()
	})
}

func TestRepetitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		_, in := consume(t, h.session(), "/queue/a", 10)
		later(t, h.session(), "/queue/a", "x", Schedule{Delay: 10 * time.Second, Period: time.Second, Repeat: 2})
		for want, at := range map[string]time.Duration{"x": 10500 * time.Millisecond} {
			sleep(at)
			if got := in.settleAll(t); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		sleep(time.Second)
		if got := in.settleAll(t); got != "x x" {
			t.Fatalf("got %q after the first repetition", got)
		}
		h.restart() // the rest is stored
		_, in = consume(t, h.session(), "/queue/a", 10)
		sleep(time.Hour)
		in.wait(t, "x")
		ids := map[MessageID]bool{}
		jobs := map[string]bool{}
		for _, d := range in.got() {
			ids[d.Message.ID] = true
			j, _ := d.Message.Header(HeaderScheduledJob)
			jobs[j] = true
		}
		if len(ids) != 1 || len(jobs) != 1 {
			t.Errorf("ids %v, jobs %v", ids, jobs)
		}
		if n := h.depth("/queue/" + ScheduledQueue); n != 0 {
			t.Errorf("%d messages are still scheduled", n)
		}
		h.stop()
	})
}

func TestWhatWasMissedIsNotMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		later(t, h.session(), "/queue/a", "x", Schedule{Delay: time.Second, Period: time.Second, Repeat: -1})
		h.stop()
		sleep(time.Hour + 500*time.Millisecond)
		h.open()
		_, in := consume(t, h.session(), "/queue/a", 10)
		sleep(10 * time.Millisecond)
		in.wait(t, "x")
		sleep(3 * time.Second)
		in.wait(t, "x", "x", "x", "x")
		h.stop()
	})
}

func TestCron(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		_, in := consume(t, s, "/queue/a", 100)
		later(t, s, "/queue/a", "x", Schedule{Cron: "*/10 * * * *"})
		// With repetitions of its own, each time.
		_, often := consume(t, s, "/queue/b", 100)
		later(t, s, "/queue/b", "y", Schedule{Cron: "*/10 * * * *", Delay: time.Second, Period: time.Second, Repeat: 2})
		first := time.Now().Truncate(10 * time.Minute).Add(10 * time.Minute)
		sleep(time.Until(first) + time.Minute)
		if got := in.settleAll(t); got != "x" {
			t.Errorf("got %q after the first time", got)
		}
		if got := often.settleAll(t); got != "y y y" {
			t.Errorf("got %q after the first time", got)
		}
		sleep(20 * time.Minute)
		if got := in.settleAll(t); got != "x x x" {
			t.Errorf("got %q after two more", got)
		}
		if got := often.settleAll(t); got != strings.TrimSpace(strings.Repeat("y ", 9)) {
			t.Errorf("got %q after two more", got)
		}
		// An operator ends it.
		if n, err := h.Purge(context.Background(), anyone, dest(t, "/queue/"+ScheduledQueue)); err != nil || n != 2 {
			t.Fatalf("purged %d, %v", n, err)
		}
		sleep(24 * time.Hour)
		if got := in.settleAll(t); got != "x x x" {
			t.Errorf("got %q after the purge", got)
		}
		h.stop()
	})
}

func TestAFullQueueHoldsScheduledMessagesBackAndLosesNone(t *testing.T) {
	const full = 400
	synctest.Test(t, func(t *testing.T) {
		h := start(t, func(o *Options) { o.QueuePolicy = func(Address) Policy { return Policy{MaxLength: full} } })
		s := h.session()
		later(t, s, "/queue/a", "r", Schedule{Delay: time.Second, Period: time.Second, Repeat: 5})
		const n = morguePlaces + 500 // more than may be in memory
		for range n {
			later(t, s, "/queue/a", "x", Schedule{Delay: 10 * time.Second})
		}
		sleep(12 * time.Second)
		if d, waits := h.depth("/queue/a"), len(h.morgue.places); d != full || waits != morguePlaces {
			t.Fatalf("depth %d, %d in memory", d, waits)
		}
		_, in := consume(t, s, "/queue/a", full)
		count := map[string]int{}
		done := 0
		for range 100 {
			got := in.got()
			for ; done < len(got); done++ {
				count[string(got[done].Message.Body)]++
				ack(t, got[done])
			}
			if count["x"] == n && count["r"] == 6 {
				break
			}
			sleep(retryMs * time.Millisecond)
		}
		sleep(time.Hour)
		if count["x"] != n || count["r"] != 6 || done != len(in.got()) {
			t.Errorf("got %v, and %d more", count, len(in.got())-done)
		}
		h.stop()
	})
}

func TestScheduledForATopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		_, live := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a.*")})
		_, durable := subscribe(t, s, SubscribeOptions{Filter: filter(t, "/topic/a.>"), Credit: 9, Durable: "d"})
		later(t, s, "/topic/a.b", "x", Schedule{Delay: time.Second})
		sleep(2 * time.Second)
		live.wait(t, "x")
		durable.wait(t, "x")
		h.stop()
	})
}

func TestScheduledInATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		_, in := consume(t, s, "/queue/a", 10)
		m, err := (&Message{To: dest(t, "/queue/a"), Body: []byte("later")}).Later(Schedule{Delay: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := commitAll(t, s, []*Message{m, {To: dest(t, "/queue/a"), Body: []byte("now")}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		in.wait(t, "now")
		sleep(2 * time.Second)
		in.wait(t, "now", "later")
		h.stop()
	})
}

// rightsOf is an Authorizer that lets principals write to one queue only.
type rightsOf string

func (r rightsOf) Authorize(_ *Principal, a Action, to Address) error {
	if a == ActionWrite && to.Name() == string(r) {
		return nil
	}
	return &Error{Op: "authorize", Class: Denied, Text: "no right to " + to.String()}
}

func (r rightsOf) AuthorizeFilter(*Principal, Action, Filter) error { return nil }

func TestTheRightToScheduleIsThatToPublish(t *testing.T) {
	h := start(t, func(o *Options) { o.Authorize = rightsOf("mine") })
	s := h.session()
	for to, class := range map[string]Class{"/queue/mine": 0, "/queue/other": Denied, "/topic/mine": 0} {
		m, err := (&Message{To: dest(t, to)}).Later(Schedule{Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		err = publish(t, s, m)
		if err == nil && class != 0 || err != nil && ClassOf(err) != class {
			t.Errorf("scheduling for %s: %v", to, err)
		}
	}
	h.opt.Authorize = AllowAll{}
	h.restart()
	s = h.session()
	scheduled := dest(t, "/queue/"+ScheduledQueue)
	for name, header := range map[string][]Header{
		"nothing": nil, "no time": {{headerSchedule, "to=/queue/a"}}, "no place": {{headerSchedule, "due=1"}}, "words": {{headerSchedule, "to=/queue/a&due=soon"}},
		"bad line": {{headerSchedule, "to=/queue/a&due=1&cron=x"}},
	} {
		if err := publish(t, s, &Message{To: scheduled, Headers: header}); ClassOf(err) != Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Subscribe(context.Background(), SubscribeOptions{Filter: FilterOf(scheduled), Receiver: &inbox{}}); ClassOf(err) != Denied {
		t.Errorf("consuming what is scheduled: %v", err)
	}
	if err := s.BindQueue(context.Background(), filter(t, "/topic/a"), scheduled); ClassOf(err) != Denied {
		t.Errorf("binding it: %v", err)
	}
	mustPublish(t, s, "/queue/a", "x")
	if _, err := h.Move(context.Background(), anyone, dest(t, "/queue/a"), scheduled, 0); ClassOf(err) != Invalid {
		t.Errorf("moving into it: %v", err)
	}
	look, err := s.Browse(scheduled, nil)
	if err != nil {
		t.Fatal(err)
	}
	if seen, _, err := look.Next(context.Background(), 10); err != nil || len(seen) != 2 {
		t.Errorf("looking into it: %d, %v", len(seen), err)
	}
}

func TestSchedulesThatCannotBe(t *testing.T) {
	for name, s := range map[string]Schedule{
		"negative":       {Delay: -1},
		"too far":        {Delay: maxScheduleDelay + time.Second},
		"no period":      {Repeat: 1},
		"too often":      {Period: time.Millisecond, Repeat: 1},
		"bad line":       {Cron: "* * *"},
		"no such day":    {Cron: "0 0 31 2 *"},
		"too far apart":  {Period: maxScheduleDelay + 1, Repeat: 1},
		"line and often": {Cron: "* * * * *", Repeat: 3},
	} {
		if _, err := (&Message{To: dest(t, "/queue/a")}).Later(s); ClassOf(err) != Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := start(t, nil)
	temp, err := h.session().TemporaryQueue("t")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Message{To: temp}).Later(Schedule{Delay: time.Second}); ClassOf(err) != Invalid || err == nil {
		t.Errorf("for a temporary queue: %v", err)
	}
}

// TestALongScheduleDoesNotHoldUpTheAccount: the record names what is settled out of
// order, so one message that waits for long may not keep it growing.
func TestALongScheduleDoesNotHoldUpTheAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, nil)
		s := h.session()
		later(t, s, "/queue/a", "long", Schedule{Delay: 24 * time.Hour})
		for range renewSettled + 100 {
			later(t, s, "/queue/a", "x", Schedule{Delay: time.Second})
		}
		sleep(time.Minute)
		box, err := h.existing(dest(t, "/queue/"+ScheduledQueue))
		if err != nil {
			t.Fatal(err)
		}
		box.mu.Lock()
		skipped, count := len(box.ledger.skip), box.ledger.count
		box.mu.Unlock()
		if skipped > 100 || count != 1 {
			t.Errorf("%d settled messages are named, %d are scheduled", skipped, count)
		}
		h.restart()
		_, in := consume(t, h.session(), "/queue/a", 2*renewSettled)
		sleep(25 * time.Hour)
		long := 0
		for _, b := range in.bodies() {
			if b == "long" {
				long++
			}
		}
		if long != 1 {
			t.Errorf("the long one came %d times", long)
		}
		h.stop()
	})
}

func TestASchedulesHeaderIsReadBack(t *testing.T) {
	j := job{Schedule: Schedule{Delay: time.Second, Period: time.Minute, Repeat: -1, Cron: "*/5 * * * *"}, to: dest(t, "/topic/a/b&c=%20"), id: "x-1", n: 7, dueMs: 123, lifeMs: 456}
	got, err := jobOf(j.wrap(&Message{}))
	if err != nil || got != j {
		t.Errorf("got %+v, %v, want %+v", got, err, j)
	}
}
