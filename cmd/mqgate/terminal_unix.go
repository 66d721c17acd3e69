//go:build linux || darwin || freebsd || netbsd || openbsd

package main

import (
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), readTermios)
	return err == nil
}

// hideInput switches the echo off until restore is called. A Ctrl-C in between
// restores it too, or the shell would go on without an echo.
func hideInput(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, readTermios)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, writeTermios, &quiet); err != nil {
		return nil, err
	}
	show := func() {
		// There is nothing to be done when a terminal has gone away.
		_ = unix.IoctlSetTermios(fd, writeTermios, old)
	}

	signals, over := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-signals:
			show()
			os.Exit(exitFailure)
		case <-over:
		}
	})
	return func() {
		signal.Stop(signals)
		close(over)
		watch.Wait()
		show()
	}, nil
}
