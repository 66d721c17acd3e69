// Package door is what every front-end does where connections come in, whatever they
// speak: accept them with patience, find those whose peer vanished, count and end them, and
// obey the server that some of them came through.
// It is a leaf: it knows no protocol and no router.
package door

import "sync"

// Seats bounds the connections of a node, and those of each user. The front-ends of a
// node share one.
type Seats struct {
	max, perUser int

	mu    sync.Mutex
	taken int
	users map[string]int
}

// NewSeats returns so many seats, of which a user may have perUser; 0: all.
func NewSeats(most, perUser int) *Seats {
	return &Seats{max: most, perUser: perUser, users: map[string]int{}}
}

// PerUser returns how many connections a user may have; 0: no limit.
func (s *Seats) PerUser() int { return s.perUser }

// Take takes a seat for a connection, if one is free; Leave gives it up.
func (s *Seats) Take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.max {
		return false
	}
	s.taken++
	return true
}

// Leave gives up a seat.
func (s *Seats) Leave() {
	s.mu.Lock()
	s.taken--
	s.mu.Unlock()
}

// Enter counts a connection as a user's, if the user may have one more; Exit undoes it.
func (s *Seats) Enter(user string) bool {
	if s.perUser <= 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[user] >= s.perUser {
		return false
	}
	s.users[user]++
	return true
}

// Exit undoes Enter.
func (s *Seats) Exit(user string) {
	if s.perUser <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[user]--; s.users[user] <= 0 {
		delete(s.users, user)
	}
}
