// Package jetstream is the backbone: it keeps a router's mailboxes, bindings and
// transactions in NATS JetStream, embedded in the process.
//
// It guarantees that an append is answered only after JetStream has stored it
// and, with Options.SyncAlways, after it is on the disk; that appends to one log
// are stored and answered in the order of the calls; and that a data directory
// is used by one process at a time.
//
// It is the only package that knows NATS. It never interprets a message: an
// envelope is bytes here.
//
// # Mapping
//
//	a queue             stream Q_<hash>, subject q.<hash>, limits retention
//	inboxes             streams I_0 to I_3, subject i.<shard>.<hash>
//	histories           streams H_0 to H_3, subject h.<shard>.<hash>
//	mailbox records     stream MQGATE_RECORDS, subject r.<hash>, last value each
//	bindings            stream MQGATE_BINDINGS, subject b.<hash>, last value each
//	transactions        stream MQGATE_TRANSACTIONS, subject t
//	sessions            stream MQGATE_SESSIONS, subject s.<hash>, last value each
//	retained messages   stream MQGATE_RETAINED, subject v.<hash>, last value each
//	the leader's lease  stream MQGATE_LEASE, subject lease; where several nodes may lead
//	a move of data in   stream MQGATE_ADOPTION; while a node that stood alone brings it
//
// A mailbox's name is hashed into its subject and stream name; the real name is
// in the record and, for queues, in the stream's metadata. There are no
// JetStream consumers: the router's ledger knows what is settled, and the log is
// read by batched direct gets only when a backlog is larger than what a mailbox
// keeps in memory.
//
// # Syncing
//
// JetStream writes each message through to the operating system before it
// acknowledges, so an answered append survives the death of the process. Its own
// "sync always" mode adds one fsync for each message, one after the other.
// Instead, the syncer of a stream syncs the stream's block files itself, once
// for all the appends that JetStream acknowledged since the last sync, and only
// then are they answered: group commit without batching delays. This relies on
// where the pinned server version keeps its files; Open verifies it.
//
// # Cluster
//
// A Node is the process's part in it: an embedded server with routes to the
// others, which takes part in the replication of all streams for as long as it
// runs. A Store is opened by one node at a time; whose turn it is, is decided
// above. Streams have ClusterOptions.Replicas copies, each confirmed append is on most of
// them (and, with SyncAlways, on their disks: the server's Raft log shares fsyncs by itself,
// so there is no syncer). Nodes show each other a shared secret and, beyond the
// loopback interface, certificates. A node that stood alone before brings its data
// in; one whose data is lost or damaged gets it from the others.
//
// # External NATS
//
// With Options.External a NATS elsewhere stores, 2.12 or later, and nothing is
// embedded. Gateways that share one elect a leader as the nodes of a cluster do.
// How durable "stored" is, is then that NATS's to say.
package jetstream
