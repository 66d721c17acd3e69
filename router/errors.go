package router

import (
	"errors"
	"time"
)

// Class sorts errors for front-ends: each has one table from Class to what its
// protocol says.
type Class uint8

const (
	// Internal is a fault of ours; the cause is in the log.
	Internal Class = iota
	// Invalid is a request that can never succeed as it is.
	Invalid
	// Denied is a request that this principal may not make.
	Denied
	// NotFound names something that does not exist.
	NotFound
	// Conflict collides with what exists: an identifier in use, a stale epoch.
	Conflict
	// Full is a mailbox at its limit: consume from it or retry later.
	Full
	// TooLarge is a request over a configured limit.
	TooLarge
	// Unavailable is a store that cannot confirm now: retry later.
	Unavailable
)

var classNames = [...]string{"internal", "invalid", "denied", "not-found", "conflict", "full", "too-large", "unavailable"}

// String returns the class as metrics and logs name it.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "unknown"
}

// Error is what every operation of this package returns: Text is safe to show
// to the peer, Err is the cause for the log.
type Error struct {
	Op         string
	Class      Class
	Text       string
	RetryAfter time.Duration // how long a client should wait, 0 if unknown
	Err        error
}

// Error returns the operation, the text and the cause.
func (e *Error) Error() string {
	s := e.Op + ": " + e.Text
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of an error, Internal if it is not one of ours.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Internal
}

// TextOf returns the text that a peer may see.
func TextOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Text
	}
	return "internal error"
}
