package outbox

import (
	"syscall"
	"unsafe"
)

// rawBytes is the most that is written without the scheduler's knowledge: copying more could keep a processor from it for long.
const rawBytes = 16 << 10

// write writes to a socket in non-blocking mode. Nothing that is over so soon need be announced to the scheduler, which
// would wake a thread to look after it where little goes on.
func write(fd uintptr, b []byte) (n int, err error) {
	if len(b) == 0 || len(b) > rawBytes {
		return syscall.Write(int(fd), b)
	}
	written, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(written), nil
}
