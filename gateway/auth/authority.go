package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/mqgate/mqgate/router"
)

// rememberFor is how long a password that was right is recognised without a hash.
const rememberFor = 60 * time.Second

// User is one account.
type User struct {
	Name         string
	PasswordHash string   // PHC form; or
	PasswordFile string   // a file with the password or its hash
	CertNames    []string // names in verified client certificates that are this user
	Read         []string // patterns
	Write        []string
	Consume      []string
	Admin        bool
}

// Options configures an Authority.
type Options struct {
	Users []User
	// Anonymous lets clients without a login in, with the rights of Nobody.
	Anonymous bool
	// Nobody has the rights of anonymous clients; its other fields are not used.
	Nobody User
	// Tokens are those that are accepted besides.
	Tokens TokenOptions
}

// Authority authenticates and authorises. It is safe for concurrent use.
type Authority struct {
	users     map[string]*account
	certs     map[string]*account // by certificate name
	anonymous *account            // nil when a login is needed
	tokens    *tokens             // nil when none are accepted
	decoys    []passwordHash      // what unknown users are checked against
	secret    [sha256.Size]byte   // key of this process for HMACs
	hashing   chan struct{}       // a place for each hash that is being computed
}

var (
	_ router.Authorizer    = (*Authority)(nil)
	_ router.Authenticator = (*Authority)(nil)
)

// account is a User, checked and parsed.
type account struct {
	name   string
	admin  bool
	hash   *passwordHash // nil when no password is right
	lists  allowLists
	grants *grants // nil when they depend on the client id

	mu         sync.Mutex
	remembered [sha256.Size]byte // HMAC of the last right password
	until      time.Time
}

// New checks the users and returns their Authority. The error joins everything
// that is wrong.
func New(o Options) (*Authority, error) {
	a := &Authority{
		users:   make(map[string]*account, len(o.Users)),
		certs:   make(map[string]*account),
		hashing: make(chan struct{}, runtime.NumCPU()),
	}
	rand.Read(a.secret[:])
	var wrong []error
	for _, u := range o.Users {
		if err := a.add(u); err != nil {
			wrong = append(wrong, fmt.Errorf("user %q: %w", u.Name, err))
		}
	}
	if o.Anonymous {
		n := o.Nobody
		acc, err := newAccount(User{Read: n.Read, Write: n.Write, Consume: n.Consume, Admin: n.Admin})
		if err != nil {
			wrong = append(wrong, fmt.Errorf("anonymous: %w", err))
		}
		a.anonymous = acc
	}
	if err := a.readTokens(o.Tokens); err != nil {
		wrong = append(wrong, err)
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	a.makeDecoys()
	return a, nil
}

func (a *Authority) add(u User) error {
	if u.Name == "" {
		return errors.New("the name is empty")
	}
	if _, twice := a.users[u.Name]; twice {
		return errors.New("the name is taken by another user")
	}
	acc, err := newAccount(u)
	if err != nil {
		return err
	}
	if acc.hash == nil && len(u.CertNames) == 0 {
		return errors.New("there is no way to log in: set a password or certificate names")
	}
	for _, n := range u.CertNames {
		if other, twice := a.certs[n]; twice || n == "" {
			if n == "" {
				return errors.New("a certificate name is empty")
			}
			return fmt.Errorf("the certificate name %q is taken by user %q", n, other.name)
		}
		a.certs[n] = acc
	}
	a.users[u.Name] = acc
	return nil
}

func newAccount(u User) (*account, error) {
	acc := &account{name: u.Name, admin: u.Admin, lists: allowLists{read: u.Read, write: u.Write, consume: u.Consume}}
	var err error
	if acc.hash, err = loadHash(u); err != nil {
		return nil, err
	}
	if err := acc.lists.check(u.Name); err != nil {
		return nil, err
	}
	if acc.lists.uses(clientVariable) {
		return acc, nil
	}
	acc.grants, err = acc.lists.grants(u.Name, "")
	return acc, err
}

// loadHash returns the hash of a user's password, nil if none is set.
func loadHash(u User) (*passwordHash, error) {
	text := u.PasswordHash
	if u.PasswordFile != "" {
		if text != "" {
			return nil, errors.New("there are a password hash and a password file")
		}
		var err error
		if text, err = readPassword(u.PasswordFile); err != nil {
			return nil, err
		}
	}
	if text == "" {
		return nil, nil
	}
	h, err := parseHash(text)
	if err != nil {
		return nil, err
	}
	return &h, nil
}

// readPassword returns the hash in a file, or the hash of the password in it.
// One line end at the end is not part of it.
func readPassword(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxPasswordBytes+3))
	if err != nil {
		return "", err
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if bytes.HasPrefix(text, []byte("$argon2id$")) {
		return string(text), nil
	}
	hash, err := Hash(string(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return hash, nil
}

// makeDecoys prepares one hash for each cost that users have, so that the time
// an unknown user takes is that of some known one.
func (a *Authority) makeDecoys() {
	costs := make(map[cost]bool)
	for _, acc := range a.users {
		if acc.hash != nil && !costs[acc.hash.cost] {
			costs[acc.hash.cost] = true
			a.decoys = append(a.decoys, decoy(acc.hash.cost))
		}
	}
	if len(a.decoys) == 0 {
		a.decoys = []passwordHash{decoy(defaultCost)}
	}
}

func decoy(c cost) passwordHash {
	h := passwordHash{cost: c, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	rand.Read(h.salt)
	rand.Read(h.key)
	return h
}

// Authenticate returns who the client is. The error is a *router.Error: of class
// Denied when the credentials are wrong, and of class Unavailable when ctx ended
// while other logins were being checked.
//
// A certificate name logs in a client that gives no password, and no name other
// than the user's. A client that gives neither name nor password is anonymous
// where that is allowed; while there are no users at all, so is every client,
// whatever it gives: workers that send the login of their old broker then work
// unchanged.
func (a *Authority) Authenticate(ctx context.Context, c router.Credentials) (*router.Principal, error) {
	acc, err := a.identify(ctx, c)
	if err != nil {
		return nil, err
	}
	return acc.principal(c.ClientID)
}

func (acc *account) principal(clientID string) (*router.Principal, error) {
	g := acc.grants
	if g == nil {
		var err error
		if g, err = acc.lists.grants(acc.name, clientID); err != nil {
			return nil, denied(err.Error())
		}
	}
	return router.NewPrincipal(acc.name, clientID, acc.admin, g), nil
}

// Everything returns a principal of the gateway's own that may use every queue and
// topic: for what the configuration, not a client, asks for.
func Everything(name string) (*router.Principal, error) {
	all := []string{">"}
	g, err := allowLists{read: all, write: all, consume: all}.grants(name, "")
	if err != nil {
		return nil, err
	}
	return router.NewPrincipal(name, "", false, g), nil
}

// Principal returns who someone is whom another node of the cluster has authenticated; a user "" is the anonymous one. The
// error is of class Denied if there is no such user here, or no tokens are accepted: the nodes' configurations differ. A token
// may have expired since: it lets a connection in, and does not end it.
func (a *Authority) Principal(i router.Identity) (*router.Principal, error) {
	if i.Token {
		if a.tokens == nil {
			return nil, denied("the leader of the cluster accepts no tokens; all nodes need the same tokens.secret_file")
		}
		return a.subject(i.User, i.ClientID)
	}
	acc := a.users[i.User]
	if i.User == "" {
		acc = a.anonymous
	}
	if acc == nil {
		return nil, denied(fmt.Sprintf("the leader of the cluster does not know the user %q; all nodes need the same users", i.User))
	}
	return acc.principal(i.ClientID)
}

func (a *Authority) identify(ctx context.Context, c router.Credentials) (*account, error) {
	if c.Password == "" {
		for _, n := range c.TLSNames {
			if acc, ok := a.certs[n]; ok && (c.User == "" || c.User == acc.name) {
				return acc, nil
			}
		}
	}
	if a.anonymous != nil && (len(a.users) == 0 || c.User == "" && c.Password == "") {
		return a.anonymous, nil
	}
	if c.User == "" {
		return nil, denied("a user name and a password are needed")
	}
	return a.checkPassword(ctx, c.User, c.Password)
}

func (a *Authority) checkPassword(ctx context.Context, user, password string) (*account, error) {
	mac := a.mac(user, password)
	acc := a.users[user]
	known := acc != nil && acc.hash != nil
	if known && acc.remembers(mac) {
		return acc, nil
	}
	select {
	case a.hashing <- struct{}{}:
		defer func() { <-a.hashing }()
	case <-ctx.Done():
		return nil, &router.Error{Op: "login", Class: router.Unavailable, RetryAfter: time.Second,
			Text: "too many logins are being checked; try again", Err: context.Cause(ctx)}
	}
	if !known {
		a.decoys[int(mac[0])%len(a.decoys)].verify(password)
		return nil, wrongPassword()
	}
	// Another login may have been right while this one waited for its turn.
	if acc.remembers(mac) {
		return acc, nil
	}
	if !acc.hash.verify(password) {
		return nil, wrongPassword()
	}
	acc.remember(mac)
	return acc, nil
}

// mac is what stands for a user's password in memory.
func (a *Authority) mac(user, password string) [sha256.Size]byte {
	h := hmac.New(sha256.New, a.secret[:])
	var size [8]byte
	// The length keeps ("ab", "c") and ("a", "bc") apart.
	binary.BigEndian.PutUint64(size[:], uint64(len(user)))
	h.Write(size[:])
	io.WriteString(h, user)
	io.WriteString(h, password)
	return [sha256.Size]byte(h.Sum(nil))
}

func (acc *account) remembers(mac [sha256.Size]byte) bool {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	return hmac.Equal(mac[:], acc.remembered[:]) && time.Now().Before(acc.until)
}

func (acc *account) remember(mac [sha256.Size]byte) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.remembered, acc.until = mac, time.Now().Add(rememberFor)
}

func wrongPassword() error { return denied("the user name or the password is wrong") }

func denied(text string) error {
	return &router.Error{Op: "login", Class: router.Denied, Text: text}
}
