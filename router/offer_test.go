package router

import (
	"fmt"
	"testing"
)

// TestOffer walks through what may come while retained messages are being sent.
func TestOffer(t *testing.T) {
	message := func(topic, body string) *Message { return &Message{To: dest(t, "/topic/"+topic), Body: []byte(body)} }
	o := NewOffer()
	var got []string
	space := 1
	put := func(m *Message) bool {
		if space == 0 {
			return false
		}
		space--
		got = append(got, m.To.Name()+" "+string(m.Body))
		return true
	}
	live := func(m *Message, want bool) {
		t.Helper()
		if ok := o.Live(m, func() bool { return put(m) }); ok != want {
			t.Errorf("%s %s: %v", m.To, m.Body, ok)
		}
	}
	waits := 0
	room := func() func() bool {
		return func() bool {
			switch waits++; waits {
			case 1: // a was sent, and there is no room for b
				live(message("b", "newer"), true)
				live(message("new", "1"), true)
				o.Superseded(message("c", "stored"))
				space = 1
			case 2:
				live(message("new", "2"), true)
				space = 9
			}
			return waits < 3
		}
	}
	if !o.Send([]*Message{message("a", "old"), message("b", "old"), message("c", "old")}, put, room) {
		t.Error("it was given up")
	}
	if want := "[a old b newer new 2]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	live(message("b", "later"), true)
	space = 0
	live(message("b", "too much"), false) // it has ended: the subscriber is slow

	waits = 2
	if NewOffer().Send([]*Message{message("a", "x")}, put, room) {
		t.Error("it went on for nobody")
	}
}
