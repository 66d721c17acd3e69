package harness

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Place is an address as a test means it, whatever a protocol calls it: a queue, or a
// topic by its levels.
type Place struct {
	Queue string
	Topic []string
}

// STOMP is the place's destination, in the dot style.
func (p Place) STOMP() string {
	if p.Queue != "" {
		return "/queue/" + p.Queue
	}
	return "/topic/" + strings.ReplaceAll(strings.ReplaceAll(strings.Join(p.Topic, "."), "+", "*"), "#", ">")
}

// MQTT is the place's topic or filter.
func (p Place) MQTT() string {
	if p.Queue != "" {
		return "$queue/" + p.Queue
	}
	return strings.Join(p.Topic, "/")
}

// String is the place in failures; two places are the same if it is.
func (p Place) String() string { return p.MQTT() }

// PlaceOfSTOMP reads a destination of either style; without one the place is empty.
func PlaceOfSTOMP(destination string) Place {
	if q, ok := strings.CutPrefix(destination, "/queue/"); ok {
		return Place{Queue: q}
	}
	t, ok := strings.CutPrefix(destination, "/topic/")
	if !ok {
		return Place{}
	}
	return Place{Topic: strings.FieldsFunc(t, func(r rune) bool { return r == '.' || r == '/' })}
}

// PlaceOfMQTT reads a topic.
func PlaceOfMQTT(topic string) Place {
	if q, ok := strings.CutPrefix(topic, "$queue/"); ok {
		return Place{Queue: q}
	}
	if topic == "" {
		return Place{}
	}
	return Place{Topic: strings.Split(topic, "/")}
}

// Post is a message as all protocols can say it. What is zero is not said.
type Post struct {
	Body        []byte
	Text        bool // the sender says that the body is text
	Persistent  bool
	Retain      bool // of one that came: it is a retained message
	ContentType string
	ReplyTo     Place
	Correlation []byte
	Headers     [][2]string   // user properties, in order
	Expires     time.Duration // from now

	To Place // of one that came
}

// Asking says how a peer subscribes.
type Asking struct {
	Durable  bool // the connection has an identity, and its messages are kept while it is away
	Retained bool // it wants the retained messages
}

// CrossConn is one connection of a peer.
type CrossConn interface {
	// Send returns when the gateway has confirmed, or handled, the message.
	Send(to Place, p Post) error
	// Subscribe returns when the gateway has confirmed. It is called once.
	Subscribe(from Place, a Asking) error
	// Receive waits for the next message and acknowledges it.
	Receive(limit time.Duration) (Post, error)
	// Leave ends the connection in order. Forget says that a durable subscription ends
	// as well.
	Leave(forget bool) error
}

// Peer is a client of one protocol, version and transport.
type Peer struct {
	Name     string
	Metadata bool // it can say and hear more than the body
	Lines    bool // a header's value may have line breaks
	Bytes    bool // correlation data need not be text
	Repeats  bool // a header may be given twice: else the first one counts
	First    bool // of headers with one name it hears the first
	// Misreads is what the client makes of a header's value that it should leave alone.
	Misreads func(value string) string
	// Connect connects; with an identity if the subscription is to be durable.
	Connect func(t testing.TB, identity string) CrossConn
}

// Cross runs the table: every sender with every receiver, by queue, topic, durable
// subscription and as retained messages, with all bodies and all metadata. Names
// distinguishes several runs on one gateway.
func Cross(t *testing.T, names string, senders, receivers []Peer) {
	for i, s := range senders {
		for j, r := range receivers {
			x := &pair{sender: s, receiver: r, name: fmt.Sprintf("%s%dto%d", names, i, j)}
			t.Run(s.Name+" to "+r.Name, func(t *testing.T) {
				t.Run("queue", x.queue)
				t.Run("topic", x.topic)
				t.Run("durable", x.durable)
				t.Run("retained", x.retained)
			})
		}
	}
	t.Run("expired", func(t *testing.T) { expired(t, names, senders, receivers) })
}

// crossTimeout is how long a message that must come may take.
const crossTimeout = 30 * time.Second

type pair struct {
	sender, receiver Peer
	name             string
}

// posts are what a pair sends: all kinds of bodies, all metadata.
func (x *pair) posts() []Post {
	binary := make([]byte, 256, 1<<20)
	for i := range binary {
		binary[i] = byte(i)
	}
	largest := bytes.Repeat(binary[:251], 1<<20/251+1)[:1<<20] // the period is not that of any buffer
	headers := [][2]string{{"größe", "40 µm · 世界 🐘"}, {"x-path", `a:b\c/d`}, {"x-twice", "1"}, {"x-twice", "2"}}
	if x.sender.Lines && x.receiver.Lines {
		headers = append(headers, [2]string{"x-lines", "first\nsecond"})
	}
	correlation := []byte("Frage-Nr. ① a:b")
	if x.sender.Bytes {
		correlation = []byte{0, 1, 0xff, '\n', ':'}
	}
	return []Post{
		{Body: []byte("Grüße, 世界 🐘\r\n\r\nMESSAGE\n"), Text: true, ContentType: "text/plain; charset=utf-8", Headers: headers, Persistent: true},
		{Body: binary, ContentType: "application/octet-stream", ReplyTo: Place{Queue: "answers"}, Correlation: []byte("Frage-Nr. ① a:b"), Persistent: true},
		{Body: nil, ReplyTo: Place{Topic: []string{"answers", "größe", "7"}}, Correlation: correlation, Headers: headers[:1], Persistent: true},
		{Body: largest, Expires: time.Hour, Headers: headers[1:2], Persistent: true},
		{Body: []byte("last"), Text: true, Persistent: true},
	}
}

// want is what the receiver is to hear of a post.
func (x *pair) want(p Post) Post {
	if !x.sender.Metadata || !x.receiver.Metadata {
		return Post{Body: p.Body, Persistent: p.Persistent, Retain: p.Retain, To: p.To}
	}
	if !x.sender.Repeats || x.receiver.First {
		seen := map[string]bool{}
		p.Headers = slices.DeleteFunc(slices.Clone(p.Headers), func(h [2]string) bool {
			again := seen[h[0]]
			seen[h[0]] = true
			return again
		})
	}
	if x.receiver.Misreads != nil {
		p.Headers = slices.Clone(p.Headers)
		for i, h := range p.Headers {
			p.Headers[i][1] = x.receiver.Misreads(h[1])
		}
	}
	if x.sender.Bytes && !x.receiver.Bytes && slices.Min(append(p.Correlation, ' ')) < ' ' {
		p.Correlation = []byte("base64:" + base64.StdEncoding.EncodeToString(p.Correlation))
	}
	return p
}

// judge compares what came with what was sent.
func (x *pair) judge(t *testing.T, sent, got Post) {
	t.Helper()
	want := x.want(sent)
	if !bytes.Equal(got.Body, want.Body) {
		t.Fatalf("%d bytes %.60q came, want %d bytes %.60q", len(got.Body), got.Body, len(want.Body), want.Body)
	}
	if got.Retain != want.Retain || got.Persistent != want.Persistent || got.To.String() != want.To.String() {
		t.Errorf("retained %v, persistent %v, address %s; want %v, %v, %s", got.Retain, got.Persistent, got.To, want.Retain, want.Persistent, want.To)
	}
	if !x.receiver.Metadata {
		return
	}
	if got.ContentType != want.ContentType || got.ReplyTo.String() != want.ReplyTo.String() || !bytes.Equal(got.Correlation, want.Correlation) {
		t.Errorf("content type %q, reply to %s, correlation %q; want %q, %s, %q", got.ContentType, got.ReplyTo, got.Correlation, want.ContentType, want.ReplyTo, want.Correlation)
	}
	if !slices.Equal(got.Headers, want.Headers) {
		t.Errorf("headers are %q, want %q", got.Headers, want.Headers)
	}
	if (got.Expires > 0) != (want.Expires > 0) || got.Expires > want.Expires+2*time.Second || got.Expires < want.Expires/2 {
		t.Errorf("it expires in %s, want %s", got.Expires, want.Expires)
	}
}

func (x *pair) send(t *testing.T, c CrossConn, to Place, p Post) {
	t.Helper()
	if err := c.Send(to, p); err != nil {
		t.Fatalf("%s, send to %s: %v", x.sender.Name, to, err)
	}
}

func (x *pair) subscribe(t *testing.T, c CrossConn, from Place, a Asking) {
	t.Helper()
	if err := c.Subscribe(from, a); err != nil {
		t.Fatalf("%s, subscribe to %s: %v", x.receiver.Name, from, err)
	}
}

func (x *pair) receive(t *testing.T, c CrossConn) Post {
	t.Helper()
	p, err := c.Receive(crossTimeout)
	if err != nil {
		t.Fatalf("%s: %v", x.receiver.Name, err)
	}
	return p
}

func leave(t *testing.T, c CrossConn, forget bool) {
	t.Helper()
	if err := c.Leave(forget); err != nil {
		t.Errorf("leave: %v", err)
	}
}

// expect receives posts in their order.
func (x *pair) expect(t *testing.T, c CrossConn, to Place, posts []Post) {
	t.Helper()
	for _, p := range posts {
		p.To = to
		x.judge(t, p, x.receive(t, c))
	}
}

func (x *pair) queue(t *testing.T) {
	at := Place{Queue: "cross." + x.name}
	s, r := x.sender.Connect(t, ""), x.receiver.Connect(t, "")
	posts := x.posts()
	for _, p := range posts {
		x.send(t, s, at, p)
	}
	x.subscribe(t, r, at, Asking{})
	x.expect(t, r, at, posts)
	leave(t, r, false)
	leave(t, s, false)
}

func (x *pair) topic(t *testing.T) {
	at := Place{Topic: []string{"cross", x.name, "größe"}}
	s, r := x.sender.Connect(t, ""), x.receiver.Connect(t, "")
	x.subscribe(t, r, Place{Topic: []string{"cross", x.name, "+"}}, Asking{})
	posts := x.posts()
	for i := range posts {
		posts[i].Persistent = i%2 == 0
		x.send(t, s, at, posts[i])
	}
	x.expect(t, r, at, posts)
	leave(t, r, false)
	leave(t, s, false)
}

func (x *pair) durable(t *testing.T) {
	at := Place{Topic: []string{"cross", x.name, "durable"}}
	s := x.sender.Connect(t, "")
	identity := "cross-" + x.name
	r := x.receiver.Connect(t, identity)
	x.subscribe(t, r, at, Asking{Durable: true})
	leave(t, r, false)
	posts := x.posts()
	for _, p := range posts[:3] {
		x.send(t, s, at, p)
	}
	r = x.receiver.Connect(t, identity)
	x.subscribe(t, r, at, Asking{Durable: true})
	for _, p := range posts[3:] {
		x.send(t, s, at, p)
	}
	x.expect(t, r, at, posts)
	leave(t, r, true)
	leave(t, s, false)
}

func (x *pair) retained(t *testing.T) {
	at := func(i int) Place { return Place{Topic: []string{"cross", x.name, "retained", fmt.Sprint(i)}} }
	all := Place{Topic: []string{"cross", x.name, "retained", "#"}}
	s := x.sender.Connect(t, "")
	kept := map[string]Post{}
	for i, p := range x.posts() {
		p.Retain, p.To = true, at(i)
		x.send(t, s, p.To, p)
		if len(p.Body) > 0 { // else nothing is retained
			kept[p.To.String()] = p
		}
	}
	hear := func() CrossConn {
		r := x.receiver.Connect(t, "")
		x.subscribe(t, r, all, Asking{Retained: true})
		for range kept {
			got := x.receive(t, r)
			want, known := kept[got.To.String()]
			if !known {
				t.Fatalf("a retained message of %s came", got.To)
			}
			x.judge(t, want, got)
		}
		return r
	}
	leave(t, hear(), false)
	x.send(t, s, at(0), Post{Retain: true, Persistent: true}) // which removes it
	delete(kept, at(0).String())
	r := hear()
	update := Post{Body: []byte("newer"), Persistent: true, To: at(1)}
	told := update
	told.Retain = true
	x.send(t, s, at(1), told)
	x.judge(t, update, x.receive(t, r)) // which was subscribed already, so it is a live message
	leave(t, r, false)
	for i := range x.posts() {
		x.send(t, s, at(i), Post{Retain: true, Persistent: true})
	}
	leave(t, s, false)
}

// expired has every sender store a message that lives for a second in a queue and for
// a durable subscription of every receiver, and one that lives longer behind it: only
// the second comes.
func expired(t *testing.T, names string, senders, receivers []Peer) {
	var pairs []*pair
	for i, s := range senders {
		for j, r := range receivers {
			if s.Metadata {
				pairs = append(pairs, &pair{sender: s, receiver: r, name: fmt.Sprintf("%sx%dto%d", names, i, j)})
			}
		}
	}
	places := func(x *pair) []Place {
		return []Place{{Queue: "cross." + x.name}, {Topic: []string{"cross", x.name}}}
	}
	for _, x := range pairs {
		s, r := x.sender.Connect(t, ""), x.receiver.Connect(t, "cross-"+x.name)
		x.subscribe(t, r, places(x)[1], Asking{Durable: true})
		leave(t, r, false)
		for _, at := range places(x) {
			x.send(t, s, at, Post{Body: []byte("too late"), Expires: time.Second, Persistent: true})
			x.send(t, s, at, Post{Body: []byte("in time"), Expires: time.Hour, Persistent: true})
		}
		leave(t, s, false)
	}
	time.Sleep(1100 * time.Millisecond) // until the last one has expired
	for _, x := range pairs {
		for i, at := range places(x) {
			identity := []string{"", "cross-" + x.name}[i]
			r := x.receiver.Connect(t, identity)
			x.subscribe(t, r, at, Asking{Durable: identity != ""})
			if p := x.receive(t, r); string(p.Body) != "in time" {
				t.Errorf("%s to %s by %s: %q came", x.sender.Name, x.receiver.Name, at, p.Body)
			}
			leave(t, r, identity != "")
		}
	}
}
