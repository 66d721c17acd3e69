package frame

import (
	"fmt"
	"strconv"
)

// Kind is the class of a protocol error.
type Kind uint8

// The classes of protocol errors.
const (
	// KindSyntax is a frame that cannot be read as STOMP at all.
	KindSyntax Kind = iota + 1
	// KindCommand is a command that does not exist or that this side does not take.
	KindCommand
	// KindLimit is a frame that breaks one of the Limits.
	KindLimit
	// KindContentLength is a content-length that is no length, or that does not end at a NUL.
	KindContentLength
	// KindEscape is an undefined escape sequence, an error to a strict decoder only.
	KindEscape
)

// String names the class in a word or two, fit for a metric's label.
func (k Kind) String() string {
	switch k {
	case KindSyntax:
		return "syntax"
	case KindCommand:
		return "command"
	case KindLimit:
		return "limit"
	case KindContentLength:
		return "content-length"
	case KindEscape:
		return "escape"
	}
	return "unknown"
}

// Error is a frame that breaks the protocol. The stream cannot be followed beyond it: answer with an ERROR frame and
// close the connection.
type Error struct {
	Kind Kind
	// Text says what was wrong and what to do, in one line that is safe to give to the peer and to write to a log: it
	// holds no header value but a malformed content-length, and at most 32 bytes of the peer's, quoted.
	Text string
	// Limit is the figure that was exceeded, in the unit of its field of Limits; for KindLimit only.
	Limit int
	// Command is the frame's command if it was read, else zero.
	Command Command
	// Receipt is the frame's receipt header if the headers were read, else "": the ERROR frame has to carry it as
	// receipt-id (STOMP 1.2 "ERROR").
	Receipt string
}

// Error gives the text with a prefix.
func (e *Error) Error() string { return "stomp: " + e.Text }

func syntaxError(format string, args ...any) *Error {
	return &Error{Kind: KindSyntax, Text: fmt.Sprintf(format, args...)}
}

func limitError(limit int, format string, args ...any) *Error {
	return &Error{Kind: KindLimit, Limit: limit, Text: fmt.Sprintf(format, args...)}
}

// quoted shows a stranger's bytes in printable ASCII, at most 32 of them.
func quoted(b []byte) string {
	const most = 32
	if len(b) > most {
		return strconv.QuoteToASCII(string(b[:most])) + " (cut)"
	}
	return strconv.QuoteToASCII(string(b))
}

// commandError explains a first line that is no command this side takes.
func commandError(line []byte, known Command) *Error {
	e := &Error{Kind: KindCommand}
	switch {
	case known != 0 && known.FromClient():
		e.Text = known.String() + " is a command that only clients send"
	case known != 0:
		e.Text = known.String() + " is a command that only servers send"
	case looksLikeTLS(line):
		e.Text = "this looks like TLS, but the port speaks plain STOMP: use the TLS port or turn TLS off in the client"
	case looksLikeHTTP(line):
		e.Text = "this looks like HTTP, but the port speaks STOMP: use the WebSocket or HTTP port"
	default:
		e.Text = "unknown command " + quoted(line) + ": a frame begins with a STOMP command in upper case on its own line"
	}
	return e
}

// looksLikeTLS knows the record header of a ClientHello: type 22, major version 3.
func looksLikeTLS(line []byte) bool { return len(line) > 1 && line[0] == 0x16 && line[1] == 3 }

func looksLikeHTTP(line []byte) bool {
	for _, method := range []string{"GET /", "POST /", "HEAD /", "PUT /", "OPTIONS ", "PRI * "} {
		if len(line) >= len(method) && string(line[:len(method)]) == method {
			return true
		}
	}
	return false
}
