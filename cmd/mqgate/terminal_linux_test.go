package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns the two ends of a new pseudo terminal.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	t.Cleanup(func() { terminal.Close() })
	return keyboard, terminal
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), readTermios)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

func TestHideInput(t *testing.T) {
	_, terminal := openTerminal(t)
	if !isTerminal(terminal) || !echoes(t, terminal) {
		t.Fatal("a new terminal is one, and echoes")
	}
	restore, err := hideInput(terminal)
	if err != nil {
		t.Fatal(err)
	}
	if echoes(t, terminal) {
		t.Error("it echoes while a password is typed")
	}
	restore()
	if !echoes(t, terminal) {
		t.Error("it does not echo afterwards")
	}
}

func TestFilesAreNoTerminals(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) {
		t.Error("the null device is a terminal")
	}
	if _, err := hideInput(f); err == nil {
		t.Error("hideInput of a file succeeded")
	}
}

func TestPasswdOnATerminal(t *testing.T) {
	keyboard, terminal := openTerminal(t)
	if _, err := keyboard.WriteString("secret\nsecret\n"); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	p := &process{stdin: terminal, stdout: &out, stderr: &errs}
	if code := p.run([]string{"passwd"}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if err := logsIn(strings.TrimSpace(out.String()), "secret"); err != nil {
		t.Errorf("%q: %v", out.String(), err)
	}
	if !echoes(t, terminal) {
		t.Error("the terminal does not echo afterwards")
	}
}
