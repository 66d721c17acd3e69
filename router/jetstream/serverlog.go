package jetstream

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// serverLog passes the embedded server's log on: what it calls notices are ours
// to debug by.
type serverLog struct {
	log   *slog.Logger
	fatal chan string // gets what keeps the server from starting

	mu   sync.Mutex
	last map[string]time.Time // when somebody was told of
}

const (
	// strangersEvery is how often one stranger is told of: it tries again every second, on several connections.
	strangersEvery = time.Minute
	maxStrangers   = 100
)

func newServerLog(log *slog.Logger) *serverLog {
	return &serverLog{log: log, fatal: make(chan string, 1), last: map[string]time.Time{}}
}

// stranger is what the server says of a connection to another node (rid) or site (lid) that one of the two did not let in.
var stranger = regexp.MustCompile(`^(\S+):\d+ - (r|l)id:\d+ - (authentication error|.* Error 'Authorization Violation')`)

// strange tells what to do about another node or site whose secret is another, and reports whether the text speaks of one.
func (l *serverLog) strange(text string) bool {
	m := stranger.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	where := "it was refused here"
	if m[3] != "authentication error" {
		where = "it refused this one"
	}
	if !l.due(m[1] + where) {
		return true
	}
	if m[2] == "r" {
		l.log.Error("a node has another secret or cluster name: cluster.secret_file and cluster.name must be the same on all nodes", "host", m[1], "seen", where)
	} else {
		l.log.Error("a site has another secret: federation.secret_file must be the same on linked sites", "host", m[1], "seen", where)
	}
	return true
}

// namesakes tells of nodes with one name, and reports whether the text speaks of that, or of a connection that ended for it.
func (l *serverLog) namesakes(text string) bool {
	m := namesake.FindStringSubmatch(text)
	if m == nil {
		return strings.Contains(text, "processRemoteSub Parse Error") // what still comes over a route that is being closed
	}
	if l.due(m[1]) {
		l.log.Error("two nodes have the same name, and one of them is refused: node_name must differ", "node_name", m[1])
	}
	return true
}

// namesake is what the server says of a node with the name of another, several times a second.
var namesake = regexp.MustCompile(`Remote server has a duplicate name: "(.*)"`)

// due reports whether it is time to tell of something again.
func (l *serverLog) due(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.last[what]) < strangersEvery {
		return false
	}
	if len(l.last) >= maxStrangers {
		clear(l.last)
	}
	l.last[what] = time.Now()
	return true
}

// Noticef logs what the server does.
func (l *serverLog) Noticef(f string, v ...any) { l.log.Debug("store: " + fmt.Sprintf(f, v...)) }

// Warnf logs what the server finds strange.
func (l *serverLog) Warnf(f string, v ...any) {
	switch {
	case strings.HasPrefix(f, "Maximum payloads over"):
		return // chosen: a message is stored as one, and frame_bytes bounds it
	case strings.HasPrefix(f, "Plaintext passwords detected"):
		return // random ones and hashes, made for the process's own connections
	}
	text := fmt.Sprintf(f, v...)
	if slices.ContainsFunc(routine, func(part string) bool { return strings.Contains(text, part) }) {
		l.log.Debug("store: " + text)
		return
	}
	l.log.Warn("store: " + text)
}

// routine is what the server warns of whenever a node comes back, for each stream: after a crash its index is older than its
// messages, and is made again of them; what was stored meanwhile is copied. Readiness and cluster status tell how far that is.
var routine = []string{
	"Stream state outdated, last block has additional entries, will rebuild",
	"Recovering stream state from index errored: prior state file",
	"resetting first sequence",
	"Expected first catchup entry to be a snapshot and peerstate, will retry",
	"Metalayer blocking snapshot",
	"Detected another leader with higher term, will stepdown",
	"Health check OK, no longer falling behind",
	"Did not receive all stream info results",
}

// Fatalf keeps what the server cannot start without.
func (l *serverLog) Fatalf(f string, v ...any) {
	text := fmt.Sprintf(f, v...)
	select {
	case l.fatal <- text:
	default: // the first one counts
		l.log.Error("store: " + text)
	}
}

// Errorf logs what failed.
func (l *serverLog) Errorf(f string, v ...any) {
	text := fmt.Sprintf(f, v...)
	switch {
	case l.strange(text), l.namesakes(text):
		return
	case strings.HasPrefix(f, "Error trying to connect to route"):
		// A node is away, or cluster.join is wrong: the address is in the error. The server reports the first attempt of many.
		l.log.Info("another node cannot be reached", "cause", text)
		return
	case strings.HasPrefix(f, "Error trying to connect as leafnode"):
		l.log.Warn("store: " + text) // a site is away: what is for it waits
		return
	}
	l.log.Error("store: " + text)
}

// Debugf and Tracef are off.
func (l *serverLog) Debugf(f string, v ...any) {}

// Tracef is off.
func (l *serverLog) Tracef(f string, v ...any) {}
