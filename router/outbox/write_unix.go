//go:build unix && !linux

package outbox

import "syscall"

func write(fd uintptr, b []byte) (n int, err error) { return syscall.Write(int(fd), b) }
