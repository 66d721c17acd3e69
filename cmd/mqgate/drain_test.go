package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mqgate/mqgate/gateway"
)

// A gateway that is silent may still be closing its store: the verb returns when another may start on the data directory.
func TestDrainWaitsForTheDataDirectory(t *testing.T) {
	dir := t.TempDir()
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, gateway.AdminSocket))
	if err != nil {
		t.Fatal(err)
	}
	var free atomic.Bool
	freed := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("{}")) // the verb reports if it cannot read it
		l.Close()                    // it answers no more
		time.AfterFunc(2*drainPoll, func() {
			defer close(freed)
			free.Store(true)
			_ = syscall.Flock(int(lock.Fd()), syscall.LOCK_UN)
		})
	})}
	defer srv.Close()
	go func() { _ = srv.Serve(l) }()
	r := run(t, "", nil, "drain", "--set", "data_dir="+dir)
	if r.code != exitOK {
		t.Errorf("%+v", r)
	}
	if !free.Load() {
		t.Error("it returned while the data directory was in use")
	}
	<-freed // before the file is closed
}
