// Package proxy reads the PROXY protocol, versions 1 and 2, by which a load
// balancer tells whose connection it passes on.
//
// It guarantees that a listener hands out connections only from trusted networks
// and only with a complete header, that reading one neither takes a byte of what
// follows nor allocates by what a peer claims, and that a peer that is slow to
// send its header delays nobody else. Clauses are cited from the specification of
// HAProxy (proxy-protocol.txt). It imports nothing of the product.
package proxy
