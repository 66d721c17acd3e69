package harness

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Frame is a STOMP frame as it came over a Wire.
type Frame struct {
	Command string
	Headers map[string]string // the first of each name
	All     [][2]string       // all, in order
	Body    []byte
}

// String shows the frame in failures.
func (f *Frame) String() string {
	return fmt.Sprintf("%s %v %.200q", f.Command, f.Headers, f.Body)
}

// Wire is a STOMP client on a bare socket: it does what it is told, and nothing on
// its own.
type Wire struct {
	Socket  net.Conn
	version string // "" stands for 1.2
	r       *bufio.Reader
	early   []*Frame // MESSAGEs that came before a RECEIPT
}

// wireTimeout ends a write or read that would hang a test.
const wireTimeout = 60 * time.Second

// Dial opens a socket.
func Dial(addr string) (*Wire, error) {
	if addr == "" {
		return nil, errors.New("the gateway is down")
	}
	s, err := net.DialTimeout("tcp", addr, wireTimeout)
	if err != nil {
		return nil, err
	}
	return NewWire(s), nil
}

// DialTLS opens a socket with TLS.
func DialTLS(addr string, c *tls.Config) (*Wire, error) {
	s, err := tls.DialWithDialer(&net.Dialer{Timeout: wireTimeout}, "tcp", addr, c)
	if err != nil {
		return nil, err
	}
	return NewWire(s), nil
}

// NewWire makes a client of a socket.
func NewWire(s net.Conn) *Wire { return &Wire{Socket: s, r: bufio.NewReaderSize(s, 64<<10)} }

// Login opens a socket and connects as STOMP 1.2 with more headers, "name:value".
func Login(addr string, headers ...string) (*Wire, error) {
	w, err := Dial(addr)
	if err != nil {
		return nil, err
	}
	return w, w.Login(headers...)
}

// Login connects as STOMP 1.2; on failure the socket is closed.
func (w *Wire) Login(headers ...string) error {
	err := w.Write("CONNECT", nil, append([]string{"accept-version:1.2", "host:localhost"}, headers...)...)
	if err == nil {
		var f *Frame
		if f, err = w.Read(wireTimeout); err == nil && f.Command != "CONNECTED" {
			err = fmt.Errorf("no CONNECTED but %s", f)
		}
	}
	if err != nil {
		w.Close()
	}
	return err
}

// MustLogin is Login for the main goroutine of a test; the socket closes with it.
func MustLogin(t testing.TB, addr string, headers ...string) *Wire {
	t.Helper()
	w, err := Login(addr, headers...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// Close closes the socket.
func (w *Wire) Close() { w.Socket.Close() }

// Write sends a frame; headers are "name:value", escaped by the caller.
func (w *Wire) Write(command string, body []byte, headers ...string) error {
	var b bytes.Buffer
	b.WriteString(command + "\n")
	for _, h := range headers {
		b.WriteString(h + "\n")
	}
	b.WriteByte('\n')
	b.Write(body)
	b.WriteString("\x00\n")
	return w.WriteRaw(b.Bytes())
}

// WriteRaw sends bytes.
func (w *Wire) WriteRaw(p []byte) error {
	if err := w.Socket.SetWriteDeadline(time.Now().Add(wireTimeout)); err != nil {
		return err
	}
	_, err := w.Socket.Write(p)
	return err
}

// Read reads a frame, skipping heart-beats.
func (w *Wire) Read(limit time.Duration) (*Frame, error) {
	if err := w.Socket.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	command := ""
	for command == "" {
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		command = line
	}
	f := &Frame{Command: command, Headers: map[string]string{}}
	for {
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("header line %q has no colon", line)
		}
		if w.version != "1.0" {
			name, value = unescape.Replace(name), unescape.Replace(value)
		}
		f.All = append(f.All, [2]string{name, value})
		if _, again := f.Headers[name]; !again {
			f.Headers[name] = value
		}
	}
	return f, w.body(f)
}

// unescape undoes the escapes of STOMP 1.2 "Value Encoding".
var unescape = strings.NewReplacer(`\\`, `\`, `\c`, ":", `\n`, "\n", `\r`, "\r")

func (w *Wire) line() (string, error) {
	line, err := w.r.ReadString('\n')
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}

func (w *Wire) body(f *Frame) (err error) {
	text, has := f.Headers["content-length"]
	if !has {
		if f.Body, err = w.r.ReadBytes(0); err == nil {
			f.Body = f.Body[:len(f.Body)-1]
		}
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	f.Body = make([]byte, n) // it is our own gateway that says so
	if _, err = io.ReadFull(w.r, f.Body); err != nil {
		return err
	}
	if end, err := w.r.ReadByte(); err != nil || end != 0 {
		return fmt.Errorf("byte %d instead of NUL behind the body: %v", end, err)
	}
	return nil
}

// Expect reads a frame with a command, and fails the test if another comes.
func (w *Wire) Expect(t testing.TB, command string) *Frame {
	t.Helper()
	if len(w.early) > 0 && command == "MESSAGE" {
		f := w.early[0]
		w.early = w.early[1:]
		return f
	}
	f, err := w.Read(wireTimeout)
	if err != nil {
		t.Fatalf("waiting for %s: %v", command, err)
	}
	if f.Command != command {
		t.Fatalf("waiting for %s, got %s", command, f)
	}
	return f
}

// Must writes a frame and fails the test if that fails.
func (w *Wire) Must(t testing.TB, command string, body []byte, headers ...string) {
	t.Helper()
	if err := w.Write(command, body, headers...); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
}

// MustConfirm writes a frame with a receipt header and waits for its RECEIPT.
// MESSAGEs that come before are kept for Expect.
func (w *Wire) MustConfirm(t testing.TB, command string, body []byte, headers ...string) {
	t.Helper()
	w.Must(t, command, body, append(headers, "receipt:r")...)
	for {
		f, err := w.Read(wireTimeout)
		if err != nil {
			t.Fatalf("waiting for the RECEIPT of %s: %v", command, err)
		}
		if f.Command == "MESSAGE" {
			w.early = append(w.early, f)
			continue
		}
		if f.Command != "RECEIPT" || f.Headers["receipt-id"] != "r" {
			t.Fatalf("waiting for the RECEIPT of %s, got %s", command, f)
		}
		return
	}
}

// Ended reports whether the other side has ended a connection by now, and returns what it sent before that and nobody has read. It
// waits for nothing, so that it tells what happened first.
func Ended(c net.Conn) (rest []byte, ended bool, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, false, err
	}
	buf := make([]byte, 4096)
	for {
		var n int
		var failed error
		if err := raw.Read(func(fd uintptr) bool { n, failed = syscall.Read(int(fd), buf); return true }); err != nil {
			return rest, false, err
		}
		switch {
		case errors.Is(failed, syscall.EINTR):
		case errors.Is(failed, syscall.EAGAIN):
			return rest, false, nil
		case failed != nil, n == 0: // a reset is an end
			return rest, true, nil
		default:
			rest = append(rest, buf[:n]...)
		}
	}
}

// ReadToEnd reads frames until the connection ends, and returns the last one.
func (w *Wire) ReadToEnd() (last *Frame, err error) {
	for {
		f, err := w.Read(wireTimeout)
		if err != nil {
			return last, err
		}
		last = f
	}
}
