package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	k := Cluster{SecretFile: name}
	fails := func(want string) {
		t.Helper()
		if _, err := k.Secret(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	fails("does not exist")
	if err := os.WriteFile(name, []byte("0123456789abcdef\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fails("can be read by others")
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := k.Secret(); err != nil || s != "0123456789abcdef" {
		t.Errorf("secret %q, %v", s, err)
	}
	if err := os.WriteFile(name, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails("shorter than")
}

func TestWhoMayReadASecret(t *testing.T) {
	for _, tt := range []struct {
		mode         fs.FileMode
		ofRoot, want bool
	}{
		{0o600, false, true},
		{0o400, false, true},
		{0o440, false, false},
		{0o640, false, false},
		{0o604, false, false},
		{0o600, true, true},
		{0o440, true, true}, // a credential of systemd
		{0o640, true, true},
		{0o660, true, false}, // who may write it chooses the secret
		{0o444, true, false},
		{0o644, true, false},
		{0o641, true, false},
	} {
		if got := keepsSecret(tt.mode, tt.ofRoot); got != tt.want {
			t.Errorf("mode %04o, root's %v: %v", tt.mode, tt.ofRoot, got)
		}
	}
}

// Whose a file is decides, as far as the system tells.
func TestAGroupReadsOnlyRootsSecret(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root makes files of two owners")
	}
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte("0123456789abcdef"), 0o440); err != nil {
		t.Fatal(err)
	}
	k := Cluster{SecretFile: name}
	if _, err := k.Secret(); err != nil {
		t.Errorf("root's: %v", err)
	}
	if err := os.Chown(name, 65534, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Secret(); err == nil || !strings.Contains(err.Error(), "can be read by others") {
		t.Errorf("another's: error %v", err)
	}
}
