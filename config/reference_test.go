package config

import (
	"bytes"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestReferenceIsTheDefault(t *testing.T) {
	got := mustLoad(t, Sources{File: writeFile(t, "c.yaml", string(Reference()))})
	if want := mustLoad(t, Sources{}); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	text := string(Reference())
	for _, l := range Default().leaves() {
		name := l.key[strings.LastIndex(l.key, ".")+1:]
		if !regexp.MustCompile(`(?m)^ *` + name + `: `).MatchString(text) {
			t.Errorf("%s is missing", l.key)
		}
	}
}

// The elements that are shown as comments must load once they are none.
func TestReferenceSamplesLoad(t *testing.T) {
	text := string(Reference())
	text = regexp.MustCompile(`(?m): \[\]\n( *)#-`).ReplaceAllString(text, ":\n$1#-")
	text = regexp.MustCompile(`(?m)^( *)#([- ] +?\S.*|-.*)$`).ReplaceAllStringFunc(text, func(line string) string {
		at := strings.Index(line, "#")
		if strings.HasPrefix(line[at:], "# ") && !strings.HasPrefix(line[at:], "#  ") {
			return line // prose
		}
		return line[:at] + line[at+1:]
	})
	c := mustLoad(t, Sources{File: writeFile(t, "c.yaml", text), Set: []string{"federation.site=here", "federation.secret_file=secret", "federation.insecure=true"}})
	if len(c.Queues) != 1 || len(c.Users) != 1 || len(c.Stomp.Listeners) != 1 {
		t.Fatalf("samples are missing: %+v", c)
	}
	wantPolicy := DefaultPolicy()
	wantPolicy.MaxLength, wantPolicy.Expiry = 100_000, c.Queues[0].Expiry
	if c.Queues[0].Policy != wantPolicy {
		t.Errorf("queues: %+v, want the defaults beside the samples", c.Queues[0])
	}
	if u := c.Users[0]; u.Name != "worker" || len(u.Allow.Write) != 2 || u.Admin {
		t.Errorf("users: %+v", u)
	}
}

func TestDocsMatchTheStructs(t *testing.T) {
	keys := make(map[string]bool)
	var walk func(typ reflect.Type, prefix string)
	walk = func(typ reflect.Type, prefix string) {
		for _, f := range fieldsOf(typ) {
			key := prefix + f.name
			keys[key] = true
			if f.name == "" {
				t.Errorf("a field of %s has no key tag", typ)
			}
			if _, ok := docs[key]; !ok {
				t.Errorf("%s has no text", key)
			}
			switch {
			case isScalar(f.typ):
			case f.typ.Kind() == reflect.Struct:
				walk(f.typ, key+".")
			case f.typ.Elem().Kind() == reflect.Struct:
				walk(f.typ.Elem(), key+"[].")
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	for key := range docs {
		if !keys[key] {
			t.Errorf("docs has %s, which is no key", key)
		}
	}
	for key := range samples {
		if !keys[key] {
			t.Errorf("samples has %s, which is no key", key)
		}
	}
}

func TestLogValueHidesSecrets(t *testing.T) {
	c := Default()
	c.Log.Level = "debug"
	c.Users = []User{{Name: "worker", PasswordHash: "$argon2id$hunter2", Allow: Allow{Read: []string{">"}}}}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "changed", c)
	got := out.String()
	for _, want := range []string{"changed.log.level=debug", "worker", "password_hash: ***", "read: [>]"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %s", want, got)
		}
	}
	for _, never := range []string{"hunter2", "stomp.listen"} {
		if strings.Contains(got, never) {
			t.Errorf("%q is in %s", never, got)
		}
	}
}
