package router

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowTransport keeps the first chunk until it is released.
type slowTransport struct {
	release chan struct{}
	mu      sync.Mutex
	sent    []uint64 // numbers of the chunks, as they leave
}

func (s *slowTransport) Send(_ string, b []byte) error {
	n := binary.LittleEndian.Uint64(b[8:])
	if n == 1 {
		<-s.release
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, n)
	return nil
}

func (s *slowTransport) Listen(string, func([]byte)) (func(), error) { return func() {}, nil }

// The last words of a link, which are written here and now, do not overtake what is being sent: the other end would miss that, with the
// answers in it.
func TestLinkSendsItsLastWordsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &slowTransport{release: make(chan struct{})}
		var group sync.WaitGroup
		run := func(f func(context.Context)) bool { group.Go(func() { f(t.Context()) }); return true }
		l := newLink(1, "x", tr, run)
		l.end(l.begin(opBeat))
		synctest.Wait() // the first chunk is on its way
		l.end(l.begin(opBye))
		go func() { // ends with the link
			time.Sleep(time.Second)
			close(tr.release)
		}()
		l.write(t.Context())
		group.Wait()
		if !slices.Equal(tr.sent, []uint64{1, 2}) {
			t.Errorf("sent %v", tr.sent)
		}
	})
}
