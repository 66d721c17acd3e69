package auth

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/router"
)

// cheapHash is a hash that costs little, for tests that make many.
func cheapHash(password string) string {
	c := cost{memoryKiB: 8, passes: 1, lanes: 1}
	salt := []byte("test salt")
	return passwordHash{cost: c, salt: salt, key: derive(password, salt, c, keyBytes)}.String()
}

func newAuthority(t testing.TB, o Options) *Authority {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func team() Options {
	return Options{Users: []User{
		{Name: "worker", PasswordHash: cheapHash("w"), Consume: []string{"/queue/orders.*"}, Write: []string{"/queue/done"}},
		{Name: "ops", PasswordHash: cheapHash("o"), Admin: true},
		{Name: "sensor", CertNames: []string{"sensor.example", "spiffe://plant/sensor"}, Write: []string{"/topic/plant.>"}},
		{Name: "mine", PasswordHash: cheapHash("m"), Read: []string{"/topic/users.%u.>"}, Consume: []string{"/queue/%c.inbox"}},
	}}
}

func TestAuthenticate(t *testing.T) {
	anonymous := team()
	anonymous.Anonymous = true
	alone := Options{Anonymous: true}
	tests := []struct {
		name    string
		options Options
		c       router.Credentials
		want    string // name, or the class and text of the error
	}{
		{"right", team(), router.Credentials{User: "worker", Password: "w"}, "worker"},
		{"wrong password", team(), router.Credentials{User: "worker", Password: "x"}, "denied: the user name or the password is wrong"},
		{"no password", team(), router.Credentials{User: "worker"}, "denied: the user name or the password is wrong"},
		{"another's password", team(), router.Credentials{User: "worker", Password: "o"}, "denied: the user name or the password is wrong"},
		{"unknown user", team(), router.Credentials{User: "nobody", Password: "w"}, "denied: the user name or the password is wrong"},
		{"case matters", team(), router.Credentials{User: "Worker", Password: "w"}, "denied: the user name or the password is wrong"},
		{"no password is right for a certificate user", team(), router.Credentials{User: "sensor", Password: "x"}, "denied: the user name or the password is wrong"},
		{"endless password", team(), router.Credentials{User: "worker", Password: strings.Repeat("w", 1<<20)}, "denied: the user name or the password is wrong"},
		{"no login", team(), router.Credentials{}, "denied: a user name and a password are needed"},
		{"password without a name", team(), router.Credentials{Password: "w"}, "denied: a user name and a password are needed"},
		{"certificate", team(), router.Credentials{TLSNames: []string{"x", "sensor.example"}}, "sensor"},
		{"certificate and its name", team(), router.Credentials{User: "sensor", TLSNames: []string{"spiffe://plant/sensor"}}, "sensor"},
		{"certificate and another name", team(), router.Credentials{User: "ops", TLSNames: []string{"sensor.example"}}, "denied: the user name or the password is wrong"},
		{"certificate and a wrong password", team(), router.Credentials{User: "sensor", Password: "x", TLSNames: []string{"sensor.example"}}, "denied: the user name or the password is wrong"},
		{"certificate and another's login", team(), router.Credentials{User: "worker", Password: "w", TLSNames: []string{"sensor.example"}}, "worker"},
		{"certificate of a user's name is no login", team(), router.Credentials{TLSNames: []string{"worker"}}, "denied: a user name and a password are needed"},
		{"anonymous", anonymous, router.Credentials{}, ""},
		{"anonymous is no way round a wrong password", anonymous, router.Credentials{User: "worker", Password: "x"}, "denied: the user name or the password is wrong"},
		{"anonymous is no way round an unknown name", anonymous, router.Credentials{User: "guest", Password: "guest"}, "denied: the user name or the password is wrong"},
		{"without users every login is anonymous", alone, router.Credentials{User: "system", Password: "manager"}, ""},
		{"client id in a pattern", team(), router.Credentials{User: "mine", Password: "m", ClientID: "c7"}, "mine"},
		{"client id that is a pattern", team(), router.Credentials{User: "mine", Password: "m", ClientID: ">"}, "denied: the client id \">\" has the character '>', which is not allowed here because patterns of this user contain it"},
		{"client id is missing", team(), router.Credentials{User: "mine", Password: "m"}, "denied: the client id is empty, and the rights of this user depend on it"},
		{"any client id where no pattern has it", team(), router.Credentials{User: "worker", Password: "w", ClientID: "#/+"}, "worker"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := newAuthority(t, tt.options).Authenticate(context.Background(), tt.c)
			got := ""
			if err != nil {
				got = router.ClassOf(err).String() + ": " + router.TextOf(err)
			} else {
				got = p.Name()
				if p.ClientID() != tt.c.ClientID || p.Admin() != (p.Name() == "ops") {
					t.Errorf("client id %q, admin %t", p.ClientID(), p.Admin())
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if (p == nil) == (err == nil) {
				t.Errorf("principal %v and error %v", p, err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	hash := cheapHash("x")
	tests := []struct {
		name  string
		users []User
		want  []string
	}{
		{"no name", []User{{PasswordHash: hash}}, []string{"the name is empty"}},
		{"twice", []User{{Name: "a", PasswordHash: hash}, {Name: "a", PasswordHash: hash}}, []string{`user "a": the name is taken`}},
		{"no way in", []User{{Name: "a"}}, []string{"there is no way to log in"}},
		{"hash and file", []User{{Name: "a", PasswordHash: hash, PasswordFile: "x"}}, []string{"a password hash and a password file"}},
		{"not a hash", []User{{Name: "a", PasswordHash: "secret"}}, []string{"not a password hash"}},
		{"certificate twice", []User{{Name: "a", CertNames: []string{"x"}}, {Name: "b", CertNames: []string{"x"}}}, []string{`user "b": the certificate name "x" is taken by user "a"`}},
		{"empty certificate name", []User{{Name: "a", CertNames: []string{""}}}, []string{"a certificate name is empty"}},
		{"user name in a pattern", []User{{Name: "a.b", PasswordHash: hash, Read: []string{"/topic/%u"}}}, []string{`the user name "a.b" has the character '.'`}},
		{"all of them", []User{{Name: "a", PasswordHash: hash, Read: []string{"x"}}, {Name: "b", PasswordHash: hash, Consume: []string{"/queue/a.>.b"}}},
			[]string{`user "a": pattern "x"`, `user "b": pattern "/queue/a.>.b"`}},
		{"file is missing", []User{{Name: "a", PasswordFile: filepath.Join(t.TempDir(), "no")}}, []string{`user "a": open`}},
	}
	for _, tt := range tests {
		_, err := New(Options{Users: tt.users})
		for _, w := range tt.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", tt.name, err, w)
			}
		}
	}
	if _, err := New(Options{Anonymous: true, Nobody: User{Read: []string{"/topic/%u"}}}); err == nil || !strings.Contains(err.Error(), "anonymous: the user name is empty") {
		t.Errorf("anonymous with %%u: %v", err)
	}
}

func TestPasswordFile(t *testing.T) {
	for text, right := range map[string]string{
		"secret\n":             "secret",
		"secret\r\n":           "secret",
		" two words ":          " two words ",
		"a\nb\n":               "a\nb",
		cheapHash("x") + "\n":  "x",
		"$argon2id\n":          "$argon2id",
		strings.Repeat("x", 9): "xxxxxxxxx",
	} {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a := newAuthority(t, Options{Users: []User{{Name: "a", PasswordFile: file}}})
		if _, err := a.Authenticate(context.Background(), router.Credentials{User: "a", Password: right}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", "\n", strings.Repeat("x", MaxPasswordBytes+1), "$argon2id$broken"} {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Options{Users: []User{{Name: "a", PasswordFile: file}}}); err == nil {
			t.Errorf("%.20q: no error", text)
		}
	}
}

// A right password is remembered for a minute: while every place for hashing is
// taken, only who is remembered gets in.
func TestRightPasswordIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, team())
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		right := router.Credentials{User: "worker", Password: "w"}
		login := func(c router.Credentials) error {
			_, err := a.Authenticate(ended, c)
			return err
		}
		fill := func() {
			for range cap(a.hashing) {
				a.hashing <- struct{}{}
			}
		}
		drain := func() {
			for range cap(a.hashing) {
				<-a.hashing
			}
		}

		fill()
		if err := login(right); router.ClassOf(err) != router.Unavailable {
			t.Fatalf("nobody is remembered yet: %v", err)
		}
		drain()
		if _, err := a.Authenticate(context.Background(), right); err != nil {
			t.Fatal(err)
		}
		fill()
		if err := login(right); err != nil {
			t.Errorf("not remembered: %v", err)
		}
		if err := login(router.Credentials{User: "worker", Password: "x"}); router.ClassOf(err) != router.Unavailable {
			t.Errorf("a wrong password was not hashed: %v", err)
		}
		if err := login(router.Credentials{User: "workerw"}); router.ClassOf(err) != router.Unavailable {
			t.Errorf("name and password run together: %v", err)
		}
		time.Sleep(rememberFor - 1)
		if err := login(right); err != nil {
			t.Errorf("forgotten too early: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if err := login(right); router.ClassOf(err) != router.Unavailable {
			t.Errorf("remembered too long: %v", err)
		}
	})
}

// A storm of logins of one user must not cost a hash each: those that waited
// for a place find the password remembered.
func TestStormOfLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, team())
		for range cap(a.hashing) {
			a.hashing <- struct{}{}
		}
		const clients = 50
		var storm sync.WaitGroup
		errs := make([]error, clients)
		for i := range clients {
			storm.Go(func() {
				_, errs[i] = a.Authenticate(context.Background(), router.Credentials{User: "worker", Password: "w"})
			})
		}
		synctest.Wait() // all of them wait for a place
		// From here on a hash would find nothing right.
		acc := a.users["worker"]
		acc.remember(a.mac("worker", "w"))
		acc.hash.key = make([]byte, keyBytes)
		for range cap(a.hashing) {
			<-a.hashing
		}
		storm.Wait()
		for i, err := range errs {
			if err != nil {
				t.Fatalf("client %d was hashed: %v", i, err)
			}
		}
	})
}

func TestHashingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, team())
		for range cap(a.hashing) {
			a.hashing <- struct{}{}
		}
		for _, c := range []router.Credentials{{User: "worker", Password: "w"}, {User: "nobody", Password: "w"}} {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := a.Authenticate(ctx, c)
			cancel()
			if router.ClassOf(err) != router.Unavailable {
				t.Errorf("%s: %v, want it to wait for a place in vain", c.User, err)
			}
		}
	})
}

// An unknown user costs what a known one does.
func TestDecoysHaveTheCostOfUsers(t *testing.T) {
	expensive := passwordHash{cost: cost{memoryKiB: 64, passes: 3, lanes: 2}, salt: make([]byte, 8), key: make([]byte, 32)}.String()
	a := newAuthority(t, Options{Users: []User{
		{Name: "a", PasswordHash: cheapHash("x")}, {Name: "b", PasswordHash: cheapHash("y")}, {Name: "c", PasswordHash: expensive},
	}})
	got := map[cost]int{}
	for _, d := range a.decoys {
		got[d.cost]++
	}
	want := map[cost]int{{8, 1, 1}: 1, {64, 3, 2}: 1}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoys %v, want %v", got, want)
	}
	if a := newAuthority(t, Options{Anonymous: true}); a.decoys[0].cost != defaultCost {
		t.Errorf("without users: %+v", a.decoys[0].cost)
	}
}

func TestMACsDependOnTheProcess(t *testing.T) {
	a, b := newAuthority(t, team()), newAuthority(t, team())
	if a.mac("u", "p") == b.mac("u", "p") {
		t.Error("two authorities have the same key")
	}
	if a.mac("ab", "c") == a.mac("a", "bc") {
		t.Error("name and password run together")
	}
}

func TestOptionsFrom(t *testing.T) {
	c := config.Default()
	c.Users = []config.User{{
		Name: "a", PasswordHash: "h", PasswordFile: "f", CertNames: []string{"n"}, Admin: true,
		Allow: config.Allow{Read: []string{"r"}, Write: []string{"w"}, Consume: []string{"c"}},
	}}
	c.Anonymous = config.Anonymous{Allow: config.AnonymousYes, Read: []string{"1"}, Write: []string{"2"}, Consume: []string{"3"}, Admin: true}
	want := Options{
		Users: []User{{Name: "a", PasswordHash: "h", PasswordFile: "f", CertNames: []string{"n"}, Admin: true,
			Read: []string{"r"}, Write: []string{"w"}, Consume: []string{"c"}}},
		Anonymous: true,
		Nobody:    User{Read: []string{"1"}, Write: []string{"2"}, Consume: []string{"3"}, Admin: true},
	}
	if got := OptionsFrom(c); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
