package door

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair returns the two ends of a TCP connection over a listener of Listen.
func pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	n, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n.(*net.TCPConn), f.(*net.TCPConn)
}

// TestReaderWaits is given bytes that come after it began to wait, then those that were there, then the end.
func TestReaderWaits(t *testing.T) {
	near, far := pair(t)
	r := Reader(near)
	ping, pong := make(chan struct{}), make(chan struct{})
	go func() { // ends with the pair
		for range ping {
			_, _ = far.Write([]byte("later"))
			pong <- struct{}{}
		}
		_ = far.Close()
	}()
	b := make([]byte, 16)
	for range 100 {
		ping <- struct{}{}
		if n, err := io.ReadFull(r, b[:5]); err != nil || string(b[:n]) != "later" {
			t.Fatalf("read %q, %v", b[:n], err)
		}
		<-pong
	}
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("read of nothing: %d, %v", n, err)
	}
	close(ping)
	if n, err := r.Read(b); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// TestReaderObeysItsDeadline also when it is set while the reader waits, and goes on with another.
func TestReaderObeysItsDeadline(t *testing.T) {
	near, far := pair(t)
	r := Reader(near)
	if err := near.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := r.Read(b); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d, %v", n, err)
	}
	if err := near.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write([]byte("more")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(b); err != nil || string(b[:n]) != "more" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	ended := make(chan error)
	go func() { _, err := r.Read(b); ended <- err }()
	if err := near.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the waiting reader: %v", err)
	}
}

// TestReaderEndsWithItsSocket which another goroutine closes, or the peer resets.
func TestReaderEndsWithItsSocket(t *testing.T) {
	near, _ := pair(t)
	r := Reader(near)
	ended := make(chan error)
	go func() { _, err := r.Read(make([]byte, 16)); ended <- err }()
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	near, far := pair(t)
	if err := far.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	var op *net.OpError
	if n, err := Reader(near).Read(make([]byte, 16)); n != 0 || !errors.As(err, &op) {
		t.Errorf("reset: %d, %v", n, err)
	}
}

// TestReaderOfOthers leaves what is no socket as it is.
func TestReaderOfOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Reader(a) != io.Reader(a) {
		t.Error("a pipe is not read as it is")
	}
}

// BenchmarkReader sends a byte and reads it.
func BenchmarkReader(b *testing.B) {
	for name, reader := range map[string]func(net.Conn) io.Reader{"net": func(c net.Conn) io.Reader { return c }, "door": Reader} {
		b.Run(name, func(b *testing.B) {
			near, far := pair(b)
			r, buf := reader(near), make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := far.Write(buf[:1]); err != nil {
					b.Fatal(err)
				}
				if _, err := r.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
