// Package harness runs the real gateway binary and real STOMP clients as child
// processes, for the tests in package integration.
//
// It guarantees that every process it started has ended, and every directory it
// made is gone, when the test ends, whichever way it ends; that a gateway that
// logged a data race or a panic fails the test; and that nothing waits on a fixed
// sleep. It imports nothing of the product: what it knows of STOMP it knows on its
// own, so that a misreading of the specification is not shared by both sides.
//
// Only tests import it.
package harness
