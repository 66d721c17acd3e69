package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
	"go.uber.org/goleak"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/gateway/auth"
	"github.com/mqgate/mqgate/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is what a command left behind.
type result struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, stdin string, environ []string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	p := &process{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, environ: environ,
		exit: func(code int) { t.Errorf("exit(%d)", code) },
	}
	code := p.run(args)
	return result{code, out.String(), errs.String()}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestServeIsTheDefault(t *testing.T) {
	for _, args := range [][]string{{}, {"serve"}, {"--config", "x.yaml"}, {"--set", "a=1,2", "--set=b=2"}} {
		var c commands
		parser, err := kong.New(&c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, err := parser.Parse(args)
		if err != nil || ctx.Command() != "serve" {
			t.Errorf("%q: command %v, %v; want serve", args, ctx, err)
		}
		if len(args) == 3 && (len(c.Serve.Set) != 2 || c.Serve.Set[0] != "a=1,2") {
			t.Errorf("%q: set %q", args, c.Serve.Set)
		}
	}
}

func TestExitCodes(t *testing.T) {
	good := writeFile(t, "good.yaml", "stomp: {listen: \"127.0.0.1:0\"}\n")
	bad := writeFile(t, "bad.yaml", "stomp:\n  lisen: x\nlog: {level: loud}\n")
	pattern := writeFile(t, "pattern.yaml", "anonymous: {read: [plant]}\n")
	secret := writeFile(t, "secret", "0123456789abcdef")
	node := writeFile(t, "node.yaml", `cluster: {name: c, listen: "127.0.0.1:6222", join: ["a:1", "b:1", "c:1"], secret_file: "`+secret+`"}`)
	site := writeFile(t, "site.yaml", `federation: {site: s, listen: "127.0.0.1:7422", secret_file: missing}`)
	missing := filepath.Join(t.TempDir(), "no.yaml")
	tests := []struct {
		name           string
		args           []string
		environ        []string
		code           int
		stdout, stderr string // substrings
	}{
		{"help", []string{"--help"}, nil, exitOK, "Usage: mqgate", ""},
		{"help as a verb", []string{"help"}, nil, exitOK, "Usage: mqgate", ""},
		{"help on a verb", []string{"help", "queue", "ls"}, nil, exitOK, "Usage: mqgate queue ls", ""},
		{"unknown verb", []string{"frobnicate"}, nil, exitUsage, "", "see mqgate --help"},
		{"unknown flag", []string{"serve", "--frobnicate"}, nil, exitUsage, "", "unknown flag --frobnicate"},
		{"missing argument", []string{"config", "check"}, nil, exitUsage, "", "<file>"},
		{"version", []string{"version"}, nil, exitOK, "mqgate ", ""},
		{"check", []string{"config", "check", good}, nil, exitOK, "good.yaml: ok\n", ""},
		{"check finds a key", []string{"config", "check", bad}, nil, exitUsage, "", "bad.yaml:2: stomp.lisen: unknown key; did you mean listen?\nmqgate: "},
		{"check finds a pattern", []string{"config", "check", pattern}, nil, exitUsage, "", `anonymous: pattern "plant" does not say what it names`},
		{"check looks at the environment", []string{"config", "check", good}, []string{"MQGATE_LOG_LEVEL=loud"}, exitUsage, "", "MQGATE_LOG_LEVEL: log.level: must be"},
		{"check takes settings", []string{"config", "check", good, "--set", "log.level=loud"}, nil, exitUsage, "", "--set: log.level: must be"},
		{"check reads the secret", []string{"config", "check", node}, nil, exitOK, "node.yaml: ok\n", ""},
		{"check misses the secret of nodes", []string{"config", "check", node, "--set", "cluster.secret_file=" + missing}, nil, exitUsage, "", "cluster.secret_file: "},
		{"check misses the secret of sites", []string{"config", "check", site}, nil, exitUsage, "", "federation.secret_file: "},
		{"check of no file", []string{"config", "check", missing}, nil, exitUsage, "", "no such file"},
		{"serve with a bad configuration", []string{"serve", "--config", bad}, nil, exitUsage, "", "bad.yaml:2"},
		{"serve without its file", []string{"--config", missing}, nil, exitUsage, "", "no such file"},
		{"serve with a bad setting", []string{"--set", "nonsense=1"}, nil, exitUsage, "", "--set: nonsense: unknown key"},
		{"passwd with half of a file", []string{"passwd", "--file", "x"}, nil, exitUsage, "", "--file needs --user NAME"},
		{"passwd with the other half", []string{"passwd", "--user", "x"}, nil, exitUsage, "", "need --file"},
		{"passwd without a password", []string{"passwd"}, nil, exitFailure, "", "standard input ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, "", tt.environ, tt.args...)
			if got.code != tt.code || !strings.Contains(got.stdout, tt.stdout) || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("got %+v\nwant code %d, stdout with %q, stderr with %q", got, tt.code, tt.stdout, tt.stderr)
			}
			if (got.stderr == "") != (tt.stderr == "") {
				t.Errorf("stderr %q", got.stderr)
			}
		})
	}
}

// ownCode is an error of a verb with an exit code of its own.
type ownCode struct{ error }

func (ownCode) ExitCode() int { return 3 }

func TestVerbsMayHaveTheirOwnExitCode(t *testing.T) {
	var errs bytes.Buffer
	p := &process{stderr: &errs}
	if code := p.fail(fmt.Errorf("bench: %w", ownCode{errors.New("lost\ntwo")})); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if got, want := errs.String(), "mqgate: bench: lost\nmqgate: two\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
}

func TestConfigDefaultLoads(t *testing.T) {
	got := run(t, "", nil, "config", "default")
	if got.code != exitOK || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	file := writeFile(t, "default.yaml", got.stdout)
	if got := run(t, "", nil, "config", "check", file); got.code != exitOK {
		t.Errorf("%+v", got)
	}
}

// logsIn reports why a user with this hash cannot log in with the password, nil if that works.
func logsIn(hash, password string) error {
	users, err := auth.New(auth.Options{Users: []auth.User{{Name: "u", PasswordHash: hash}}})
	if err != nil {
		return err
	}
	_, err = users.Authenticate(context.Background(), router.Credentials{User: "u", Password: password})
	return err
}

func TestPasswd(t *testing.T) {
	tests := []struct {
		name, stdin string
		args        []string
		password    string // or
		wrong       string
	}{
		{"twice", "secret\nsecret\n", nil, "secret", ""},
		{"last line without an end", "secret\nsecret", nil, "secret", ""},
		{"line ends of Windows", "secret\r\nsecret\r\n", nil, "secret", ""},
		{"spaces belong to it", " a b \n a b \n", nil, " a b ", ""},
		{"once", "secret\n", []string{"--stdin"}, "secret", ""},
		{"differ", "secret\nsecrets\n", nil, "", "differ"},
		{"only once", "secret\n", nil, "", "ended before the password"},
		{"empty", "\n\n", nil, "", "empty"},
		{"too long", strings.Repeat("x", auth.MaxPasswordBytes+1) + "\n", []string{"--stdin"}, "", "at most 1024"},
		{"endless", strings.Repeat("x", 1<<20), []string{"--stdin"}, "", "at most 1024"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, tt.stdin, nil, append([]string{"passwd"}, tt.args...)...)
			if tt.wrong != "" {
				if got.code != exitFailure || got.stdout != "" || !strings.Contains(got.stderr, tt.wrong) {
					t.Errorf("%+v, want %q", got, tt.wrong)
				}
				return
			}
			if err := logsIn(strings.TrimSuffix(got.stdout, "\n"), tt.password); got.code != exitOK || err != nil {
				t.Errorf("%+v: %v", got, err)
			}
			if strings.Contains(got.stderr, "secret") {
				t.Errorf("the password is on the screen: %q", got.stderr)
			}
		})
	}
}

func TestPasswdFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.yaml")
	set := func(password, want string, flags ...string) {
		t.Helper()
		got := run(t, password+"\n", nil, append([]string{"passwd", "--stdin", "--file", file}, flags...)...)
		if got.code != exitOK || !strings.Contains(got.stdout, want) {
			t.Fatalf("%+v, want %q", got, want)
		}
	}
	set("one", "user worker added, without rights", "--user", "worker")
	set("two", "user ops added\n", "--user", "ops", "--allow-all", "--admin")
	set("three", "user worker password changed", "--user", "worker", "--admin")

	cfg, err := config.Load(config.Sources{Set: []string{"users_file=" + file}})
	if err != nil {
		t.Fatal(err)
	}
	users, err := auth.New(auth.OptionsFrom(cfg))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user, password string
		right          bool
	}{{"worker", "three", true}, {"worker", "one", false}, {"ops", "two", true}} {
		_, err := users.Authenticate(context.Background(), router.Credentials{User: c.user, Password: c.password})
		if (err == nil) != c.right {
			t.Errorf("%s with %s: %v", c.user, c.password, err)
		}
	}
	if len(cfg.Users) != 2 || cfg.Users[0].Admin || !cfg.Users[1].Admin || len(cfg.Users[1].Allow.Consume) != 1 || len(cfg.Users[0].Allow.Write) != 0 {
		t.Errorf("users %+v", cfg.Users)
	}
}

func TestPasswdKeepsAFileItDoesNotUnderstand(t *testing.T) {
	const text = "stomp: {listen: x}\n"
	file := writeFile(t, "c.yaml", text)
	got := run(t, "x\n", nil, "passwd", "--stdin", "--file", file, "--user", "a")
	if got.code == exitOK || !strings.Contains(got.stderr, "expected a list of users") {
		t.Errorf("%+v", got)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != text {
		t.Errorf("file %q, %v", after, err)
	}
}

func TestFirstSignalDrains(t *testing.T) {
	signals := make(chan os.Signal, 2)
	failed := errors.New("drained badly")
	err := untilSignal(signals, slog.New(slog.DiscardHandler), func(int) { t.Error("exit") }, func(ctx context.Context) error {
		signals <- syscall.SIGTERM
		<-ctx.Done()
		if cause := context.Cause(ctx); !strings.Contains(cause.Error(), "terminated") {
			t.Errorf("cause %v", cause)
		}
		return failed
	})
	if err != failed {
		t.Errorf("got %v, want what run returned", err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	signals, ended := make(chan os.Signal, 2), make(chan int, 1)
	err := untilSignal(signals, slog.New(slog.DiscardHandler), func(code int) { ended <- code }, func(ctx context.Context) error {
		signals <- syscall.SIGINT
		<-ctx.Done()
		signals <- syscall.SIGINT
		// A drain that hangs: only exit gets out of it.
		if code := <-ended; code != exitFailure {
			t.Errorf("exit code %d, want %d", code, exitFailure)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRunEndsWithoutSignal(t *testing.T) {
	if err := untilSignal(nil, slog.New(slog.DiscardHandler), func(int) { t.Error("exit") }, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(config.Log{Format: "json", Level: "warn"}, &out)
	log.Info("hidden")
	log.Warn("shown", "n", 1)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "shown" {
		t.Errorf("%q: %v", out.String(), err)
	}
	out.Reset()
	newLogger(config.Log{Format: "text", Level: "debug"}, &out).Debug("shown")
	if !strings.Contains(out.String(), "level=DEBUG msg=shown") {
		t.Errorf("%q", out.String())
	}
}

func TestVersionText(t *testing.T) {
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"},
	}}
	info.Main.Version = "v9"
	for want, got := range map[string]string{
		"(devel)":                     versionText("", nil),
		"v1":                          versionText("v1", nil),
		"v9 0123456789ab+changes":     versionText("", info),
		"v1.2.3 0123456789ab+changes": versionText("v1.2.3", info),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A verb trusts the certificate of an admin listener whose authority it is given, and no other.
func TestVerbsOverTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "op" || password != "secret" {
			t.Errorf("logged in as %q with %q", user, password)
		}
		fmt.Fprint(w, `[{"name":"orders","depth":7}]`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // the client that trusts nobody
	s.StartTLS()
	defer s.Close()
	ca := writeFile(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	args := []string{"queue", "ls", "--url", s.URL, "--user", "op", "--password-file", writeFile(t, "password", "secret\n")}
	if r := run(t, "", nil, append(args, "--tls-ca", ca)...); r.code != 0 || !strings.Contains(r.stdout, "orders") {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", nil, args...); r.code != 1 || !strings.Contains(r.stderr, "certificate") {
		t.Errorf("without the authority: %+v", r)
	}
	if r := run(t, "", nil, append(args, "--tls-ca", writeFile(t, "no.pem", "nothing"))...); r.code != 2 || !strings.Contains(r.stderr, "holds no certificate") {
		t.Errorf("a file without certificates: %+v", r)
	}
}
