package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

const (
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = time.Second
)

// Accepting is how a server accepts.
type Accepting struct {
	Log      *slog.Logger
	Errors   *atomic.Uint64   // counts failures
	Life     context.Context  // ends a pause
	Draining func() bool      // the server closed the listener
	Each     func(s net.Conn) // starts a connection; it must not block
}

// Accept accepts from a listener, which it closes when ctx ends, until the listener
// is closed on purpose; then it returns nil. It returns an error when the listener
// fails for good. What may pass, such as a lack of file descriptors, is counted,
// logged and tried again with growing pauses.
func (a Accepting) Accept(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	pause := time.Duration(0)
	for {
		socket, err := l.Accept()
		if err == nil {
			pause = 0
			a.Each(socket)
			continue
		}
		if ctx.Err() != nil || a.Draining() {
			return nil
		}
		if !passing(err) {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		a.Errors.Add(1)
		pause = min(max(2*pause, firstBackoff), lastBackoff)
		if pause == firstBackoff || pause == lastBackoff { // not for each: this loop can be tight
			a.Log.Warn("cannot accept connections, will retry", "listener", l.Addr().String(), "pause", pause, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-a.Life.Done():
		}
	}
}

// passing tells a failure that may go away from that of the listener itself.
func passing(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// Listen binds a TCP port whose connections find peers that vanished: after 15 s without
// a byte three probes 15 s apart.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	// Set by the listener, since it would else have set other times before: these are four system calls a connection.
	c := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}}
	return c.Listen(ctx, "tcp", address)
}
