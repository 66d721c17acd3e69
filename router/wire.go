package router

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/mqgate/mqgate/router/selector"
)

// op is what a frame between an edge and the leader says. Numbers are uvarints, texts have their length in front.
type op byte

const (
	// From an edge. A call has a number, the session's number and a method; a note has no number and no answer.
	opHello    op = iota + 1 // helloFrame
	opBeat                   // time of sending (ms), presence revision; the leader sends it back with its own revision
	opCall                   // call, session, method, ...
	opNote                   // session, method, ...
	opSeen                   // revision of the filters
	opTold                   // number of an ask, JSON
	opBye                    // this end ends the link
	opAttached               // all that the edge had of another leader it has asked of this one

	// From the leader.
	opReply   // call, class or replyOK, ...
	opEvent   // session, event, ...
	opFilters // revision, whether they replace all, number added, filters, number removed, filters
	opAsk     // number, topic: who receives it on your node?
)

// method is what an edge asks of the leader for a session.
type method byte

const (
	methodOpen      method = iota + 1 // openCall
	methodClose                       // whether the leader is to publish the will
	methodPublish                     // envelope
	methodSubscribe                   // subscribeCall
	methodStart                       // subscription
	methodCredit                      // subscription, credit
	methodCancel                      // subscription, how many it has not seen, their sequences
	methodSettle                      // subscription, sequence, settlement, delay (ms), cause; for settleAckAll the other sequences
	methodFlush
	methodCommit    // number of messages, envelopes, number of settlements, (subscription, sequence)
	methodUnbind    // name
	methodBindQueue // bindCall
	methodBrowse    // browseCall
	methodTemporary // name
	methodClaim     // claimCall
	methodSave      // state
	methodLeave     // leaveCall
	methodBind      // bindCall
	methodRelease   // bindCall: undo methodBind
	methodReceive   // subscribeCall
	methodRetained  // filter
	methodFollow    // followCall
	methodTaken     // follow, how many were taken
	methodUnfollow  // follow
	methodPresent   // topic
	methodWill      // willCall
	methodAsk       // opaque
	methodGiveBack  // subscription of a shared group, number of messages, envelopes: it ends, and others get them
)

// event is what the leader tells a session.
type event byte

const (
	eventStored event = iota + 1 // subscription, sequence, count, marked, envelope
	eventLive                    // subscription, envelope
	eventKept                    // follow, sequence, envelope
	eventMissed                  // follow, before
	eventKick                    // text
)

// settlement is how a delivery ends.
type settlement byte

const (
	settleAck settlement = iota + 1
	settleAckAll
	settleNack
	settleReject
	settleUndeliver
	settleTooLarge
)

const replyOK = 0xff

// flushInTime, behind methodFlush, asks it to wait until the store learns of the settlements anyway.
const flushInTime = 1

var errFrame = errors.New("unreadable frame from another node")

type helloFrame struct {
	Address string // where the edge listens
	Node    string
	Boot    uint64
}

type openCall struct {
	Boot, N         uint64 // the session's id
	Identity               // of the principal
	Vhost, Protocol string
	Remote, Claims  string // Claims: the client id that the session holds
	Name            string `json:",omitempty"`
	SinceMs         int64
	AgeMs           int64 // how long ago that was
	Again           bool  `json:",omitempty"` // another leader gave it its client id
}

type subscribeCall struct {
	ID       uint64
	Filter   wireFilter
	Credit   int
	NoLocal  bool     `json:",omitempty"`
	Selector string   `json:",omitempty"`
	Durable  string   `json:",omitempty"`
	Group    string   `json:",omitempty"` // a member of a shared group
	Alone    bool     `json:",omitempty"` // exclusive
	Held     []uint64 `json:",omitempty"` // what the client has in hands since before this leader
}

type bindCall struct {
	Filter  wireFilter
	Queue   string `json:",omitempty"`
	NoLocal bool   `json:",omitempty"`
	Undo    bool   `json:",omitempty"`

	Group    string `json:",omitempty"` // of methodBind: the shared group of which the session is a member
	Retained bool   `json:",omitempty"` // of methodBind
}

// browseCall asks for the next page of a queue.
type browseCall struct {
	Queue      wireFilter
	Selector   string `json:",omitempty"`
	Next, Last uint64 // Last 0: the first page
	N          int
}

type browseReply struct {
	Next, Last uint64
	More       bool
	Page       []browsed
}

type browsed struct {
	Seq        uint64
	State      string
	Deliveries int
	Envelope   []byte
}

type claimCall struct {
	Clean  bool
	Expiry time.Duration
	Will   *willCall `json:",omitempty"`
	Again  bool      `json:",omitempty"` // it is the owner already, by the word of another leader
}

type willCall struct {
	Envelope      []byte
	Delay, Expiry time.Duration
	Identity             // of a session that has ended
	Vhost         string `json:",omitempty"` // its
}

type claimReply struct {
	Exists, Present bool
	State           []byte `json:",omitempty"`
}

type leaveCall struct {
	Expiry time.Duration
	Will   bool
	State  []byte
}

type followCall struct {
	ID              uint64
	Topic           wireFilter
	Last            int
	SinceMs         int64
	AfterSeq, Epoch uint64
}

// wireFilter is a filter or address: what was parsed once is not parsed again.
type wireFilter struct {
	Vhost, Name string
	Kind        Kind
	Wild        bool `json:",omitempty"`
}

func wireOf(f Filter) wireFilter { return wireFilter{f.vhost, f.name, f.kind, f.wild} }

func (w wireFilter) filter() Filter {
	return Filter{vhost: w.Vhost, name: w.Name, kind: w.Kind, wild: w.Wild}
}

func (w wireFilter) address() Address { return Address{vhost: w.Vhost, name: w.Name, kind: w.Kind} }

func appendFilter(b []byte, f Filter) []byte {
	wild := byte(0)
	if f.wild {
		wild = 1
	}
	b = append(b, byte(f.kind), wild)
	return appendString(appendString(b, f.vhost), f.name)
}

func (r *envelopeReader) filter() Filter {
	f := Filter{kind: Kind(r.byte()), wild: r.byte() == 1}
	f.vhost, f.name = r.text(), r.text()
	return f
}

func (r *envelopeReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// bytes returns a copy: what it came in is larger, and not to be kept for one message.
func (r *envelopeReader) bytes() []byte { return []byte(r.text()) }

// rest returns a copy of what is left.
func (r *envelopeReader) rest() []byte {
	b := append([]byte(nil), r.b...)
	r.b = nil
	return b
}

func appendJSON(b []byte, v any) []byte {
	j, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and bytes always encode
	}
	return append(b, j...)
}

// appendError is the answer to a call that failed.
func appendError(b []byte, err error) []byte {
	var retry time.Duration
	var e *Error
	if errors.As(err, &e) {
		retry = e.RetryAfter
	}
	class, text := ClassOf(err), TextOf(err)
	if errors.Is(err, ErrTakenOver) {
		class, text = Conflict, ErrTakenOver.Error()
	}
	b = append(b, byte(class))
	b = binary.AppendUvarint(b, uint64(retry.Milliseconds()))
	return appendString(b, text)
}

func (r *envelopeReader) error(op string, class byte) error {
	e := &Error{Op: op, Class: Class(class)}
	e.RetryAfter = time.Duration(r.uvarint()) * time.Millisecond
	e.Text = r.text()
	if e.Text == ErrTakenOver.Error() {
		e.Err = ErrTakenOver
	}
	return e
}

func (w *Will) call() *willCall {
	if w == nil {
		return nil
	}
	return &willCall{Envelope: w.Message.AppendEnvelope(nil), Delay: w.Delay, Expiry: w.Expiry}
}

func (c *willCall) will() (*Will, error) {
	if c == nil {
		return nil, nil
	}
	m, err := ParseEnvelope(c.Envelope)
	if err != nil {
		return nil, err
	}
	return &Will{Message: m, Delay: c.Delay, Expiry: c.Expiry}, nil
}

func parseSelector(text string) (*selector.Selector, error) {
	if text == "" {
		return nil, nil
	}
	return selector.Parse(text)
}
