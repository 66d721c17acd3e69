//go:build unix

package outbox

import (
	"io"
	"net"
	"syscall"
)

// Try returns how to write to a connection without waiting, or nil if there is
// no way: the connection is no socket, and does not know how itself.
func Try(conn io.Writer) TryWriter {
	switch c := conn.(type) {
	case TryWriter:
		return c
	case *net.TCPConn:
		raw, err := c.SyscallConn()
		if err != nil {
			return nil
		}
		s := &socket{conn: c, raw: raw}
		s.call = s.write
		return s
	}
	return nil
}

// socket writes to a TCP socket, which Go keeps in non-blocking mode.
type socket struct {
	conn io.Writer
	raw  syscall.RawConn
	call func(fd uintptr) // write, bound once

	// Of the write that is under way.
	b   []byte
	n   int
	err error
}

// TryWrite writes what the kernel's buffer takes. Control, and not Write, since a
// deadline of an earlier write must not matter.
func (s *socket) TryWrite(b []byte) (rest func() error, err error) {
	s.b, s.n, s.err = b, 0, nil
	if err = s.raw.Control(s.call); err == nil {
		err = s.err
	}
	s.b = nil
	switch n := s.n; {
	case err == nil && n == len(b):
		return nil, nil
	case err == nil || err == syscall.EAGAIN:
		return func() error {
			_, err := s.conn.Write(b[n:])
			return err
		}, nil
	}
	return nil, &net.OpError{Op: "write", Net: "tcp", Err: err}
}

func (s *socket) write(fd uintptr) {
	for {
		n, err := write(fd, s.b)
		if err == syscall.EINTR {
			continue
		}
		s.n, s.err = max(n, 0), err
		return
	}
}
