package stomp

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
	"github.com/mqgate/mqgate/stomp/frame"
)

// refusal is an error that the client is told in an ERROR frame.
type refusal struct {
	message  string // one line
	hint     string // what to do
	fatal    bool   // the connection ends
	version  bool   // tell the versions that are spoken
	internal bool   // a fault of ours
	why      door.Parting
	cause    error // for the log; not shown
}

// Error returns the line and the cause.
func (r *refusal) Error() string {
	if r.cause != nil {
		return r.message + ": " + r.cause.Error()
	}
	return r.message
}

// Unwrap returns the cause.
func (r *refusal) Unwrap() error { return r.cause }

// mistake is a refusal after which the connection goes on (rule 9 of the PHP clients: an ERROR for a wrong command, not the
// disconnect that STOMP 1.2 "ERROR" asks for, which neither ActiveMQ nor RabbitMQ does).
func mistake(hint, format string, args ...any) *refusal {
	return &refusal{message: fmt.Sprintf(format, args...), hint: hint}
}

// fatal is a refusal that ends the connection.
func fatal(hint, format string, args ...any) *refusal {
	r := mistake(hint, format, args...)
	r.fatal = true
	return r
}

// because notes what a WebSocket tells its client besides.
func (r *refusal) because(why door.Parting) *refusal {
	r.why = why
	return r
}

// classHints is the one table from the router's classes to what an ERROR says besides the text.
var classHints = [...]string{
	router.Internal:    "The server failed to do this; its log says why. Tell the operator if it happens again.",
	router.Invalid:     "Correct the frame: sent again as it is, it is refused again.",
	router.Denied:      "The user has no right to do this; the operator can grant it.",
	router.NotFound:    "Check the name; it may have been removed meanwhile.",
	router.Conflict:    "It is in use: end the other use first, or choose another name.",
	router.Full:        "Nothing was stored. Have messages consumed and send it again later.",
	router.TooLarge:    "Send less at once, or have the operator raise the limit.",
	router.Unavailable: "It may not have been stored. Send it again later.",
}

// explain makes a refusal of any error that an operation returned.
func explain(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	var wire *frame.Error
	if errors.As(err, &wire) {
		return &refusal{message: wire.Text, hint: "The connection closes, since what follows cannot be read.", fatal: true, why: door.Broken}
	}
	var e *router.Error
	if !errors.As(err, &e) {
		return &refusal{message: "internal error", hint: classHints[router.Internal], internal: true, cause: err}
	}
	r = &refusal{message: oneLine(e.Text), hint: classHints[router.Internal], internal: e.Class == router.Internal, cause: e.Err}
	if int(e.Class) < len(classHints) {
		r.hint = classHints[e.Class]
	}
	if e.Class == router.Denied && e.Op == "login" {
		r.hint = "Connect with the login and passcode of a user whom the operator has set up."
	}
	if e.RetryAfter > 0 {
		r.hint += fmt.Sprintf(" Wait %s before trying again.", e.RetryAfter.Round(time.Millisecond))
	}
	return r
}

// versions are those that are spoken, as the headers list them.
const versions = "1.0,1.1,1.2"

// oneLine keeps the message header what clients print in one line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// appendError appends an ERROR frame. Every one has a message header: php-stomp takes an ERROR without it for a message.
func (c *conn) appendError(dst, receipt []byte, hasReceipt bool, r *refusal) []byte {
	dst = frame.AppendCommand(dst, frame.ERROR)
	dst = frame.AppendHeader(dst, c.version, "message", oneLine(r.message))
	if hasReceipt {
		dst = frame.AppendHeader(dst, c.version, "receipt-id", receipt)
	}
	dst = frame.AppendHeader(dst, c.version, "content-type", "text/plain")
	body := oneLine(r.message) + "\n"
	if r.hint != "" {
		body += r.hint + "\n"
	}
	switch {
	case r.version: // STOMP 1.2 "Protocol Negotiation"
		dst = frame.AppendHeader(dst, c.version, "version", versions)
	case c.dialect.rabbit():
		dst = frame.AppendHeader(dst, c.version, "version", c.version.String())
	}
	if c.dialect.rabbit() {
		dst = frame.AppendIntHeader(dst, "content-length", int64(len(body)))
	}
	return frame.AppendBody(dst, body)
}

// Causes of a connection's end that are not the client's doing.
var (
	errDraining = errors.New("server is shutting down")
	errSilent   = errors.New("client is silent: heart-beats are missing")
	errSlow     = errors.New("client does not read: outbound buffer is full")
	errAborted  = errors.New("connection aborted: the server did not wait longer")
	errLeft     = errors.New("client closed the connection")
	errParted   = errors.New("client disconnected")
)

// farewell is the ERROR for a connection that ends for a cause of ours, nil if nothing is to be said.
func farewell(cause error) *refusal {
	switch {
	case errors.Is(cause, errDraining):
		return fatal("Another node or this one will answer in a moment. What was not confirmed must be sent again.",
			"server is shutting down, reconnect")
	case errors.Is(cause, router.ErrTakenOver):
		return fatal("A client id is for one connection at a time: give each worker its own.", "another connection took over the client id").because(door.TakenOver)
	case errors.Is(cause, router.ErrMoved):
		return fatal("Connect again, to any node. What was not confirmed must be sent again.", "%s", router.ErrMoved).because(door.Moved)
	case errors.Is(cause, errSilent):
		return fatal("Send a line feed or a frame at least as often as the heart-beat header of CONNECT promised, or promise 0.",
			"no heart-beat came in time").because(door.Silent)
	case errors.Is(cause, errSlow):
		return fatal("Read faster, subscribe to less, or use a queue, which keeps what is not read yet.",
			"the connection does not read its messages fast enough").because(door.Slow)
	}
	return nil
}
