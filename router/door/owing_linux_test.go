package door

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deaf has the kernel drop all that comes for a socket, as if its machine were gone.
func deaf(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

func owes(t *testing.T, c *net.TCPConn, silentFor time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		owes, silent := owing(c)
		if owes && silent >= silentFor {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("owes: %v, silent for %v", owes, silent)
		}
	}
}

func TestAMachineThatIsGoneOwes(t *testing.T) {
	here, there := pair(t)
	if owes, _ := owing(here); owes {
		t.Error("owes before anything was sent")
	}
	deaf(t, there)
	if _, err := here.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
	owes(t, here, 500*time.Millisecond)
}

// A program that does not read, with every buffer between full, owes nothing as long as its machine answers; when it is gone, it does.
func TestAClosedWindowOwesNothing(t *testing.T) {
	here, there := pair(t)
	if err := here.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := here.Write(make([]byte, 1<<20))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var d debt
	now := time.Now()
	for i := range 200 { // of which each may come upon a probe that is being answered
		owes, silent := owing(here)
		if d.look(now.Add(time.Duration(i)*lookEvery), owes, silent) {
			t.Fatal("it was given up")
		}
		time.Sleep(5 * time.Millisecond)
	}
	deaf(t, there)
	owes(t, here, time.Second)
}
