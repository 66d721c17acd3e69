package auth

import (
	"fmt"
	"strings"

	"github.com/mqgate/mqgate/router"
)

// allowLists are a user's patterns as they are configured.
type allowLists struct{ read, write, consume []string }

func (l allowLists) each() [3][]string { return [3][]string{l.read, l.write, l.consume} }

func (l allowLists) uses(variable string) bool {
	for _, list := range l.each() {
		if uses(list, variable) {
			return true
		}
	}
	return false
}

// check reports what would fail at a later login: a pattern that is none, or a
// user name that must not stand in one.
func (l allowLists) check(user string) error {
	if l.uses(userVariable) {
		if err := checkSubstitute("user name", user); err != nil {
			return err
		}
	}
	_, err := l.grants(user, "client")
	return err
}

// grants fills in the names and parses.
func (l allowLists) grants(user, clientID string) (*grants, error) {
	if l.uses(clientVariable) {
		if err := checkSubstitute("client id", clientID); err != nil {
			return nil, err
		}
	}
	names := strings.NewReplacer(userVariable, user, clientVariable, clientID)
	g := new(grants)
	for i, into := range [...]*[]pattern{&g.read, &g.write, &g.consume} {
		for _, text := range l.each()[i] {
			p, err := parsePattern(names.Replace(text))
			if err != nil {
				return nil, err
			}
			*into = append(*into, p)
		}
	}
	return g, nil
}

// grants are what a principal may do. They do not change after the login.
type grants struct{ read, write, consume []pattern }

func (g *grants) of(a router.Action) []pattern {
	switch a {
	case router.ActionRead:
		return g.read
	case router.ActionWrite:
		return g.write
	case router.ActionConsume:
		return g.consume
	}
	return nil
}

// Authorize returns nil if p may do a at addr, else a *router.Error of class
// Denied. It does not block, nor allocate when the answer is yes.
//
// An admin may use ActionAdmin everywhere and read system topics ("$…"); for
// everything else admins need patterns like anyone. Nobody may write to a system
// topic. Temporary queues need no pattern.
func (*Authority) Authorize(p *router.Principal, a router.Action, addr router.Address) error {
	if allowed(p, a, addr) {
		return nil
	}
	return refuse(p, a, addr.String())
}

func allowed(p *router.Principal, a router.Action, addr router.Address) bool {
	g, ok := grantsOf(p)
	switch {
	case !ok || addr.IsZero():
		return false
	case a == router.ActionAdmin:
		return p.Admin()
	case a == router.ActionWrite && addr.Reserved():
		return false
	case a == router.ActionRead && addr.Reserved() && p.Admin():
		return true
	case addr.Temporary() && a != router.ActionRead:
		// The router lets only its maker consume; who writes was told the name.
		return true
	}
	patterns := g.of(a)
	for i := range patterns {
		if patterns[i].matches(addr) {
			return true
		}
	}
	return false
}

// AuthorizeFilter returns nil if some address that f matches is allowed by
// Authorize, else a *router.Error of class Denied.
func (z *Authority) AuthorizeFilter(p *router.Principal, a router.Action, f router.Filter) error {
	if addr, one := f.Address(); one {
		return z.Authorize(p, a, addr)
	}
	g, ok := grantsOf(p)
	if !ok || f.IsZero() {
		return refuse(p, a, f.String())
	}
	reserved := strings.HasPrefix(f.Name(), "$")
	switch {
	case a == router.ActionAdmin && p.Admin(), a == router.ActionRead && reserved && p.Admin():
		return nil
	case a == router.ActionWrite && reserved:
		return refuse(p, a, f.String())
	}
	patterns := g.of(a)
	for i := range patterns {
		if patterns[i].overlaps(f) {
			return nil
		}
	}
	return refuse(p, a, f.String())
}

// grantsOf returns what Authenticate put into the principal. A principal that
// something else made has no rights.
func grantsOf(p *router.Principal) (*grants, bool) {
	if p == nil {
		return nil, false
	}
	g, ok := p.Grants().(*grants)
	return g, ok && g != nil
}

func refuse(p *router.Principal, a router.Action, where string) error {
	who := "an anonymous client"
	if p != nil && p.Name() != "" {
		who = fmt.Sprintf("user %q", p.Name())
	}
	return &router.Error{Op: "authorize", Class: router.Denied, Text: fmt.Sprintf("%s may not %s %s", who, a, where)}
}
