package ws

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// presence tells subscriptions who receives what is published to their topic. It
// compares what the router says, a few times a second while someone wants to
// know, so it sees clients of every protocol and costs the others nothing.
type presence struct {
	server *Server

	mu    sync.Mutex
	rooms map[router.Address]*room
	seen  uint64 // the router's revision that the rooms reflect
	turns int
}

type room struct {
	watchers map[*subscription]bool // true: has been told the whole list
	present  map[router.SessionID]person
}

// person is one who is present, as the protocol says it. Name is the client's
// own word; user is the server's.
type person struct {
	Session  string `json:"session"`
	User     string `json:"user,omitempty"`
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	SinceMs  int64  `json:"sinceMs"`
}

const (
	// maxPeople bounds a list; a crowd is told as its first ones and their number.
	maxPeople = 500
	// lookAnyway is how often rooms are looked at though nothing seems to have changed:
	// what a durable subscription's client does changes no route.
	lookAnyway = 8
)

func (p *presence) init(s *Server) {
	p.server, p.rooms = s, map[router.Address]*room{}
}

func (p *presence) watch(s *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rooms[s.room]
	if r == nil {
		r = &room{watchers: map[*subscription]bool{}, present: map[router.SessionID]person{}}
		p.rooms[s.room] = r
	}
	r.watchers[s] = false
	p.seen = 0 // look
}

func (p *presence) unwatch(s *subscription) {
	if s.room.IsZero() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.rooms[s.room]; r != nil {
		if delete(r.watchers, s); len(r.watchers) == 0 {
			delete(p.rooms, s.room)
		}
	}
}

// look tells the watchers of every room what has changed; on the clock's goroutine.
func (p *presence) look(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rooms) == 0 {
		return
	}
	revision := p.server.opt.Router.PresenceRevision() + 1
	if p.turns++; revision == p.seen && p.turns%lookAnyway != 0 {
		return
	}
	told := true
	for topic, r := range p.rooms {
		told = p.lookAt(ctx, topic, r) && told
	}
	p.seen = 0
	if told {
		p.seen = revision
	}
}

// lookAt reports whether every watcher knows all.
func (p *presence) lookAt(ctx context.Context, topic router.Address, r *room) bool {
	now, err := p.people(ctx, topic)
	if err != nil {
		return false
	}
	var joined, left []person
	for id, who := range now {
		if _, before := r.present[id]; !before {
			joined = append(joined, who)
		}
	}
	for id, who := range r.present {
		if _, still := now[id]; !still {
			left = append(left, who)
		}
	}
	r.present = now
	var w outbox.Batch
	defer w.Flush()
	told := true
	for s, knows := range r.watchers {
		ok := true
		switch {
		case !knows:
			ok = s.tellPresence(map[string]any{"present": sorted(now), "count": len(now)}, &w)
		case len(joined)+len(left) > 0:
			ok = s.tellPresence(map[string]any{"joined": orEmpty(joined), "left": orEmpty(left), "count": len(now)}, &w)
		}
		r.watchers[s] = ok // who had no room gets the whole list next time
		told = told && ok
	}
	return told
}

func (p *presence) people(ctx context.Context, topic router.Address) (map[router.SessionID]person, error) {
	list, err := p.server.opt.Router.Present(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(map[router.SessionID]person, len(list))
	for _, x := range list {
		name := x.Name
		if name == "" {
			name = x.ClientID // what an MQTT or STOMP client calls itself
		}
		out[x.Session] = person{Session: x.Session.String(), User: x.User, Name: name, Protocol: x.Protocol, SinceMs: x.Since.UnixMilli()}
	}
	return out, nil
}

func sorted(people map[router.SessionID]person) []person {
	out := make([]person, 0, len(people))
	for _, who := range people {
		out = append(out, who)
	}
	slices.SortFunc(out, func(a, b person) int {
		if a.SinceMs != b.SinceMs {
			return int(a.SinceMs - b.SinceMs)
		}
		return slices.Compare([]byte(a.Session), []byte(b.Session))
	})
	return out[:min(len(out), maxPeople)]
}

func orEmpty(people []person) []person {
	if people == nil {
		return []person{}
	}
	return people[:min(len(people), maxPeople)]
}

// tellPresence sends a presence event; false: there is no room for it.
func (s *subscription) tellPresence(event map[string]any, w *outbox.Batch) bool {
	event["event"], event["sub"] = "presence", s.id
	b, err := json.Marshal(event)
	if err != nil {
		return false // not for strings and numbers
	}
	buf, ok := s.client.out.Begin(len(b) + headMax)
	if ok {
		buf = append(appendHead(buf, opText, len(b)), b...)
	}
	s.client.out.End(w, buf)
	return ok
}

// listPresence answers who is present now.
func (c *client) listPresence(r *request) error {
	topic, _, err := router.ParseDestination(c.session.Vhost, r.To)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.life, operationTimeout)
	defer cancel()
	if _, err := c.session.Present(ctx, topic); err != nil {
		return err // it asks for the right
	}
	people, err := c.server.presence.people(ctx, topic)
	if err != nil {
		return err
	}
	list, err := json.Marshal(sorted(people))
	if err != nil {
		return err
	}
	c.answer(r, append([]byte(`,"present":`), list...), nil)
	return nil
}
