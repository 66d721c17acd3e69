package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"

	"go.yaml.in/yaml/v3"
)

// usersFile appends the users of a file: the list that users has in the
// configuration, in a YAML file of its own.
func (l *loader) usersFile(name string) {
	origin := l.originOf("users_file")
	if p := checkPrivate("users_file", name); p != nil {
		l.fail(origin, p)
		return
	}
	text, err := readFile(name)
	if err != nil {
		l.fail(origin, problem("users_file", `"mqgate passwd --file" writes one`, "%v", err))
		return
	}
	d := l.decoder(name, filepath.Dir(name))
	if n := d.parse(text); n != nil && !isNull(n) {
		users := reflect.ValueOf(l.cfg).Elem().FieldByName("Users")
		d.moreUsers(n, users)
	}
	l.problems = append(l.problems, d.problems...)
}

// passwordFiles checks the files that users name. Their content is read by
// whoever checks passwords.
func (l *loader) passwordFiles() {
	for i, u := range l.cfg.Users {
		if u.PasswordFile == "" {
			continue
		}
		key := fmt.Sprintf("users[%d].password_file", i)
		if p := checkPrivate(key, u.PasswordFile); p != nil {
			l.fail(l.originOf(key), p)
		}
	}
}

// moreUsers decodes a list of users behind those that are there.
func (d *decoder) moreUsers(n *yaml.Node, users reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, problem("users", `begin each user with "- name: …"`, "expected a list of users, got %s", describe(n, field{})))
		return
	}
	for _, item := range n.Content {
		d.element(item, users, field{}, fmt.Sprintf("users[%d]", users.Len()))
	}
}

// checkPrivate refuses a file with secrets that every account of the machine can read.
func checkPrivate(key, name string) *Problem {
	info, err := os.Stat(name)
	if err != nil {
		return problem(key, "", "%v", err)
	}
	if info.IsDir() {
		return problem(key, "name the file in it", "%s is a directory", name)
	}
	const othersRead = 0o004
	// Windows has no mode bits; os.Stat reports 0666 or 0444 for everything there.
	if runtime.GOOS != "windows" && info.Mode().Perm()&othersRead != 0 {
		return problem(key, "chmod 600 "+name, "%s can be read by every account of this machine (mode %04o)", name, info.Mode().Perm())
	}
	return nil
}

// PutUser writes a user's password hash into a users file, which is created if
// it is missing. Of a user that exists nothing but the password changes, and
// comments stay where they are; a new one gets what u says. The file is replaced
// in one step, with mode 0600; when an error is returned it is as it was, unless
// only the sync of the directory failed. Created tells that the user is new.
func PutUser(file string, u User) (created bool, err error) {
	// The rename below would put a plain file in the place of a link.
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target
	}
	text, err := readFile(file)
	if err != nil && !os.IsNotExist(err) {
		return false, err
	}
	doc, err := usersDocument(file, text)
	if err != nil {
		return false, err
	}
	if created, err = putUser(doc.Content[0], u); err != nil {
		return false, err
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return false, err
	}
	if err := enc.Close(); err != nil {
		return false, err
	}
	// An alias or a repeated name could hide what was changed: look before the leap.
	again, err := readUsers(file, out.Bytes())
	if err != nil {
		return false, err
	}
	if err := provesPut(again, u); err != nil {
		return false, err
	}
	return created, replaceFile(file, out.Bytes())
}

// provesPut returns an error unless exactly one user has the name, with the new hash.
func provesPut(users []User, u User) error {
	found := 0
	for _, x := range users {
		if x.Name == u.Name {
			found++
			if x.PasswordHash != u.PasswordHash {
				return fmt.Errorf("the user %s cannot be changed in place: edit the file by hand", quote(u.Name))
			}
		}
	}
	if found != 1 {
		return fmt.Errorf("the file names the user %s %d times: edit it by hand", quote(u.Name), found)
	}
	return nil
}

func readUsers(file string, text []byte) ([]User, error) {
	var cfg Config
	l := &loader{cfg: &cfg, origins: make(map[string]string)}
	d := l.decoder(file, "")
	if n := d.parse(text); n != nil && !isNull(n) {
		d.moreUsers(n, reflect.ValueOf(&cfg).Elem().FieldByName("Users"))
	}
	return cfg.Users, d.problems.orNil()
}

// usersDocument parses a users file and checks that it is one, so that a typing
// error in --file does not rewrite some other document.
func usersDocument(file string, text []byte) (*yaml.Node, error) {
	if _, err := readUsers(file, text); err != nil {
		return nil, err
	}
	l := &loader{}
	n := l.decoder(file, "").parse(text)
	if n == nil || isNull(n) {
		n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	}
	return &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{n}}, nil
}

func putUser(list *yaml.Node, u User) (created bool, err error) {
	for _, item := range list.Content {
		if name := pairValue(item, "name"); name != nil && name.Value == u.Name {
			setPassword(item, u.PasswordHash)
			return false, nil
		}
	}
	var node yaml.Node
	if err := node.Encode(userDocument(u)); err != nil {
		return false, err
	}
	// A list that was written [] would go on in one line.
	list.Style &^= yaml.FlowStyle
	list.Content = append(list.Content, &node)
	return true, nil
}

// userDocument is what a new user looks like in the file.
func userDocument(u User) any {
	type allow struct {
		Read    []string `yaml:"read,flow"`
		Write   []string `yaml:"write,flow"`
		Consume []string `yaml:"consume,flow"`
	}
	return struct {
		Name         string `yaml:"name"`
		PasswordHash string `yaml:"password_hash"`
		Allow        allow  `yaml:"allow"`
		Admin        bool   `yaml:"admin,omitempty"`
	}{u.Name, u.PasswordHash, allow(u.Allow), u.Admin}
}

func pairValue(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// setPassword sets password_hash and removes password_file.
func setPassword(user *yaml.Node, hash string) {
	for i := 0; i+1 < len(user.Content); i += 2 {
		if user.Content[i].Value == "password_file" {
			user.Content = append(user.Content[:i], user.Content[i+2:]...)
			break
		}
	}
	value := pairValue(user, "password_hash")
	if value == nil {
		value = &yaml.Node{}
		user.Content = append(user.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "password_hash"}, value)
	}
	comment := value.LineComment
	value.SetString(hash)
	value.Alias, value.Anchor, value.LineComment = nil, "", comment
}

// replaceFile writes a file beside the old one and renames it over it.
func replaceFile(name string, text []byte) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(text); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be opened for syncing there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
