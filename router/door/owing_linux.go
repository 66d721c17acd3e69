package door

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// owing reports whether the peer's machine has not acknowledged something yet, data or a probe of its closed window, and how
// long it has acknowledged nothing.
func owing(s *net.TCPConn) (owes bool, silent time.Duration) {
	if s == nil {
		return false, 0
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false, 0
	}
	var info *unix.TCPInfo
	if raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }) != nil || err != nil {
		return false, 0 // it is closed
	}
	return info.Unacked > 0 || info.Probes > 0, time.Duration(info.Last_ack_recv) * time.Millisecond
}
