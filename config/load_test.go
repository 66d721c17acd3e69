package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// writeFile returns the name of a new file with mode 0600.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, src Sources) *Config {
	t.Helper()
	c, err := Load(src)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return c
}

// problemLines returns the problems of an error with the directory of the file
// taken out.
func problemLines(t *testing.T, err error, file string) []string {
	t.Helper()
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("error is a %T, want Errors: %v", err, err)
	}
	text := strings.ReplaceAll(err.Error(), filepath.Dir(file)+string(filepath.Separator), "")
	return strings.Split(text, "\n")
}

func TestLoadLayers(t *testing.T) {
	file := writeFile(t, "c.yaml", `
data_dir: from-file
node_name: from-file
log: {level: warn, format: json}
stomp:
  default_prefetch: 2
`)
	c := mustLoad(t, Sources{
		File: file,
		Environ: []string{
			"PATH=/bin", "MQGATE_NODE_NAME=from-env", "MQGATE_LOG_LEVEL=error",
			"MQGATE_STOMP_TLS_CERT_FILE=", "MQGATE_STORAGE_MAX_BYTES=2GiB", "MQGATE_ANONYMOUS_READ=[/topic/a, /topic/b]",
		},
		Set: []string{"log.level=info", "log.level=debug", "limits.login_timeout=3s", "anonymous.admin=false"},
	})
	want := Default()
	want.DataDir, want.NodeName = "from-file", "from-env"
	want.Log = Log{Format: "json", Level: "debug"}
	want.Stomp.DefaultPrefetch = 2
	want.Storage.MaxBytes = 2 * GiB
	want.Limits.LoginTimeout = 3 * time.Second
	want.Anonymous.Read = []string{"/topic/a", "/topic/b"}
	want.Anonymous.Admin = false
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestLoadWithoutAnything(t *testing.T) {
	c := mustLoad(t, Sources{})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.NodeName = host
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if !c.AnonymousAllowed() {
		t.Error("a broker without a configuration lets nobody in")
	}
}

func TestEmptySectionsAndLists(t *testing.T) {
	file := writeFile(t, "c.yaml", "stomp:\nusers:\nqueues:\n# a comment\n")
	got, want := mustLoad(t, Sources{File: file}), mustLoad(t, Sources{})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, text := range []string{"", "# only a comment\n", "---\n", "null\n"} {
		if got := mustLoad(t, Sources{File: writeFile(t, "c.yaml", text)}); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestFileFromEnvironment(t *testing.T) {
	file := writeFile(t, "c.yaml", "node_name: seven\n")
	if c := mustLoad(t, Sources{Environ: []string{"MQGATE_CONFIG=" + file}}); c.NodeName != "seven" {
		t.Errorf("node name %q, want seven", c.NodeName)
	}
	other := writeFile(t, "c.yaml", "node_name: eight\n")
	if c := mustLoad(t, Sources{File: other, Environ: []string{"MQGATE_CONFIG=" + file}}); c.NodeName != "eight" {
		t.Errorf("node name %q, want eight: --config wins", c.NodeName)
	}
}

func TestLoadProblems(t *testing.T) {
	const hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FtcGxlLXNhbHQtMTY$uNpV3TWnPDQyRyT3mqlE4fCAHALwGkGRFbgpzqVTmmY"
	user := "users: [{name: a, password_hash: \"" + hash + "\"}]\n"
	tests := []struct {
		name string
		yaml string
		env  []string
		set  []string
		want []string // substrings of the problem lines, in their order
	}{
		{"unknown key", "stomp:\n  lisen: x\n", nil, nil,
			[]string{`c.yaml:2: stomp.lisen: unknown key; did you mean listen?`}},
		{"unknown section", "\n\nstrage: {}\n", nil, nil,
			[]string{`c.yaml:3: strage: unknown key; did you mean storage?`}},
		{"key of another section", "max_bytes: 1GiB\n", nil, nil,
			[]string{`c.yaml:1: max_bytes: unknown key; did you mean storage.max_bytes?`}},
		{"far from everything", "log:\n  zzzzzzzz: 1\n", nil, nil,
			[]string{`c.yaml:2: log.zzzzzzzz: unknown key; the keys here are format, level`}},
		{"wrong types", "data_dir: 5\nlog: yes please\nstomp:\n  default_prefetch: many\n  listen: [a]\nusers: {a: b}\nlimits:\n  frame_bytes: true\n  login_timeout: 10\nanonymous:\n  admin: yes\n", nil, nil,
			[]string{
				`c.yaml:1: data_dir: expected text, got the number 5; put it in quotes`,
				`c.yaml:2: log: expected a section of keys, got the text "yes please"`,
				`c.yaml:4: stomp.default_prefetch: expected a whole number, got the text "many"`,
				`c.yaml:5: stomp.listen: expected text, got a list`,
				`c.yaml:6: users: expected a list, got a section of keys`,
				`c.yaml:8: limits.frame_bytes: expected a size such as "16MiB", got true`,
				`c.yaml:9: limits.login_timeout: "10" is not a duration; write a number with a unit`,
				`c.yaml:11: anonymous.admin: expected true or false, got the text "yes"`,
			}},
		{"a quoted number is no number", "limits:\n  headers: \"100\"\n", nil, nil,
			[]string{`c.yaml:2: limits.headers: expected a whole number, got the text "100"`}},
		{"nothing where text is needed", "stomp:\n  listen:\n", nil, nil,
			[]string{`c.yaml:2: stomp.listen: expected text, got nothing; write "" if it is to be empty`}},
		{"written twice", "log:\n  level: info\n  level: warn\n", nil, nil,
			[]string{`c.yaml:3: log.level: written twice, first on line 2; keep one of them`}},
		{"not YAML", "stomp:\n  listen: \"\n", nil, nil, []string{`not valid YAML`}},
		{"tab", "stomp:\n\tlisten: x\n", nil, nil, []string{`c.yaml:2: not valid YAML`}},
		{"two documents", "node_name: a\n---\nnode_name: b\n", nil, nil, []string{`more than one YAML document`}},
		{"merge key", "log: &l {level: info}\nstomp:\n  <<: *l\n", nil, nil, []string{`c.yaml:3: stomp: merge keys (<<) are not supported`}},
		{"a list at the top", "- a\n", nil, nil, []string{`c.yaml:1: expected a section of keys, got a list`}},
		{"ranges", "stomp: {default_prefetch: 0}\nlimits:\n  frame_bytes: 1GiB\n  login_timeout: 1ms\nstorage: {max_bytes: 5}\n", nil, nil,
			[]string{
				`c.yaml:1: stomp.default_prefetch: must be from 1 to 65535, got 0`,
				`c.yaml:5: storage.max_bytes: must be at least 64MiB, or 0 (what is used, and 80% of what is free at start), got 5`,
				`c.yaml:3: limits.frame_bytes: must be from 1KiB to 56MiB, got 1GiB`,
				`c.yaml:4: limits.login_timeout: must be from 100ms to 5m, got 1ms`,
			}},
		{"negative size", "storage: {min_free_bytes: -5}\n", nil, nil,
			[]string{`c.yaml:1: storage.min_free_bytes: "-5" is not a size`}},
		{"one of", "stomp:\n  dialect: activmq\n", nil, nil,
			[]string{`c.yaml:2: stomp.dialect: must be activemq or rabbitmq, got "activmq"; did you mean activemq?`}},
		{"sync", "storage:\n  sync: 1ms\n", nil, nil,
			[]string{`c.yaml:2: storage.sync: must be always, or a duration from 100ms to 5m, got "1ms"`}},
		{"inside a list", "stomp:\n  listeners:\n    - listen: :0\n      dialekt: x\n", nil, nil,
			[]string{`c.yaml:4: stomp.listeners[0].dialekt: unknown key; did you mean dialect?`}},
		{"range inside a list", "queues:\n  - pattern: a\n    max_deliveries: 10001\n", nil, nil,
			[]string{`c.yaml:3: queues[0].max_deliveries: must be from 0 to 10000, got 10001`}},
		{"range inside a map", "queues:\n  a: {}\n  b:\n    expiry: 10ms\n", nil, nil,
			[]string{`c.yaml:4: queues[1].expiry: must be at least 1s, or 0 (never), got 10ms`}},
		{"not an address", "stomp:\n  listen: localhost\n  listeners: [{listen: \"h:x\"}, {listen: \"h:70000\"}, {listen: \"*:1\"}]\n", nil, nil,
			[]string{
				`c.yaml:2: stomp.listen: "localhost" is not an address to listen on; write HOST:PORT`,
				`c.yaml:3: stomp.listeners[0].listen: "h:x" has no port from 0 to 65535`,
				`c.yaml:3: stomp.listeners[1].listen: "h:70000" has no port from 0 to 65535`,
				`c.yaml:3: stomp.listeners[2].listen: "*:1" has no valid host`,
			}},
		{"collision with the default", "stomp:\n  listen: localhost:9090\n", nil, nil,
			[]string{`admin.listen: 127.0.0.1:9090 collides with stomp.listen localhost:9090; give one of them another port`}},
		{"nothing open", "stomp:\n  listen: \"\"\nmqtt:\n  listen: \"\"\nhttp:\n  listen: \"\"\n", nil, nil,
			[]string{`c.yaml:2: stomp.listen: no client could connect: every listener is closed`}},
		{"tls halves", "stomp:\n  tls: {cert_file: c.pem}\n  listeners:\n    - listen: 127.0.0.1:0\n      tls: {client_ca_file: x}\n", nil, nil,
			[]string{
				`c.yaml:2: stomp.tls: cert_file and key_file belong together`,
				`c.yaml:5: stomp.listeners[0].tls.client_ca_file: client certificates need TLS`,
			}},
		{"tokens without a secret", "tokens: {as: a}\n" + user, nil, nil,
			[]string{`c.yaml:1: tokens.as: there are no tokens; set tokens.secret_file too`}},
		{"tokens for nobody", "tokens: {secret_file: s, as: b}\n" + user, nil, nil,
			[]string{`c.yaml:1: tokens.as: there is no user "b"; name one of the users`}},
		{"tokens without users", "tokens: {secret_file: s}\n", nil, nil,
			[]string{`c.yaml:1: tokens.secret_file: there are no users whose rights a token could give; add users`}},
		{"listeners for WebSocket", "http:\n  listeners:\n    - {listen: \"127.0.0.1:61614\"}\n    - {listen: \"127.0.0.1:1\", carries: json}\n", nil, nil,
			[]string{
				`c.yaml:3: http.listeners[0].carries: must be stomp or mqtt, got ""`,
				`c.yaml:4: http.listeners[1].carries: must be stomp or mqtt, got "json"`,
			}},
		{"listeners for WebSocket together", "http:\n  origins: [https://a.example/x, a.example, \"*\", \"http://b.example:81\"]\n  listeners:\n    - {listen: \"127.0.0.1:8080\", carries: stomp}\n" +
			"    - {listen: \"\", carries: mqtt}\n    - {listen: \"127.0.0.1:1\", carries: mqtt, dialect: rabbitmq, tls: {cert_file: a}}\n", nil, nil,
			[]string{
				`c.yaml:4: http.listeners[0].listen: 127.0.0.1:8080 collides with http.listen 127.0.0.1:8080`,
				`c.yaml:6: http.listeners[2].tls: cert_file and key_file belong together`,
				`c.yaml:5: http.listeners[1].listen: is empty`,
				`c.yaml:6: http.listeners[2].dialect: dialects are of STOMP, and this listener carries mqtt; leave it out`,
				`c.yaml:2: http.origins[0]: "https://a.example/x" is not an origin; write scheme://host`,
				`c.yaml:2: http.origins[1]: "a.example" is not an origin`,
			}},
		{"limits against each other", "limits:\n  frame_bytes: 32KiB\n  connections: 5\n  connections_per_user: 6\n", nil, nil,
			[]string{
				`limits.header_bytes: 64KiB is more than limits.frame_bytes 32KiB; lower it, or raise limits.frame_bytes`,
				`c.yaml:4: limits.connections_per_user: 6 is more than limits.connections 5`,
			}},
		{"transaction smaller than a frame", "limits: {transaction_bytes: 1MiB}\n", nil, nil,
			[]string{`limits.frame_bytes: 16MiB is more than limits.transaction_bytes 1MiB`}},
		{"open to the network without users", "stomp: {listen: \":61613\"}\n", nil, nil,
			[]string{`c.yaml:1: stomp.listen: nobody could log in: there are no users, and ":61613" can be reached from the network, where a login is needed; add users`}},
		{"anonymous on the network", user + "stomp: {listen: \"0.0.0.0:61613\"}\nanonymous: {allow: true}\n", nil, nil,
			[]string{`c.yaml:3: anonymous.allow: clients without a login would be let in from the network: stomp.listen is "0.0.0.0:61613"; set anonymous.allow: false and add users`}},
		{"anonymous while admin is on the network", "admin: {listen: \":9090\"}\nanonymous: {allow: true}\n", nil, nil,
			[]string{`c.yaml:2: anonymous.allow: clients without a login would be let in from the network: admin.listen is ":9090"`}},
		{"nobody at all", "anonymous: {allow: false}\n", nil, nil,
			[]string{`users: nobody could log in: there are no users, and anonymous.allow is false`}},
		{"users", "users:\n  - name: \"\"\n  - {name: b, password_hash: secret}\n  - {name: c}\n  - {name: c, password_hash: $x, cert_names: [y]}\n", nil, nil,
			[]string{
				`c.yaml:2: users[0].name: a user needs a name`,
				`c.yaml:3: users[1].password_hash: is not a password hash`,
				`c.yaml:5: users[3].name: the user "c" stands in users[2] already`,
			}},
		{"a user without a password", "users: [{name: c}]\n", nil, nil,
			[]string{`c.yaml:1: users[0]: user "c" has no way to log in; "mqgate passwd" makes a password_hash`}},
		{"a hash without quotes", "users: [{name: c, password_hash: " + hash + "}]\n", nil, nil,
			[]string{`c.yaml:1: users[0].t=2: unknown key`, `c.yaml:1: users[0].p=1…: unknown key; put a value with commas in quotes`}},
		{"queues", "queues:\n  - {pattern: \"\"}\n  - {pattern: a..b}\n  - {pattern: \"a.>.b\"}\n  - {pattern: \"a*\"}\n  - {pattern: /queue/a}\n" +
			"  - {pattern: a, dead_letter: \"\"}\n  - {pattern: a}\n  - {pattern: b, dead_letter: none, on_expire: dead_letter}\n" +
			"  - {pattern: c, dead_letter: \"{queue}\"}\n  - {pattern: d, redelivery_backoff_max: 1s, redelivery_delay: 2s}\n  - {pattern: e, redelivery_backoff_max: 1s}\n  - {pattern: f, dead_letter: /queue/x}\n  - {pattern: g, dead_letter: \"a,b\"}\n", nil, nil,
			[]string{
				`c.yaml:2: queues[0]: the pattern is empty`,
				`c.yaml:3: queues[1]: the pattern "a..b" has an empty level`,
				`c.yaml:4: queues[2]: the pattern "a.>.b" has '>' before its end`,
				`c.yaml:5: queues[3]: the pattern "a*" has a wildcard inside a level`,
				`c.yaml:6: queues[4]: the pattern "/queue/a" has a destination prefix`,
				`c.yaml:7: queues[5].dead_letter: is empty; write a queue's name, or "none"`,
				`c.yaml:8: queues[6]: the pattern "a" stands in queues[5] already`,
				`c.yaml:9: queues[7].on_expire: there is no dead-letter queue for expired messages`,
				`c.yaml:10: queues[8].dead_letter: a queue cannot be its own dead-letter queue`,
				`c.yaml:11: queues[9].redelivery_backoff_max: 1s is less than redelivery_delay 2s`,
				`c.yaml:12: queues[10].redelivery_backoff_max: there is no delay that could grow`,
				`c.yaml:13: queues[11].dead_letter: "/queue/x" has a destination prefix`,
				`c.yaml:14: queues[12].dead_letter: "a,b" is not the name of a queue`,
			}},
		{"a queue in a map that is no section", "queues:\n  a: 5\n", nil, nil,
			[]string{`c.yaml:2: queues.a: expected a section of keys, got the number 5; the keys here are max_length, max_bytes, expiry, `}},
		{"certificates for a closed listener", "stomp:\n  listen: \"\"\n  tls: {cert_file: a, key_file: b}\n  listeners: [{listen: \"127.0.0.1:0\"}]\n", nil, nil,
			[]string{`c.yaml:3: stomp.tls: there are certificates for a listener that is closed`}},
		{"unknown variable", "", []string{"MQGATE_STOMP_LISTN=x"}, nil,
			[]string{`MQGATE_STOMP_LISTN: unknown environment variable; did you mean MQGATE_STOMP_LISTEN?`}},
		{"variable of a wrong type", "", []string{"MQGATE_STOMP_DEFAULT_PREFETCH=x", "MQGATE_QUEUES=[a", "MQGATE_USERS=a"}, nil,
			[]string{
				`MQGATE_STOMP_DEFAULT_PREFETCH: stomp.default_prefetch: expected a whole number, got "x"`,
				`MQGATE_QUEUES: not valid YAML`,
				`MQGATE_USERS: users: expected a list, got the text "a"`,
			}},
		{"variable out of range", "", []string{"MQGATE_STOMP_DEFAULT_PREFETCH=0"}, nil,
			[]string{`MQGATE_STOMP_DEFAULT_PREFETCH: stomp.default_prefetch: must be from 1 to 65535, got 0`}},
		{"set", "", nil, []string{"stomp", "stomp=1", "stomp.listn=1", "queues.a.max_length=1", "users[0].name=x", "log.level=loud"},
			[]string{
				`--set "stomp": there is no '='; write --set key=value`,
				`--set: stomp: unknown key; it is a section: set one of its keys, such as stomp.listen`,
				`--set: stomp.listn: unknown key; did you mean stomp.listen?`,
				`--set: queues.a.max_length: unknown key; set the whole list as YAML: --set queues='[…]'`,
				`--set: users[0].name: unknown key; set the whole list as YAML: --set users='[…]'`,
				`--set: log.level: must be debug or info or warn or error, got "loud"`,
			}},
		{"all sources at once", "a: 1\n", []string{"MQGATE_B=1"}, []string{"c=1"},
			[]string{"c.yaml:1: a: unknown key", "MQGATE_B: unknown environment variable", "--set: c: unknown key"}},
		{"a later list forgets the earlier one", "queues:\n  - {pattern: a, on_expire: drop}\n", nil, []string{"queues=[{pattern: a, max_deliveries: -1}]"},
			[]string{`--set: queues[0].max_deliveries: must be from 0 to 10000, got -1`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := writeFile(t, "c.yaml", tt.yaml)
			_, err := Load(Sources{File: file, Environ: tt.env, Set: tt.set})
			if err == nil {
				t.Fatal("no error")
			}
			got := problemLines(t, err, file)
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%s", len(got), len(tt.want), strings.Join(got, "\n"))
			}
			for i, w := range tt.want {
				if !strings.Contains(got[i], w) {
					t.Errorf("problem %d\ngot  %s\nwant %s", i, got[i], w)
				}
			}
		})
	}
}

func TestSecretsStayOutOfErrors(t *testing.T) {
	for _, text := range []string{
		"users: [{name: a, password_hash: hunter2}]",
		"users: [{name: a, password_hash: [hunter2]}]",
		"users: [{name: a, password_hash: 31337}]",
	} {
		_, err := Load(Sources{File: writeFile(t, "c.yaml", text)})
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "31337") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	for _, src := range []Sources{
		{File: filepath.Join(t.TempDir(), "no.yaml")},
		{Environ: []string{"MQGATE_CONFIG=" + filepath.Join(t.TempDir(), "no.yaml")}},
		{File: t.TempDir()},
	} {
		c, err := Load(src)
		var all Errors
		if c != nil || !errors.As(err, &all) {
			t.Errorf("%+v: got %v, %v; want Errors", src, c, err)
		}
	}
}

func TestFileTooLarge(t *testing.T) {
	file := writeFile(t, "c.yaml", "#"+strings.Repeat("x", maxFileBytes))
	if _, err := Load(Sources{File: file}); err == nil || !strings.Contains(err.Error(), "larger than 1MiB") {
		t.Errorf("got %v", err)
	}
}

func TestAliasesAreBounded(t *testing.T) {
	text := "anonymous:\n  read: &r [" + strings.Repeat("a,", 2000) + "a]\nusers:\n" +
		strings.Repeat("  - allow: {read: *r}\n", 2000)
	_, err := Load(Sources{File: writeFile(t, "c.yaml", text)})
	if err == nil || !strings.Contains(err.Error(), "use fewer aliases") {
		t.Errorf("got %.200v", err)
	}
}

func TestAliases(t *testing.T) {
	c := mustLoad(t, Sources{File: writeFile(t, "c.yaml", "queues:\n  a: &p {max_length: 7}\n  b: *p\n")})
	if got := c.Queues.Policy("b").MaxLength; got != 7 {
		t.Errorf("max_length %d, want 7", got)
	}
}

func TestServiceLinksAreNotOurs(t *testing.T) {
	links := []string{
		"MQGATE_SERVICE_HOST=10.0.0.1", "MQGATE_SERVICE_PORT=61613", "MQGATE_SERVICE_PORT_STOMP=61613",
		"MQGATE_PORT=tcp://10.0.0.1:61613", "MQGATE_PORT_61613_TCP=tcp://10.0.0.1:61613",
		"MQGATE_PORT_61613_TCP_PROTO=tcp", "MQGATE_PORT_61613_TCP_PORT=61613", "MQGATE_PORT_61613_TCP_ADDR=10.0.0.1",
		"MQGATE_HEADLESS_SERVICE_HOST=10.0.0.1",
	}
	mustLoad(t, Sources{Environ: links})
	for _, l := range Default().leaves() {
		if serviceLink.MatchString(l.env()) {
			t.Errorf("%s would never be read: it looks like a service link", l.env())
		}
	}
}

func TestEnvironmentNamesAreUnique(t *testing.T) {
	seen := map[string]string{EnvFile: "the file"}
	for _, l := range Default().leaves() {
		if other, twice := seen[l.env()]; twice {
			t.Errorf("%s stands for %s and %s", l.env(), other, l.key)
		}
		seen[l.env()] = l.key
	}
	for env, key := range map[string]string{
		"MQGATE_STOMP_LISTEN": "stomp.listen", "MQGATE_DATA_DIR": "data_dir", "MQGATE_STORAGE_MAX_BYTES": "storage.max_bytes",
	} {
		if seen[env] != key {
			t.Errorf("%s stands for %q, want %s", env, seen[env], key)
		}
	}
}

func TestRelativeFiles(t *testing.T) {
	file := writeFile(t, "c.yaml", "data_dir: data\nstomp: {tls: {cert_file: c.pem, key_file: /abs/k.pem}}\n")
	c := mustLoad(t, Sources{File: file, Set: []string{"stomp.tls.client_ca_file=ca.pem"}})
	want := TLS{CertFile: filepath.Join(filepath.Dir(file), "c.pem"), KeyFile: "/abs/k.pem", ClientCAFile: "ca.pem"}
	if c.Stomp.TLS != want || c.DataDir != "data" {
		t.Errorf("got %+v and %q, want %+v and data", c.Stomp.TLS, c.DataDir, want)
	}
}

func TestListsFromOneLine(t *testing.T) {
	c := mustLoad(t, Sources{
		File:    writeFile(t, "c.yaml", "queues: [{pattern: old, on_expire: dead_letter}]\n"),
		Environ: []string{"MQGATE_QUEUES={a.*: {max_length: 3, dead_letter: none}}"},
		Set:     []string{`stomp.listeners=[{listen: "127.0.0.1:0", dialect: rabbitmq}, {listen: "127.0.0.1:0"}]`, "anonymous.write="},
	})
	// The on_expire of the old list must not count as written in the new one.
	if p := c.Queues.Policy("a.b"); len(c.Queues) != 1 || p.MaxLength != 3 || p.OnExpire != OnExpireDrop {
		t.Errorf("queues %+v", c.Queues)
	}
	if len(c.Anonymous.Write) != 0 {
		t.Errorf("anonymous.write %q, want empty", c.Anonymous.Write)
	}
	want := []Listener{
		{Listen: "127.0.0.1:61613", Dialect: DialectActiveMQ},
		{Listen: "127.0.0.1:0", Dialect: DialectRabbitMQ},
		{Listen: "127.0.0.1:0", Dialect: DialectActiveMQ},
	}
	if got := c.Stomp.Open(); !reflect.DeepEqual(got, want) {
		t.Errorf("open %+v, want %+v", got, want)
	}
}

func TestOpenSkipsClosedListeners(t *testing.T) {
	s := Stomp{Listeners: []Listener{{}, {Listen: "127.0.0.1:1"}}}
	if got := s.Open(); len(got) != 1 || got[0].Listen != "127.0.0.1:1" {
		t.Errorf("open %+v", got)
	}
	if s.Listeners[0].Listen != "" {
		t.Error("Open changed the configuration")
	}
}

func TestExampleFiles(t *testing.T) {
	var files []string
	root := filepath.Join("..", "examples")
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && filepath.Ext(path) == ".yaml" && !strings.Contains(filepath.Base(path), "compose") {
			files = append(files, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no example configuration was found")
	}
	for _, f := range files {
		t.Run(f, func(t *testing.T) {
			text, err := readFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(strings.TrimSpace(string(text)), "-") {
				if _, err := readUsers(f, text); err != nil {
					t.Error(err)
				}
				return
			}
			if _, err := Load(Sources{File: completed(t, f, text), Environ: exampleEnvironment(t, f)}); err != nil {
				t.Error(err)
			}
		})
	}
}

// completed is a copy of an example beside the files that its README has people write.
func completed(t *testing.T, file string, text []byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, line := range strings.Split(string(text), "\n") {
		if _, name, ok := strings.Cut(line, "password_file: "); ok {
			if err := os.WriteFile(filepath.Join(dir, strings.Fields(name)[0]), []byte("a password"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	copied := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(copied, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return copied
}

// exampleEnvironment is what an example's script sets besides.
func exampleEnvironment(t *testing.T, file string) []string {
	t.Helper()
	if filepath.Base(filepath.Dir(file)) != "cluster" {
		return nil
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("as long as a secret has to be"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"MQGATE_CLUSTER_LISTEN=127.0.0.1:6222", "MQGATE_CLUSTER_JOIN=[127.0.0.1:6222, 127.0.0.1:6223, 127.0.0.1:6224]", "MQGATE_CLUSTER_SECRET_FILE=" + secret}
}

// TestReadmeSamples: what the documents show as configuration is one.
func TestReadmeSamples(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	samples := strings.Split(string(text), "```yaml\n")[1:]
	if len(samples) == 0 {
		t.Fatal("no sample was found")
	}
	for _, s := range samples {
		s, _, _ = strings.Cut(s, "```")
		file := filepath.Join(t.TempDir(), "mqgate.yaml")
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Sources{File: file}); err != nil {
			t.Errorf("%v in\n%s", err, s)
		}
	}
}
