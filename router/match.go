package router

import (
	"strings"
	"sync"
	"sync/atomic"
)

// tree finds the values whose filters match an address: a trie over levels for
// each vhost, with one map for exact names. Generation changes with every
// insert and remove, so results may be cached for as long as it stays.
type tree[V comparable] struct {
	generation atomic.Uint64

	mu    sync.RWMutex
	exact map[Filter][]V
	wild  map[string]*node[V] // by vhost
	size  int
	// system counts the filters of what the gateway tells of itself.
	system atomic.Int32
}

type node[V comparable] struct {
	children map[string]*node[V] // "+" and "#" among them
	values   []V
}

func newTree[V comparable]() *tree[V] {
	return &tree[V]{exact: map[Filter][]V{}, wild: map[string]*node[V]{}}
}

func (t *tree[V]) insert(f Filter, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.generation.Add(1)
	t.size++
	if f.System() {
		t.system.Add(1)
	}
	if !f.wild {
		t.exact[f] = append(t.exact[f], v) // match copies: nobody holds the slice without the lock
		return
	}
	n := t.wild[f.vhost]
	if n == nil {
		n = &node[V]{}
		t.wild[f.vhost] = n
	}
	for l := range strings.SplitSeq(f.name, "/") {
		if n.children == nil {
			n.children = map[string]*node[V]{}
		}
		c := n.children[l]
		if c == nil {
			c = &node[V]{}
			n.children[l] = c
		}
		n = c
	}
	n.values = append(n.values, v)
}

// remove deletes one value of a filter and the nodes that hold nothing more.
func (t *tree[V]) remove(f Filter, v V) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.generation.Add(1)
	if !f.wild {
		rest, ok := without(t.exact[f], v)
		if len(rest) == 0 {
			delete(t.exact, f)
		} else {
			t.exact[f] = rest
		}
		if ok {
			t.forget(f)
		}
		return ok
	}
	root := t.wild[f.vhost]
	if root == nil {
		return false
	}
	ok, empty := root.remove(strings.Split(f.name, "/"), v)
	if empty {
		delete(t.wild, f.vhost)
	}
	if ok {
		t.forget(f)
	}
	return ok
}

// forget counts a filter less; with the lock held.
func (t *tree[V]) forget(f Filter) {
	t.size--
	if f.System() {
		t.system.Add(-1)
	}
}

func (n *node[V]) remove(levels []string, v V) (ok, empty bool) {
	if len(levels) == 0 {
		n.values, ok = without(n.values, v)
	} else if c := n.children[levels[0]]; c != nil {
		var gone bool
		if ok, gone = c.remove(levels[1:], v); gone {
			delete(n.children, levels[0])
		}
	}
	return ok, len(n.values) == 0 && len(n.children) == 0
}

// without returns a new slice that lacks the first v.
func without[V comparable](s []V, v V) ([]V, bool) {
	for i := range s {
		if s[i] == v {
			out := make([]V, 0, len(s)-1)
			return append(append(out, s[:i]...), s[i+1:]...), true
		}
	}
	return s, false
}

// match appends the values whose filter matches a, in no particular order [MQTT-3.3.2-3].
func (t *tree[V]) match(a Address, out []V) []V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out = append(out, t.exact[FilterOf(a)]...)
	root := t.wild[a.vhost]
	if root == nil || a.kind != KindTopic {
		return out
	}
	return root.match(a.name, strings.HasPrefix(a.name, "$"), out)
}

// match descends; reserved is true at the first level of a '$' topic, which
// wildcards never match [MQTT-4.7.2-1].
func (n *node[V]) match(rest string, reserved bool, out []V) []V {
	level, rest, more := strings.Cut(rest, "/")
	if !reserved {
		if c := n.children["#"]; c != nil {
			out = append(out, c.values...)
		}
		if c := n.children["+"]; c != nil {
			out = c.step(rest, more, out)
		}
	}
	// A concrete level may itself be spelled like nothing a filter holds: '+' and
	// '#' cannot occur in an address.
	if c := n.children[level]; c != nil {
		out = c.step(rest, more, out)
	}
	return out
}

func (n *node[V]) step(rest string, more bool, out []V) []V {
	if more {
		return n.match(rest, false, out)
	}
	out = append(out, n.values...)
	if c := n.children["#"]; c != nil { // "a/#" also matches "a"
		out = append(out, c.values...)
	}
	return out
}

// filters returns the number of values.
func (t *tree[V]) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.size
}

// clear removes all.
func (t *tree[V]) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.generation.Add(1)
	t.exact, t.wild, t.size = map[Filter][]V{}, map[string]*node[V]{}, 0
}
