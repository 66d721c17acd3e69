package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. In text it is a whole number with a unit: B, KiB,
// MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000); without a
// unit it is bytes.
type Bytes int64

// Sizes to multiply with.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// byteUnits has the larger units first, so that String finds the shortest text.
var byteUnits = []struct {
	name string
	size Bytes
}{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
}

// ParseBytes reads a size that is not negative.
func ParseBytes(s string) (Bytes, error) {
	wrong := func(format string, args ...any) error {
		return problem("", `write a whole number with a unit, such as "16MiB"`, format, args...)
	}
	t := strings.TrimSpace(s)
	digits := len(t) - len(strings.TrimLeft(t, "0123456789"))
	unit := strings.TrimSpace(t[digits:])
	if digits == 0 {
		return 0, wrong("%s is not a size", quote(s))
	}
	size := Bytes(1)
	if unit != "" {
		size = 0
		for _, u := range byteUnits {
			if strings.EqualFold(u.name, unit) {
				size = u.size
			}
		}
		if size == 0 {
			return 0, wrong("%s is not a size: the unit must be B, KiB, MiB, GiB, TiB, KB, MB, GB or TB", quote(s))
		}
	}
	n, err := strconv.ParseInt(t[:digits], 10, 64)
	if err != nil || n > math.MaxInt64/int64(size) {
		return 0, wrong("%s is too large for a size", quote(s))
	}
	return Bytes(n) * size, nil
}

// String returns the size in the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if strings.HasSuffix(u.name, "iB") && b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// ParseDuration reads what time.ParseDuration does, and days: "7d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	wrong := problem("", `write a number with a unit, such as "500ms", "10s", "5m", "24h" or "7d"`,
		"%s is not a duration", quote(s))
	t := strings.TrimSpace(s)
	head, rest, found := strings.Cut(t, "d")
	if !found {
		d, err := time.ParseDuration(t)
		if err != nil {
			return 0, wrong
		}
		return d, nil
	}
	days, err := strconv.ParseUint(head, 10, 16)
	if err != nil {
		return 0, wrong
	}
	total := time.Duration(days) * 24 * time.Hour
	if rest == "" {
		return total, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || total+more < total {
		return 0, wrong
	}
	return total + more, nil
}

// formatDuration drops the zero units that time.Duration prints: "5m", not "5m0s".
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Sync says when stored messages reach the disk.
type Sync struct {
	// Interval is how often the store is synced; 0 means before each
	// acknowledgement.
	Interval time.Duration
}

// The range of a Sync that is not "always".
const (
	MinSyncInterval = 100 * time.Millisecond
	MaxSyncInterval = 5 * time.Minute
)

// SyncAlways returns the Sync that makes acknowledged mean on disk.
func SyncAlways() Sync { return Sync{} }

// Always reports whether the store is synced before each acknowledgement.
func (s Sync) Always() bool { return s.Interval == 0 }

// String returns "always" or the interval.
func (s Sync) String() string {
	if s.Always() {
		return "always"
	}
	return formatDuration(s.Interval)
}

// UnmarshalText reads "always" or an interval from MinSyncInterval to
// MaxSyncInterval.
func (s *Sync) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if t == "always" {
		*s = SyncAlways()
		return nil
	}
	d, err := ParseDuration(t)
	if err != nil || d < MinSyncInterval || d > MaxSyncInterval {
		return problem("", "", "must be always, or a duration from %s to %s, got %s",
			formatDuration(MinSyncInterval), formatDuration(MaxSyncInterval), quote(t))
	}
	s.Interval = d
	return nil
}

var _ encoding.TextUnmarshaler = (*Sync)(nil)

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeBytes    = reflect.TypeFor[Bytes]()
	typeText     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isScalar reports whether values of t are one piece of text.
func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(typeText) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

// expected names what a value of t looks like, for errors.
func expected(t reflect.Type) string {
	switch {
	case t == typeDuration:
		return `a duration such as "10s"`
	case t == typeBytes:
		return `a size such as "16MiB"`
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Struct:
		if !isScalar(t) {
			return "a section of keys"
		}
	}
	return "text"
}

// setScalar parses text into v, whose type is scalar.
func setScalar(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Type() {
	case typeDuration:
		d, err := ParseDuration(text)
		if err == nil {
			v.SetInt(int64(d))
		}
		return err
	case typeBytes:
		b, err := ParseBytes(text)
		if err == nil {
			v.SetInt(int64(b))
		}
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return nil
	case reflect.Bool:
		if text != "true" && text != "false" {
			return problem("", "", "expected true or false, got %s", quote(text))
		}
		v.SetBool(text == "true")
		return nil
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return problem("", "", "expected a whole number, got %s", quote(text))
		}
		v.SetInt(n)
		return nil
	}
	return fmt.Errorf("no text form for %s", v.Type())
}

// formatScalar is the inverse of setScalar.
func formatScalar(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case fmt.Stringer:
		return x.String()
	}
	return fmt.Sprint(v.Interface())
}

// quote shows text from a configuration, shortened.
func quote(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return strconv.Quote(s)
}
