//go:build unix

package jetstream

import "syscall"

// FreeBytes returns what an unprivileged process may still write below dir.
func FreeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}
