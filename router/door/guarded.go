package door

import (
	"context"
	"errors"
	"net"
	"time"
)

// Guarded is a connection that came through another server, such as that for
// WebSocket, which has demands of its own on the client.
type Guarded interface {
	net.Conn
	// CredentialRequired reports that only a login that names a user may be accepted.
	CredentialRequired() bool
	// Request counts something that the client asks for. Wait is for how long nothing
	// more is to be read of it, an error why the connection is to end.
	Request() (wait time.Duration, err error)
	// Part says why the connection is about to be closed, for a client that is to know
	// whether to come back. The first reason counts.
	Part(why Parting)
}

// Parting is why a server ends a connection.
type Parting uint32

// The zero Parting has nothing to say. After Refused, TakenOver and Broken a client is
// not to come back as it is.
const (
	Refused   Parting = iota + 1 // the login
	TakenOver                    // by another connection of the same client
	Broken                       // the rules of the protocol
	Slow                         // the client does not read
	Silent                       // it does not say what it promised to
	Late                         // no login came in time
	OverRate                     // it asks for too much
	Moved                        // what its session needs is on another node
	Busy                         // there is no room for it now
)

// ErrOverRate ends a connection whose client asks for too much.
var ErrOverRate = errors.New("too many requests, come back later")

// Pause waits, but no longer than ctx lives; then it returns its cause.
func Pause(ctx context.Context, wait time.Duration) error {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
