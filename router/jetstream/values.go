package jetstream

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

const (
	retainedStream = "MQGATE_RETAINED"
	sessionsStream = "MQGATE_SESSIONS"
)

var _ router.ValueStore = (*Store)(nil)

// valueStream returns the stream of a class and the first token of its subjects. A subject is the hash of its key, which stands
// in front of the value: a client's text never becomes a subject.
func (s *Store) valueStream(class router.ValueClass) (*stream, string) {
	if class == router.ValueRetained {
		return s.retained, "v"
	}
	return s.sessions, "s"
}

// openValues makes the streams that keep the last value of each key.
func (s *Store) openValues(ctx context.Context) error {
	var err error
	if s.retained, err = s.openStream(ctx, jetstream.StreamConfig{Name: retainedStream, Subjects: []string{"v.*"}, MaxMsgsPerSubject: 1}); err != nil {
		return err
	}
	s.sessions, err = s.openStream(ctx, jetstream.StreamConfig{Name: sessionsStream, Subjects: []string{"s.*"}, MaxMsgsPerSubject: 1})
	return err
}

// PutValue replaces the value of a key. A removal is stored as a key without a value, which keeps its place among the puts;
// once that is answered it is purged as well.
func (s *Store) PutValue(class router.ValueClass, key string, value []byte, done router.Done) {
	st, prefix := s.valueStream(class)
	body := binary.AppendUvarint(make([]byte, 0, 4+len(key)+len(value)), uint64(len(key)))
	body = append(append(body, key...), value...)
	if len(value) > 0 {
		if err := s.accepts(body); err != nil {
			s.answer(done, err)
			return
		}
	}
	subject := prefix + "." + hashName(key)
	st.publish(subject, nil, body, func(a router.Stored, err error, w *outbox.Batch) {
		if err == nil && len(value) == 0 {
			s.purgeRemoved(st.name, subject, a.Seq)
		}
		done(a, err, w)
	})
}

// purgeRemoved forgets a removal. It does not wait: one that is left over is empty, and is purged at the next start.
func (s *Store) purgeRemoved(stream, subject string, seq uint64) {
	body := fmt.Appendf(nil, `{"filter":%q,"seq":%d}`, subject, seq+1)
	if err := s.conn.Publish("$JS.API.STREAM.PURGE."+stream, body); err != nil {
		s.opt.Log.Debug("a removed value is purged at the next start", "stream", stream, "error", err)
	}
}

// Values calls each for the keys of a class that have a value.
func (s *Store) Values(ctx context.Context, class router.ValueClass, each func(key string, value []byte) error) error {
	st, prefix := s.valueStream(class)
	return st.each(ctx, prefix+".*", func(e router.Entry) error {
		n, size := binary.Uvarint(e.Envelope)
		if size <= 0 || n > uint64(len(e.Envelope)-size) {
			return errRecord
		}
		key, value := string(e.Envelope[size:size+int(n)]), e.Envelope[size+int(n):]
		if len(value) == 0 {
			s.purgeRemoved(st.name, prefix+"."+hashName(key), e.Seq)
			return nil
		}
		return each(key, value)
	})
}
