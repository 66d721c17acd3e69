// Package federation moves messages between sites, each of which is a node or a
// cluster of its own and goes on alone while a link is down.
//
// Live messages of the topics that a remote is sent cross while the link is up, at
// most once. Messages of the queues that are forwarded are consumed here and stored
// there: they are settled here only after the other site's store said yes, so they
// wait here while the link is down. Each is sent with an id that the other site
// remembers for the time of its dedup window; one that is sent again carries the
// header x-federated-again, so a duplicate beyond that window is marked.
//
// Loops are impossible: a message carries the sites that it came through in the
// header x-federated-path, and never goes to one of them. A live message that comes
// to a site over several others is taken once, by the header x-federated-id.
//
// It may import router and router/outbox.
package federation
