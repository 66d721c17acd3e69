package door

import (
	"errors"
	"net"
	"time"
)

// ErrVanished is why a connection ends whose peer is not there any more.
var ErrVanished = errors.New("the peer vanished: it acknowledged nothing for a minute")

const (
	// vanishedAfter is how long a peer's machine may owe the acknowledgement of what was sent to it. A program may take as long as
	// it likes to read, its machine acknowledges all the same.
	vanishedAfter = time.Minute
	// lookEvery is how often that is looked at.
	lookEvery = 15 * time.Second
)

// debt is since when a peer's machine has owed an acknowledgement; zero if it owes none.
//
// Where nothing is under way, the probes that Listen asks for find a peer that vanished. The kernel sends none while anything is
// unacknowledged: it sends that again, for a quarter of an hour, and as long would wait who is to get what the peer has in hands.
// TCP_USER_TIMEOUT would end it sooner, but also a worker that lives and does not read while it works.
type debt time.Time

// look notes what the kernel says now, and reports whether the peer is to be given up.
func (d *debt) look(now time.Time, owes bool, silent time.Duration) (vanished bool) {
	since := time.Time(*d)
	switch {
	case !owes:
		since = time.Time{}
	case since.IsZero():
		since = now
	case now.Add(-silent).After(since): // it has acknowledged something in between
		since = now.Add(-silent)
	}
	*d = debt(since)
	return owes && now.Sub(since) >= vanishedAfter
}

// socketOf returns the TCP socket beneath a connection, nil if there is none.
func socketOf(c net.Conn) *net.TCPConn {
	for {
		switch s := c.(type) {
		case *net.TCPConn:
			return s
		case interface{ NetConn() net.Conn }:
			c = s.NetConn()
		default:
			return nil
		}
	}
}

// owed is owing for a connection of any kind.
func (g *Guests[C]) owed(c C) (owes bool, silent time.Duration) { return owing(socketOf(g.Socket(c))) }

// watch begins to look for peers that vanished, with the first connection; with the lock held.
func (g *Guests[C]) watch() {
	if g.Socket != nil && g.looking == nil {
		if g.owing == nil {
			g.owing = g.owed
		}
		g.looking = time.AfterFunc(lookEvery, g.look)
	}
}

// unwatch ends that with the last one; with the lock held.
func (g *Guests[C]) unwatch() {
	if g.looking != nil && len(g.all) == 0 {
		g.looking.Stop()
		g.looking = nil
	}
}

// look ends the connections of those that vanished.
func (g *Guests[C]) look() {
	g.mu.Lock()
	if g.looking == nil {
		g.mu.Unlock()
		return // the last one has left meanwhile
	}
	g.group.Add(1) // there is a connection, so nobody has waited for the end of all
	all := g.locked()
	g.mu.Unlock()
	defer g.group.Done()
	for _, c := range all {
		owes, silent := g.owing(c)
		g.mu.Lock()
		d := g.all[c]
		vanished := d != nil && d.look(time.Now(), owes, silent)
		g.mu.Unlock()
		if vanished {
			g.Vanished(c)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looking != nil {
		g.looking.Reset(lookEvery)
	}
}
