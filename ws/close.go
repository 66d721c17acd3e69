package ws

import (
	"errors"
	"fmt"

	"github.com/mqgate/mqgate/router"
)

// Close codes (RFC 6455 section 7.4.1, and our own from 4400 on).
const (
	closeNormal      = 1000 // the client asked for it
	closeGoingAway   = 1001 // the server stops: come back
	closeProtocol    = 1002 // not WebSocket
	closeUnsupported = 1003 // text where binary is due, or the other way
	closeBadText     = 1007 // text that is not UTF-8
	closePolicy      = 1008 // a flood of frames; not the protocol inside
	closeTooBig      = 1009
	closeInternal    = 1011 // a fault of ours: come back
	closeRestart     = 1012 // what the session needs is elsewhere now: come back
	closeTryAgain    = 1013 // too much of something: come back later

	closeLoginRefused = 4401
	closeTakenOver    = 4409
	closeSlow         = 4500 // come back and read faster
	closeSilent       = 4501
	closeLoginTimeout = 4502
	closeRate         = 4503 // come back later and ask less
)

// closeError ends a connection with a code and a reason.
type closeError struct {
	code   uint16
	reason string // at most 123 bytes
}

// Error returns both.
func (e *closeError) Error() string { return fmt.Sprintf("%s (%d)", e.reason, e.code) }

// blames reports that the client did what no client should.
func (e *closeError) blames() bool {
	switch e.code {
	case closeProtocol, closeUnsupported, closeBadText, closePolicy, closeTooBig:
		return true
	}
	return false
}

func refuse(code uint16, format string, args ...any) *closeError {
	return &closeError{code: code, reason: fmt.Sprintf(format, args...)}
}

// Causes of a connection's end.
var (
	errDraining     = refuse(closeGoingAway, "the server is shutting down, reconnect")
	errMoved        = refuse(closeRestart, "%s", router.ErrMoved)
	errLeft         = errors.New("client closed the connection")
	errSlow         = refuse(closeSlow, "the client does not read fast enough")
	errSilent       = refuse(closeSilent, "the client did not answer a ping")
	errQuiet        = refuse(closeSilent, "the client says less often that it is there than it promised")
	errRefused      = refuse(closeLoginRefused, "login refused")
	errBroken       = refuse(closePolicy, "the client breaks the rules of its protocol")
	errBusy         = refuse(closeTryAgain, "there is no room for this connection now, come back later")
	errTakenOver    = refuse(closeTakenOver, "another connection took over the client id")
	errLoginTimeout = refuse(closeLoginTimeout, "no login came in time")
	errFlood        = refuse(closePolicy, "too many control frames or empty frames")
	errRate         = refuse(closeRate, "too many requests, come back later")
	errCrowded      = refuse(closeTryAgain, "too much compressed data is under way, come back later")
	errInflate      = refuse(closeProtocol, "a compressed message cannot be inflated")
	errFailed       = refuse(closeInternal, "internal error")
	errMask         = refuse(closeProtocol, "a client's frames must be masked")
	errReserved     = refuse(closeProtocol, "reserved bits are set: no extension was negotiated")
	errOpcode       = refuse(closeProtocol, "unknown opcode")
	errControl      = refuse(closeProtocol, "a control frame is fragmented or over 125 bytes")
	errContinuation = refuse(closeProtocol, "a continuation does not continue a message, or a message interrupts one")
	errBadText      = refuse(closeBadText, "a text message is not valid UTF-8")
	errNotBinary    = refuse(closeUnsupported, "MQTT is carried in binary messages only")
	errNotText      = refuse(closeUnsupported, "the JSON protocol is carried in text messages only")
	errBadClose     = refuse(closeProtocol, "malformed close frame")
)

// appendClose appends a close frame.
func appendClose(dst []byte, code uint16, reason string) []byte {
	if len(reason) > 123 {
		reason = reason[:123]
	}
	dst = append(dst, 0x80|opClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(dst, reason...)
}

// closeCode is what a peer is told for a cause.
func closeCode(cause error) (uint16, string) {
	var c *closeError
	if errors.As(cause, &c) {
		return c.code, c.reason
	}
	if errors.Is(cause, errLeft) {
		return closeNormal, ""
	}
	return closeInternal, "connection lost"
}
