package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// tcpPair is a connection over loopback, with small buffers.
func tcpPair(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	here, there = a.(*net.TCPConn), c.(*net.TCPConn)
	t.Cleanup(func() { here.Close(); there.Close() })
	if err := errors.Join(here.SetWriteBuffer(64<<10), there.SetReadBuffer(64<<10)); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// What many outboxes write over sockets arrives whole and in order, whatever fits the kernel's buffers at a time.
func TestTheCrewWritesEverythingInOrder(t *testing.T) {
	const boxes, frames = 8, 150
	var all sync.WaitGroup
	for i := range boxes {
		here, there := tcpPair(t)
		l := &listener{}
		o := New(here, l, Options{MaxBytes: 4 << 20})
		if o.try == nil {
			t.Skip("no way to write without waiting on this system")
		}
		all.Go(func() {
			var w Batch
			total := 0
			for n := range frames {
				frame := fmt.Sprintf("%d:%d;%s", i, n, bytes.Repeat([]byte("x"), n%7*3000))
				if !put(o, &w, frame) {
					t.Errorf("frame %d was refused", n)
				}
				if total += len(frame); n%5 == 0 {
					w.Flush()
				}
			}
			w.Flush()
			o.Close()
			if got := l.written.Load(); got != uint64(total) || l.failed.Load() != 0 {
				t.Errorf("outbox %d: %d of %d bytes reported, failed %d", i, got, total, l.failed.Load())
			}
			here.Close()
		})
		all.Go(func() {
			got, err := io.ReadAll(there)
			if err != nil {
				t.Error(err)
			}
			for n := range frames {
				frame := fmt.Sprintf("%d:%d;%s", i, n, bytes.Repeat([]byte("x"), n%7*3000))
				rest, ok := bytes.CutPrefix(got, []byte(frame))
				if !ok {
					t.Errorf("outbox %d: frame %d is not what was appended", i, n)
					return
				}
				got = rest
			}
			if len(got) > 0 {
				t.Errorf("outbox %d: %d bytes too many", i, len(got))
			}
		})
	}
	all.Wait()
}

// Peers that take nothing keep nobody from writing to others.
func TestStuckPeersDoNotHoldUpTheCrew(t *testing.T) {
	var stuck []net.Conn
	for range 4 * crewSize {
		here, _ := tcpPair(t)
		o := New(here, &listener{}, Options{MaxBytes: 64 << 20, Reserve: 100})
		for range 100 { // more than the kernel takes
			put(o, nil, string(make([]byte, 60<<10)))
		}
		stuck = append(stuck, here)
		defer o.Wait()
	}
	here, there := tcpPair(t)
	o := New(here, &listener{}, wide)
	for range 100 {
		put(o, nil, "ping")
		if err := there.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(there, make([]byte, 4)); err != nil {
			t.Fatalf("an honest peer waits behind stuck ones: %v", err)
		}
	}
	o.Close()
	for _, c := range stuck {
		c.Close() // ends its writer, for which the deferred calls wait
	}
}

func TestTheCrewTellsOfABrokenSocket(t *testing.T) {
	here, _ := tcpPair(t)
	here.Close()
	l := &listener{}
	o := New(here, l, wide)
	put(o, nil, "x")
	o.Wait()
	for deadline := time.Now().Add(20 * time.Second); l.failed.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody was told")
		}
	}
	if put(o, nil, "y") || l.failed.Load() != 1 || l.written.Load() != 0 {
		t.Errorf("failed %d times, written %d", l.failed.Load(), l.written.Load())
	}
	o.Close()
}

// What a reader has for few peers is with the kernel when it goes to wait, without another goroutine.
func TestAReaderWritesToFewPeersItself(t *testing.T) {
	for _, n := range []int{1, fewBoxes, fewBoxes + 3} {
		var boxes []*Outbox
		var w Batch
		for range n {
			here, _ := tcpPair(t)
			o := New(here, &listener{}, wide)
			if o.try == nil {
				t.Skip("no way to write without waiting on this system")
			}
			boxes = append(boxes, o)
			put(o, &w, "x")
		}
		w.FlushHere()
		for _, o := range boxes {
			if left := o.Backlog(); left > 0 && n <= fewBoxes {
				t.Errorf("%d bytes wait of %d peers", left, n)
			}
			o.Close()
			if o.Backlog() != 0 || o.owner.(*listener).written.Load() != 1 {
				t.Error("the byte was not written")
			}
		}
	}
}

// A room of thousands is as many writes for each message: one allocation in each would keep the collector running.
func TestAWriteOfTheCrewAllocatesNothing(t *testing.T) {
	here, there := tcpPair(t)
	o := New(here, &listener{}, wide)
	if o.try == nil {
		t.Skip("no way to write without waiting on this system")
	}
	b := make([]byte, 4)
	if got := testing.AllocsPerRun(100, func() {
		buf, _ := o.Begin(4)
		o.mu.Unlock()
		o.pend.tail.b, o.pend.n, o.running = append(buf, "abcd"...), 4, true
		o.attempt()
		if _, err := io.ReadFull(there, b); err != nil || string(b) != "abcd" {
			t.Fatalf("%q, %v", b, err)
		}
	}); got >= 1 { // a pool may be emptied once in a while
		t.Errorf("%v allocations for a write", got)
	}
	o.Close()
}
