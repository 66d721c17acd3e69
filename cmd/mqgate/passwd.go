package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway/auth"
)

// PasswdCmd hashes a password. It is never an argument: those are seen by every
// account of the machine.
type PasswdCmd struct {
	Stdin    bool   `help:"Read the password once from standard input, without a question."`
	File     string `placeholder:"USERS.yaml" help:"Set the password in this users file (created if missing) instead of printing the hash."`
	User     string `placeholder:"NAME" help:"The user in the file; added if missing."`
	AllowAll bool   `help:"A user that is added may read, write and consume everything; otherwise nothing until you say so in the file."`
	Admin    bool   `help:"A user that is added is an admin."`
}

// Run asks for the password and prints its hash or puts it into the file.
func (c *PasswdCmd) Run(p *process) error {
	switch {
	case c.File != "" && c.User == "":
		return usageError{"--file needs --user NAME"}
	case c.File == "" && (c.User != "" || c.AllowAll || c.Admin):
		return usageError{"--user, --allow-all and --admin need --file USERS.yaml"}
	}
	password, err := c.password(p)
	if err != nil {
		return err
	}
	hash, err := auth.Hash(password)
	if err != nil {
		return err
	}
	if c.File == "" {
		_, err = fmt.Fprintln(p.stdout, hash)
		return err
	}
	return c.put(p, hash)
}

func (c *PasswdCmd) put(p *process, hash string) error {
	u := config.User{Name: c.User, PasswordHash: hash, Admin: c.Admin}
	if c.AllowAll {
		everything := []string{">"}
		u.Allow = config.Allow{Read: everything, Write: everything, Consume: everything}
	}
	added, err := config.PutUser(c.File, u)
	if err != nil {
		return err
	}
	text := "password changed"
	if added {
		text = "added"
		if !c.AllowAll {
			text = "added, without rights: list what is allowed in the file"
		}
	}
	_, err = fmt.Fprintf(p.stdout, "%s: user %s %s\n", c.File, c.User, text)
	return err
}

// password asks twice, on the terminal if there is one.
func (c *PasswdCmd) password(p *process) (string, error) {
	lines := bufio.NewReader(io.LimitReader(p.stdin, 4*auth.MaxPasswordBytes))
	if c.Stdin {
		return readLine(lines)
	}
	if f, ok := p.stdin.(*os.File); ok && isTerminal(f) {
		restore, err := hideInput(f)
		if err != nil {
			return "", fmt.Errorf("cannot hide what you type; use --stdin: %w", err)
		}
		defer restore()
	}
	fmt.Fprint(p.stderr, "Password: ")
	first, err := readLine(lines)
	fmt.Fprintln(p.stderr)
	if err != nil {
		return "", err
	}
	fmt.Fprint(p.stderr, "Again: ")
	second, err := readLine(lines)
	fmt.Fprintln(p.stderr)
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return first, nil
}

// readLine reads a line without its end. The last one may lack it.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err == io.EOF && line != "" {
		err = nil
	}
	if err == io.EOF {
		err = errors.New("standard input ended before the password")
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}
