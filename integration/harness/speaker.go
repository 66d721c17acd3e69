package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Speaker is a process that speaks for peers of the table in another language: each
// line to it is a call, each line from it an answer.
type Speaker struct {
	t       testing.TB
	in      io.WriteCloser
	mu      sync.Mutex
	n       int
	waiting map[int]chan scriptAnswer
	ended   error
}

// scriptCall is one line to a script. What a call does not need is left out.
type scriptCall struct {
	N    int    `json:"n"`
	Conn int    `json:"conn"`
	Do   string `json:"do"`

	Kind     string `json:"kind,omitempty"`
	URL      string `json:"url,omitempty"`
	Version  string `json:"version,omitempty"`
	Identity string `json:"identity,omitempty"`
	Binary   bool   `json:"binary,omitempty"`

	From     *scriptPlace `json:"from,omitempty"`
	Durable  bool         `json:"durable,omitempty"`
	Retained bool         `json:"retained,omitempty"`
	LimitMs  int64        `json:"limitMs,omitempty"`
	Forget   bool         `json:"forget,omitempty"`

	scriptPost
}

// scriptPlace is a Place as both protocols say it.
type scriptPlace struct {
	STOMP string `json:"stomp,omitempty"`
	MQTT  string `json:"mqtt,omitempty"`
}

func placeFor(p Place) *scriptPlace {
	if p.String() == "" {
		return nil
	}
	return &scriptPlace{p.STOMP(), p.MQTT()}
}

func (p *scriptPlace) place() Place {
	if p == nil || p.STOMP == "" && p.MQTT == "" {
		return Place{}
	}
	if p.STOMP != "" {
		return PlaceOfSTOMP(p.STOMP)
	}
	return PlaceOfMQTT(p.MQTT)
}

// scriptPost is a Post on a line.
type scriptPost struct {
	To          *scriptPlace `json:"to,omitempty"`
	Body        []byte       `json:"body,omitempty"`
	Text        bool         `json:"text,omitempty"`
	Persistent  bool         `json:"persistent,omitempty"`
	Retain      bool         `json:"retain,omitempty"`
	ContentType string       `json:"contentType,omitempty"`
	ReplyTo     *scriptPlace `json:"replyTo,omitempty"`
	Correlation []byte       `json:"correlation,omitempty"`
	Headers     [][2]string  `json:"headers,omitempty"`
	ExpiresMs   int64        `json:"expiresMs,omitempty"`
}

type scriptAnswer struct {
	N     int    `json:"n"`
	Error string `json:"error"`
	scriptPost
}

// StartSpeaker starts a script of integration/node, with others that it imports.
func StartSpeaker(t testing.TB, name string, others ...string) *Speaker {
	t.Helper()
	dir := NodeScripts(t, append([]string{filepath.Join(NodeDir(), name)}, others...)...)
	cmd := exec.Command("node", filepath.Join(dir, name))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &beginning{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Speaker{t: t, in: in, waiting: map[int]chan scriptAnswer{}}
	var group sync.WaitGroup
	group.Go(func() { s.listen(out) })
	t.Cleanup(func() {
		in.Close()
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() }) // it has ended if not
		defer kill.Stop()
		group.Wait()
		if err := cmd.Wait(); err != nil || t.Failed() && said.String() != "" {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
	})
	return s
}

// beginning keeps the beginning of what a process says.
type beginning struct {
	mu sync.Mutex
	b  []byte
}

// Write keeps b while there is room.
func (t *beginning) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[:min(len(b), 8<<10-len(t.b))]...)
	return len(b), nil
}

// String is what was kept.
func (t *beginning) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func (s *Speaker) listen(out io.Reader) {
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		var a scriptAnswer
		if err == nil {
			err = json.Unmarshal(line, &a)
		}
		s.mu.Lock()
		if err != nil {
			s.ended = fmt.Errorf("the script has ended: %w", err)
			for _, w := range s.waiting {
				close(w)
			}
			s.waiting = nil
			s.mu.Unlock()
			return
		}
		if w := s.waiting[a.N]; w != nil {
			w <- a
			delete(s.waiting, a.N)
		}
		s.mu.Unlock()
	}
}

// call sends a call and waits for its answer.
func (s *Speaker) call(c scriptCall) (scriptAnswer, error) {
	w := make(chan scriptAnswer, 1)
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return scriptAnswer{}, s.ended
	}
	s.n++
	c.N = s.n
	s.waiting[c.N] = w
	line, err := json.Marshal(c)
	if err == nil {
		_, err = s.in.Write(append(line, '\n'))
	}
	s.mu.Unlock()
	if err != nil {
		return scriptAnswer{}, err
	}
	select {
	case a, ok := <-w:
		if !ok {
			return a, s.ended
		}
		if a.Error != "" {
			return a, errors.New(a.Error)
		}
		return a, nil
	case <-time.After(2 * crossTimeout):
		return scriptAnswer{}, fmt.Errorf("the script does not answer to %s", c.Do)
	}
}

// SpeakerPeer is how a script is to connect.
type SpeakerPeer struct {
	Kind, URL, Version string
	Binary             bool
}

// Peer is a peer of the table for which the script speaks; what has the rest of it.
func (s *Speaker) Peer(how SpeakerPeer, what Peer) Peer {
	what.Connect = func(t testing.TB, identity string) CrossConn {
		t.Helper()
		s.mu.Lock()
		s.n++
		c := &scriptConn{s: s, id: s.n}
		s.mu.Unlock()
		if _, err := s.call(scriptCall{Conn: c.id, Do: "connect", Kind: how.Kind, URL: how.URL, Version: how.Version, Binary: how.Binary, Identity: identity}); err != nil {
			t.Fatalf("%s, connect: %v", what.Name, err)
		}
		return c
	}
	return what
}

type scriptConn struct {
	s  *Speaker
	id int
}

func (c *scriptConn) Send(to Place, p Post) error {
	_, err := c.s.call(scriptCall{Conn: c.id, Do: "send", scriptPost: scriptPost{
		To: placeFor(to), Body: p.Body, Text: p.Text, Persistent: p.Persistent, Retain: p.Retain, ContentType: p.ContentType,
		ReplyTo: placeFor(p.ReplyTo), Correlation: p.Correlation, Headers: p.Headers, ExpiresMs: p.Expires.Milliseconds(),
	}})
	return err
}

func (c *scriptConn) Subscribe(from Place, a Asking) error {
	_, err := c.s.call(scriptCall{Conn: c.id, Do: "subscribe", From: placeFor(from), Durable: a.Durable, Retained: a.Retained})
	return err
}

func (c *scriptConn) Receive(limit time.Duration) (Post, error) {
	a, err := c.s.call(scriptCall{Conn: c.id, Do: "receive", LimitMs: limit.Milliseconds()})
	return Post{
		Body: a.Body, To: a.To.place(), Persistent: a.Persistent, Retain: a.Retain, ContentType: a.ContentType, ReplyTo: a.ReplyTo.place(),
		Correlation: a.Correlation, Headers: a.Headers, Expires: time.Duration(a.ExpiresMs) * time.Millisecond,
	}, err
}

func (c *scriptConn) Leave(forget bool) error {
	_, err := c.s.call(scriptCall{Conn: c.id, Do: "leave", Forget: forget})
	return err
}
