package jetstream

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A node that greets is in touch while it says that it hears this one, and not a moment longer.
func TestANodeThatDoesNotHearThisOneIsNotInTouch(t *testing.T) {
	p := &peers{name: "n1", size: 3, heard: map[string]time.Time{}, known: map[string]time.Time{}, full: map[string]time.Time{}}
	greet := func(node string, hears ...string) {
		b, err := json.Marshal(greeting{Node: node, Hears: hears})
		if err != nil {
			t.Fatal(err)
		}
		p.greeted(&nats.Msg{Data: b})
	}
	greet("n2")
	if p.majority() {
		t.Error("a node that has not heard of this one counts")
	}
	greet("n2", "n1", "n3")
	if got := p.inTouch(); !p.majority() || !slices.Equal(got, []string{"n2"}) {
		t.Errorf("in touch: %v", got)
	}
	greet("n2", "n3")
	if got := p.inTouch(); p.majority() || len(got) > 0 {
		t.Errorf("in touch: %v", got)
	}
}
