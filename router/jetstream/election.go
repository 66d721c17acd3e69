package jetstream

import (
	"sync"
	"time"
	_ "unsafe" // for go:linkname

	_ "github.com/nats-io/nats-server/v2/server" // whose variables these are
)

// The embedded server's Raft timing. At its defaults (heartbeat 1 s, election
// after 4 to 9 s of silence) a killed leader's streams confirm nothing for 5 to
// 8 seconds; the server offers no option for it. With these, silence is noticed
// after 1.2 to 2.5 s. A node that is only slow loses an election and nothing
// else: Raft's safety does not rest on its timing.
//
// TestElectionTiming fails if a version of the server calls them otherwise.

//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
var minElectionTimeout time.Duration

//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
var maxElectionTimeout time.Duration

//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
var hbInterval time.Duration

//go:linkname lostQuorumInterval github.com/nats-io/nats-server/v2/server.lostQuorumInterval
var lostQuorumInterval time.Duration

//go:linkname lostQuorumCheck github.com/nats-io/nats-server/v2/server.lostQuorumCheck
var lostQuorumCheck time.Duration

// quickElections sets the timing for the process, before its first server starts.
var quickElections = sync.OnceFunc(func() {
	if hbInterval == 0 {
		return // a version that calls them otherwise keeps its defaults
	}
	hbInterval = 250 * time.Millisecond
	minElectionTimeout, maxElectionTimeout = 1200*time.Millisecond, 2500*time.Millisecond
	lostQuorumInterval, lostQuorumCheck = 2500*time.Millisecond, 500*time.Millisecond
})
