package config

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// What happens to a message in a queue when its time is up.
const (
	OnExpireDeadLetter = "dead_letter"
	OnExpireDrop       = "drop"
)

// DeadLetterNone as a dead_letter value means that there is no dead-letter
// queue: what would go there is dropped and counted.
const DeadLetterNone = "none"

// queueVariable in a dead_letter value stands for the name of the queue.
const queueVariable = "{queue}"

// Policy is how a queue behaves.
type Policy struct {
	MaxLength            int64         `key:"max_length" min:"0"`
	MaxBytes             Bytes         `key:"max_bytes" min:"0"`
	Expiry               time.Duration `key:"expiry" min:"1s" zero:"never"`
	MaxDeliveries        int           `key:"max_deliveries" min:"0" max:"10000"`
	DeadLetter           string        `key:"dead_letter"`
	RedeliveryDelay      time.Duration `key:"redelivery_delay" min:"0s" max:"24h"`
	RedeliveryBackoffMax time.Duration `key:"redelivery_backoff_max" min:"0s" max:"24h"`
	OnExpire             string        `key:"on_expire" oneof:"dead_letter,drop"`
}

// DefaultPolicy returns the policy of queues that no pattern matches, and of
// what a pattern leaves out.
func DefaultPolicy() Policy {
	return Policy{
		MaxDeliveries: 6,
		DeadLetter:    "DLQ." + queueVariable,
		OnExpire:      OnExpireDeadLetter,
	}
}

// DeadLetterQueue returns the name of the dead-letter queue of the named queue.
// It is empty when there is none: the policy says so, or the queue is itself a
// dead-letter queue by this policy. Dead letters never travel on by themselves,
// or a message that nobody can take would wander from queue to queue for ever.
func (p Policy) DeadLetterQueue(queue string) string {
	if p.DeadLetter == DeadLetterNone {
		return ""
	}
	before, after, variable := strings.Cut(p.DeadLetter, queueVariable)
	if !variable {
		if queue == p.DeadLetter {
			return ""
		}
		return p.DeadLetter
	}
	if len(queue) > len(before)+len(after) && strings.HasPrefix(queue, before) && strings.HasSuffix(queue, after) {
		return ""
	}
	return before + queue + after
}

// QueueRule gives the queues that match a pattern a policy.
type QueueRule struct {
	Pattern string `key:"pattern"`
	Policy
}

// Queues are the rules for queues. For each queue the most specific pattern
// that matches decides alone: what it leaves out is the default, not what a
// wider pattern says. Their order does not matter.
//
// A pattern is compared level by level, levels being separated by '.'. A level
// "*" matches any one level; ">" as the last level matches that level and all
// below it, also none. The more specific of two patterns is the one that, at
// the first level where they differ, has a name rather than "*", or "*" rather
// than ">".
type Queues []QueueRule

// Policy returns the policy of the named queue.
func (q Queues) Policy(queue string) Policy {
	name := strings.Split(queue, ".")
	var best []string
	found := DefaultPolicy()
	for _, r := range q {
		pattern := strings.Split(r.Pattern, ".")
		if !matches(pattern, name) {
			continue
		}
		if best == nil || compareSpecific(pattern, best) < 0 {
			best, found = pattern, r.Policy
		}
	}
	return found
}

// matches compares a pattern with the levels of a name.
func matches(pattern, name []string) bool {
	for i, p := range pattern {
		switch {
		case p == ">":
			return true
		case i == len(name):
			return false
		case p != "*" && p != name[i]:
			return false
		}
	}
	return len(pattern) == len(name)
}

// compareSpecific is negative when a is more specific than b. It is a total
// order on the patterns that match one name.
func compareSpecific(a, b []string) int {
	return slices.CompareFunc(a, b, func(x, y string) int { return cmp.Compare(wideness(x), wideness(y)) })
}

func wideness(level string) int {
	switch level {
	case ">":
		return 2
	case "*":
		return 1
	}
	return 0
}

// checkPattern says what is wrong with the pattern of a rule, or nothing.
func checkPattern(pattern string) (text, hint string) {
	if pattern == "" {
		return "the pattern is empty", `write a queue's name, or ">" for all queues`
	}
	if strings.HasPrefix(pattern, "/queue/") || strings.HasPrefix(pattern, "queue://") {
		return "the pattern " + quote(pattern) + " has a destination prefix", "write the queue's name alone"
	}
	levels := strings.Split(pattern, ".")
	for i, l := range levels {
		switch {
		case l == "":
			return "the pattern " + quote(pattern) + " has an empty level", "write one '.' between levels"
		case l == ">" && i != len(levels)-1:
			return "the pattern " + quote(pattern) + " has '>' before its end", "use '*' for one level"
		case l != "*" && l != ">" && strings.ContainsAny(l, "*>"):
			return "the pattern " + quote(pattern) + " has a wildcard inside a level", "a wildcard stands for a whole level"
		}
	}
	return "", ""
}
