package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mqgate/mqgate/router"
)

const tokenSecret = "0123456789abcdef0123456789abcdef"

// sign makes a token, as an application does.
func sign(secret, head, body string) string {
	e := base64.RawURLEncoding.EncodeToString
	text := e([]byte(head)) + "." + e([]byte(body))
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(text))
	return text + "." + e(m.Sum(nil))
}

func tokenAuthority(t *testing.T, as string) *Authority {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(tokenSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hash, err := Hash("pw")
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{
		Users: []User{
			{Name: "web", PasswordHash: hash, Read: []string{"/topic/rooms.>"}, Write: []string{"/topic/rooms.>", "/queue/from.%u"}},
			{Name: "ann", PasswordHash: hash, Write: []string{"/queue/ann"}, Admin: true},
		},
		Tokens: TokenOptions{SecretFile: file, As: as},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const hs256 = `{"alg":"HS256","typ":"JWT"}`

func TestToken(t *testing.T) {
	a := tokenAuthority(t, "web")
	in := time.Now().Add(time.Hour).Unix()
	may := func(sub string, action router.Action, destination string) bool {
		t.Helper()
		p, err := a.Token(context.Background(), sign(tokenSecret, hs256, fmt.Sprintf(`{"sub":%q,"exp":%d,"aud":"x"}`, sub, in)), router.Credentials{ClientID: "tab"})
		if err != nil {
			t.Fatal(err)
		}
		if p.Name() != sub || p.ClientID() != "tab" || p.Admin() {
			t.Errorf("%+v", p)
		}
		to, _, err := router.ParseDestination("", destination)
		if err != nil {
			t.Fatal(err)
		}
		return a.Authorize(p, action, to) == nil
	}
	for _, c := range []struct {
		sub         string
		action      router.Action
		destination string
		want        bool
	}{
		{"visitor-7", router.ActionRead, "/topic/rooms.x", true},
		{"visitor-7", router.ActionRead, "/topic/else", false},
		{"visitor-7", router.ActionWrite, "/queue/from.visitor-7", true},
		{"visitor-7", router.ActionWrite, "/queue/from.visitor-8", false},
		{"ann", router.ActionWrite, "/queue/ann", true},
		{"ann", router.ActionRead, "/topic/rooms.x", false},
	} {
		if got := may(c.sub, c.action, c.destination); got != c.want {
			t.Errorf("%s, %s %s: %v", c.sub, c.action, c.destination, got)
		}
	}
}

func TestTokensAreRefused(t *testing.T) {
	in := time.Now().Add(time.Hour).Unix()
	body := fmt.Sprintf(`{"sub":"v","exp":%d}`, in)
	good := sign(tokenSecret, hs256, body)
	unsigned := good[:strings.LastIndexByte(good, '.')+1]
	for name, token := range map[string]string{
		"nothing":             "",
		"two parts":           "a.b",
		"four parts":          good + ".x",
		"no base64":           "!.!.!",
		"no JSON":             sign(tokenSecret, "x", body),
		"another secret":      sign(tokenSecret+"x", hs256, body),
		"no signature":        unsigned,
		"algorithm none":      strings.Replace(unsigned, good[:strings.IndexByte(good, '.')], base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)), 1),
		"another algorithm":   sign(tokenSecret, `{"alg":"HS512"}`, body),
		"a critical header":   sign(tokenSecret, `{"alg":"HS256","crit":["exp"]}`, body),
		"no sub":              sign(tokenSecret, hs256, fmt.Sprintf(`{"exp":%d}`, in)),
		"a long sub":          sign(tokenSecret, hs256, fmt.Sprintf(`{"sub":%q,"exp":%d}`, strings.Repeat("v", 257), in)),
		"a sub of two lines":  sign(tokenSecret, hs256, fmt.Sprintf(`{"sub":"a\nb","exp":%d}`, in)),
		"no exp":              sign(tokenSecret, hs256, `{"sub":"v"}`),
		"expired":             sign(tokenSecret, hs256, `{"sub":"v","exp":1000}`),
		"not yet":             sign(tokenSecret, hs256, fmt.Sprintf(`{"sub":"v","exp":%d,"nbf":%d}`, in, in)),
		"exp is text":         sign(tokenSecret, hs256, `{"sub":"v","exp":"never"}`),
		"a sub with wildcard": sign(tokenSecret, hs256, fmt.Sprintf(`{"sub":">","exp":%d}`, in)),
		"long":                sign(tokenSecret, hs256, `{"sub":"`+strings.Repeat("v", maxTokenBytes)+`"}`),
	} {
		a := tokenAuthority(t, "web")
		if p, err := a.Token(context.Background(), token, router.Credentials{}); err == nil || router.ClassOf(err) != router.Denied {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	if _, err := tokenAuthority(t, "").Token(context.Background(), good, router.Credentials{}); err == nil {
		t.Error("a stranger, where only users may come")
	}
	a, err := New(Options{Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Token(context.Background(), good, router.Credentials{}); err == nil {
		t.Error("without a secret")
	}
}

func TestTokenOptionsAreChecked(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []TokenOptions{{SecretFile: short}, {SecretFile: short + "er"}} {
		if _, err := New(Options{Anonymous: true, Tokens: o}); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(sign(tokenSecret, hs256, `{"sub":"v","exp":99999999999}`))
	f.Add("a.b.c")
	t := &tokens{secret: []byte(tokenSecret)}
	f.Fuzz(func(test *testing.T, token string) {
		k, err := t.verify(token, time.Unix(1000, 0))
		if (err == nil) != (k != nil) || k != nil && k.Subject == "" {
			test.Fatalf("%+v, %v", k, err)
		}
	})
}

// A node of a cluster that another one tells of a login gives the rights that the login gave: by a token those of the user that is
// named for visitors, and never an administrator's. That the token has expired since ends nothing.
func TestALoginAtAnotherNode(t *testing.T) {
	here, there := tokenAuthority(t, "web"), tokenAuthority(t, "web")
	in := time.Now().Add(time.Hour).Unix()
	for _, tt := range []struct {
		sub, destination string
	}{
		{"visitor-7", "/queue/from.visitor-7"},
		{"ann", "/queue/ann"},
	} {
		p, err := there.Token(t.Context(), sign(tokenSecret, hs256, fmt.Sprintf(`{"sub":%q,"exp":%d}`, tt.sub, in)), router.Credentials{ClientID: "tab"})
		if err != nil {
			t.Fatal(err)
		}
		q, err := here.Principal(p.Identity())
		if err != nil {
			t.Errorf("%s: %v", tt.sub, err)
			continue
		}
		to, _, err := router.ParseDestination("", tt.destination)
		if err != nil {
			t.Fatal(err)
		}
		if q.Identity() != p.Identity() || q.Admin() || here.Authorize(q, router.ActionWrite, to) != nil {
			t.Errorf("%+v is %+v at the other node, admin %v", p.Identity(), q.Identity(), q.Admin())
		}
	}
	if p, err := here.Principal(router.Identity{User: "ann"}); err != nil || !p.Admin() {
		t.Errorf("a user who gave a password: %+v, %v", p, err)
	}
	for name, i := range map[string]router.Identity{"a user of another file": {User: "carl"}, "nobody": {}} {
		if p, err := here.Principal(i); router.ClassOf(err) != router.Denied {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	none, err := New(Options{Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Authority{none, tokenAuthority(t, "")} {
		if p, err := a.Principal(router.Identity{User: "visitor-7", Token: true}); router.ClassOf(err) != router.Denied {
			t.Errorf("a visitor of another file: %+v, %v", p, err)
		}
	}
}
