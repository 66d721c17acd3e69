package selector

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var headers = map[string]string{
	"region": "eu", "size": "5", "price": "12.50", "type": "order.new", "x-tenant": "t1", "empty": "", "flag": "true",
	"name": "it's", "JMSPriority": "7", "under": "a_b", "café": "oui",
}

func lookup(n string) (string, bool) { v, ok := headers[n]; return v, ok }

func TestMatches(t *testing.T) {
	for text, want := range map[string]bool{
		`region = 'eu'`:                     true,
		`region <> 'eu'`:                    false,
		`region='us' OR size > 3`:           true,
		`region = 'us' AND size > 3`:        false,
		`size > 3 AND size < 10`:            true,
		`size >= 5 AND size <= 5`:           true,
		`size = 5.0`:                        true,
		`size + 1 = 6`:                      true,
		`size * 2 - 1 = 9`:                  true,
		`-size < -4`:                        true,
		`size / 0 = 1`:                      false,
		`price BETWEEN 10 AND 13`:           true,
		`price NOT BETWEEN 10 AND 13`:       false,
		`region IN ('us', 'eu')`:            true,
		`region NOT IN ('us', 'eu')`:        false,
		`missing IN ('a')`:                  false,
		`missing NOT IN ('a')`:              false, // unknown, not true
		`type LIKE 'order.%'`:               true,
		`type LIKE 'order.n_w'`:             true,
		`type LIKE 'order'`:                 false,
		`type NOT LIKE 'x%'`:                true,
		`under LIKE 'a\_b' ESCAPE '\'`:      true,
		`type LIKE 'order\_new' ESCAPE '\'`: false,
		`missing IS NULL`:                   true,
		`region IS NULL`:                    false,
		`region IS NOT NULL`:                true,
		`empty IS NOT NULL AND empty = ''`:  true,
		`missing = 'x'`:                     false,
		`NOT missing = 'x'`:                 false, // unknown stays unknown
		`NOT region = 'us'`:                 true,
		`missing = 'x' OR region = 'eu'`:    true,
		`missing = 'x' AND region = 'eu'`:   false,
		`flag`:                              true,
		`flag = TRUE`:                       true,
		`NOT flag`:                          false,
		`TRUE`:                              true,
		`name = 'it''s'`:                    true,
		`x-tenant = 't1'`:                   true,
		`JMSPriority > 4`:                   true,
		`region > 3`:                        false, // not a number
		`(region = 'eu')`:                   true,
		`region = 'us' OR region = 'de' OR (size = 5 AND NOT (price > 100))`: true,
		`region = 'eu' OR region = 'x' AND region = 'y'`:                     true, // AND binds first
		`café = 'oui'`:            true,
		`1e3 = 1000 AND 7L = 7`:   true,
		`size BETWEEN '1' AND 10`: true,
		`region like 'E%'`:        false, // keywords in any case, values not
		`region Like 'e%'`:        true,
	} {
		s, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := s.Matches(lookup); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:                             "ends where",
		`region =`:                     "ends where",
		`region = 'eu`:                 "no closing quote",
		`region 'eu'`:                  "AND, OR or the end",
		`= 3`:                          "a header name or a value",
		`region IN 'eu'`:               "(",
		`region IN (3)`:                "a text in quotes",
		`region NOT 3`:                 "BETWEEN, IN or LIKE",
		`region LIKE 3`:                "a pattern in quotes",
		`region LIKE 'a' ESCAPE 'xy'`:  "one character",
		`region IS 3`:                  "NULL",
		`a BETWEEN 1 OR 2`:             "AND",
		`(a = 1`:                       ")",
		`a = 1)`:                       "AND, OR or the end",
		`a ; b`:                        "unexpected character",
		`1.2.3 = a`:                    "no number",
		strings.Repeat("(", 100) + "a": "nested more than",
		strings.Repeat("NOT ", 100):    "nested more than",
		strings.Repeat("-", 100) + "1": "nested more than",
		strings.Repeat("x", 5000):      "at most 4096",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// TestLikeAgreesWithANaiveMatcher compares with a plain recursion.
func TestLikeAgreesWithANaiveMatcher(t *testing.T) {
	var naive func(p, s string) bool
	naive = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '%':
			return naive(p[1:], s) || s != "" && naive(p, s[1:])
		case s == "":
			return false
		case p[0] == '_' || p[0] == s[0]:
			return naive(p[1:], s[1:])
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringOfN(rapid.SampledFrom([]rune("ab%_")), 0, 8, -1).Draw(t, "pattern")
		s := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 0, 8, -1).Draw(t, "text")
		if got, want := matchPieces(compileLike(p, 0), s), naive(p, s); got != want {
			t.Fatalf("%q LIKE %q: %v, want %v", s, p, got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(`region = 'eu' AND (size > 3 OR size IS NULL) AND type NOT LIKE 'tmp\_%' ESCAPE '\'`)
	f.Add(`a BETWEEN -1 AND 2e3 OR NOT b IN ('x', 'y''z')`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if s.String() != text {
			t.Fatal("the text changed")
		}
		matched := s.Matches(lookup)
		if negated, err := Parse("NOT (" + text + ")"); err == nil && matched && negated.Matches(lookup) {
			t.Fatalf("%q and its negation both match", text)
		}
	})
}
