package jetstream

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/mqgate/mqgate/router"
)

func TestSubjects(t *testing.T) {
	for _, c := range []struct {
		topic  string
		filter bool
		want   string
	}{
		{"a/b", false, "p.a.b.~t"},
		{"/", false, "p.~e.~e.~t"},
		{"$SYS/x", false, "p.~24SYS.x.~t"},
		{"a/$b", false, "p.a.$b.~t"},
		{"a.b/*/>", false, "p.a~2eb.~2a.~3e.~t"},
		{"~e", false, "p.~7ee.~t"},
		{"a b\x7f", false, "p.a~20b~7f.~t"},
		{"a/+/#", true, "p.a.*.>"},
		{"+", true, "p.*.~t"},
		{"é", false, "p.é.~t"},
	} {
		if got := Subject("p", strings.Split(c.topic, "/"), c.filter); got != c.want {
			t.Errorf("%q is %q, want %q", c.topic, got, c.want)
		}
	}
}

// levelsOf reads the levels back from a subject of an address. It returns false if
// the subject is none that Subject makes.
func levelsOf(prefix, subject string) ([]string, bool) {
	rest, ok := strings.CutPrefix(subject, prefix+".")
	if !ok {
		return nil, false
	}
	if rest, ok = strings.CutSuffix(rest, ".~t"); !ok {
		return nil, false
	}
	levels := strings.Split(rest, ".")
	for i, l := range levels {
		if levels[i], ok = unescapeLevel(l); !ok {
			return nil, false
		}
	}
	return levels, true
}

func unescapeLevel(l string) (string, bool) {
	if l == "~e" {
		return "", true
	}
	if strings.IndexByte(l, '~') < 0 {
		return l, l != "" && l != "*" && l != ">"
	}
	var b strings.Builder
	for i := 0; i < len(l); i++ {
		if l[i] != '~' {
			b.WriteByte(l[i])
			continue
		}
		if i+2 >= len(l) {
			return "", false
		}
		hi, lo := strings.IndexByte(hexDigits, l[i+1]), strings.IndexByte(hexDigits, l[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), true
}

func FuzzSubjectIsReversible(f *testing.F) {
	for _, s := range []string{"a/b", "", "/", "~", "~t/~e", "a.b", "*/>", "$SYS/$x", "a b\tc\r\n", "\x00\x7f", "é/ü", "~24/$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		levels := strings.Split(topic, "/")
		s := Subject("p", levels, false)
		back, ok := levelsOf("p", s)
		if !ok || !slices.Equal(back, levels) {
			t.Fatalf("%q is %q, which is %q", levels, s, back)
		}
		for token := range strings.SplitSeq(s, ".") {
			if token == "" || token == "*" || token == ">" {
				t.Fatalf("%q has the token %q", s, token)
			}
		}
		for i := range len(s) {
			if s[i] <= ' ' || s[i] == 0x7f {
				t.Fatalf("%q has a control character or a space", s)
			}
		}
		if utf8.ValidString(topic) && !server.IsValidPublishSubject(s) {
			t.Fatalf("the server does not take %q", s)
		}
	})
}

func FuzzSubjectsMatchAsFiltersDo(f *testing.F) {
	for _, c := range [][2]string{{"a/+", "a/b"}, {"a/#", "a"}, {"#", "a/b/c"}, {"+/+", "/"}, {"#", "$SYS/x"}, {"$SYS/#", "$SYS"},
		{"a/#", "a/~t"}, {"+", "*"}, {"a/+/c", "a/>/c"}, {"~t", "~t"}, {"+/#", ""}} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, filter, topic string) {
		flt, err := router.ParseMQTTFilter("", filter)
		if err != nil || flt.Kind() != router.KindTopic {
			return
		}
		a, err := router.ParseMQTTTopic("", topic)
		if err != nil || a.Kind() != router.KindTopic {
			return
		}
		got := server.SubjectMatchesFilter(Subject("p", a.Levels(), false), Subject("p", flt.Levels(), true))
		want := flt.Matches(a)
		if a.Reserved() && got && !want && (flt.Levels()[0] == "+" || flt.Levels()[0] == "#") {
			return // NATS knows no reserved levels: whoever receives checks
		}
		if got != want {
			t.Fatalf("filter %q, topic %q: subjects match %v, want %v", filter, topic, got, want)
		}
	})
}

func FuzzDecodeID(f *testing.F) {
	f.Add(append(encodeID(router.MailboxID{Kind: router.KindInbox, Vhost: "/", Name: "x"}), "rec"...))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, rec, err := decodeID(b)
		if err != nil {
			return
		}
		again, rec2, err := decodeID(append(encodeID(id), rec...))
		if err != nil || again != id || string(rec2) != string(rec) {
			t.Fatalf("%+v came back as %+v, %v", id, again, err)
		}
	})
}

func TestAnswersOfTheStore(t *testing.T) {
	for body, want := range map[string]router.Stored{
		`{"stream":"Q","seq":7}`:                                      {Seq: 7},
		`{"stream":"Q","seq":18446744073709551615,"domain":"x"}`:      {Seq: 1<<64 - 1},
		`{"stream":"Q", "seq":7,"duplicate": true}`:                   {Seq: 7, Duplicate: true},
		`{"type":"x","stream":"Q","seq":12,"batch":"b","count":3}`:    {Seq: 12},
		`{"stream":"seq","domain":"\"seq\":1","seq":5,"duplicate":0}`: {}, // not JSON that the server sends
	} {
		got, err := parseAnswer([]byte(body))
		if want == (router.Stored{}) {
			if err == nil {
				t.Errorf("%s is accepted as %+v", body, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v", body, got, err)
		}
	}
	for body, want := range map[string]router.Class{
		`{"error":{"code":503,"err_code":10023,"description":"insufficient resources"}}`:                   router.Full,
		`{"error":{"code":500,"err_code":10047,"description":"insufficient storage resources available"}}`: router.Full,
		`{"error":{"code":400,"err_code":10002,"description":"resource limits exceeded for account"}}`:     router.Full,
		`{"error":{"code":503,"err_code":10074,"description":"stream is offline"},"stream":"Q","seq":0}`:   router.Unavailable,
		`not json`: router.Unavailable,
	} {
		if _, err := parseAnswer([]byte(body)); router.ClassOf(err) != want {
			t.Errorf("%s is %v", body, err)
		}
	}
}
