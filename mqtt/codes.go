package mqtt

import (
	"errors"
	"fmt"
	"os"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/door"
)

// reason is an MQTT 5 reason code (MQTT 5 section 2.4).
type reason byte

const (
	success              reason = 0x00
	disconnectWithWill   reason = 0x04
	noMatchingSubscriber reason = 0x10
	noSubscription       reason = 0x11
	unspecified          reason = 0x80
	malformed            reason = 0x81
	protocolError        reason = 0x82
	implementation       reason = 0x83
	badVersion           reason = 0x84
	badClientID          reason = 0x85
	badCredentials       reason = 0x86
	notAuthorized        reason = 0x87
	unavailable          reason = 0x88
	serverBusy           reason = 0x89
	shuttingDown         reason = 0x8B
	badAuthMethod        reason = 0x8C
	keepAliveTimeout     reason = 0x8D
	takenOver            reason = 0x8E
	badFilter            reason = 0x8F
	badTopic             reason = 0x90
	idInUse              reason = 0x91
	idNotFound           reason = 0x92
	receiveMaximum       reason = 0x93
	badAlias             reason = 0x94
	tooLarge             reason = 0x95
	rateTooHigh          reason = 0x96
	quotaExceeded        reason = 0x97
	badPayloadFormat     reason = 0x99
)

// fault is an error that ends the connection; the client hears the reason where its protocol can say it.
type fault struct {
	code  reason
	text  string
	cause error
}

// Error returns the text and the cause.
func (f *fault) Error() string {
	if f.cause != nil {
		return f.text + ": " + f.cause.Error()
	}
	return f.text
}

// Unwrap returns the cause.
func (f *fault) Unwrap() error { return f.cause }

func faulty(code reason, format string, args ...any) *fault {
	return &fault{code: code, text: fmt.Sprintf(format, args...)}
}

// classReasons is the one table from the router's classes to what an acknowledgement says [MQTT-3.4.2-1].
var classReasons = [...]reason{
	router.Internal:    unspecified,
	router.Invalid:     badTopic,
	router.Denied:      notAuthorized,
	router.NotFound:    badTopic,
	router.Conflict:    implementation,
	router.Full:        quotaExceeded,
	router.TooLarge:    quotaExceeded,
	router.Unavailable: unspecified,
}

// reasonOf gives the reason code of an operation that the router refused [MQTT-3.5.2-1].
func reasonOf(err error) reason {
	if c := router.ClassOf(err); int(c) < len(classReasons) {
		return classReasons[c]
	}
	return unspecified
}

// connackReason gives the reason of a refused CONNECT [MQTT-3.2.2-8].
func connackReason(err error) reason {
	var f *fault
	if errors.As(err, &f) {
		return f.code
	}
	switch router.ClassOf(err) {
	case router.Denied:
		return notAuthorized
	case router.Conflict, router.Invalid:
		return badClientID
	case router.Full:
		return quotaExceeded
	case router.Unavailable:
		return unavailable
	}
	return unspecified
}

// connackV3 gives the return code of MQTT 3.1 and 3.1.1 for a reason, 0 where they have none and just close
// [MQTT-3.2.2-6].
func connackV3(r reason) byte {
	switch r {
	case badVersion:
		return 1
	case badClientID:
		return 2
	case unavailable, serverBusy, quotaExceeded, shuttingDown:
		return 3
	case badCredentials:
		return 4
	case notAuthorized, badAuthMethod:
		return 5
	}
	return 0
}

// parting is what a WebSocket tells its client of a cause.
func parting(cause error, loggedIn bool) door.Parting {
	var f *fault
	known := errors.As(cause, &f)
	switch {
	case errors.Is(cause, errSlow):
		return door.Slow
	case errors.Is(cause, os.ErrDeadlineExceeded) && !loggedIn:
		return door.Late
	case errors.Is(cause, errRefused):
		return refusedParting(connackReason(cause))
	case !known:
		return 0
	case f.code == takenOver:
		return door.TakenOver
	case f.code == keepAliveTimeout:
		return door.Silent
	case errors.Is(cause, errMoved):
		return door.Moved
	case f.code == serverBusy:
		return door.Busy
	case breaksRules(cause):
		return door.Broken
	}
	return 0
}

func refusedParting(code reason) door.Parting {
	switch code {
	case unspecified, shuttingDown:
		return 0
	case notAuthorized, badCredentials, badAuthMethod:
		return door.Refused
	case unavailable, serverBusy, quotaExceeded:
		return door.Busy
	}
	return door.Broken
}

// Causes of a connection's end that are not the client's doing.
var (
	errDraining = &fault{code: shuttingDown, text: "server is shutting down"}
	errSilent   = &fault{code: keepAliveTimeout, text: "client is silent: nothing came within one and a half times its keep alive"}
	errMoved    = &fault{code: serverBusy, text: router.ErrMoved.Error()}
	errTaken    = &fault{code: takenOver, text: "another connection took over the client id"}
	errAborted  = errors.New("connection aborted: the server did not wait longer")
	errLeft     = errors.New("client closed the connection without DISCONNECT")
	errParted   = errors.New("client disconnected")
	errWithWill = errors.New("client disconnected and asked for its will")
)
