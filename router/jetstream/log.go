package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// inboxShards is the number of streams that hold all inboxes.
const inboxShards = 4

// mailboxLog is the log of one mailbox: all of a queue's stream, or one subject
// of a shared one.
type mailboxLog struct {
	store   *Store
	stream  *stream
	id      router.MailboxID
	hash    string
	subject string
	shared  bool
}

var _ router.Log = (*mailboxLog)(nil)

// OpenLog opens a mailbox's log, or makes it.
func (s *Store) OpenLog(ctx context.Context, id router.MailboxID) (router.Log, error) {
	return s.openLog(ctx, id)
}

func (s *Store) openLog(ctx context.Context, id router.MailboxID) (*mailboxLog, error) {
	l := &mailboxLog{store: s, id: id, hash: mailboxHash(id)}
	c := jetstream.StreamConfig{
		Name: "Q_" + l.hash, Subjects: []string{"q." + l.hash},
		Metadata: map[string]string{"mqgate.vhost": id.Vhost, "mqgate.queue": id.Name},
	}
	l.subject = c.Subjects[0]
	if id.Kind != router.KindQueueBox {
		kind, stream := "i.", "I_"
		if id.Kind == router.KindHistory {
			kind, stream = "h.", "H_"
		}
		shard := strconv.Itoa(int(l.hash[0]) % inboxShards)
		l.shared = true
		l.subject = kind + shard + "." + l.hash
		c = jetstream.StreamConfig{Name: stream + shard, Subjects: []string{kind + shard + ".*"}}
	}
	var err error
	l.stream, err = s.openStream(ctx, c)
	return l, err
}

// Append stores an envelope.
func (l *mailboxLog) Append(envelope []byte, dedupID string, done router.Done) {
	if err := l.store.accepts(envelope); err != nil {
		l.store.answer(done, err)
		return
	}
	var h nats.Header
	if dedupID != "" {
		// Hashed: a client's text must not become header lines, and mailboxes of a
		// shared stream must not take each other's ids for duplicates.
		h = nats.Header{"Nats-Msg-Id": []string{hashName(l.hash, dedupID)}}
	}
	l.stream.publish(l.subject, h, envelope, done)
}

// publish sends one message; done hears when it is as durable as promised.
func (st *stream) publish(subject string, h nats.Header, data []byte, done router.Done) {
	if st.store.fenced() {
		st.store.answer(done, unavailable(errFenced))
		return
	}
	if st.lane != nil {
		st.lane.append(subject, h, [][]byte{data}, done)
		return
	}
	err := st.store.pub.publish(subject, h, data, func(s router.Stored, err error, w *outbox.Batch) {
		st.stored(s, err, w, done)
	})
	if err != nil {
		st.store.answer(done, err)
	}
}

// send implements laneStream, as do end and message. What waited in the lane, or is sent again, is fenced, too: behind what another
// leader has stored meanwhile it would be stored after all.
func (st *stream) send(subject string, h nats.Header, data [][]byte, answered func(router.Stored, error, *outbox.Batch)) error {
	if st.store.fenced() {
		return unavailable(errFenced)
	}
	if len(data) == 1 {
		return st.store.pub.publish(subject, h, data[0], answered)
	}
	return st.store.publishBatch(subject, h, data, answered)
}

func (st *stream) end(ctx context.Context) (last uint64, leader string, err error) {
	info, err := st.store.leaderInfo(ctx, st.name)
	if err != nil {
		return 0, "", err
	}
	if info.Cluster != nil {
		leader = info.Cluster.Leader
	}
	return info.State.LastSeq, leader, nil
}

func (st *stream) message(ctx context.Context, seq uint64) (subject string, data []byte, there bool, err error) {
	var got storedValue
	err = ask(ctx, st.store.reads, "$JS.API.STREAM.MSG.GET."+st.name, map[string]uint64{"seq": seq}, &got)
	var refused *apiError
	if errors.As(err, &refused) && refused.Code == codeNoMessage {
		return "", nil, false, nil
	}
	return got.Message.Subject, got.Message.Data, err == nil, err
}

func (st *stream) stored(s router.Stored, err error, w *outbox.Batch, done router.Done) {
	if err == nil && s.Seq == 0 {
		err = unavailable(errEmptyAnswer)
	}
	if err == nil && st.syncer != nil {
		st.syncer.add(s, done)
		return
	}
	done(s, err, w)
}

var errEmptyAnswer = errors.New("the store answered without a sequence")

// accepts returns why the envelopes cannot be appended, or nil.
func (s *Store) accepts(envelopes ...[]byte) error {
	for _, e := range envelopes {
		if limit := s.opt.MaxMessageBytes; len(e) > limit {
			return &router.Error{Op: "store", Class: router.TooLarge,
				Text: fmt.Sprintf("the message takes %d bytes; at most %d can be stored", len(e), limit)}
		}
	}
	return s.room()
}

// answer calls done with an error on another goroutine: the caller may hold
// locks that done takes.
func (s *Store) answer(done router.Done, err error) {
	s.group.Go(func() {
		var w outbox.Batch
		done(router.Stored{}, err, &w)
		w.Flush()
	})
}

// AppendAll stores all envelopes or none, as one atomic batch: JetStream must
// accept the first before it gets the others.
func (l *mailboxLog) AppendAll(envelopes [][]byte, done router.Done) {
	if err := l.store.accepts(envelopes...); err != nil {
		l.store.answer(done, err)
		return
	}
	if len(envelopes) == 1 {
		l.stream.publish(l.subject, nil, envelopes[0], done)
		return
	}
	if l.stream.lane != nil {
		l.stream.lane.append(l.subject, nil, envelopes, done)
		return
	}
	err := l.store.publishBatch(l.subject, nil, envelopes, func(s router.Stored, err error, w *outbox.Batch) {
		l.stream.stored(s, err, w, done)
	})
	if err != nil {
		l.store.answer(done, err)
	}
}

// publishBatch sends messages to be stored together; the first has headers of its
// own. done hears of the last.
func (s *Store) publishBatch(subject string, first nats.Header, data [][]byte, done func(router.Stored, error, *outbox.Batch)) error {
	id := nats.NewInbox()[len(nats.InboxPrefix):]
	header := func(n int) nats.Header {
		return nats.Header{"Nats-Batch-Id": []string{id}, "Nats-Batch-Sequence": []string{strconv.Itoa(n)}}
	}
	h := header(1)
	maps.Copy(h, first)
	return s.pub.publish(subject, h, data[0], func(a router.Stored, err error, w *outbox.Batch) {
		if err != nil {
			done(a, err, w)
			return
		}
		for i, e := range data[1 : len(data)-1] {
			if err := s.conn.PublishMsg(&nats.Msg{Subject: subject, Header: header(i + 2), Data: e}); err != nil {
				done(a, unavailable(err), w)
				return // the server abandons the batch
			}
		}
		last := header(len(data))
		last["Nats-Batch-Commit"] = []string{"1"}
		if err := s.pub.publish(subject, last, data[len(data)-1], done); err != nil {
			done(a, err, w)
		}
	})
}

// Read returns entries from a sequence on.
func (l *mailboxLog) Read(ctx context.Context, from uint64, maxEntries, maxBytes int) ([]router.Entry, error) {
	get := directGet{Seq: max(from, 1), Batch: maxEntries, MaxBytes: maxBytes}
	if l.shared {
		get.Subject = l.subject
	}
	entries, err := l.store.reader.read(ctx, l.stream.name, get)
	if err != nil || len(entries) > 0 {
		return entries, err
	}
	// The server says "not found" also of what it cannot read, for want of file
	// descriptors, say; and a replica that lags says it of what it does not have yet. To
	// take that for the end would lose all that follows.
	last, err := l.last(ctx)
	if err != nil || last < get.Seq {
		return nil, err
	}
	for patient := time.Now(); time.Since(patient) < l.patience(); {
		if entries, err = l.store.reader.read(ctx, l.stream.name, get); err != nil || len(entries) > 0 { // it may have come just now
			return entries, err
		}
		pause(ctx, readAgain)
	}
	return nil, unavailable(fmt.Errorf("stream %s holds messages up to %d, but none can be read from %d on", l.stream.name, last, get.Seq))
}

// readAgain is the pause before another replica is asked, by chance.
const readAgain = 20 * time.Millisecond

// patience is how long a message that is stored may not be readable.
func (l *mailboxLog) patience() time.Duration {
	if l.stream.lane != nil {
		return 3 * time.Second
	}
	return readAgain / 2 // once more
}

// last returns the sequence of the last message that is stored, 0 if none is.
func (l *mailboxLog) last(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if !l.shared {
		state, err := l.stream.state(ctx)
		if err != nil || state.Msgs == 0 {
			return 0, err
		}
		return state.LastSeq, nil
	}
	if l.stream.lane != nil {
		return l.lastAtLeader(ctx)
	}
	m, err := l.store.reads.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+l.stream.name+"."+l.subject, nil)
	if err != nil {
		return 0, unavailable(fmt.Errorf("look for the last message of %s: %w", l.subject, err))
	}
	if m.Header.Get("Status") != "" {
		return 0, nil // there is none
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return 0, unavailable(fmt.Errorf("look for the last message of %s: %w", l.subject, err))
	}
	return seq, nil
}

// lastAtLeader asks the stream's leader, since another replica may lag; and one that has all that was confirmed, and was not
// elected meanwhile.
func (l *mailboxLog) lastAtLeader(ctx context.Context) (uint64, error) {
	for {
		_, leader, err := l.stream.lane.askEnd(ctx)
		var last uint64
		if err == nil {
			last, err = l.lastOfSubject(ctx)
		}
		if err == nil {
			var now string
			if _, now, err = l.stream.lane.askEnd(ctx); err == nil && now == leader {
				return last, nil
			}
		}
		if !pause(ctx, formingPoll/2) {
			return 0, unavailable(fmt.Errorf("look for the last message of %s: %w", l.subject, errors.Join(errNewLeader, err)))
		}
	}
}

func (l *mailboxLog) lastOfSubject(ctx context.Context) (uint64, error) {
	st, err := l.store.js.Stream(ctx, l.stream.name)
	if err != nil {
		return 0, err
	}
	m, err := st.GetLastMsgForSubject(ctx, l.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// streamState asks the server what a stream holds.
func (s *Store) streamState(ctx context.Context, name string, opts ...jetstream.StreamInfoOpt) (jetstream.StreamState, error) {
	st, err := s.js.Stream(ctx, name)
	if err != nil {
		return jetstream.StreamState{}, unavailable(fmt.Errorf("look at stream %s: %w", name, err))
	}
	if len(opts) == 0 {
		return st.CachedInfo().State, nil // it was asked for just now
	}
	info, err := st.Info(ctx, opts...)
	if err != nil {
		return jetstream.StreamState{}, unavailable(fmt.Errorf("look at stream %s: %w", name, err))
	}
	return info.State, nil
}

// state is what the stream's leader says of it once it has all that was confirmed.
func (st *stream) state(ctx context.Context, opts ...jetstream.StreamInfoOpt) (jetstream.StreamState, error) {
	for {
		state, err := st.store.streamState(ctx, st.name, opts...)
		if st.lane == nil {
			return state, err
		}
		if err == nil {
			err = st.lane.reaches(state.LastSeq)
		}
		if err == nil {
			return state, nil
		}
		if !pause(ctx, formingPoll/2) {
			return state, unavailable(fmt.Errorf("look at stream %s: %w", st.name, err))
		}
	}
}

// Bounds returns what the log holds above a floor.
func (l *mailboxLog) Bounds(ctx context.Context, floor uint64) (router.Bounds, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var opts []jetstream.StreamInfoOpt
	if l.shared {
		if err := l.Trim(ctx, floor); err != nil {
			return router.Bounds{}, err
		}
		opts = append(opts, jetstream.WithSubjectFilter(l.subject))
	}
	state, err := l.stream.state(ctx, opts...)
	if err != nil {
		return router.Bounds{}, err
	}
	b := router.Bounds{First: state.FirstSeq, Last: state.LastSeq}
	if l.shared {
		b.Count = int(state.Subjects[l.subject])
		return b, nil
	}
	b.Holes = state.NumDeleted // a queue's stream is only trimmed from its start
	if state.Msgs > 0 && state.LastSeq > floor {
		b.Count = int(state.LastSeq-max(floor, state.FirstSeq-1)) - state.NumDeleted
		b.Bytes = uint64(float64(state.Bytes) / float64(state.Msgs) * float64(b.Count))
	}
	return b, nil
}

// Trim forgets everything up to a sequence.
func (l *mailboxLog) Trim(ctx context.Context, upto uint64) error {
	l.store.trims.RLock()
	defer l.store.trims.RUnlock()
	if upto == 0 || l.store.trimsHeld {
		return nil // during a backup; a later trim forgets this too
	}
	filter := ""
	if l.shared {
		filter = l.subject
	}
	if err := l.stream.purge(ctx, filter, upto+1); err != nil {
		return err
	}
	if l.stream.syncer != nil && !l.shared {
		return l.stream.syncer.syncFirst()
	}
	return nil
}

// purge removes a stream's messages below a sequence (all if it is 0), of one
// subject unless that is empty.
func (st *stream) purge(ctx context.Context, subject string, below uint64) error {
	req, err := json.Marshal(struct {
		Sequence uint64 `json:"seq,omitempty"`
		Subject  string `json:"filter,omitempty"`
	}{below, subject})
	if err != nil {
		return fmt.Errorf("encode a purge: %w", err)
	}
	return st.store.request(ctx, "$JS.API.STREAM.PURGE."+st.name, req)
}

// request asks the JetStream API for something that answers with success or an error.
func (s *Store) request(ctx context.Context, subject string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := s.reads.RequestWithContext(ctx, subject, body)
	if err != nil {
		return unavailable(fmt.Errorf("request %s: %w", subject, err))
	}
	var a struct {
		Error *struct {
			Code    int    `json:"err_code"`
			Message string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return unavailable(fmt.Errorf("request %s: unreadable answer: %w", subject, err))
	}
	if a.Error != nil {
		return storeRefused(a.Error.Code, a.Error.Message)
	}
	return nil
}

// SaveRecord replaces the mailbox's record. The mailbox's identity stands before
// it, so that the records alone say which mailboxes exist.
func (l *mailboxLog) SaveRecord(rec []byte, done router.Done) {
	l.store.records.publish("r."+l.hash, nil, append(encodeID(l.id), rec...), done)
}

// Remove deletes the log and its record. The record goes last: a stop in between
// leaves an empty mailbox, not messages without one.
func (l *mailboxLog) Remove(ctx context.Context) error {
	l.hearNothing()
	var err error
	if l.shared {
		err = l.stream.purge(ctx, l.subject, 0)
	} else {
		err = l.store.deleteStream(ctx, l.stream.name)
	}
	if err != nil {
		return err
	}
	return l.store.records.purge(ctx, "r."+l.hash, 0)
}
