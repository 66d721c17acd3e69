package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/mqgate/mqgate/router"
)

// Tokens are how a web application that knows its visitors lets their browsers in:
// it shares a secret with the gateway, and signs who someone is and until when, as
// a JSON Web Token (RFC 7519) by HS256, which every language has a library for.
const (
	// minSecretBytes is the size of the hash (RFC 7518 section 3.2).
	minSecretBytes = sha256.Size
	maxSecretBytes = 4 << 10
	maxTokenBytes  = 8 << 10
	// maxSubjectBytes bounds the name of someone.
	maxSubjectBytes = 256
	// tokenLeeway is how far the clocks may be apart.
	tokenLeeway = 30 * time.Second
)

// TokenOptions say which tokens are accepted; the zero value: none.
type TokenOptions struct {
	SecretFile string
	// As names the user whose rights someone has who is no user of the gateway; "": then
	// the token is refused.
	As string
}

// tokens are checked options.
type tokens struct {
	secret []byte
	as     *account
}

// readTokens is for New, behind the users.
func (a *Authority) readTokens(o TokenOptions) error {
	if o.SecretFile == "" {
		return nil
	}
	f, err := os.Open(o.SecretFile)
	if err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	defer f.Close()
	secret, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
	if len(secret) < minSecretBytes || len(secret) > maxSecretBytes {
		return fmt.Errorf("tokens: %s must hold %d to %d bytes (openssl rand -base64 48 makes some)", o.SecretFile, minSecretBytes, maxSecretBytes)
	}
	t := &tokens{secret: secret}
	if o.As != "" {
		if t.as = a.users[o.As]; t.as == nil {
			return fmt.Errorf("tokens: there is no user %q", o.As)
		}
	}
	a.tokens = t
	return nil
}

// claims are what is read of a token.
type claims struct {
	Subject   string   `json:"sub"`
	Expires   *float64 `json:"exp"` // seconds since 1970
	NotBefore float64  `json:"nbf"`
}

// Token returns who a token is about: a user of the gateway, or someone with the
// rights of the user that is named for that. It is never an administrator. The
// error is a *router.Error of class Denied.
func (a *Authority) Token(_ context.Context, token string, c router.Credentials) (*router.Principal, error) {
	if a.tokens == nil {
		return nil, denied("tokens are not accepted here; give user and password")
	}
	k, err := a.tokens.verify(token, time.Now())
	if err != nil {
		return nil, denied("the token is not accepted: " + err.Error())
	}
	return a.subject(k.Subject, c.ClientID)
}

// subject returns who the sub of a token is.
func (a *Authority) subject(sub, clientID string) (*router.Principal, error) {
	acc := a.users[sub]
	if acc == nil {
		acc = a.tokens.as
	}
	if acc == nil {
		return nil, denied("the token is not accepted: its sub is no user")
	}
	// A sub comes from outside, and stands in the patterns: it is checked as the names
	// of users were at the start.
	if err := acc.lists.check(sub); err != nil {
		return nil, denied(err.Error())
	}
	g, err := acc.lists.grants(sub, clientID)
	if err != nil {
		return nil, denied(err.Error())
	}
	return router.NewTokenPrincipal(sub, clientID, g), nil
}

var errNoToken = errors.New("it is not a JSON Web Token")

// verify checks the signature before it reads anything that the token says, but for
// the algorithm, of which there is one.
func (t *tokens) verify(token string, now time.Time) (*claims, error) {
	signed, signature, ok := cutLast(token)
	head, body, ok2 := strings.Cut(signed, ".")
	if !ok || !ok2 || strings.Contains(body, ".") || len(token) > maxTokenBytes {
		return nil, errNoToken
	}
	var h struct {
		Algorithm string   `json:"alg"`
		Critical  []string `json:"crit"`
	}
	if err := decodeJSON(head, &h); err != nil {
		return nil, err
	}
	if h.Algorithm != "HS256" || len(h.Critical) > 0 {
		return nil, errors.New("it is not signed by HS256")
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil {
		return nil, errNoToken
	}
	want := hmac.New(sha256.New, t.secret)
	io.WriteString(want, signed)
	if !hmac.Equal(mac, want.Sum(nil)) {
		return nil, errors.New("its signature is wrong")
	}
	var k claims
	if err := decodeJSON(body, &k); err != nil {
		return nil, err
	}
	at := float64(now.UnixMilli()) / 1000
	switch leeway := tokenLeeway.Seconds(); {
	case k.Subject == "" || len(k.Subject) > maxSubjectBytes || strings.ContainsFunc(k.Subject, unicode.IsControl):
		return nil, fmt.Errorf("its sub must have 1 to %d bytes without control characters", maxSubjectBytes)
	case k.Expires == nil:
		return nil, errors.New("it has no exp")
	case at > *k.Expires+leeway:
		return nil, errors.New("it has expired")
	case at < k.NotBefore-leeway:
		return nil, errors.New("it is not valid yet")
	}
	return &k, nil
}

func cutLast(token string) (before, after string, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return "", "", false
	}
	return token[:i], token[i+1:], true
}

func decodeJSON(text string, v any) error {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(b, v) != nil {
		return errNoToken
	}
	return nil
}
