package config

import (
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "512": 512, "64KiB": 64 << 10, "16MiB": 16 << 20, "1 GiB": 1 << 30, "2tib": 2 << 40,
		"1KB": 1000, "3MB": 3e6, "1GB": 1e9, "7B": 7, "9223372036854775807": math.MaxInt64,
	} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "1M", "1XB", "9223372036854775808", "9007199254740993KiB", "1e3", "0x10", "１MiB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"10s": 10 * time.Second, "500ms": 500 * time.Millisecond, "1h30m": 90 * time.Minute, "0": 0,
		"7d": 7 * day, "1d12h": 36 * time.Hour, "0d": 0,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "10", "d", "-1d", "1d-1h", "1.5d", "99999d", "1dd", "300y", "1d9223372036s"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q: %s, want an error", text, got)
		}
	}
}

func TestScalarsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Int64Range(0, math.MaxInt64).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "round") {
			b &^= MiB - 1
		}
		if got, err := ParseBytes(b.String()); err != nil || got != b {
			t.Fatalf("%d became %s, then %d, %v", b, b, got, err)
		}
		d := time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "duration"))
		if rapid.Bool().Draw(t, "whole") {
			d = d.Truncate(time.Minute)
		}
		if got, err := ParseDuration(formatDuration(d)); err != nil || got != d {
			t.Fatalf("%d became %s, then %d, %v", d, formatDuration(d), got, err)
		}
	})
}

func TestSync(t *testing.T) {
	for text, want := range map[string]Sync{"always": SyncAlways(), "1s": {Interval: time.Second}, "100ms": {Interval: 100 * time.Millisecond}, "5m": {Interval: 5 * time.Minute}} {
		var got Sync
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
		if got.Always() != (text == "always") {
			t.Errorf("%q: Always is %t", text, got.Always())
		}
	}
	for _, text := range []string{"", "never", "99ms", "301s", "0", "0s", "-1s", "Always "} {
		got := Sync{Interval: time.Second}
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
		if got.Always() {
			t.Errorf("%q changed the value", text)
		}
	}
}

func TestRangeTagsParse(t *testing.T) {
	types := []reflect.Type{reflect.TypeFor[Policy](), reflect.TypeFor[Listener](), reflect.TypeFor[User]()}
	leaves := Default().leaves()
	for _, typ := range types {
		leaves = append(leaves, leavesOf(reflect.New(typ).Elem(), typ.Name()+".")...)
	}
	for _, l := range leaves {
		for _, tag := range []string{l.min, l.max} {
			if tag != "" && setScalar(reflect.New(l.typ).Elem(), tag) != nil {
				t.Errorf("%s: range tag %q does not parse", l.key, tag)
			}
		}
		if l.max != "" && l.min == "" {
			t.Errorf("%s has a max but no min, which rangeText does not expect", l.key)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"listen", "dialect", "tls", "default_prefetch"}
	for written, want := range map[string]string{
		"lisen": "listen", "Listen": "listen", "listne": "listen", "dialekt": "dialect", "defaultprefetch": "default_prefetch",
		"": "", "port": "", "xyz": "",
	} {
		if got := nearest(written, candidates); got != want {
			t.Errorf("%q: %q, want %q", written, got, want)
		}
	}
}
