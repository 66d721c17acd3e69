package harness

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Request tells a client program what to do: one JSON line on its standard input.
// All bodies are base64.
type Request struct {
	Op          string            `json:"op"`
	Host        string            `json:"host,omitempty"`
	Port        int               `json:"port,omitempty"`
	Login       string            `json:"login,omitempty"`
	Passcode    string            `json:"passcode,omitempty"`
	Destination string            `json:"destination,omitempty"`
	ID          string            `json:"id,omitempty"`
	Ack         string            `json:"ack,omitempty"`
	Body        string            `json:"body,omitempty"`
	Message     string            `json:"message,omitempty"` // message-id of a message received before
	Transaction string            `json:"transaction,omitempty"`
	Receipt     bool              `json:"receipt,omitempty"`
	TimeoutMs   int               `json:"timeout_ms,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
}

// Reply is the client program's answer: one JSON line on its standard output.
type Reply struct {
	Outcome
	None    bool              `json:"none"` // receive: nothing came in time
	Body    string            `json:"body"`
	Headers map[string]string `json:"headers"`
}

// Language is one kind of client program.
type Language struct {
	Name string
	// Command starts it.
	Command []string
	// Probe exits with 0 if what it needs is installed; Package is what to install.
	Probe   []string
	Package string
}

// GoClientVariable in its environment makes a test binary the Go client program.
const GoClientVariable = "MQGATE_TEST_GO_CLIENT"

// SkipVariable set to 1 skips tests of clients that are not installed. In CI it
// has no effect.
const SkipVariable = "MQGATE_TEST_SKIP_CLIENTS"

// PHP, Python, Ruby and Go are the client programs.
var (
	PHP = Language{Name: "php", Command: []string{"php", script("client.php")}, Package: "php-cli and php-stomp",
		Probe: []string{"php", "-r", `exit(extension_loaded("stomp") ? 0 : 1);`}}
	Python = Language{Name: "python", Command: []string{"/usr/bin/python3", "-B", script("client.py")}, Package: "python3-stomp",
		Probe: []string{"/usr/bin/python3", "-c", "import stomp"}}
	Ruby = Language{Name: "ruby", Command: []string{"ruby", script("client.rb")}, Package: "ruby-stomp",
		Probe: []string{"ruby", "-e", `require "stomp"`}}
	Go = Language{Name: "go", Command: []string{os.Args[0]}, Package: "nothing", Probe: nil}
)

// Languages are all of them.
var Languages = []Language{PHP, Python, Ruby, Go}

// Script returns the path of a file in integration/clients.
func Script(name string) string { return script(name) }

func script(name string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "clients", name)
}

// Require fails the test if a language's library is not installed, or skips it if
// the developer asked for that outside CI.
func (l Language) Require(t testing.TB) {
	t.Helper()
	if l.Probe == nil || exec.Command(l.Probe[0], l.Probe[1:]...).Run() == nil {
		return
	}
	text := fmt.Sprintf("the %s client is not installed (Debian: apt-get install %s; make test does it)", l.Name, l.Package)
	if os.Getenv("CI") == "" && os.Getenv(SkipVariable) == "1" {
		t.Skip(text)
	}
	t.Fatal(text)
}

// Client is a running client program.
type Client struct {
	t    testing.TB
	lang Language
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	file *os.File // its standard error
	gone bool
}

// clientTimeout ends a client program that does not answer.
const clientTimeout = 90 * time.Second

// Start starts a client program; it is killed when the test ends.
func (l Language) Start(t testing.TB) *Client {
	t.Helper()
	l.Require(t)
	c := &Client{t: t, lang: l, cmd: exec.Command(l.Command[0], l.Command[1:]...)}
	c.cmd.Env = append(os.Environ(), GoClientVariable+"="+l.Name)
	var err error
	if c.file, err = os.CreateTemp("", "mqclient"); err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c.file
	in, err1 := c.cmd.StdinPipe()
	out, err2 := c.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, c.cmd.Start()); err != nil {
		t.Fatalf("start the %s client: %v", l.Name, err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	t.Cleanup(c.finish)
	return c
}

func (c *Client) finish() {
	c.Kill()
	if text, err := os.ReadFile(c.file.Name()); err == nil && len(text) > 0 && c.t.Failed() {
		c.t.Logf("the %s client wrote: %s", c.lang.Name, tail(string(text)))
	}
	c.file.Close()
	os.Remove(c.file.Name())
}

// Kill ends the program with SIGKILL, as a crash would.
func (c *Client) Kill() {
	if c.gone {
		return
	}
	c.gone = true
	c.cmd.Process.Kill()
	_ = c.cmd.Wait() // killed is what it says
}

// Try sends a request and returns the answer, also if it is a refusal.
func (c *Client) Try(r Request) (reply Reply) {
	c.t.Helper()
	c.exchange(r.Op, r, &reply)
	return reply
}

// exchange sends a request and reads the answer.
func (c *Client) exchange(op string, request, reply any) {
	c.t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		c.t.Fatal(err)
	}
	// A program that hangs is killed, and the read below fails.
	watchdog := time.AfterFunc(clientTimeout, func() { c.cmd.Process.Kill() })
	defer watchdog.Stop()
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		c.t.Fatalf("%s client, %s: %v\n%s", c.lang.Name, op, err, readLog(c.file.Name()))
	}
	text, err := c.out.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("%s client, %s: no answer: %v\n%s", c.lang.Name, op, err, readLog(c.file.Name()))
	}
	if err := json.Unmarshal(text, reply); err != nil {
		c.t.Fatalf("%s client, %s: %v: %.300s", c.lang.Name, op, err, text)
	}
}

// Do is Try for what must succeed.
func (c *Client) Do(r Request) Reply {
	c.t.Helper()
	reply := c.Try(r)
	if !reply.OK {
		c.t.Fatalf("%s client, %s %s: %s", c.lang.Name, r.Op, r.Destination, reply.Error)
	}
	return reply
}

// Message is one that a client program received.
type Message struct {
	ID      string
	Body    []byte
	Headers map[string]string
}

// Redelivered tells whether the message is marked so.
func (m *Message) Redelivered() bool { return m.Headers["redelivered"] == "true" }

// receiveTimeout is how long a message that must come may take.
const receiveTimeout = 30 * time.Second

// Receive waits for a message.
func (c *Client) Receive() *Message {
	c.t.Helper()
	m := c.receive(receiveTimeout)
	if m == nil {
		c.t.Fatalf("%s client: no message came", c.lang.Name)
	}
	return m
}

// ReceiveNothing fails the test if a message comes within quiet.
func (c *Client) ReceiveNothing(quiet time.Duration) {
	c.t.Helper()
	if m := c.receive(quiet); m != nil {
		c.t.Fatalf("%s client: a message that should not come: %v %.100q", c.lang.Name, m.Headers, m.Body)
	}
}

func (c *Client) receive(limit time.Duration) *Message {
	c.t.Helper()
	r := c.Do(Request{Op: "receive", TimeoutMs: int(limit.Milliseconds())})
	if r.None {
		return nil
	}
	body, err := base64.StdEncoding.DecodeString(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return &Message{ID: r.Headers["message-id"], Body: body, Headers: r.Headers}
}

// Send sends a body; headers may be nil.
func (c *Client) Send(destination string, body []byte, receipt bool, headers map[string]string) {
	c.t.Helper()
	c.Do(Request{Op: "send", Destination: destination, Body: base64.StdEncoding.EncodeToString(body), Receipt: receipt, Headers: headers})
}

// Signal sends a signal to the program.
func (c *Client) Signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}
