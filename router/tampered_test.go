package router

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// tampered is a memory store that a test can make slow or faulty.
type tampered struct {
	*MemoryStore
	mu     sync.Mutex
	append func(l Log, id MailboxID, envelope []byte, dedup string, done Done)
	read   func(l Log, id MailboxID, from uint64, n, size int) ([]Entry, error)
	save   func(l Log, id MailboxID, rec []byte, done Done)
	bind   func(key string, value []byte) error
	remove func(l Log, id MailboxID) error
	put    func(class ValueClass, key string, value []byte, done Done)
}

type tamperedLog struct {
	Log
	store *tampered
	id    MailboxID
}

var errBroken = &Error{Op: "store", Class: Unavailable, Text: "broken for the test"}

func (s *tampered) OpenLog(ctx context.Context, id MailboxID) (Log, error) {
	l, err := s.MemoryStore.OpenLog(ctx, id)
	return &tamperedLog{l, s, id}, err
}

func (s *tampered) PutBinding(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	f := s.bind
	s.mu.Unlock()
	if f != nil {
		if err := f(key, value); err != nil {
			return err
		}
	}
	return s.MemoryStore.PutBinding(ctx, key, value)
}

func (s *tampered) PutValue(class ValueClass, key string, value []byte, done Done) {
	s.mu.Lock()
	f := s.put
	s.mu.Unlock()
	if f != nil {
		f(class, key, value, done)
		return
	}
	s.MemoryStore.PutValue(class, key, value, done)
}

// set changes a hook while the router runs.
func (s *tampered) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (l *tamperedLog) Append(envelope []byte, dedup string, done Done) {
	l.store.mu.Lock()
	f := l.store.append
	l.store.mu.Unlock()
	if f == nil {
		l.Log.Append(envelope, dedup, done)
		return
	}
	f(l.Log, l.id, envelope, dedup, done)
}

func (l *tamperedLog) Read(ctx context.Context, from uint64, n, size int) ([]Entry, error) {
	l.store.mu.Lock()
	f := l.store.read
	l.store.mu.Unlock()
	if f == nil {
		return l.Log.Read(ctx, from, n, size)
	}
	return f(l.Log, l.id, from, n, size)
}

func (l *tamperedLog) SaveRecord(rec []byte, done Done) {
	l.store.mu.Lock()
	f := l.store.save
	l.store.mu.Unlock()
	if f == nil {
		l.Log.SaveRecord(rec, done)
		return
	}
	f(l.Log, l.id, rec, done)
}

func (l *tamperedLog) Remove(ctx context.Context) error {
	l.store.mu.Lock()
	f := l.store.remove
	l.store.mu.Unlock()
	if f != nil {
		if err := f(l.Log, l.id); err != nil {
			return err
		}
	}
	return l.Log.Remove(ctx)
}

// startTampered is start on such a store.
func startTampered(t testing.TB, change func(*Options)) (*harness, *tampered) {
	t.Helper()
	var s *tampered
	h := start(t, func(o *Options) {
		s = &tampered{MemoryStore: o.Store.(*MemoryStore)}
		o.Store = s
		if change != nil {
			change(o)
		}
	})
	return h, s
}

// crash goes on with what the store holds, as if the process had died.
func (h *harness) crash() {
	h.t.Helper()
	old, oldStore := h.Router, h.store
	c := oldStore.copy()
	for id, l := range c.logs {
		l.removed = func() { c.mu.Lock(); delete(c.logs, id); c.mu.Unlock() }
	}
	oldStore.mu.Lock()
	c.txSeq = oldStore.txSeq
	for id, l := range oldStore.logs {
		l.mu.Lock()
		for k, v := range l.dedup {
			if c.logs[id].dedup == nil {
				c.logs[id].dedup = map[string]uint64{}
			}
			c.logs[id].dedup[k] = v
		}
		l.mu.Unlock()
	}
	oldStore.mu.Unlock()
	h.store, h.opt.Store = c, c
	h.open()
	h.t.Cleanup(func() {
		if err := old.Close(context.Background()); err != nil && !errors.Is(err, errBroken) {
			h.t.Error(err)
		}
	})
}
