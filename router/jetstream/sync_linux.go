package jetstream

import (
	"os"
	"syscall"
)

// datasync flushes a file's data and what is needed to read it back.
func datasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
