package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var errNoStream = errors.New("there is no such stream")

// chunkTimeout is how long the next chunk of a snapshot may take.
const chunkTimeout = 30 * time.Second

// apiError is the error in an answer of the JetStream API.
type apiError struct {
	Code    int    `json:"err_code"`
	Message string `json:"description"`
}

const (
	codeNoStream  = 10059
	codeNoMessage = 10037
)

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Message, e.Code) }

// ask makes a request to the JetStream API and decodes the answer into v.
func ask(ctx context.Context, c *nats.Conn, subject string, request, v any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request %s: %w", subject, err)
	}
	m, err := c.RequestWithContext(ctx, subject, body)
	if err != nil {
		return fmt.Errorf("request %s: %w", subject, err)
	}
	return answered(m.Data, v)
}

// answered decodes an answer of the JetStream API, or the error in it.
func answered(data []byte, v any) error {
	var failure struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(data, &failure); err != nil {
		return fmt.Errorf("unreadable answer: %w", err)
	}
	if failure.Error != nil {
		return failure.Error
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("unreadable answer: %w", err)
	}
	return nil
}

// snapshot has the server write a stream as it is now: all that was acknowledged
// before is in it.
func (s *Store) snapshot(ctx context.Context, name string, w io.Writer) (BackupStream, json.RawMessage, error) {
	deliver := nats.NewInbox()
	sub, err := s.reads.SubscribeSync(deliver)
	if err != nil {
		return BackupStream{}, nil, err
	}
	defer sub.Unsubscribe()
	var head struct {
		Config json.RawMessage       `json:"config"`
		State  jetstream.StreamState `json:"state"`
	}
	request := struct {
		Deliver     string `json:"deliver_subject"`
		NoConsumers bool   `json:"no_consumers"`
	}{deliver, true}
	err = ask(ctx, s.reads, "$JS.API.STREAM.SNAPSHOT."+name, request, &head)
	var refused *apiError
	if errors.As(err, &refused) && refused.Code == codeNoStream {
		return BackupStream{}, nil, errNoStream
	}
	if err != nil {
		return BackupStream{}, nil, err
	}
	entry := BackupStream{Messages: head.State.Msgs, FirstSeq: head.State.FirstSeq, LastSeq: head.State.LastSeq}
	return entry, head.Config, receive(ctx, sub, w)
}

// receive writes the chunks of a snapshot to w. Each is acknowledged once it is
// written, which is what the server's flow control waits for.
func receive(ctx context.Context, sub *nats.Subscription, w io.Writer) error {
	for {
		next, cancel := context.WithTimeout(ctx, chunkTimeout)
		m, err := sub.NextMsgWithContext(next)
		cancel()
		if err != nil {
			return fmt.Errorf("wait for the snapshot: %w", err)
		}
		if len(m.Data) == 0 { // the end, with a status that says how it went
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return fmt.Errorf("the server gave up: %s %s", status, m.Header.Get("Description"))
			}
			return nil
		}
		if _, err := w.Write(m.Data); err != nil {
			return err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return err
			}
		}
	}
}

// storedValue is one message of a stream as the API gives it.
type storedValue struct {
	Message struct {
		Subject string    `json:"subject"`
		Seq     uint64    `json:"seq"`
		Header  []byte    `json:"hdrs"`
		Data    []byte    `json:"data"`
		Time    time.Time `json:"time"`
	} `json:"message"`
}

// dumpValues writes a stream of last values in the server's format. A snapshot
// of the server's may miss a value that is replaced meanwhile: the old one is gone
// when its turn comes, and the new one is behind the end that was fixed at the
// start. Here the end is where nothing more comes, so one of the two is read. The
// stream's leader answers, also in a cluster: no replica that is behind.
func (s *Store) dumpValues(ctx context.Context, name string, w io.Writer) (BackupStream, json.RawMessage, error) {
	var info struct {
		Config json.RawMessage       `json:"config"`
		State  jetstream.StreamState `json:"state"`
	}
	if err := ask(ctx, s.reads, "$JS.API.STREAM.INFO."+name, struct{}{}, &info); err != nil {
		return BackupStream{}, nil, err
	}
	var values []storedValue // small: records, not messages
	for seq := uint64(1); ; {
		var v storedValue
		request := struct {
			Seq  uint64 `json:"seq"`
			Next string `json:"next_by_subj"`
		}{seq, ">"}
		err := ask(ctx, s.reads, "$JS.API.STREAM.MSG.GET."+name, request, &v)
		var refused *apiError
		if errors.As(err, &refused) && refused.Code == codeNoMessage {
			break
		}
		if err != nil {
			return BackupStream{}, nil, err
		}
		values = append(values, v)
		seq = v.Message.Seq + 1
	}
	values = latest(values)
	entry := BackupStream{Messages: uint64(len(values)), FirstSeq: info.State.FirstSeq, LastSeq: info.State.LastSeq}
	if len(values) > 0 {
		entry.FirstSeq, entry.LastSeq = values[0].Message.Seq, max(info.State.LastSeq, values[len(values)-1].Message.Seq)
	}
	return entry, info.Config, writeValues(w, entry, values)
}

// latest leaves out what was replaced while it was read.
func latest(values []storedValue) []storedValue {
	last := make(map[string]uint64, len(values))
	for _, v := range values {
		last[v.Message.Subject] = v.Message.Seq
	}
	kept := values[:0]
	for _, v := range values {
		if last[v.Message.Subject] == v.Message.Seq {
			kept = append(kept, v)
		}
	}
	return kept
}

// writeValues writes the archive that the server restores: the state, the
// messages with their sequences, and an end mark.
func writeValues(w io.Writer, entry BackupStream, values []storedValue) error {
	packed := s2.NewWriter(w)
	out := archive.NewWriter(packed)
	put := func(h archive.Header, parts ...[]byte) error {
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
		for _, p := range parts {
			if _, err := out.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
	state, err := json.Marshal(jetstream.StreamState{Msgs: entry.Messages, FirstSeq: entry.FirstSeq, LastSeq: entry.LastSeq})
	if err != nil {
		return err
	}
	if err := put(archive.Header{Name: "state.json", Timestamp: time.Now().UnixNano(), PayloadSize: int64(len(state))}, state); err != nil {
		return err
	}
	for _, v := range values {
		m := v.Message
		h := archive.Header{Name: m.Subject, Timestamp: m.Time.UnixNano(), Sequence: m.Seq,
			HeaderSize: int64(len(m.Header)), PayloadSize: int64(len(m.Data))}
		if err := put(h, m.Header, m.Data); err != nil {
			return err
		}
	}
	if err := put(archive.Header{}); err != nil {
		return err
	}
	return errors.Join(out.Close(), packed.Close())
}
