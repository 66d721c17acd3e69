package auth

import (
	"strings"
	"testing"
)

// verify reports whether the password is the one that was hashed.
func verify(hash, password string) (bool, error) {
	h, err := parseHash(hash)
	if err != nil {
		return false, err
	}
	return h.verify(password), nil
}

func TestHashAndVerify(t *testing.T) {
	const password = "correct horse\tbattery"
	one, err := Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	if one == two {
		t.Error("two hashes of a password are equal: the salt is not new")
	}
	if want := "$argon2id$v=19$m=19456,t=2,p=1$"; !strings.HasPrefix(one, want) {
		t.Errorf("hash %s, want prefix %s", one, want)
	}
	for text, want := range map[string]bool{password: true, password + " ": false, "": false, strings.ToUpper(password): false} {
		if got, err := verify(one, text); err != nil || got != want {
			t.Errorf("%q: %t, %v; want %t", text, got, err, want)
		}
	}
	if h, err := parseHash(one); err != nil || h.String() != one {
		t.Errorf("%s became %s, %v", one, h, err)
	}
}

// The hash was made by the reference implementation: argon2 -id -t 2 -m 16 -p 1 -l 32,
// salt "somesalt", password "password" (the test vector of its test.c).
func TestVerifyReferenceVector(t *testing.T) {
	const hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for password, want := range map[string]bool{"password": true, "Password": false} {
		if got, err := verify(hash, password); err != nil || got != want {
			t.Errorf("%q: %t, %v; want %t", password, got, err, want)
		}
	}
}

func TestHashRefuses(t *testing.T) {
	for _, password := range []string{"", strings.Repeat("x", MaxPasswordBytes+1)} {
		if h, err := Hash(password); err == nil {
			t.Errorf("%d bytes: %s", len(password), h)
		}
	}
}

func TestParseHashRefuses(t *testing.T) {
	const salt, key = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	tests := map[string]string{
		"":                                   "not a password hash",
		"secret":                             "not a password hash",
		"$2y$10$abcdefghijklmnopqrstuv":      "not a password hash",
		"$argon2id$v=19$m=8,t=1,p=1$" + salt: "not a password hash",
		"x$argon2id$v=19$m=8,t=1,p=1$" + salt + "$" + key:         "not a password hash",
		"$argon2i$v=19$m=8,t=1,p=1$" + salt + "$" + key:           "only argon2id",
		"$argon2id$v=16$m=8,t=1,p=1$" + salt + "$" + key:          "version",
		"$argon2id$v=19$m=8,p=1,t=1$" + salt + "$" + key:          "expected m=…,t=…,p=…",
		"$argon2id$v=19$m=8,t=1$" + salt + "$" + key:              "expected m=…,t=…,p=…",
		"$argon2id$v=19$m=+8,t=1,p=1$" + salt + "$" + key:         "expected m=…,t=…,p=…",
		"$argon2id$v=19$m=7,t=1,p=1$" + salt + "$" + key:          "allowed are",
		"$argon2id$v=19$m=8,t=1,p=2$" + salt + "$" + key:          "allowed are",
		"$argon2id$v=19$m=8,t=0,p=1$" + salt + "$" + key:          "allowed are",
		"$argon2id$v=19$m=8,t=17,p=1$" + salt + "$" + key:         "allowed are",
		"$argon2id$v=19$m=1024,t=1,p=17$" + salt + "$" + key:      "allowed are",
		"$argon2id$v=19$m=1024,t=1,p=256$" + salt + "$" + key:     "allowed are",
		"$argon2id$v=19$m=4294967295,t=1,p=1$" + salt + "$" + key: "allowed are",
		"$argon2id$v=19$m=8,t=1,p=1$" + "c29t" + "$" + key:        "salt has 3 bytes",
		"$argon2id$v=19$m=8,t=1,p=1$" + salt + "$" + "c29t":       "hash has 3 bytes",
		"$argon2id$v=19$m=8,t=1,p=1$" + salt + "$" + key + "=":    "base64",
	}
	for hash, want := range tests {
		_, err := verify(hash, "password")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", hash, err, want)
		}
		if err != nil && strings.Contains(err.Error(), key) {
			t.Errorf("the error repeats the hash: %v", err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	for _, s := range []string{
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$c29tZXNhbHRzb21lc2FsdA", "$$$$$", "$argon2id$v=19$m=,t=,p=$$",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHash(s)
		if err != nil {
			return
		}
		if h.cost.memoryKiB > maxMemoryKiB || h.cost.passes > maxPasses || h.cost.lanes > maxLanes || len(h.key) > 64 || len(h.salt) > 64 {
			t.Errorf("%q passed the bounds: %+v", s, h.cost)
		}
		again, err := parseHash(h.String())
		if err != nil || again.String() != h.String() {
			t.Errorf("%q became %q, %v", s, h, err)
		}
	})
}
