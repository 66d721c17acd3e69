package door

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// Reader returns how a connection's one reader reads: a TCP socket with less work for
// the scheduler, anything else as it is.
//
// Go keeps sockets in non-blocking mode, so a read returns at once, with EAGAIN if
// nothing is there, and then the poller waits. The net package all the same tells the
// scheduler of each read as one that may block, and where little goes on that wakes a
// thread which looks after such calls: with 10,000 connections that send a ping now
// and then it was a third of the CPU. Deadlines and Close work as they do for Read.
func Reader(conn net.Conn) io.Reader {
	t, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return conn
	}
	r := &reader{raw: raw}
	r.call = r.read
	return r
}

type reader struct {
	raw  syscall.RawConn
	call func(fd uintptr) (done bool) // read, bound once

	// Of the read that is under way.
	b   []byte
	n   int
	err error
}

func (r *reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	r.b, r.n, r.err = b, 0, nil
	err := r.raw.Read(r.call)
	r.b = nil
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: r.err}
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

func (r *reader) read(fd uintptr) (done bool) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(r.b))), uintptr(len(r.b)))
		switch errno {
		case 0:
			r.n = int(n)
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		default:
			r.err = errno
		}
		return true
	}
}
