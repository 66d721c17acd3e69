package config

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const usersText = `# the workers
- name: worker # takes orders
  password_file: old.txt
  allow:
    consume: ["/queue/orders.*"] # only these
- name: shop
  password_hash: $argon2id$old # rotate yearly
`

func TestUsersFile(t *testing.T) {
	file := writeFile(t, "users.yaml", "- {name: b, password_hash: $b}\n- {name: c, password_file: c.txt}\n")
	dir := filepath.Dir(file)
	if err := os.WriteFile(filepath.Join(dir, "c.txt"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(main, []byte("users_file: users.yaml\nusers: [{name: a, password_hash: $a}]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, Sources{File: main})
	var names []string
	for _, u := range c.Users {
		names = append(names, u.Name)
	}
	if got := strings.Join(names, " "); got != "a b c" {
		t.Errorf("users %s, want a b c", got)
	}
	if got, want := c.Users[2].PasswordFile, filepath.Join(dir, "c.txt"); got != want {
		t.Errorf("password file %s, want %s", got, want)
	}
}

func TestUsersFileProblems(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "- {name: a, pasword_hash: $x}\n", "users.yaml:1: users[0].pasword_hash: unknown key; did you mean password_hash?"},
		{"no list", "name: a\n", "users.yaml:1: users: expected a list of users, got a section of keys"},
		{"not YAML", "- [\n", "not valid YAML"},
		{"twice", "- {name: a, password_hash: $x}\n- {name: a, password_hash: $x}\n", `users.yaml:2: users[1].name: the user "a" stands in users[0] already`},
		{"password file is missing", "- {name: a, password_file: /nonexistent/x}\n", "users.yaml:1: users[0].password_file: stat /nonexistent/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := writeFile(t, "users.yaml", tt.text)
			_, err := Load(Sources{Set: []string{"users_file=" + file}})
			if err == nil {
				t.Fatal("no error")
			}
			if got := problemLines(t, err, file); len(got) != 1 || !strings.Contains(got[0], tt.want) {
				t.Errorf("got  %q\nwant %s", got, tt.want)
			}
		})
	}
}

func TestSecretFilesMustBePrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no mode bits")
	}
	users := writeFile(t, "users.yaml", "- {name: a, password_hash: $x}\n")
	password := writeFile(t, "p.txt", "secret")
	for _, name := range []string{users, password} {
		if err := os.Chmod(name, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, set := range []string{"users_file=" + users, "users=[{name: a, password_file: " + password + "}]"} {
		_, err := Load(Sources{Set: []string{set}})
		if err == nil || !strings.Contains(err.Error(), "can be read by every account of this machine (mode 0644); chmod 600") {
			t.Errorf("%s: %v", set, err)
		}
	}
	if err := os.Chmod(users, 0o640); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, Sources{Set: []string{"users_file=" + users}})
	for _, name := range []string{filepath.Join(t.TempDir(), "no"), t.TempDir()} {
		if _, err := Load(Sources{Set: []string{"users_file=" + name}}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPutUser(t *testing.T) {
	tests := []struct {
		name, before string
		user         User
		created      bool
		want         string
	}{
		{"existing, keeps comments", usersText, User{Name: "shop", PasswordHash: "$new"}, false,
			strings.Replace(usersText, "$argon2id$old", "$new", 1)},
		{"existing, replaces the file", usersText, User{Name: "worker", PasswordHash: "$new", Admin: true}, false,
			strings.NewReplacer("  password_file: old.txt\n", "", "# only these\n", "# only these\n  password_hash: $new\n").Replace(usersText)},
		{"new", usersText, User{Name: "x", PasswordHash: "$new", Allow: Allow{Read: []string{">"}}, Admin: true}, true,
			usersText + "- name: x\n  password_hash: $new\n  allow:\n    read: ['>']\n    write: []\n    consume: []\n  admin: true\n"},
		{"empty file", "", User{Name: "x: y", PasswordHash: "$new"}, true,
			"- name: 'x: y'\n  password_hash: $new\n  allow:\n    read: []\n    write: []\n    consume: []\n"},
		{"empty list", "[]\n", User{Name: "x", PasswordHash: "$new"}, true,
			"- name: x\n  password_hash: $new\n  allow:\n    read: []\n    write: []\n    consume: []\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := writeFile(t, "users.yaml", tt.before)
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
			created, err := PutUser(file, tt.user)
			if err != nil || created != tt.created {
				t.Fatalf("created %t, %v; want %t", created, err, tt.created)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
				t.Errorf("mode %04o, want 0600", info.Mode().Perm())
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}

func TestPutUserCreatesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.yaml")
	if created, err := PutUser(file, User{Name: "a", PasswordHash: "$x"}); err != nil || !created {
		t.Fatalf("%t, %v", created, err)
	}
	c := mustLoad(t, Sources{Set: []string{"users_file=" + file}})
	if len(c.Users) != 1 || c.Users[0].Name != "a" || c.Users[0].PasswordHash != "$x" {
		t.Errorf("users %+v", c.Users)
	}
}

func TestPutUserThroughALink(t *testing.T) {
	file := writeFile(t, "users.yaml", "")
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	if _, err := PutUser(link, User{Name: "a", PasswordHash: "$x"}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "$x") {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestPutUserLeavesOtherFilesAlone(t *testing.T) {
	for name, text := range map[string]string{
		"a configuration": "stomp: {listen: x}\n",
		"not YAML":        "- [\n",
		"a repeated name": "- {name: a, password_hash: $1}\n- {name: a, password_hash: $2}\n",
		"an alias":        "- &w {name: b, password_hash: $1}\n- *w\n",
	} {
		file := writeFile(t, "users.yaml", text)
		user := User{Name: "a", PasswordHash: "$new"}
		if name == "an alias" {
			user.Name = "b"
		}
		if _, err := PutUser(file, user); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("%s became %q, %v", name, got, err)
		}
	}
}
