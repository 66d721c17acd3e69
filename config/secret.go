package config

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// minSecret is what cannot be guessed.
const minSecret = 16

// readSecret reads a secret that nodes or sites share, and refuses a file that others could have read.
func readSecret(key, name string) (string, error) {
	const hint = `write one with: (umask 077; head -c 32 /dev/urandom | base64 >FILE)`
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", problem(key, hint, "%s does not exist", quote(name))
	case err != nil:
		return "", problem(key, "", "cannot be read: %s", err)
	case !keepsSecret(info.Mode(), ownedByRoot(info)):
		return "", problem(key, "run: chmod 600 "+name, "%s can be read by others", quote(name))
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", problem(key, "", "cannot be read: %s", err)
	}
	secret := strings.TrimSpace(string(b))
	if len(secret) < minSecret {
		return "", problem(key, hint, "the secret in %s is shorter than %d characters", quote(name), minSecret)
	}
	return secret, nil
}

// keepsSecret reports whether the bits of a file let nobody read it but its owner. Root may let a group read, too: the credentials that
// systemd hands to a service are root's with mode 0440, since an access list of the service's user counts as the group's
// rights, and so are the secrets that Kubernetes mounts.
func keepsSecret(mode fs.FileMode, ofRoot bool) bool {
	if ofRoot {
		const rest = 0o037 // all of others', and the group's but for reading
		return mode.Perm()&rest == 0
	}
	return mode.Perm()&0o077 == 0
}
