//go:build unix

package jetstream

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// giveToOwner gives what was made in a directory to whom that belongs: root restores for a service that has a user of its own.
func giveToOwner(dir string, made ...string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil // what another makes is its own, and it may not give it away
	}
	give := func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, int(owner.Uid), int(owner.Gid))
		}
		return err
	}
	for _, path := range made {
		if err := filepath.WalkDir(path, give); err != nil {
			return fmt.Errorf("give what was restored to the owner of %s: %w", dir, err)
		}
	}
	return nil
}
