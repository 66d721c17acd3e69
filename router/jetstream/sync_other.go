//go:build !linux

package jetstream

import "os"

func datasync(f *os.File) error { return f.Sync() }
