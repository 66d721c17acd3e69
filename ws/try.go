package ws

import (
	"net"
	"sync"

	"github.com/mqgate/mqgate/router/outbox"
)

var _ outbox.TryWriter = (*stream)(nil)

// tryBytes is the most that is copied behind the head of its frame, to be written
// in one call; above that two calls are cheaper.
const tryBytes = 16 << 10

var tryBuffers = sync.Pool{New: func() any { return new([]byte) }}

// TryWrite is Write without waiting for the peer.
func (s *stream) TryWrite(b []byte) (rest func() error, err error) {
	if s.try == nil || len(b) > tryBytes || len(b) == 0 || !s.write.TryLock() {
		return func() error {
			_, err := s.Write(b)
			return err
		}, nil
	}
	if s.farewell.Load() {
		s.write.Unlock()
		return nil, net.ErrClosed
	}
	op, payload := s.frame(b)
	buf := tryBuffers.Get().(*[]byte)
	*buf = append(appendHead((*buf)[:0], op, len(payload)), payload...)
	left, err := s.try.TryWrite(*buf)
	if left != nil { // the frame has begun: nothing else may be written before its end
		return func() error {
			err := left()
			s.wrote(err)
			s.write.Unlock()
			tryBuffers.Put(buf)
			s.flushPending()
			return err
		}, nil
	}
	s.wrote(err)
	s.write.Unlock()
	tryBuffers.Put(buf)
	if err == nil && s.pending.Load() != nil {
		return func() error {
			s.flushPending()
			return nil
		}, nil
	}
	return nil, err
}
