package router

import "context"

// Principal is who a client is. Only package auth of the gateway makes one (and
// tests), so a front-end cannot raise its own rights.
type Principal struct {
	name     string
	clientID string
	admin    bool
	token    bool
	grants   any
}

// Identity is who a principal is, as one node of a cluster tells another.
type Identity struct {
	User     string `json:",omitempty"`
	ClientID string `json:",omitempty"`
	// Token: a token said so, by which also someone gets in who is no user, and nobody as an administrator.
	Token bool `json:",omitempty"`
}

// NewPrincipal returns a principal. Grants is the authoriser's own data about it.
func NewPrincipal(name, clientID string, admin bool, grants any) *Principal {
	return &Principal{name: name, clientID: clientID, admin: admin, grants: grants}
}

// NewTokenPrincipal returns a principal whom a token let in.
func NewTokenPrincipal(name, clientID string, grants any) *Principal {
	return &Principal{name: name, clientID: clientID, token: true, grants: grants}
}

// Identity returns who the principal is.
func (p *Principal) Identity() Identity {
	return Identity{User: p.name, ClientID: p.clientID, Token: p.token}
}

// Name returns the user name, "" for an anonymous client.
func (p *Principal) Name() string { return p.name }

// ClientID returns the client id that the client gave when it logged in, or "".
func (p *Principal) ClientID() string { return p.clientID }

// Admin reports whether the principal may use the operator's verbs.
func (p *Principal) Admin() bool { return p.admin }

// Grants returns what NewPrincipal was given.
func (p *Principal) Grants() any { return p.grants }

// Action is what a principal wants to do with an address.
type Action uint8

const (
	// ActionRead receives topic messages, live or by a durable subscription, and retained ones.
	ActionRead Action = iota + 1
	// ActionWrite publishes to a queue or topic.
	ActionWrite
	// ActionConsume takes from a queue or browses it.
	ActionConsume
	// ActionAdmin peeks, purges, moves and deletes.
	ActionAdmin
)

// String returns the action as configuration names it.
func (a Action) String() string {
	switch a {
	case ActionRead:
		return "read"
	case ActionWrite:
		return "write"
	case ActionConsume:
		return "consume"
	case ActionAdmin:
		return "admin"
	}
	return "unknown"
}

// Authorizer decides. Both methods are called on hot paths: they must not block,
// and answers must not change for a given principal except by a new login.
type Authorizer interface {
	// Authorize returns nil if p may do a at addr, else an Error of class Denied.
	Authorize(p *Principal, a Action, addr Address) error
	// AuthorizeFilter returns nil if f may match an address that p may read or
	// consume. Each concrete topic is authorised again when it is delivered.
	AuthorizeFilter(p *Principal, a Action, f Filter) error
}

// AllowAll lets everyone do everything; for tests and embedded use.
type AllowAll struct{}

// Authorize allows.
func (AllowAll) Authorize(*Principal, Action, Address) error { return nil }

// AuthorizeFilter allows.
func (AllowAll) AuthorizeFilter(*Principal, Action, Filter) error { return nil }

var _ Authorizer = AllowAll{}

// Credentials are what a client showed when it connected. A front-end passes
// them on and forgets the password.
type Credentials struct {
	User, Password string
	HasUser        bool // false: the client named no user
	ClientID       string
	Vhost          string
	Protocol       string   // "stomp", "mqtt", "ws"
	Remote         string   // the peer's address
	TLSNames       []string // of a verified client certificate: common name, then SANs
	Loopback       bool     // the peer is on this machine
}

// Authenticator makes a Principal of credentials, or returns an Error of class
// Denied. It may block (password hashing), until ctx ends.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (*Principal, error)
}
