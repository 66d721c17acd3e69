//go:build unix

package config

import (
	"io/fs"
	"syscall"
)

// ownedByRoot reports whether a file is root's.
func ownedByRoot(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Uid == 0
}
