package router

import (
	"errors"
	"fmt"
	"testing"
)

// An edge hears that a session is another connection's, as a router by itself would say it; its own causes stay with the leader.
func TestATakeOverIsKnownOnTheOtherNode(t *testing.T) {
	for _, tt := range []struct {
		err   error
		class Class
		taken bool
	}{
		{fmt.Errorf("open: %w", ErrTakenOver), Conflict, true},
		{errNoSession, Conflict, false},
		{errFrame, Internal, false},
	} {
		r := envelopeReader{b: appendError(nil, tt.err)}
		got := r.error("cluster", r.byte())
		if ClassOf(got) != tt.class || errors.Is(got, ErrTakenOver) != tt.taken {
			t.Errorf("%v came as %v (%s)", tt.err, got, ClassOf(got))
		}
	}
}
