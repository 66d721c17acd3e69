package cron

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones of the tests, whatever the machine has

	"pgregory.net/rapid"
)

const layout = "2006-01-02 15:04:05"

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(layout, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNext(t *testing.T) {
	for _, tc := range [][3]string{
		{"* * * * *", "2026-11-25 03:04:05", "2026-11-25 03:05:00"},
		{"* * * * *", "2026-11-25 03:04:00", "2026-11-25 03:05:00"},
		{"0 * * * *", "2026-12-31 23:30:00", "2027-01-01 00:00:00"},
		{"*/15 8-17 * * 1-5", "2026-11-27 17:45:00", "2026-11-30 08:00:00"},
		{"5,10-12 4 * * *", "2026-11-25 04:05:00", "2026-11-25 04:10:00"},
		{"30/10 0 * * *", "2026-11-25 00:30:00", "2026-11-25 00:40:00"},
		{"0 0 29 2 *", "2026-01-01 00:00:00", "2028-02-29 00:00:00"},
		{"0 0 * * 0", "2026-11-25 00:00:00", "2026-11-29 00:00:00"},
		{"0 0 * * 7", "2026-11-25 00:00:00", "2026-11-29 00:00:00"},
		{"0 0 1 * 5", "2026-11-25 00:00:00", "2026-11-27 00:00:00"}, // the first or a Friday
		{"0 0 */2 * 5", "2026-11-25 00:00:00", "2026-11-27 00:00:00"},
	} {
		l, err := Parse(tc[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Next(at(t, tc[1])); !got.Equal(at(t, tc[2])) {
			t.Errorf("%q after %s: %s, want %s", tc[0], tc[1], got.Format(layout), tc[2])
		}
	}
}

func TestNeverDue(t *testing.T) {
	l, err := Parse("0 0 31 2 *")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Next(at(t, "2026-11-25 00:00:00")); !got.IsZero() {
		t.Errorf("31 February is due at %s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8",
		"5-3 * * * *", "*/0 * * * *", "a * * * *", "1- * * * *", ", * * * *", "-1 * * * *", strings.Repeat("1,", 300) + "1 * * * *"} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestClockChanges(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse("30 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	// On 29 March 2026 the clock goes from 2:00 to 3:00.
	got := l.Next(time.Date(2026, 3, 28, 12, 0, 0, 0, zone))
	if want := time.Date(2026, 3, 30, 2, 30, 0, 0, zone); !got.Equal(want) {
		t.Errorf("due at %s, want %s", got, want)
	}
}

// TestNextIsTheFirst compares with looking at every minute.
func TestNextIsTheFirst(t *testing.T) {
	field := func(least, most int) *rapid.Generator[string] {
		n := rapid.Custom(func(t *rapid.T) string { return rapid.StringMatching(`[0-9]{1,2}`).Draw(t, "n") })
		return rapid.OneOf(rapid.Just("*"), n, rapid.Custom(func(t *rapid.T) string { return "*/" + n.Draw(t, "step") })).
			Filter(func(s string) bool { _, err := parseField(s, least, most); return err == nil })
	}
	zone, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		l, err := Parse(strings.Join([]string{field(0, 59).Draw(t, "minute"), field(0, 23).Draw(t, "hour"),
			field(1, 31).Draw(t, "day"), "*", field(0, 7).Draw(t, "weekday")}, " "))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(t, "start"), 0).In(zone)
		got := l.Next(start)
		x := start.Truncate(time.Minute).Add(time.Minute)
		for range 10 * 24 * 60 { // ten days are enough to see most mistakes
			if l.minute&(1<<x.Minute()) != 0 && l.hour&(1<<x.Hour()) != 0 && l.onDay(x) {
				if !got.Equal(x) {
					t.Fatalf("due at %s, want %s", got, x)
				}
				return
			}
			x = x.Add(time.Minute)
		}
		if !got.IsZero() && got.Before(x) {
			t.Fatalf("due at %s, which the line does not name", got)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"* * * * *", "*/5 1-3,7 31 12 0-7/2", "0 0 29 2 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			return
		}
		start := time.Date(2026, 11, 25, 3, 4, 5, 0, time.UTC)
		if next := l.Next(start); !next.IsZero() && !next.After(start) {
			t.Errorf("%q after %s is due at %s", text, start, next)
		}
	})
}
