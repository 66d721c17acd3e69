package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/mqgate/mqgate/router/door"
)

// Server serves MQTT clients. Create it with New, end it with Drain.
type Server struct {
	// Stats are the counters.
	Stats Stats

	opt    Options
	life   context.Context // ends with Drain
	kill   context.CancelCauseFunc
	guests door.Guests[*conn]
}

// New returns a server. It starts nothing.
func New(o Options) (*Server, error) {
	switch {
	case o.Router == nil:
		return nil, errors.New("mqtt: Options.Router is missing")
	case o.Authenticate == nil:
		return nil, errors.New("mqtt: Options.Authenticate is missing")
	}
	s := &Server{opt: o.withDefaults()}
	s.guests.Seats = s.opt.Seats
	s.guests.Stop = func(c *conn) { c.stop(errDraining) }
	s.guests.Abort = (*conn).abort
	s.guests.Socket = func(c *conn) net.Conn { return c.socket }
	s.guests.Vanished = func(c *conn) { c.fail(door.ErrVanished) }
	s.guests.Leaving = func(c *conn) bool { return c.ending.Load() != nil }
	s.life, s.kill = context.WithCancelCause(context.Background())
	return s, nil
}

// Serve accepts from a listener, which it closes, until ctx or the server ends; then it returns nil, and connections go on
// until Drain. It returns an error when the listener fails for good. What may pass, such as a lack of file descriptors, is
// counted, logged and tried again with growing pauses [MQTT-4.2.0-1].
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.guests.Open(l) {
		return errors.Join(net.ErrClosed, l.Close())
	}
	defer s.guests.Close(l)
	return door.Accepting{
		Log: s.opt.Log, Errors: &s.Stats.AcceptErrors, Life: s.life, Draining: s.guests.Draining,
		Each: func(socket net.Conn) { s.accepted(socket) },
	}.Accept(ctx, l)
}

// accepted starts a connection, or refuses it.
func (s *Server) accepted(socket net.Conn) {
	c := s.admit(socket)
	if c == nil {
		return
	}
	go c.serve() // counted by admit, ended by Drain
}

// ServeConn serves one connection, which it closes, and returns when it has ended.
func (s *Server) ServeConn(socket net.Conn) {
	if c := s.admit(socket); c != nil {
		c.serve()
	}
}

// admit counts a connection if the limits allow it; it closes the socket and returns nil otherwise.
func (s *Server) admit(socket net.Conn) *conn {
	c, err := s.guests.Admit(func() *conn { return newConn(s, socket) })
	if err != nil {
		if errors.Is(err, door.ErrNoSeat) {
			s.Stats.OverLimit.Add(1)
		}
		turnAway(socket)
		return nil
	}
	s.Stats.Accepted.Add(1)
	return c
}

// turnAway closes a connection over the limit. Nothing can be said before its CONNECT is read, which would cost what the
// limit is to save.
func turnAway(socket net.Conn) { _ = socket.Close() }

// leave forgets a connection that has ended.
func (s *Server) leave(c *conn) {
	if c.counted {
		s.opt.Seats.Exit(c.user)
	}
	s.guests.Leave(c)
}

// countUser counts a connection of a user that has logged in, if the limit allows.
func (s *Server) countUser(c *conn, user string) error {
	if !s.opt.Seats.Enter(user) {
		s.Stats.OverLimit.Add(1)
		return faulty(quotaExceeded, "user %q has %d connections, which is the limit", user, s.opt.Seats.PerUser())
	}
	c.user, c.counted = user, true
	return nil
}

// Connections returns how many connections there are now.
func (s *Server) Connections() int { return s.guests.Len() }

// Drain ends the server: listeners close, every client gets the confirmations it waits for, one of MQTT 5 also a
// DISCONNECT with the reason, and its connection is flushed and closed. When ctx ends first, the rest is closed at once and ctx's cause is
// returned. No goroutine of the server is left when it returns. Later calls wait as well.
func (s *Server) Drain(ctx context.Context) error {
	err := s.guests.Drain(ctx)
	if err != nil {
		err = fmt.Errorf("drain MQTT connections: %w", err)
	}
	s.kill(errDraining)
	return err
}

// Shed has up to n connections end as Drain has all, and returns how many it told; 0 means that there are none left to
// tell. It refuses no new ones, and does not wait.
func (s *Server) Shed(n int) int { return s.guests.Shed(n) }
